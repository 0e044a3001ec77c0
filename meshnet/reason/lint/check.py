"""All checks of rules as such."""

from __future__ import annotations

from meshnet.model.finding import Finding
from meshnet.model.frozen import dataclass
from meshnet.reason.lint.dead import dead_rules
from meshnet.reason.lint.foreign import overruled
from meshnet.reason.lint.idle import idle_rules
from meshnet.reason.lint.scene import Ground
from meshnet.reason.lint.slips import uncaptured_family, unlike_users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.reason.behaviour import Side

_WEIGHT = {"error": 0, "warning": 1, "note": 2}
#: What lint can report.
CHECKED = ("MN110", "MN111", "MN114", "MN115", "MN130")


#: Of so many rules each is looked at; half a minute for as many foreign ones in one chain.
MOST_RULES = 5_000


@dataclass(frozen=True)
class Checked:
    """What was found, the most severe first; what no dump decides; and what was not looked at."""

    findings: tuple[Finding, ...]
    undecided: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def lint(side: Side, ipv6_up: bool = True) -> Checked:
    """Everything that is wrong with the rules of ``side``.

    ``ipv6_up`` False: no IPv6 leaves this namespace. Raises ParseError for rules that no packet
    can walk through, KernelLacks where z3 is missing.
    """
    ground = Ground(side)
    found = [
        *overruled(ground),
        *unlike_users(ground),
        *uncaptured_family(ground, ipv6_up),
    ]
    left_out: tuple[str, ...] = ()
    if len(ground.lines) > MOST_RULES:
        left_out = (f"more than {MOST_RULES} rules: MN111 and MN114 were not looked for",)
    else:
        found += [*dead_rules(ground), *idle_rules(ground)]
    undecided = {name: None for scene in ground.scenes for name in scene.passage.undecided}
    found.sort(key=lambda finding: (_WEIGHT[finding.severity.value], finding.code))
    return Checked(tuple(found), tuple(undecided), left_out)
