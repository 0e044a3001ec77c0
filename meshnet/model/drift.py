"""How the rules of a capture differ from those that its profile would have made."""

from __future__ import annotations

from meshnet.model.frozen import dataclass
from meshnet.model.packet import Family
from meshnet.model.rule import Rule
from meshnet.model.ruleset import Chain
from meshnet.model.spec import CaptureSpec, Form, Profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    #: Where a rule stands: the table's family and name, the chain, the position from 1.
    RulePlace = tuple[Family, str, str, int]


@dataclass(frozen=True)
class PlacedRule:
    """A rule and where it stands, or should stand.

    ``position`` counts from 1. For a rule that is there it is the kernel's; for a missing
    one it is where it would have to be put in, foreign rules counted. ``rule`` bears
    ``id``, ``why`` and ``setting`` where it is one that the profile makes.
    """

    family: Family
    table: str
    chain: str
    position: int
    rule: Rule


@dataclass(frozen=True)
class MovedRule:
    """A rule of ours that is there, and in another place than the profile has it.

    ``rule`` bears ``id``, ``why`` and ``setting``. ``before`` and ``after`` are positions from
    1 in the chain as it is: where the rule stands, and where it would have to be put in.
    """

    family: Family
    table: str
    chain: str
    rule: Rule
    before: int
    after: int


@dataclass(frozen=True)
class AlteredChain:
    """A chain of ours at another hook, priority or policy than the profile has it (nft only)."""

    family: Family
    table: str
    held: Chain
    wanted: Chain


@dataclass(frozen=True)
class Drift:
    """How a capture differs from ``spec``, the closest one that a profile makes rules for.

    Every rule of ours is either as it should be, ``extra`` or ``moved``. Foreign rules are
    none of it. ``explained`` has for each rule of ours that a profile makes (moved ones
    too) the compiled rule, with its reason. Comments and counters are no difference.
    """

    spec: CaptureSpec
    form: Form
    explained: Mapping[RulePlace, Rule]
    missing: tuple[PlacedRule, ...] = ()
    extra: tuple[PlacedRule, ...] = ()
    moved: tuple[MovedRule, ...] = ()
    altered: tuple[AlteredChain, ...] = ()

    @property
    def profile(self) -> Profile:
        """The profile that the rules come closest to."""
        return self.spec.profile

    def __bool__(self) -> bool:
        """Whether there is any difference."""
        return bool(self.missing or self.extra or self.moved or self.altered)
