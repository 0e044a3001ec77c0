"""The tree of ways that a packet may go, and what its ends have in common."""

from __future__ import annotations

from typing import NamedTuple

from meshnet.model.frozen import replace
from meshnet.model.packet import Packet
from meshnet.model.verdict import Journey, Step, Verdict
from meshnet.reason.state import Cursor, Ending, Fork, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: So many forks and ends are looked at; who needs more gets no answer but "maybe".
MOST = 4096

Fate = tuple[Verdict, int]


class Visit(NamedTuple):
    """A chain that was gone through, or a part of it: where from, and its first step's index."""

    at: Cursor
    first: int


class Stretch(NamedTuple):
    """The rules of a chain that a packet met in one go, and in which state it was there."""

    at: Cursor
    steps: tuple[Step, ...]


class Trail(NamedTuple):
    """One possible way: where it ended, and what was met on it."""

    end: Ending
    stretches: tuple[Stretch, ...]


class Outcome:
    """Journeys without their packet: the same for all packets of a class.

    ``written`` is what the rules made of the packet, by attribute.
    """

    __slots__ = ("fates", "journey_of", "written")

    def __init__(
        self, journey_of: Journey, written: dict[str, Any], fates: tuple[Outcome, ...] = ()
    ) -> None:
        self.journey_of = journey_of
        self.written = written
        self.fates = fates

    def journey(self, packet: Packet) -> Journey:
        """The journey of ``packet``, which is of this class."""
        known = self.journey_of
        left = replace(packet, **self.written) if self.written else packet
        fates = tuple(fate.journey(packet) for fate in self.fates)
        return Journey(
            known.verdict, left, known.port, known.steps, known.decider, known.maybe, fates
        )


class _Node:
    __slots__ = ("children", "end", "name", "parent", "reach", "steps", "visits")

    def __init__(self, parent: _Node | None) -> None:
        self.parent = parent
        self.steps: list[Step] = []
        self.visits: list[Visit] = []
        self.name: Callable[[], str] = str
        self.children: list[_Node] = []
        self.end: Ending | None = None
        self.reach: frozenset[Fate] = frozenset()


class Tree:
    """Ways that were begun and not followed yet; each cursor is followed once."""

    def __init__(self, start: Cursor) -> None:
        root = _Node(None)
        self._start = start
        self._nodes = [root]
        self._by_way: dict[Cursor | Ending, _Node] = {}
        self._open: list[tuple[_Node, Cursor]] = [(root, start)]
        self._current = root
        self._whole = True

    @property
    def forked(self) -> bool:
        """Whether there is more than one way."""
        return len(self._nodes) > 1

    def next(self) -> Cursor | None:
        """The next way to follow; None where all are."""
        if not self._open:
            return None
        self._current, cursor = self._open.pop()
        return cursor

    def add(self, found: Ending | Fork, steps: list[Step], visits: list[Visit]) -> None:
        """Say how the way ended that :meth:`next` gave."""
        node = self._current
        node.steps, node.visits = steps, visits
        if isinstance(found, Ending):
            node.end = found
            return
        node.name = found.name
        # The first way is followed first: the one on which an undecided rule does not hold.
        begun: list[tuple[_Node, Cursor]] = []
        node.children = [self._child(node, way, begun) for way in found.ways]
        self._open += reversed(begun)
        if len(self._nodes) > MOST:
            self._whole = False
            self._open.clear()

    def _child(
        self, parent: _Node, way: Cursor | Ending, begun: list[tuple[_Node, Cursor]]
    ) -> _Node:
        fresh = _Node(parent)
        known = self._by_way.setdefault(way, fresh)
        if known is fresh:
            self._nodes.append(known)
            if isinstance(way, Ending):
                known.end = way
            else:
                begun.append((known, way))
        return known

    def trails(self) -> tuple[Trail, ...]:
        """A way for each fate, in the order in which :meth:`outcome` has them."""
        ends: dict[Fate, _Node] = {}
        for node in self._nodes:
            if node.end is not None:
                ends.setdefault(fate_of(node.end), node)
        if not ends:
            # Cut short before any way ended: what was met until the first fork.
            return (Trail(Ending(self._start.state), tuple(_stretches(self._nodes[0]))),)
        return tuple(_trail(node) for node in ends.values())

    def all_stretches(self) -> list[Stretch]:
        """What was met on all ways together, each part once."""
        return [stretch for node in self._nodes for stretch in _stretches(node)]

    def all_ends(self) -> list[Ending]:
        """Where ways ended."""
        return [node.end for node in self._nodes if node.end is not None]

    def forks(self) -> list[str]:
        """What was undecided on all ways, whether or not it matters."""
        return [node.name() for node in self._nodes if node.children]

    @property
    def whole(self) -> bool:
        """Whether every way was followed to its end."""
        return self._whole

    def outcome(self) -> Outcome:
        """What is to be said of all ends together."""
        ends: dict[Fate, _Node] = {}
        for node in self._nodes:
            if node.end is not None:
                ends.setdefault(fate_of(node.end), node)
        outcomes = [_outcome(node) for node in ends.values()]
        decided = len(ends) == 1 and self._whole
        if decided and outcomes[0].journey_of.verdict is not Verdict.MAYBE:
            return outcomes[0]
        names = self._names()
        if not self._whole:
            names = (*names, "more that is undecided than can be followed")
        names = tuple(dict.fromkeys((*names, *(n for o in outcomes for n in o.journey_of.maybe))))
        if not outcomes:
            root, steps = self._start.state.packet, tuple(self._nodes[0].steps)
            return Outcome(Journey(Verdict.MAYBE, root, 0, steps, None, names), {})
        first = outcomes[0]
        known = first.journey_of
        journey = Journey(Verdict.MAYBE, known.packet, 0, known.steps, None, names)
        return Outcome(journey, first.written, tuple(outcomes))

    def _names(self) -> tuple[str, ...]:
        """The forks whose ways end differently, in the order in which they were met."""
        for node in self._nodes:
            if node.end is not None:
                node.reach = frozenset((fate_of(node.end),))
        changed = True
        while changed:
            changed = False
            for node in reversed(self._nodes):
                reach = frozenset(fate for child in node.children for fate in child.reach)
                if node.children and reach != node.reach:
                    node.reach, changed = reach, True
        matters = [n.name() for n in self._nodes if len({c.reach for c in n.children}) > 1]
        return tuple(dict.fromkeys(matters))


