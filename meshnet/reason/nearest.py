"""The least change that would have a packet captured: found on its way, tried by a walk.

A change makes a rule hold that leads to a capture and did not, or one not hold that let the
packet go. Changes are counted by what a person changes: where to, who sends, which port.
"""

from __future__ import annotations

from heapq import heappop, heappush

from meshnet.model.frozen import dataclass, replace
from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.match import Match
from meshnet.model.packet import TCP, UDP, Family, Field, Packet
from meshnet.model.verdict import Journey, Verdict
from meshnet.reason.whynot import Sight, Sights
from meshnet.reason.words import match_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from meshnet.reason.evaluate import View
    from meshnet.reason.fates import Stretch, Tree
    from meshnet.reason.lines import Line
    from meshnet.reason.met import Leading

    #: Grows the tree of ways of a changed packet.
    Follow = Callable[[Packet], Tree]

#: So many changed packets are tried at the most, and so many aspects are changed.
MOST_TRIES, MOST_CHANGES = 24, 3
#: So many rules that lead to a capture are looked at on one way.
MOST_RULES = 40
_ASPECTS = {Field.OIF: Field.DST, Field.GID: Field.UID}
_FAR = {
    Family.IP: (0xCB00714D, 0xC633644D, 0xC000024D),
    Family.IP6: (0x20010DB8_00770000_00000000_00000077, 0x2400CB00_00000000_00000000_00000077),
}
_USERS = (1000, 1001, 12345, 54321, 0)
_LINKS = ("eth0", "eth1", "net1")


@dataclass(frozen=True)
class Change:
    """A packet that would be captured: what was changed, and the rule that this turned.

    ``wanted`` are the questions whose answers changed, as they hold now; ``turned`` is the last
    rule that holds now and did not, or the other way round.
    """

    packet: Packet
    journey: Journey
    wanted: tuple[Match, ...]
    turned: Line
    aspects: frozenset[Field]


