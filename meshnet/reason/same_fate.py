"""All packets that go the very same way as one: what was asked of it, as conditions.

Whoever answers each question on the way as this packet did goes the same way. A rule that
held wants all of its matches; for one that did not, one match that stays false is enough,
and the few that serve most rules are taken. So the class is right by construction; it
is not always the largest one.
"""

from __future__ import annotations

from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.match import Match
from meshnet.model.packet import Family, Field, Packet
from meshnet.model.packet_class import PacketClass
from meshnet.model.rule import FULL_MASK, Kind, Target
from meshnet.reason.action import LOOPBACK
from meshnet.reason.conjunction import Conjunction, is_cut
from meshnet.reason.effects import Beyond, Effect, Foreign
from meshnet.reason.evaluate import View, has_connection
from meshnet.reason.whynot import Sights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshnet.reason.fates import Stretch, Tree
    from meshnet.reason.state import State

_PORTS = (Field.SPORT, Field.DPORT)
_LINKS = (Field.IIF, Field.OIF)
#: Where several conditions would do, those on the first of these are taken.
_PREFERRED = (
    *(Field.PROTO, Field.OIF, Field.IIF, Field.UID, Field.GID, Field.DST, Field.DPORT),
    *(Field.SRC, Field.SPORT, Field.MARK, Field.CTMARK, Field.CTSTATE),
)
_WRITES_MARK = (Kind.MARK, Kind.TPROXY, Kind.SAVE_MARK, Kind.RESTORE_MARK)


def same_fate(
    tree: Tree,
    packet: Packet,
    hook: str,
    unknown: frozenset[Field],
    addresses: Mapping[tuple[str, Family], int],
    sights: Sights | None = None,
) -> PacketClass | None:
    """The class of ``packet``, for which ``tree`` was grown; None where that was cut short.

    Its members are those with the same ``unknown`` fields. ``addresses`` are the walker's.
    """
    if not tree.whole:
        return None
    asked = _Questions(packet, unknown, addresses, sights or Sights())
    asked.begin(hook, tree)
    for stretch in tree.all_stretches():
        asked.hear(stretch)
    return PacketClass(packet.family, hook, asked.answers())


