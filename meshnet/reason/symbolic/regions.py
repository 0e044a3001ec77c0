"""Sets of packets with one fate, as large as one sentence can say."""

from __future__ import annotations

from meshnet.model.frozen import dataclass
from meshnet.reason.symbolic.cells import Cells, States
from meshnet.reason.symbolic.question import Question
from meshnet.reason.symbolic.shapes import SHAPES, Holes
from meshnet.reason.symbolic.terms import Bit, both, engine, equal, every, no
from meshnet.reason.symbolic.world import STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from meshnet.model.packet import Packet
    from meshnet.reason.symbolic.world import Start

#: So many cells of one field are left out one by one before a simpler shape is tried.
MOST_HOLES = 32
#: Of so few cells each is looked at for whether any packet is there.
MOST_PIECES = 8


@dataclass(frozen=True)
class Region:
    """All packets for which ``condition`` holds; ``start`` is one of them.

    ``words`` tell it, a phrase for each field that matters, by the field's name. ``outcomes`` are
    the fates that all of them have, given certain answers to ``doubts``, what is undecided of
    those that are in the state of connection tracking that ``start`` is in.
    """

    start: Start
    words: tuple[tuple[str, str], ...]
    outcomes: tuple[int, ...]
    condition: Any
    doubts: tuple[str, ...] = ()


class _Side:
    """How far a region reaches in one field: as the packet has it, some cells, or any."""

    def __init__(self, cells: Cells, packet: Packet) -> None:
        self.cells, self.packet = cells, packet
        self.chosen: Sequence[int] | None = None
        self.condition = cells.exactly(packet)
        self.free = False

    def open(self) -> None:
        self.free, self.condition = True, True

    def widen(self, chosen: Sequence[int]) -> None:
        self.chosen, self.condition = chosen, self.cells.condition(chosen)

    def has(self, packet: Packet) -> bool:
        if self.free:
            return True
        if self.chosen is None:
            return self.cells.alike(self.packet, packet)
        return self.cells.has(self.chosen, packet)

    def words(self) -> str:
        if self.chosen is None:
            return self.cells.exact_words(self.packet)
        return self.cells.words(self.chosen)


class Regions:
    """Finds regions of packets for which ``outcomes`` (numbers of ``bits``) are what they are."""

    def __init__(
        self, question: Question, cells: Sequence[Cells], outcomes: Sequence[Any], bits: int
    ) -> None:
        self.question, self.cells = question, cells
        #: Fields in which so many cells have strangers that nobody wants to hear of each.
        self._crowded: set[str] = set()
        self._outcomes = [
            question.variable(value, bits, f"outcome {at}") for at, value in enumerate(outcomes)
        ]

    def around(self, start: Start, model: Any) -> Region:
        """The region of ``start``, widened field by field as long as all have one fate."""
        fates = tuple(
            int(model.eval(value, model_completion=True).as_long()) for value in self._outcomes
        )
        other = no(every(equal(v, f) for v, f in zip(self._outcomes, fates, strict=True)))
        answers = self._answers(model)
        fixed = [other, *answers.values()]
        sides = [_Side(cells, start.packet) for cells in self.cells]
        strangers: list[Packet] = []
        for side in sides:
            rest = [each for each in sides if each is not side]
            self._widen(side, fixed, rest, strangers)
        whole = every(side.condition for side in sides)
        said = tuple((s.cells.label, self._words(s, whole)) for s in sides if not s.free)
        state = equal(self.question.world.ctstate, STATES.index(start.packet.ctstate))
        doubts = self._needed(other, answers, both(whole, state))
        return Region(start, said, fates, whole, doubts)

    def _words(self, side: _Side, whole: Bit) -> str:
        """``side`` in words; what no packet of the region can be is told only where that is
        shorter."""
        plain, cells = side.words(), side.cells
        if side.chosen is None or len(side.chosen) > MOST_PIECES:
            return plain
        there = [c for c in side.chosen if self.question.possible(whole, cells.condition([c]))]
        if not there:
            return plain
        less = cells.words(there)
        return less if isinstance(cells, States) or len(less) < len(plain) else plain

    def _stranger(
        self,
        fixed: Sequence[Bit],
        rest: Sequence[_Side],
        strangers: list[Packet],
        side: _Side,
        left: Sequence[int] | None = None,
    ) -> Packet | None:
        """A packet of another fate, in the cells ``left`` of ``side``; None where there is none."""
        cells = side.cells
        for packet in strangers:
            inside = left is None or cells.has(left, packet)
            if inside and all(each.has(packet) for each in rest):
                return packet
        wider = True if left is None else cells.condition(left)
        model = self.question.ask(*fixed, *(each.condition for each in rest), wider)
        if model is None:
            return None
        strangers.append(self.question.world.start(model).packet)
        return strangers[-1]

    def _widen(
        self, side: _Side, fixed: Sequence[Bit], rest: Sequence[_Side], strangers: list[Packet]
    ) -> None:
        """As far as no packet has another fate: anywhere, or to all cells that have no stranger.

        Where very many have one, to all but what lies between the strangers, or from one
        stranger to the next: that is found out quickly, and told in few words.
        """

        def stranger(left: Sequence[int] | None) -> Packet | None:
            return self._stranger(fixed, rest, strangers, side, left)

        if stranger(None) is None:
            side.open()
            return
        cells = side.cells
        own = cells.cell(side.packet)
        if own is None:
            return
        for shape in SHAPES[1:] if cells.label in self._crowded else SHAPES:
            if self._shape(shape(cells.count, own), side, stranger):
                return

    def _shape(
        self, left: Holes, side: _Side, stranger: Callable[[Sequence[int]], Packet | None]
    ) -> bool:
        """Give ``side`` the cells of ``left`` that no stranger lies in; False: too many do."""
        for _ in range(MOST_HOLES):
            chosen = left.cells()
            found = stranger(chosen)
            if found is None:
                side.widen(chosen)
                return True
            cell = side.cells.cell(found)
            if cell is None or not left.drop(cell):
                return False
        self._crowded.add(side.cells.label)
        return False

    def _answers(self, model: Any) -> dict[str, Bit]:
        """What the model says about what is undecided."""
        world, z3 = self.question.world, engine()
        found: dict[str, Bit] = {}
        for name, term in world.unknowns.items():
            if z3.is_bool(term):
                found[name] = term if world.truth(model, term) else no(term)
            else:
                found[name] = equal(term, model.eval(term, model_completion=True))
        return found

    def _needed(self, other: Bit, answers: dict[str, Bit], whole: Bit) -> tuple[str, ...]:
        """The doubts that the fates of ``whole`` hang on."""
        if not answers or not self.question.possible(other, whole):
            return ()
        kept = dict(answers)
        for name in answers:
            fewer = [answer for each, answer in kept.items() if each != name]
            if not self.question.possible(other, whole, *fewer):
                del kept[name]
        return tuple(f"{_said(answers[name])}: {name}" for name in kept)


def _said(answer: Bit) -> str:
    """What was answered, in front of the question."""
    z3 = engine()
    if z3.is_const(answer):
        return "if the answer is yes"
    return "if the answer is no" if z3.is_not(answer) else "for some answers"
