"""Which values of each field rules can tell apart, and sets of them in words."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match
from meshnet.model.packet import Family, Field, Packet
from meshnet.model.rule import FULL_MASK, Target
from meshnet.reason.symbolic.terms import (
    Bit,
    both,
    either,
    equal,
    no,
    some,
    within,
)
from meshnet.reason.symbolic.world import OUTPUT, STATES, World, has_ports
from meshnet.reason.words import match_in_words, values_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from meshnet.reason.lines import Line

_MARKS = (Field.MARK, Field.CTMARK)


class Cells:
    """The cells of one field: sets of values that no rule tells apart, numbered from 0.

    ``condition`` says that the field lies in some of them, ``words`` says it for people.
    """

    label = ""
    count = 0

    def condition(self, cells: Sequence[int]) -> Bit:
        """That the field is in one of ``cells``."""
        raise NotImplementedError

    def exactly(self, packet: Packet) -> Bit:
        """That the field is what ``packet`` has."""
        raise NotImplementedError

    def words(self, cells: Sequence[int]) -> str:
        """``cells``, which are not all of them, in words; "" where they are all that can be."""
        raise NotImplementedError

    def exact_words(self, packet: Packet) -> str:
        """What ``packet`` has, in words."""
        raise NotImplementedError

    def cell(self, packet: Packet) -> int | None:
        """The cell that ``packet`` lies in; None where it lacks the field."""
        raise NotImplementedError

    def plain(self, cell: int) -> Iterator[Bit]:
        """That the field has a plain value of ``cell``, the plainest first."""
        yield self.condition([cell])

    def has(self, cells: Sequence[int], packet: Packet) -> bool:
        """Whether :meth:`condition` of ``cells``, which ascend, holds for ``packet``."""
        found = self.cell(packet)
        if found is None:
            return True
        at = bisect_left(cells, found)
        return at < len(cells) and cells[at] == found

    def alike(self, one: Packet, other: Packet) -> bool:
        """Whether :meth:`exactly` of ``one`` holds for ``other``."""
        raise NotImplementedError


class Spans(Cells):
    """A field of numbers. ``present`` are the packets that have it, the others lie in no cell."""

    def __init__(self, world: World, field: Field, cuts: Iterable[int], present: Bit) -> None:
        self.label, self.field, self.world = field.label, field, world
        self.present = present
        self.term = getattr(world, field.label)
        self.bits = world.bits if field in (Field.SRC, Field.DST) else field.bits
        starts = sorted({0, *(cut for cut in cuts if 0 < cut < 1 << self.bits)})
        ends = [*(start - 1 for start in starts[1:]), (1 << self.bits) - 1]
        self._starts = starts
        self.spans = list(zip(starts, ends, strict=True))
        self.count = len(self.spans)

    def condition(self, cells: Sequence[int]) -> Bit:
        values = IntervalSet.of(*(self.spans[cell] for cell in cells))
        return either(no(self.present), within(self.term, values, self.bits))

    def exactly(self, packet: Packet) -> Bit:
        value = packet.value(self.field)
        return True if value is None else equal(self.term, value)

    def words(self, cells: Sequence[int]) -> str:
        values = IntervalSet.of(*(self.spans[cell] for cell in cells))
        return span_in_words(self.field, values, self.bits, self.world.family)

    def exact_words(self, packet: Packet) -> str:
        value = packet.value(self.field)
        if not isinstance(value, int):
            return f"no {self.label}"
        return span_in_words(self.field, IntervalSet.of(value), self.bits, self.world.family)

    def plain(self, cell: int) -> Iterator[Bit]:
        first, last = self.spans[cell]
        # Of a block of addresses any is plainer than the first one, which names it.
        ten = 10 if self.field in (Field.SRC, Field.DST) and first + 10 <= last else 0
        yield equal(self.term, first + ten)
        yield equal(self.term, first)

    def cell(self, packet: Packet) -> int | None:
        value = packet.value(self.field)
        return bisect_right(self._starts, value) - 1 if isinstance(value, int) else None

    def alike(self, one: Packet, other: Packet) -> bool:
        value = one.value(self.field)
        return value is None or other.value(self.field) in (None, value)


class Owners(Spans):
    """UIDs or GIDs; the last cell of UIDs is "no socket"."""

    def __init__(self, world: World, field: Field, cuts: Iterable[int]) -> None:
        super().__init__(world, field, cuts, world.socket)
        self.whose = field is Field.UID
        self.count += self.whose

    def condition(self, cells: Sequence[int]) -> Bit:
        values = IntervalSet.of(*(self.spans[c] for c in cells if c < len(self.spans)))
        inside = within(self.term, values, 32)
        if not self.whose:
            return either(no(self.present), inside)
        none = len(self.spans) in cells
        return either(both(self.present, inside), both(no(self.present), none))

    def exactly(self, packet: Packet) -> Bit:
        value = packet.value(self.field)
        if value is None:
            return no(self.present) if self.whose else True
        return both(self.present, equal(self.term, value))

    def words(self, cells: Sequence[int]) -> str:
        spans = [c for c in cells if c < len(self.spans)]
        if not spans:
            return "no socket"
        values = IntervalSet.of(*(self.spans[cell] for cell in spans))
        if len(spans) == len(self.spans):
            return "a socket"
        said = span_in_words(self.field, values, 32, self.world.family)
        none = self.whose and len(self.spans) in cells
        return f"{said} or no socket" if none else said

    def exact_words(self, packet: Packet) -> str:
        return super().exact_words(packet) if packet.value(self.field) is not None else "no socket"

    def plain(self, cell: int) -> Iterator[Bit]:
        return super().plain(cell) if cell < len(self.spans) else iter(())

    def cell(self, packet: Packet) -> int | None:
        found = super().cell(packet)
        return len(self.spans) if found is None and self.whose else found

    def alike(self, one: Packet, other: Packet) -> bool:
        value = one.value(self.field)
        if value is None:
            return not self.whose or other.value(self.field) is None
        return other.value(self.field) == value


class Links(Cells):
    """An interface. At prerouting a packet without one to leave by is for this namespace."""

    def __init__(self, world: World, field: Field) -> None:
        self.label, self.field, self.names = field.label, field, world.names
        self.term = getattr(world, field.label)
        self.count = len(world.names.members)
        self.hook = world.hook

    def condition(self, cells: Sequence[int]) -> Bit:
        return some(equal(self.term, cell) for cell in cells)

    def exactly(self, packet: Packet) -> Bit:
        return equal(self.term, self._number(packet))

    def words(self, cells: Sequence[int]) -> str:
        # What cannot be need not be said: nothing comes in by lo here, nor is it forwarded there.
        impossible = {0} if self.hook == OUTPUT else {0, 1}
        real = [cell for cell in cells if cell not in impossible]
        if not real:
            return "for this namespace"
        own = self.field is Field.OIF and self.hook != OUTPUT
        through = "forwarded, " if own and 0 not in cells else ""
        rest = [c for c in range(self.count) if c not in cells and c not in impossible]
        if not rest:
            return through.rstrip(", ")
        said = [self.names.said(cell) for cell in (rest if self.names.other in real else real)]
        no = "not " if self.names.other in real else ""
        return f"{through}{self.label} {no}{','.join(sorted(said))}"

    def exact_words(self, packet: Packet) -> str:
        return self.words([self._number(packet)])

    def cell(self, packet: Packet) -> int:
        return self._number(packet)

    def alike(self, one: Packet, other: Packet) -> bool:
        return one.value(self.field) == other.value(self.field)

    def _number(self, packet: Packet) -> int:
        return self.names.numbers[str(packet.value(self.field) or "")]


class States(Cells):
    """Connection tracking's states."""

    label = "ctstate"
    count = len(STATES)

    def __init__(self, world: World) -> None:
        self.term = world.ctstate

    def condition(self, cells: Sequence[int]) -> Bit:
        return some(equal(self.term, cell) for cell in cells)

    def exactly(self, packet: Packet) -> Bit:
        return equal(self.term, STATES.index(packet.ctstate))

    def words(self, cells: Sequence[int]) -> str:
        """A related packet is the first of its own connection too."""
        if set(cells) <= {0, 2} and 0 in cells:
            return "first of its connection"
        if 0 not in cells and len(cells) == len(STATES) - 1:
            return "ct not new"
        return f"ct {','.join(STATES[cell] for cell in cells)}"

    def exact_words(self, packet: Packet) -> str:
        return self.words([STATES.index(packet.ctstate)])

    def cell(self, packet: Packet) -> int:
        return STATES.index(packet.ctstate)

    def alike(self, one: Packet, other: Packet) -> bool:
        return one.ctstate == other.ctstate


