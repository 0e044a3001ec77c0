"""Why a packet goes where it goes: the walk, with reasons, the class it is of, and what is near."""

from __future__ import annotations

from functools import cached_property

from meshnet.errors import printable
from meshnet.model.address import show_address
from meshnet.model.explanation import (
    Leg,
    Nearest,
    PossibleFate,
    ShownPacket,
    Way,
)
from meshnet.model.match import PROTO_NAMES
from meshnet.model.packet import Family, Field, Packet
from meshnet.model.rule import Rule
from meshnet.model.spec import Form
from meshnet.model.verdict import Journey, Step, Verdict
from meshnet.reason.advice import advise
from meshnet.reason.because import Judge
from meshnet.reason.class_words import class_in_words
from meshnet.reason.drift import drift
from meshnet.reason.met import Leading, Rows
from meshnet.reason.nearest import MOST_TRIES, Search, changes_in_words
from meshnet.reason.same_fate import same_fate
from meshnet.reason.walk import Walker, undecided
from meshnet.reason.whynot import Sights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshnet.model.drift import Drift
    from meshnet.model.packet_class import PacketClass
    from meshnet.model.ruleset import Ruleset
    from meshnet.reason.fates import Tree

#: So many rules may be asked while something near is looked for: a few hundredths of a second.
MOST_ASKED = 20_000
#: For this many rules and fewer it is tried what the packet does without the one that decided.
FEW_RULES = 500


