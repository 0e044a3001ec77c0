"""Sets of packets with one fate, as large as one sentence can say."""

from __future__ import annotations

from meshnet.model.frozen import dataclass
from meshnet.reason.symbolic.question import Question
from meshnet.reason.symbolic.terms import Bit, both, equal, every, no
from meshnet.reason.symbolic.world import STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from meshnet.model.packet import Packet
    from meshnet.reason.symbolic.cells import Cells
    from meshnet.reason.symbolic.world import Start


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
            if self._uniform(fixed, rest, True, strangers, None, side):
                side.open()
                continue
            chosen = self._cells_of(side, fixed, rest, strangers)
            if chosen:
                side.widen(chosen)
        said = tuple((s.cells.label, s.words()) for s in sides if not s.free)
        whole = every(side.condition for side in sides)
        state = equal(self.question.world.ctstate, STATES.index(start.packet.ctstate))
        doubts = self._needed(other, answers, both(whole, state))
        return Region(start, said, fates, whole, doubts)

    def _uniform(
        self,
        fixed: Sequence[Bit],
        rest: Sequence[_Side],
        wider: Bit,
        strangers: list[Packet],
        group: Sequence[int] | None,
        side: _Side,
    ) -> bool:
        """Whether no packet has another fate; who has one is remembered."""
        for packet in strangers:
            inside = group is None or side.cells.has(group, packet)
            if inside and all(each.has(packet) for each in rest):
                return False
        model = self.question.ask(*fixed, *(each.condition for each in rest), wider)
        if model is None:
            return True
        strangers.append(self.question.world.start(model).packet)
        return False

    def _cells_of(
        self, side: _Side, fixed: Sequence[Bit], rest: Sequence[_Side], strangers: list[Packet]
    ) -> list[int]:
        """The cells in which nothing changes; many are tried together."""
        cells = side.cells
        found: list[int] = []
        groups = _halves(list(range(cells.count)))
        while groups:
            group = groups.pop()
            wider = cells.condition(group)
            if self._uniform(fixed, rest, wider, strangers, group, side):
                found += group
            elif len(group) > 1:
                groups += _halves(group)
        return sorted(found)

    def _answers(self, model: Any) -> dict[str, Bit]:
        """What the model says about what is undecided."""
        return {
            name: equal(term, model.eval(term, model_completion=True))
            for name, term in self.question.world.unknowns.items()
        }

    def _needed(self, other: Bit, answers: dict[str, Bit], whole: Bit) -> tuple[str, ...]:
        """The doubts that the fates of ``whole`` hang on."""
        if not answers or not self.question.possible(other, whole):
            return ()
        kept = dict(answers)
        for name in answers:
            fewer = [answer for each, answer in kept.items() if each != name]
            if not self.question.possible(other, whole, *fewer):
                del kept[name]
        return tuple(kept)


def _halves(group: list[int]) -> list[list[int]]:
    middle = len(group) // 2
    return [half for half in (group[:middle], group[middle:]) if half]