def span_in_words(field: Field, values: IntervalSet, bits: int, family: Family) -> str:
    """The shortest of "uid 1337", "uid not 1337" and "dst 10.0.0.0/8 without 10.9.0.0/16"."""
    rest = values.complement((1 << bits) - 1)
    said = [match_in_words(Match(field, values), family)]
    said.append(match_in_words(Match(field, rest, negated=True), family))
    if len(values) > 1:
        whole = IntervalSet.of((values.spans[0][0], values.spans[-1][1]))
        holes = Match(field, rest.intersection(whole))
        around = match_in_words(Match(field, whole), family)
        said.append(f"{around} without {values_in_words(holes, family)}")
    return min(said, key=len)


def cells_of(world: World, lines: Iterable[Line], beside: Iterable[Match] = ()) -> list[Cells]:
    """The cells of every field, those that people care least about first.

    ``beside`` are questions that somebody else than the rules asks.
    """
    cuts, marks_masked = _cuts(lines, beside)
    ported = has_ports(world)
    found: list[Cells] = [Spans(world, Field.SPORT, cuts[Field.SPORT], ported)]
    for field in (Field.CTMARK, Field.MARK):
        found.append(Spans(world, field, () if marks_masked else cuts[Field.MARK], True))
    found.append(Spans(world, Field.SRC, cuts[Field.SRC], True))
    if world.hook == OUTPUT:
        found += [Owners(world, field, cuts[field]) for field in (Field.GID, Field.UID)]
    else:
        found.append(Links(world, Field.IIF))
    found.append(Spans(world, Field.DPORT, cuts[Field.DPORT], ported))
    found.append(Spans(world, Field.PROTO, cuts[Field.PROTO], True))
    found.append(Links(world, Field.OIF))
    found.append(Spans(world, Field.DST, cuts[Field.DST], True))
    found.append(States(world))
    return found


def _cuts(lines: Iterable[Line], beside: Iterable[Match]) -> tuple[dict[Field, set[int]], bool]:
    """Where the answer of some rule changes; and whether marks are looked at bit by bit."""
    cuts: dict[Field, set[int]] = {field: set() for field in Field}
    masked = False
    cuts[Field.PROTO].update((6, 7, 17, 18))
    held = list(lines)
    for matches in (beside, *(line.matches for line in held)):
        for match in matches:
            field = Field.MARK if match.field in _MARKS else match.field
            masked = masked or (match.mask is not None and field is Field.MARK)
            if isinstance(match.values, IntervalSet):
                for first, last in match.values:
                    cuts[field].update((first, last + 1))
    for line in held:
        for effect in line.effects:
            if isinstance(effect, Target) and effect.mask not in (0, FULL_MASK):
                masked = True
    return cuts, masked