class Explainer:
    """Rulesets made ready to explain packets.

    ``rulesets`` are what hooks run, by backend. ``addresses`` are the primary ones of
    interfaces, ``outward`` an interface that leads outside ("" where none is known);
    ``marks_route`` as for :class:`~meshnet.reason.walk.Walker`. Raises ParseError for chains
    that go round, or that no kernel can hold.
    """

    def __init__(
        self,
        rulesets: Mapping[str, Ruleset],
        addresses: Mapping[tuple[str, Family], int] | None = None,
        marks_route: bool = True,
        outward: str = "",
    ) -> None:
        self.rulesets = {name: held for name, held in rulesets.items() if held.tables}
        self.addresses = dict(addresses or {})
        self.walker = Walker(self.rulesets, self.addresses, marks_route)
        self._outward = outward
        self._marks_route = marks_route
        self._leading = Leading()

    @cached_property
    def drifts(self) -> dict[str, Drift]:
        """What our rules are of, by backend."""
        found = {}
        for backend, ruleset in self.rulesets.items():
            form = Form.NFT if backend == "nft" else Form.IPTABLES
            one = drift(ruleset, form)
            if one is not None:
                found[backend] = one
        return found

    @cached_property
    def _reasons(self) -> dict[str, Mapping[tuple[Family, str, str, int], Rule]]:
        return {backend: found.explained for backend, found in self.drifts.items()}

    @cached_property
    def _count(self) -> int:
        return sum(1 for held in self.rulesets.values() for _ in held.rules())

    def journey(
        self,
        packet: Packet,
        hook: str,
        unknown: frozenset[Field] = frozenset(),
        local: bool = True,
    ) -> Journey:
        """The walk alone."""
        return self.walker.walk(packet, hook, unknown, local)

    def fate_class(
        self,
        packet: Packet,
        hook: str,
        unknown: frozenset[Field] = frozenset(),
        local: bool = True,
    ) -> PacketClass | None:
        """The class of packets that go as ``packet`` does; None where too much is undecided."""
        tree = self.walker.follow(packet, hook, unknown, local)
        return same_fate(tree, packet, hook, unknown, self.addresses)

    def explain(
        self,
        packet: Packet,
        hook: str,
        unknown: frozenset[Field] = frozenset(),
        local: bool = True,
        way: Way | None = None,
        who: str = "",
        every: bool = False,
    ) -> Leg:
        """The leg that ``packet`` begins at ``hook``; ``unknown`` and ``local`` as for the walk.

        ``every``: each rule is a row of its own. Raises UsageError for another hook.
        """
        tree = self.walker.follow(packet, hook, unknown, local)
        journey = tree.outcome().journey(packet)
        trail = tree.trails()[0]
        sights = Sights()
        rows = Rows(self._reasons, self._leading, sights, every)
        judge = Judge(rows, self._leading, sights, bool(self.drifts))
        found = same_fate(tree, packet, hook, unknown, self.addresses, sights)
        # What was walked both ways and came out alike may be anything.
        unsettled = unknown if journey.verdict is Verdict.MAYBE else frozenset()
        names = dict.fromkeys((*filter(None, tree.forks()), *_doubts(tree, sights)))
        return Leg(
            who=who,
            hook=hook,
            packet=shown(packet, unknown),
            way=way or _told(packet, hook, local),
            rules=rows.of(trail.stretches),
            verdict=journey.verdict.value,
            port=journey.port,
            rule=self._where(journey.decider),
            leaves=_leaves(journey, packet, hook, local, unknown),
            because=judge.because(journey, trail),
            same_fate=class_in_words(found, packet.family, unsettled),
            nearest=self._nearest(tree, journey, packet, hook, unknown, local, sights),
            undecided=tuple(printable(name) for name in journey.maybe),
            fates=tuple(
                PossibleFate(fate.verdict.value, fate.port, self._where(fate.decider))
                for fate in journey.fates
            ),
            unmodelled=tuple(printable(name) for name in names if name not in journey.maybe),
        )

    def _where(self, step: Step | None) -> str:
        if step is None:
            return ""
        place = step.place
        name = f"{place.backend} {place.family.value} {place.table} {place.chain}"
        return printable(f"{name} policy" if step.rule is None else f"{name} {place.position}")

    def _nearest(
        self,
        tree: Tree,
        journey: Journey,
        packet: Packet,
        hook: str,
        unknown: frozenset[Field],
        local: bool,
        sights: Sights,
    ) -> Nearest | None:
        if journey.verdict in (Verdict.CAPTURED, Verdict.MAYBE):
            return None
        advice = setting = ""
        for backend, found in self.drifts.items():
            form = Form.NFT if backend == "nft" else Form.IPTABLES
            if self._may_be_set(journey) and (
                one := advise(found.spec, form, packet, hook, unknown)
            ):
                advice, setting = one.words, one.setting
                break

        def follow(changed: Packet) -> Tree:
            return self.walker.follow(changed, hook, unknown, local)

        tries = max(3, min(MOST_TRIES, MOST_ASKED // max(self._count, 1)))
        search = Search(follow, self._leading, hook, self._outward)
        change = search.nearest(packet, tree, sights, tries)
        if not advice and journey.decider is not None and not journey.decider.ours:
            advice = self._without(journey.decider, packet, hook, unknown, local)
        if change is None:
            if not advice:
                return None
            return Nearest((), "", shown(packet, unknown), 0, advice, setting)
        place = change.turned.place
        return Nearest(
            tuple(printable(words) for words in changes_in_words(change)),
            printable(f"{place.table} {place.chain} {place.position}"),
            shown(change.packet, unknown),
            change.journey.port,
            advice,
            setting,
        )

    def _may_be_set(self, journey: Journey) -> bool:
        """Whether a setting may be in the way: neither others' rules nor what keeps a proxy."""
        decider = journey.decider
        if decider is None:
            return True
        place = decider.place
        found = self._reasons.get(place.backend, {})
        known = found.get((place.family, place.table, place.chain, place.position))
        return known is not None and not known.setting.startswith(("proxy.", "profile"))

    def _without(
        self,
        decider: Step,
        packet: Packet,
        hook: str,
        unknown: frozenset[Field],
        local: bool,
    ) -> str:
        """That a foreign rule alone is in the way, if it is: tried by a walk without it."""
        if self._count > FEW_RULES or decider.rule is None:
            return ""
        rest = {
            name: _removed(held, decider) if name == decider.place.backend else held
            for name, held in self.rulesets.items()
        }
        walker = Walker(rest, self.addresses, self._marks_route)
        if walker.walk(packet, hook, unknown, local).verdict is not Verdict.CAPTURED:
            return ""
        place = decider.place
        return printable(f"without {place.table} {place.chain} {place.position}, which is not ours")


def _doubts(tree: Tree, sights: Sights) -> list[str]:
    """Every rule of which it could not be told whether it holds, on all ways."""
    found = []
    for stretch in tree.all_stretches():
        sight = sights.of(stretch)
        found += [undecided(line, sight.view) for line, step in sight.held if step.held is None]
    return found


def _removed(held: Ruleset, step: Step) -> Ruleset:
    """``held`` without the rule of ``step``."""
    from meshnet.model.frozen import replace

    place = step.place
    tables = []
    for table in held.tables:
        if (table.family, table.name) == (place.family, place.table):
            chains = tuple(
                replace(c, rules=(*c.rules[: place.position - 1], *c.rules[place.position :]))
                if c.name == place.chain
                else c
                for c in table.chains
            )
            table = replace(table, chains=chains)
        tables.append(table)
    return replace(held, tables=tuple(tables))


def shown(packet: Packet, unknown: frozenset[Field]) -> ShownPacket:
    """``packet`` in words; what is unknown has no value."""

    def number(field: Field) -> int | None:
        value = packet.value(field)
        return None if field in unknown or not isinstance(value, int) else value

    def address(field: Field, value: int) -> str:
        return "" if field in unknown else show_address(packet.family, value)

    return ShownPacket(
        packet.family.value,
        PROTO_NAMES.get(packet.proto, str(packet.proto)),
        address(Field.SRC, packet.src),
        number(Field.SPORT),
        address(Field.DST, packet.dst),
        number(Field.DPORT),
        packet.iif or "",
        packet.oif or "",
        number(Field.UID),
        number(Field.GID),
        packet.mark,
        packet.ctstate,
        tuple(field.label for field in Field if field in unknown),
    )


def _told(packet: Packet, hook: str, local: bool) -> Way:
    link = (packet.oif if hook == "output" else packet.iif) or ""
    return Way("told", link, link, local=local)


def _leaves(
    journey: Journey, packet: Packet, hook: str, local: bool, unknown: frozenset[Field]
) -> str:
    """What becomes of the packet, in words."""
    verdict, left = journey.verdict, journey.packet
    if verdict is Verdict.MAYBE:
        return ""
    to = _endpoint(left)
    dialled = _endpoint(packet)
    if verdict is Verdict.DROPPED:
        return _answer(journey.decider)
    if verdict is Verdict.CAPTURED:
        if left.dst == packet.dst and left.dport == packet.dport:
            return f"given to the socket at :{journey.port} as it is, for {dialled}"
        return f"arrives at {to}; conntrack keeps that it was for {dialled}"
    if left.dst != packet.dst or left.dport != packet.dport:
        return f"goes to {to} instead of {dialled}"
    if hook == "prerouting":
        return f"reaches {to} itself" if local else f"is forwarded by {left.oif or '?'} to {to}"
    if left.oif == "lo":
        return f"stays in this namespace, for {to}"
    return f"leaves by {left.oif or '?'} to {to}"


def _answer(step: Step | None) -> str:
    """What the sender of a dropped packet gets to know; rules may be known by their text only."""
    done = step.action.lower() if step is not None else ""
    if "reset" in done:
        return "its sender gets a reset"
    return "its sender is told so" if "reject" in done else "its sender is not told"


def _endpoint(packet: Packet) -> str:
    address = show_address(packet.family, packet.dst)
    if packet.dport is None:
        return address
    return f"[{address}]:{packet.dport}" if ":" in address else f"{address}:{packet.dport}"