def _stretches(node: _Node) -> list[Stretch]:
    firsts = [visit.first for visit in node.visits]
    ends = [*firsts[1:], len(node.steps)]
    return [
        Stretch(visit.at, tuple(node.steps[first:end]))
        for visit, first, end in zip(node.visits, firsts, ends, strict=False)
    ]


def _trail(end: _Node) -> Trail:
    parts: list[list[Stretch]] = []
    node: _Node | None = end
    while node is not None:
        parts.append(_stretches(node))
        node = node.parent
    assert end.end is not None
    return Trail(end.end, tuple(stretch for part in reversed(parts) for stretch in part))


def fate_of(end: Ending) -> Fate:
    """The verdict of an end, and the port that the packet was handed to."""
    state = end.state
    if end.line is not None:
        return Verdict.DROPPED, 0
    if state.port is not None:
        return (Verdict.CAPTURED, state.port) if state.port else (Verdict.MAYBE, 0)
    return (Verdict.BYPASSED if state.ours else Verdict.DIRECT), 0


def _outcome(end: _Node) -> Outcome:
    steps: list[list[Step]] = []
    node: _Node | None = end
    while node is not None:
        steps.append(node.steps)
        node = node.parent
    way = tuple(step for part in reversed(steps) for step in part)
    assert end.end is not None
    state = end.end.state
    verdict, port = fate_of(end.end)
    decider = _decider(end.end, verdict)
    maybe: tuple[str, ...] = ()
    if verdict is Verdict.MAYBE and decider is not None:
        maybe, decider = (f"which port is drawn: {decider.action}",), None
    journey = Journey(verdict, _left(state), port, way, decider, maybe)
    return Outcome(journey, {name: getattr(_left(state), name) for name in state.wrote})


def _left(state: State) -> Packet:
    return state.left if state.left is not None else state.packet


def _decider(end: Ending, verdict: Verdict) -> Step | None:
    state = end.state
    where = {
        Verdict.DROPPED: end.line,
        Verdict.BYPASSED: state.ours,
        Verdict.DIRECT: state.foreign,
    }.get(verdict, state.captor)
    if where is None:
        return None
    line, hook = where
    return line.step(hook, True)
