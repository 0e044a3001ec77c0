"""What two rulesets do to every packet: the classes that part, or a proof that there are none."""

from __future__ import annotations

from meshnet.model.difference import Divergence, Treatment
from meshnet.model.frozen import dataclass, replace
from meshnet.model.packet import Family
from meshnet.model.verdict import Journey, Verdict
from meshnet.reason.explanation import shown
from meshnet.reason.findings.report import step_in_words
from meshnet.reason.named_sets import Contents
from meshnet.reason.symbolic.cells import Cells, cells_of
from meshnet.reason.symbolic.fate import CAPTURED, DROPPED, OUTCOME_BITS, aim_of, kind_of, port_of
from meshnet.reason.symbolic.names import Names, names_of
from meshnet.reason.symbolic.passage import Passage, Program
from meshnet.reason.symbolic.question import Question
from meshnet.reason.symbolic.regions import Region, Regions
from meshnet.reason.symbolic.terms import Bit, both, either, engine, equal, no, pick, some
from meshnet.reason.symbolic.world import OUTPUT, PREROUTING, World
from meshnet.reason.walk import Walker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshnet.model.ruleset import Ruleset
    from meshnet.reason.symbolic.world import Start

HOOKS, FAMILIES = (OUTPUT, PREROUTING), (Family.IP, Family.IP6)
#: So many classes are told at each hook and family; of many rules fewer: each takes longer.
MOST_CLASSES, FEWEST, MANY_RULES = 24, 3, 400
#: The order in which fields are told.
_ORDER = (
    *("proto", "uid", "gid", "iif", "oif", "dst", "dport", "src", "sport"),
    *("ctstate", "mark", "ctmark"),
)


@dataclass(frozen=True)
class Side:
    """Rules by backend, and what is known around them; see :class:`~meshnet.reason.walk.Walker`.

    ``sets`` is what named sets of nft hold (:mod:`meshnet.reason.named_sets`).
    """

    rulesets: Mapping[str, Ruleset]
    addresses: Mapping[tuple[str, Family], int] | None = None
    marks_route: bool = True
    sets: Contents | None = None

    def program(self) -> Program:
        """Made ready to be proven about; raises ParseError as the walk does."""
        return Program(self.rulesets, self.addresses, self.marks_route, self.sets)

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


