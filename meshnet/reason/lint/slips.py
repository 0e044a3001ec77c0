"""MN115 and MN130: users and families that the rules treat unlike their likes."""

from __future__ import annotations

from meshnet.model.finding import Finding, Severity
from meshnet.model.packet import Family
from meshnet.model.spec import IPv6
from meshnet.reason.findings.report import packet_in_words, report
from meshnet.reason.symbolic.fate import CAPTURED, DROPPED
from meshnet.reason.symbolic.terms import Bit, both, engine, equal, no, number
from meshnet.reason.symbolic.world import OUTPUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshnet.reason.lint.scene import Ground, LintScene

_SAID = {OUTPUT: "leaves", "prerouting": "comes in"}


def unlike_users(ground: Ground) -> Iterator[Finding]:
    """MN115, one for each further UID or GID of the proxy that is not treated as the first."""
    for backend, found in ground.drifts.items():
        for field, spans in (("uid", found.spec.uids), ("gid", found.spec.gids)):
            numbers = [n for span in spans for n in dict.fromkeys(span)]
            for other in numbers[1:]:
                yield from _unlike(ground, backend, field, numbers[0], other)


def _unlike(ground: Ground, backend: str, field: str, first: int, other: int) -> Iterator[Finding]:
    z3 = engine()
    for scene in ground.scenes:
        if scene.world.hook != OUTPUT:
            continue
        outcome = number(scene.passage.outcome, 18)
        term = getattr(scene.world, field)
        as_first = z3.substitute(outcome, (term, number(first, 32)))
        found = scene.question.likely(
            both(scene.world.socket, equal(term, other)), no(equal(outcome, as_first))
        )
        if found is None:
            continue
        start, model = found
        fate, its = (
            model.eval(each, model_completion=True).as_long() for each in (outcome, as_first)
        )
        yield report(
            "MN115",
            f"{backend}: the proxy's {field.upper()} {other} is not treated as its {field.upper()} "
            f"{first}",
            [
                f"{packet_in_words(start.packet)}: {_fate(fate)}",
                f"the same by {field.upper()} {first}: {_fate(its)}",
            ],
        )
        return


def uncaptured_family(ground: Ground, ipv6_up: bool = True) -> Iterator[Finding]:
    """MN130: IPv4 is captured, and of IPv6 nothing is captured or refused, with nobody's word."""
    if not ipv6_up or any(d.spec.ipv6 is IPv6.ALLOW for d in ground.drifts.values()):
        return
    ways, leaks = [], []
    for hook in (OUTPUT, "prerouting"):
        scenes = {s.world.family: s for s in ground.scenes if s.world.hook == hook}
        four = scenes[Family.IP]
        found = four.question.likely(_taken(four), _crosses(four))
        six = scenes[Family.IP6]
        if found is None or six.question.ask(_touched(six), _crosses(six)) is not None:
            continue
        leaks.append(_SAID[hook])
        model = found[1]
        fate = model.eval(number(four.passage.outcome, 18), model_completion=True).as_long()
        ways.append(f"{packet_in_words(found[0].packet)} {_SAID[hook]}: {_fate(fate)}")
        ways.append(f"nothing of IPv6 that {_SAID[hook]} is captured or refused, proven")
    if ways:
        yield report(
            "MN130",
            f"IPv6 that {' or '.join(leaks)} is not captured, and IPv4 is",
            ways,
            severity=Severity.WARNING,
        )


def _crosses(scene: LintScene) -> Bit:
    """Whether the packet crosses the border of the namespace."""
    return no(equal(scene.world.oif, 1)) if scene.world.hook == OUTPUT else True


def _taken(scene: LintScene) -> Bit:
    outcome, z3 = number(scene.passage.outcome, 18), engine()
    return z3.And(z3.UGE(outcome, CAPTURED), z3.ULT(outcome, DROPPED))


def _touched(scene: LintScene) -> Bit:
    return no(equal(number(scene.passage.outcome, 18), 0))


def _fate(outcome: int) -> str:
    if outcome >= DROPPED:
        return "dropped"
    return f"captured by :{outcome - CAPTURED}" if outcome >= CAPTURED else "not captured"