class _Questions:
    """What was asked of one packet, and what it has answered."""

    def __init__(
        self,
        packet: Packet,
        unknown: frozenset[Field],
        addresses: Mapping[tuple[str, Family], int],
        sights: Sights,
    ) -> None:
        self._packet = packet
        self._sights = sights
        self._unknown = unknown
        self._addresses = addresses
        #: Whether there is more than one way: then it matters which of them meet again.
        self._forked = False
        #: Conditions that must hold, each once.
        self._must: dict[Match, None] = {}
        #: Of the matches of each of these one must hold (True), or not hold (False).
        self._any: list[tuple[list[Match], bool]] = []

    def begin(self, hook: str, tree: Tree) -> None:
        """What the way between the rules hangs on."""
        packet = self._packet
        self._forked = tree.forked
        self._pin(Field.CTSTATE)
        if packet.ctstate == "related":
            self._pin(Field.PROTO)
        if hook == "prerouting":
            self._link_is_lo(Field.IIF)
            for field in (Field.UID, Field.GID):
                self._pin(field)
        else:
            states = [s.at.state for s in tree.all_stretches()]
            states += [end.state for end in tree.all_ends()]
            if any(s.hook != "output" and "oif" not in s.wrote for s in states):
                self._link_is_lo(Field.OIF)

    def _pin(self, field: Field) -> None:
        """Every member has what this packet has."""
        if field in self._unknown:
            return
        value = self._packet.value(field)
        if isinstance(value, str):
            self._must[Match(field, NameSet((value,)))] = None
        elif field not in _LINKS:
            values = IntervalSet() if value is None else IntervalSet.of(value)
            self._must[Match(field, values, absent=value is None)] = None

    def _link_is_lo(self, field: Field) -> None:
        if field not in self._unknown:
            inside = self._packet.value(field) == "lo"
            self._must[Match(field, NameSet(("lo",)), not inside, absent=not inside)] = None

    # -- what rules ask ---------------------------------------------------------------------

    def hear(self, stretch: Stretch) -> None:
        """The rules of one stretch, with the answers that they got."""
        at = stretch.at
        sight = self._sights.of(stretch)
        view = sight.view
        rerouting = at.frames[0][0].kind == "route"
        constant: dict[Field, bool] = {}
        for false in sight.false:
            for match in false:
                field = match.field
                if field not in constant:
                    constant[field] = self._is_constant(field, view, at.state)
                if constant[field]:
                    break
            else:
                self._one_of(false, False)
        for line, _ in sight.held:
            for match in line.matches:
                self._answered(match, view, at.state)
            for effect in line.effects:
                self._done(effect, at.state, rerouting)

    def _one_of(self, matches: list[Match], held: bool) -> None:
        """One of ``matches`` must hold, or must not where ``held`` is False."""
        if len(matches) == 1:
            self._must[self._raw(matches[0], held)] = None
        elif matches:
            self._any.append((matches, held))

    def _answered(self, match: Match, view: View, state: State) -> None:
        if self._is_constant(match.field, view, state):
            return
        held = view.ask(match)
        if held is not None:
            self._must[self._raw(match, held)] = None
        elif match.field in _PORTS and self._packet.value(match.field) is None:
            self._pin(match.field)

    def _is_constant(self, field: Field, view: View, state: State) -> bool:
        """Whether what a rule sees of ``field`` is the same for all that came this way.

        The state of the connection is, and has been pinned.
        """
        if field in view.unknown or field is Field.CTSTATE or field.label in state.wrote:
            return True
        if field is Field.CTMARK:
            return not has_connection(state)
        if state.over_lo and field in (*_LINKS, Field.UID, Field.GID):
            return True
        if field is Field.IIF:
            return state.hook == "output"
        return field is Field.OIF and state.hook in ("prerouting", "input")

    def _raw(self, match: Match, held: bool) -> Match:
        """``match`` about the packet as it began, turned so that it holds."""
        absent = match.absent
        if match.field in _LINKS:
            # What a packet lacks, rules see as the empty name.
            absent = ("" in match.values) is not match.negated
        if match.field in _PORTS:
            return Match(match.field, match.values, match.negated is held, match.mask)
        negated = match.negated if held else not match.negated
        return Match(match.field, match.values, negated, match.mask, absent is held)

    # -- what rules do ----------------------------------------------------------------------

    def _done(self, effect: Effect, state: State, rerouting: bool) -> None:
        if isinstance(effect, Foreign):
            self._done_foreign(effect, state)
        elif effect.kind is Kind.REDIRECT:
            self._redirected(effect.port, state)
        elif effect.kind in _WRITES_MARK:
            self._marked(effect, state, rerouting)

    def _done_foreign(self, effect: Foreign, state: State) -> None:
        what = effect.what
        if what is Beyond.HAND and not effect.port:
            self._keep(Field.DPORT, state)
        elif what is Beyond.REDIRECT:
            self._redirected(None, state)
        elif what is Beyond.DNAT:
            if effect.port == 0:
                self._keep(Field.DPORT, state)
            self._aimed(effect.address, effect.port, state)

    def _redirected(self, port: int | None, state: State) -> None:
        if port == 0:
            self._keep(Field.DPORT, state)
        if state.hook == "output":
            self._aimed(LOOPBACK[self._packet.family], port, state)
            return
        if self._addresses and "iif" not in state.wrote and not state.over_lo:
            iif = self._packet.iif
            names = NameSet(() if iif is None else (iif,))
            self._must[Match(Field.IIF, names, absent=iif is None)] = None
        to = self._addresses.get((state.packet.iif or "", self._packet.family))
        self._aimed(to, port, state)

    def _aimed(self, address: int | None, port: int | None, state: State) -> None:
        """Whether the destination became another one matters behind the rule."""
        if address is None or port is None or {Field.DST, Field.DPORT} & state.unknown:
            return
        wanted = {Field.DST: address} | ({Field.DPORT: port} if port else {})
        changed = []
        for field, to in wanted.items():
            now = state.packet.value(field)
            differs = now != to
            if field.label in state.wrote:
                if differs:
                    return
                continue
            match = Match(field, IntervalSet.of(to), negated=differs, absent=differs)
            changed.append((differs, match))
        if any(differs for differs, _ in changed):
            self._one_of([match for differs, match in changed if differs], True)
        else:
            self._must.update((match, None) for _, match in changed)

    def _keep(self, field: Field, state: State) -> None:
        """What the packet has for ``field`` becomes part of its fate."""
        if field.label not in state.wrote and field not in state.unknown:
            self._pin(field)

    def _marked(self, target: Target, state: State, rerouting: bool) -> None:
        whole = target.mask == FULL_MASK and target.kind in (Kind.MARK, Kind.TPROXY)
        if not whole or rerouting or self._forked:
            self._keep(Field.MARK, state)
        if target.kind in (Kind.SAVE_MARK, Kind.RESTORE_MARK) and has_connection(state):
            self._keep(Field.CTMARK, state)

    # -- the answer -------------------------------------------------------------------------

    def answers(self) -> tuple[Match, ...]:
        """All conditions, those of one field made one."""
        known = Conjunction(self._packet.family)
        for match in self._must:
            known.add(match)
        left = self._open(self._any, known)
        while left:
            count: dict[Field, int] = {}
            for some, _ in left:
                for match in some:
                    count[match.field] = count.get(match.field, 0) + 1
            best = max(count, key=lambda field: (count[field], -_PREFERRED.index(field)))
            rest, out = [], []
            for one in left:
                some, held = one
                for match in some:
                    if match.field is best:
                        if held or not is_cut(match):
                            known.add(self._raw(match, held))
                        else:
                            out.append(match)
                        break
                else:
                    rest.append(one)
            known.cut(best, out)
            left = self._open(rest, known)
        return known.matches()

    def _open(
        self, any_of: list[tuple[list[Match], bool]], known: Conjunction
    ) -> list[tuple[list[Match], bool]]:
        """Those of which nothing is implied by what is known."""
        fields = known.fields()
        rest = []
        for one in any_of:
            some, held = one
            for match in some:
                if match.field in fields and known.implies(self._raw(match, held)):
                    break
            else:
                rest.append(one)
        return rest
