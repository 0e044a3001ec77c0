"""What two rulesets do to every packet: the classes that part, or a proof that there are none."""

from __future__ import annotations

from meshnet.model.difference import Divergence, Treatment
from meshnet.model.frozen import dataclass, replace
from meshnet.model.packet import Family
from meshnet.model.verdict import Journey, Verdict
from meshnet.reason.explanation import shown
from meshnet.reason.findings.report import step_in_words
from meshnet.reason.symbolic.cells import cells_of
from meshnet.reason.symbolic.names import Names, names_of
from meshnet.reason.symbolic.passage import CAPTURED, DROPPED, OUTCOME_BITS, Passage, Program
from meshnet.reason.symbolic.question import Question
from meshnet.reason.symbolic.regions import Region, Regions
from meshnet.reason.symbolic.terms import engine, equal, no
from meshnet.reason.symbolic.world import OUTPUT, PREROUTING, World
from meshnet.reason.walk import Walker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshnet.model.ruleset import Ruleset
    from meshnet.reason.symbolic.world import Start

HOOKS, FAMILIES = (OUTPUT, PREROUTING), (Family.IP, Family.IP6)
#: So many classes are told at each hook and family.
MOST_CLASSES = 24
#: The order in which fields are told.
_ORDER = (
    *("proto", "uid", "gid", "iif", "oif", "dst", "dport", "src", "sport"),
    *("ctstate", "mark", "ctmark"),
)


@dataclass(frozen=True)
class Side:
    """Rules by backend, and what is known around them; see :class:`~meshnet.reason.walk.Walker`."""

    rulesets: Mapping[str, Ruleset]
    addresses: Mapping[tuple[str, Family], int] | None = None
    marks_route: bool = True

    def program(self) -> Program:
        """Made ready to be proven about; raises ParseError as the walk does."""
        return Program(self.rulesets, self.addresses, self.marks_route)

    def walker(self) -> Walker:
        """Made ready to be walked."""
        return Walker(self.rulesets, self.addresses, self.marks_route)


@dataclass(frozen=True)
class Parting:
    """A class of packets that part, with the packet as it is, and what the walk says of it."""

    divergence: Divergence
    start: Start
    journeys: tuple[Journey, Journey]


@dataclass(frozen=True)
class Behaviour:
    """The classes that part; ``more``: there are further ones. ``undecided`` as in
    :class:`~meshnet.model.difference.Difference`."""

    partings: tuple[Parting, ...]
    more: bool
    undecided: tuple[str, ...]


def compare_behaviour(one: Side, other: Side, most: int = MOST_CLASSES) -> Behaviour:
    """Every class of packets that the two sides treat differently.

    Two fates are the same where the packet is captured by the same port, or not captured, or
    dropped, on both. ``most`` classes are told at each hook and family. Raises ParseError for
    rules that no packet can walk through, KernelLacks where z3 is missing.
    """
    engine()
    programs = one.program(), other.program()
    walkers = one.walker(), other.walker()
    found: dict[object, Parting] = {}
    more, undecided = False, dict[str, None]()
    for hook in HOOKS:
        for family in FAMILIES:
            scene = _Scene(programs, hook, family)
            for at, region in enumerate(scene.regions(most + 1)):
                if at == most:
                    more = True
                    break
                _keep(found, region, walkers)
            undecided.update(dict.fromkeys(scene.undecided))
    return Behaviour(tuple(found.values()), more, tuple(undecided))


class _Scene:
    """Both sides at one hook, for one family."""

    def __init__(self, programs: Sequence[Program], hook: str, family: Family) -> None:
        sets = [values for program in programs for values in names_of(program.tables)]
        self.world = World(hook, family, Names(sets))
        self.programs = programs
        passages = [Passage(program, self.world) for program in programs]
        self.outcomes = [passage.outcome for passage in passages]
        self.undecided = {name: None for passage in passages for name in passage.undecided}

    def regions(self, most: int) -> Iterator[Region]:
        """Regions that part, until none is left or there are ``most``."""
        parts = no(equal(*self.outcomes))
        if parts is False:
            return
        question = Question(self.world)
        lines = [line for program in self.programs for line in program.lines()]
        regions: Regions | None = None
        fresh = engine().Bool("not told yet")
        for _ in range(most):
            found = question.likely(parts, fresh)
            if found is None:
                return
            if regions is None:
                cells = cells_of(self.world, lines)
                regions = Regions(question, cells, self.outcomes, OUTCOME_BITS)
                found = question.likely(parts, fresh) or found
            region = regions.around(*found)
            yield region
            question.add(engine().Implies(fresh, no(region.condition)))


def _keep(found: dict[object, Parting], region: Region, walkers: tuple[Walker, Walker]) -> None:
    """Add a region; one that differs in nothing but the family is told with its twin."""
    start = region.start
    journeys = tuple(walker.walk(start.packet, start.hook, local=start.local) for walker in walkers)
    one, other = (treatment_of(j, o) for j, o in zip(journeys, region.outcomes, strict=True))
    conditions = conditions_of(region)
    confirmed = all(agrees(j, o) for j, o in zip(journeys, region.outcomes, strict=True))
    family = start.packet.family.value
    divergence = Divergence(
        start.hook,
        (family,),
        conditions,
        shown(start.packet, frozenset()),
        one,
        other,
        region.doubts,
        confirmed,
    )
    key = (start.hook, conditions, region.outcomes, region.doubts, confirmed)
    known = found.get(key)
    if known is not None:
        both = replace(known.divergence, families=(*known.divergence.families, family))
        found[key] = replace(known, divergence=both)
    else:
        found[key] = Parting(divergence, start, (journeys[0], journeys[1]))


def conditions_of(region: Region) -> tuple[str, ...]:
    """The phrases of a region, in the order in which fields are told."""
    words = dict(region.words)
    return tuple(words[label] for label in _ORDER if words.get(label))


def outcome_of(journey: Journey) -> int:
    """A decided journey's fate as the proof numbers it."""
    if journey.verdict is Verdict.DROPPED:
        return DROPPED
    return CAPTURED | journey.port if journey.verdict is Verdict.CAPTURED else 0


def agrees(journey: Journey, outcome: int) -> bool:
    """Whether ``outcome`` is a fate that the walk knows for the packet."""
    if journey.verdict is not Verdict.MAYBE:
        return outcome_of(journey) == outcome
    # A port that is drawn may be any.
    return any(
        outcome_of(fate) == outcome if fate.verdict is not Verdict.MAYBE else outcome >= CAPTURED
        for fate in journey.fates
    )


def treatment_of(journey: Journey, outcome: int) -> Treatment:
    """The fate ``outcome`` of a journey, with the rule that decides."""
    taken = journey
    if journey.verdict is Verdict.MAYBE:
        fitting = [fate for fate in journey.fates if outcome_of(fate) == outcome]
        taken = fitting[0] if fitting else journey
    rule = step_in_words(taken.decider) if taken.decider is not None else ""
    return Treatment(verdict_of(outcome, taken), port_of(outcome), rule)


def verdict_of(outcome: int, journey: Journey) -> str:
    """The verdict of a fate; whether a rule of ours let the packet go is what the walk says."""
    if outcome == DROPPED:
        return Verdict.DROPPED.value
    if outcome >= CAPTURED:
        return Verdict.CAPTURED.value
    free = (Verdict.BYPASSED, Verdict.DIRECT)
    return (journey.verdict if journey.verdict in free else Verdict.DIRECT).value


def port_of(outcome: int) -> int:
    """Who captures, 0 where nobody does."""
    return outcome & 0xFFFF if CAPTURED <= outcome < DROPPED else 0