class Search:
    """Looks for the nearest captured packet. ``hook`` is where packets begin; ``outward`` a link
    that leads outside, ``here`` an address of the namespace of each family, where known."""

    def __init__(self, follow: Follow, leading: Leading, hook: str, outward: str = "") -> None:
        self._follow = follow
        self._leading = leading
        self._hook = hook
        self._outward = outward or _LINKS[0]

    def nearest(
        self, packet: Packet, tree: Tree, sights: Sights, tries: int = MOST_TRIES
    ) -> Change | None:
        """The change with the fewest aspects, or None where nothing near is captured."""
        heap: list[tuple[int, int, Packet, tuple[Match, ...], Line]] = []
        seen = {packet}
        count = 0

        def push(now: Packet, grown: Tree, seen_by: Sights, before: tuple[Match, ...]) -> None:
            nonlocal count
            for made, wanted, line in self._changes(now, grown, seen_by):
                if made not in seen:
                    seen.add(made)
                    aspects = _changed(packet, made)
                    if len(aspects) <= MOST_CHANGES:
                        count += 1
                        kept = tuple(m for m in before if m.holds(made))
                        heappush(heap, (len(aspects), count, made, (*kept, *wanted), line))

        push(packet, tree, sights, ())
        while heap and tries:
            tries -= 1
            _, _, made, wanted, line = heappop(heap)
            grown = self._follow(made)
            journey = grown.outcome().journey(made)
            if journey.verdict is Verdict.CAPTURED:
                return Change(made, journey, wanted, line, _changed(packet, made))
            push(made, grown, Sights(), wanted)
        return None

    def _changes(
        self, packet: Packet, tree: Tree, sights: Sights
    ) -> Iterator[tuple[Packet, tuple[Match, ...], Line]]:
        """Changed packets for which one rule of the way has another answer."""
        trail = tree.trails()[0] if tree.trails() else None
        if trail is None:
            return
        looked = 0
        letting: list[tuple[Line, View]] = []
        for stretch in trail.stretches:
            state = stretch.at.state
            if state.over_lo or state.wrote:
                break
            sight, code = sights.of(stretch), stretch.at.frames[-1][0]
            if self._leading.code(code):
                for line, false in _missed(stretch, sight):
                    if self._leading.line(line) and looked < MOST_RULES:
                        looked += 1
                        yield from self._made(packet, line, tuple(false))
            for line, step in sight.held:
                if step.held and (line.to is not None or not self._leading.line(line)):
                    letting.append((line, sight.view))
        for line, view in reversed(letting):
            for match in line.matches:
                if view.ask(match):
                    turned = replace(match.inverted(), absent=not match.absent)
                    yield from self._made(packet, line, (turned,))

    def _made(
        self, packet: Packet, line: Line, wanted: tuple[Match, ...]
    ) -> Iterator[tuple[Packet, tuple[Match, ...], Line]]:
        """``packet`` changed so that ``wanted`` hold; nothing where that makes no sense."""
        made: Packet | None = packet
        for match in sorted(wanted, key=lambda m: m.field is not Field.OIF):
            made = None if made is None else self._satisfied(made, match)
        if made is not None and wanted and made != packet and all(m.holds(made) for m in wanted):
            yield made, wanted, line

    def _satisfied(self, packet: Packet, match: Match) -> Packet | None:
        field = match.field
        if match.holds(packet):
            return packet
        if match.mask is not None or field in (Field.CTSTATE, Field.CTMARK, Field.MARK):
            return None
        if field is Field.OIF or (field is Field.IIF and self._hook == "prerouting"):
            return self._by_link(packet, match)
        value = self._value(packet, match)
        if value is None:
            return None
        changes: dict[str, Any] = {field.label: value}
        if field is Field.DST and self._hook == "output" and packet.oif == "lo":
            # What is sent elsewhere leaves elsewhere.
            changes["oif"] = self._outward if not _is_loopback(packet.family, value) else "lo"
        if field is Field.UID and packet.gid == packet.uid:
            changes["gid"] = value
        if field is Field.GID and packet.gid == packet.uid:
            changes["uid"] = value
        if field is Field.PROTO:
            if value not in (TCP, UDP) or packet.dport is None:
                return None
        elif packet.value(field) is None:
            return None
        return replace(packet, **changes)

    def _by_link(self, packet: Packet, match: Match) -> Packet | None:
        """By another interface; what leaves by another has another destination."""
        if not isinstance(match.values, NameSet):
            return None
        if match.negated:
            names: tuple[str, ...] = (self._outward, *_LINKS)
        else:
            names = tuple(f"{n[:-1]}0" if n.endswith("+") else n for n in match.values)
        name = next((n for n in names if (n in match.values) is not match.negated), None)
        if name is None:
            return None
        if match.field is Field.IIF:
            return None if name == "lo" else replace(packet, iif=name)
        if name == "lo":
            return replace(packet, oif=name, dst=packet.src) if packet.src else None
        to = packet.dst if packet.oif != "lo" else _FAR[packet.family][0]
        return replace(packet, oif=name, dst=to)

    def _value(self, packet: Packet, match: Match) -> int | None:
        """A value for which ``match`` holds: a usual one where it may be any."""
        values, field = match.values, match.field
        if not isinstance(values, IntervalSet):
            return None
        wide = field in (Field.SRC, Field.DST)
        bits = 32 if wide and packet.family is Family.IP else field.bits
        allowed = values.complement((1 << bits) - 1) if match.negated else values
        usual: tuple[int, ...] = ()
        if wide:
            usual = _FAR[packet.family]
        elif field in (Field.UID, Field.GID):
            usual = _USERS
        elif field is Field.PROTO:
            usual = (TCP, UDP)
        elif field is Field.DPORT:
            usual = (443, 80, 8080)
        for value in usual:
            if value in allowed:
                return value
        for first, last in allowed:
            value = first + 1 if last > first else first
            if value < 1 << bits:
                return value
        return None


def _missed(stretch: Stretch, sight: Sight) -> Iterator[tuple[Line, list[Match]]]:
    """The rules that did not hold, each with its matches that are false."""
    code, first = stretch.at.frames[-1]
    false = iter(sight.false)
    for line, step in zip(code.lines[first:], stretch.steps, strict=False):
        if step.held is False:
            yield line, next(false)


def _is_loopback(family: Family, number: int) -> bool:
    return number >> 24 == 127 if family is Family.IP else number == 1


def _changed(one: Packet, other: Packet) -> frozenset[Field]:
    """The aspects in which two packets differ: owner is one, destination and route another."""
    differ = (field for field in Field if one.value(field) != other.value(field))
    return frozenset(_ASPECTS.get(field, field) for field in differ)


def changes_in_words(change: Change) -> tuple[str, ...]:
    """What was changed, as the conditions that hold now; the route follows the destination."""
    family = change.packet.family
    fields = [match.field for match in change.wanted]
    said = []
    for match in change.wanted:
        if match.field is Field.OIF and Field.DST in fields:
            continue
        if match.field is Field.OIF and match.values.only() == "lo":
            said.append("another host" if match.negated else "this pod itself (oif lo)")
        else:
            said.append(match_in_words(match, family))
    return tuple(dict.fromkeys(said))
