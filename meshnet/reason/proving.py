"""Statements about every packet: proven, or with packets that speak against them."""

from __future__ import annotations

from meshnet.model.difference import Treatment
from meshnet.model.frozen import dataclass, replace
from meshnet.model.intervals import NameSet
from meshnet.model.proof import Counterexample, Statement
from meshnet.model.verdict import Journey, Verdict
from meshnet.reason.behaviour import (
    FAMILIES,
    HOOKS,
    Side,
    agrees,
    conditions_of,
    treatment_of,
)
from meshnet.reason.claims import Formula
from meshnet.reason.explanation import shown
from meshnet.reason.symbolic.cells import cells_of
from meshnet.reason.symbolic.fate import OUTCOME_BITS
from meshnet.reason.symbolic.meaning import meaning
from meshnet.reason.symbolic.names import Names, names_of
from meshnet.reason.symbolic.passage import Passage
from meshnet.reason.symbolic.question import Question
from meshnet.reason.symbolic.regions import Region, Regions
from meshnet.reason.symbolic.terms import engine, equal, no, pick
from meshnet.reason.symbolic.world import NEW, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshnet.model.packet import Family
    from meshnet.reason.symbolic.passage import Program
    from meshnet.reason.symbolic.world import Start

#: So many classes of counterexamples are told at each hook and family.
MOST_CLASSES = 4


@dataclass(frozen=True)
class Against:
    """A counterexample, the packet as it is, and what the walk says of it."""

    counterexample: Counterexample
    start: Start
    journey: Journey


@dataclass(frozen=True)
class Finding:
    """A statement with what speaks against it."""

    statement: Statement
    against: tuple[Against, ...]


class Prover:
    """Rules made ready to be proven about.

    ``reference`` are rules that capture what is ``intended``. Raises ParseError for rules that no
    packet can walk through, KernelLacks where z3 is missing.
    """

    def __init__(self, side: Side, reference: Side | None = None) -> None:
        engine()
        self._program = side.program()
        self._walker = side.walker()
        self._reference = reference.program() if reference is not None else None
        self._wanted = reference.walker() if reference is not None else None
        self.undecided: dict[str, None] = {}

    def prove(self, name: str, text: str, formula: Formula) -> Finding:
        """Whether ``formula``, which ``text`` says, is so for every packet."""
        found: dict[object, Against] = {}
        more = False
        for hook in HOOKS:
            for family in FAMILIES:
                for at, region in enumerate(self._regions(formula, hook, family)):
                    if at == MOST_CLASSES:
                        more = True
                        break
                    self._keep(found, formula, region)
        against = tuple(found.values())
        told = tuple(each.counterexample for each in against)
        return Finding(Statement(name, text, told, more), against)

    def _regions(self, formula: Formula, hook: str, family: Family) -> Iterator[Region]:
        """Regions of packets for which ``formula`` is wrong."""
        programs = [p for p in (self._program, self._reference) if p is not None]
        world = World(hook, family, _names(programs, formula), routed=True)
        passage = Passage(self._program, world)
        self.undecided.update(passage.undecided)
        intended = Passage(self._reference, world) if self._reference is not None else None
        wrong = no(meaning(formula, passage, intended))
        if all(claim.field != "ctstate" for claim in formula.claims()):
            # Rules decide about first packets; who means others says so.
            world.laws.append(equal(world.ctstate, NEW))
        if wrong is False:
            return
        question = Question(world)
        lines = [line for program in programs for line in program.lines()]
        matches = [m for claim in formula.claims() if (m := claim.match(family)) is not None]
        # A region is of one fate, and speaks against the statement as a whole.
        outcomes = [passage.outcome, pick(wrong, 1, 0, OUTCOME_BITS)]
        cells = cells_of(world, lines, matches)
        regions = Regions(question, cells, outcomes, OUTCOME_BITS)
        fresh = engine().Bool("not told yet")
        while (found := question.likely(wrong, fresh, cells=cells)) is not None:
            region = regions.around(*found)
            yield region
            question.add(engine().Implies(fresh, no(region.condition)))

    def _keep(self, found: dict[object, Against], formula: Formula, region: Region) -> None:
        start = region.start
        journey = self._walker.walk(start.packet, start.hook, local=start.local)
        conditions, family = conditions_of(region), start.packet.family.value
        key = (start.hook, conditions, region.outcomes, region.doubts)
        known = found.get(key)
        if known is not None:
            families = (*known.counterexample.families, family)
            told = replace(known.counterexample, families=families)
            found[key] = replace(known, counterexample=told)
            return
        told = Counterexample(
            start.hook,
            (family,),
            conditions,
            shown(start.packet, frozenset()),
            treatment_of(journey, region.outcomes[0]),
            region.doubts,
            self._confirms(formula, region, journey),
        )
        found[key] = Against(told, start, journey)

    def _confirms(self, formula: Formula, region: Region, journey: Journey) -> bool:
        """Whether the walk knows this fate, and the formula is wrong for it."""
        start, outcome = region.start, region.outcomes[0]
        fate: Treatment = treatment_of(journey, outcome)
        verdict = next(v for v in Verdict if v.value == fate.verdict)
        wanted = (
            self._wanted.walk(start.packet, start.hook, local=start.local) if self._wanted else None
        )
        intended = _ports(wanted) if wanted is not None else frozenset()
        so = formula.holds(start.packet, start.hook, start.local, verdict, fate.port, intended)
        return agrees(journey, outcome) and not so


def _ports(journey: Journey) -> frozenset[int]:
    """By which ports a packet may be captured."""
    fates = (journey, *journey.fates)
    return frozenset(fate.port for fate in fates if fate.verdict is Verdict.CAPTURED)


def _names(programs: list[Program], formula: Formula) -> Names:
    said: list[NameSet] = [
        claim.names for claim in formula.claims() if claim.field in ("iif", "oif")
    ]
    return Names([*said, *(values for p in programs for values in names_of(p.tables))])