def compare_behaviour(one: Side, other: Side, most: int | None = None) -> Behaviour:
    """Every class of packets that the two sides treat differently.

    Two fates are the same where the packet is captured by the same port, dropped, or neither, on
    both, and what is neither is sent to the same address and port. ``most`` classes are told at
    each hook and family (None: as many as take a bearable time). Raises ParseError for rules that
    no packet can walk through, KernelLacks where z3 is missing.
    """
    engine()
    programs = one.program(), other.program()
    if most is None:
        rules = max(MANY_RULES, *(len(program.lines()) for program in programs))
        most = max(MOST_CLASSES * MANY_RULES // rules, FEWEST)
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
                _keep(found, region, walkers, scene.world.aims)
            undecided.update(dict.fromkeys(scene.undecided))
    return Behaviour(tuple(found.values()), more, tuple(undecided))


class _Scene:
    """Both sides at one hook, for one family."""

    def __init__(self, programs: Sequence[Program], hook: str, family: Family) -> None:
        sets = [values for program in programs for values in names_of(program.tables)]
        self.world = World(hook, family, Names(sets), routed=True)
        self.world.only_what_is()
        self.programs = programs
        passages = [Passage(program, self.world) for program in programs]
        self.fates = [passage.fate for passage in passages]
        self.parts = _parts(self.world, *passages)
        self.undecided = {name: None for passage in passages for name in passage.undecided}

    def regions(self, most: int) -> Iterator[Region]:
        """Regions that part, until none is left or there are ``most``."""
        parts = self.parts
        if parts is False:
            return
        question = Question(self.world)
        lines = [line for program in self.programs for line in program.lines()]
        regions: Regions | None = None
        fresh = engine().Bool("not told yet")
        cells: list[Cells] = []
        for _ in range(most):
            found = question.likely(parts, fresh, cells=cells)
            if found is None:
                return
            if regions is None:
                cells = cells_of(self.world, lines)
                # All of a region part: sent to one place by two rules is no difference.
                told = [*self.fates, pick(parts, 1, 0, OUTCOME_BITS)]
                regions = Regions(question, cells, told, OUTCOME_BITS)
                found = question.likely(parts, fresh, cells=cells) or found
            region = regions.around(*found)
            yield region
            question.add(engine().Implies(fresh, no(region.condition)))


def _parts(world: World, one: Passage, other: Passage) -> Bit:
    """Whether a packet has two fates, or is let go by both, and sent to two places."""
    parts = no(equal(one.outcome, other.outcome))
    if not world.aims:
        return parts
    moved = [no(equal(getattr(one.moving, n), getattr(other.moving, n))) for n in ("dst", "dport")]
    return either(parts, both(equal(one.outcome, 0), some(moved)))


def _keep(
    found: dict[object, Parting], region: Region, walkers: tuple[Walker, Walker], aims: list[str]
) -> None:
    """Add a region; one that differs in nothing but the family is told with its twin."""
    start = region.start
    journeys = tuple(walker.walk(start.packet, start.hook, local=start.local) for walker in walkers)
    pairs = list(zip(journeys, region.outcomes[:2], strict=True))
    one, other = (treatment_of(journey, fate, aims) for journey, fate in pairs)
    conditions = conditions_of(region)
    confirmed = all(agrees(*pair) for pair in pairs) and _sent_apart(*pairs)
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
    key = (start.hook, conditions, one, other, region.doubts, confirmed)
    known = found.get(key)
    if known is not None:
        twins = replace(known.divergence, families=(*known.divergence.families, family))
        found[key] = replace(known, divergence=twins)
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


def _sent_apart(one: tuple[Journey, int], other: tuple[Journey, int]) -> bool:
    """Whether two packets that are let go are sent to two places, as far as the walk knows."""
    if kind_of(one[1]) != kind_of(other[1]):
        return True
    if Verdict.MAYBE in (one[0].verdict, other[0].verdict):
        return True
    left = [(journey.packet.dst, journey.packet.dport) for journey, _ in (one, other)]
    return left[0] != left[1]


def agrees(journey: Journey, fate: int) -> bool:
    """Whether ``fate`` is one that the walk knows for the packet."""
    outcome = kind_of(fate)
    if journey.verdict is not Verdict.MAYBE:
        return outcome_of(journey) == outcome
    # A port that is drawn may be any.
    return any(
        outcome_of(fate) == outcome if fate.verdict is not Verdict.MAYBE else outcome >= CAPTURED
        for fate in journey.fates
    )


def treatment_of(journey: Journey, fate: int, aims: Sequence[str] = ()) -> Treatment:
    """``fate`` of a journey, with the rule that decides."""
    taken, outcome = journey, kind_of(fate)
    if journey.verdict is Verdict.MAYBE:
        fitting = [fate for fate in journey.fates if outcome_of(fate) == outcome]
        taken = fitting[0] if fitting else journey
    rule = step_in_words(taken.decider) if taken.decider is not None else ""
    return Treatment(verdict_of(outcome, taken), port_of(fate), rule, to=aim_of(fate, aims))


def verdict_of(outcome: int, journey: Journey) -> str:
    """The verdict of a fate; whether a rule of ours let the packet go is what the walk says."""
    if outcome == DROPPED:
        return Verdict.DROPPED.value
    if outcome >= CAPTURED:
        return Verdict.CAPTURED.value
    free = (Verdict.BYPASSED, Verdict.DIRECT)
    return (journey.verdict if journey.verdict in free else Verdict.DIRECT).value
