"""MN110, proven: rules of others that decide over packets that ours alone would capture."""

from __future__ import annotations

from meshnet.model.finding import Finding
from meshnet.model.frozen import replace
from meshnet.model.verdict import Verdict
from meshnet.reason.findings.foreign import ours_alone
from meshnet.reason.findings.report import packet_in_words, report, step_in_words
from meshnet.reason.symbolic.passage import CAPTURED, DROPPED, Passage
from meshnet.reason.symbolic.terms import engine, equal, every, no, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshnet.model.verdict import Journey
    from meshnet.reason.lines import Line
    from meshnet.reason.lint.scene import Ground, LintScene

#: So many deciding rules are told.
MOST = 32


def overruled(ground: Ground) -> Iterator[Finding]:
    """MN110, one for each rule that takes a packet which our rules alone would capture."""
    strangers = any(not line.ours for line in ground.lines) or _extra(ground)
    if not ground.drifts or not strangers:
        return
    alone = replace(ground.side, rulesets=ours_alone(ground.side.rulesets, ground.drifts))
    program, walker, wanted = alone.program(), ground.side.walker(), alone.walker()
    seen: set[str] = set()
    for scene in ground.scenes:
        ours = Passage(program, scene.world)
        parts = every(
            (
                no(equal(ours.outcome, scene.passage.outcome)),
                _is_captured(ours),
                # What is dropped did not go past the proxy.
                no(equal(scene.passage.outcome, DROPPED)),
            )
        )
        told = [parts]
        for _ in range(MOST):
            found = scene.question.likely(*told)
            if found is None:
                break
            start = found[0]
            journey = walker.walk(start.packet, start.hook, local=start.local)
            line = _decider(ground, scene, journey)
            place = str(line.place) if line is not None else "rules together"
            if line is None:
                told.append(False)
            else:
                told.append(no(scene.held(line)))
            if place in seen:
                continue
            seen.add(place)
            by_ours = wanted.walk(start.packet, start.hook, local=start.local)
            yield _overruling(place, start.packet, journey, by_ours)


def _extra(ground: Ground) -> bool:
    return any(found.extra for found in ground.drifts.values())


def _is_captured(ours: Passage) -> object:
    outcome = number(ours.outcome, 18)
    z3 = engine()
    return z3.And(z3.UGE(outcome, CAPTURED), z3.ULT(outcome, DROPPED))


def _decider(ground: Ground, scene: LintScene, journey: Journey) -> Line | None:
    """The rule that decided, or the last rule that was not ours, and held."""
    steps = [journey.decider] if journey.decider is not None else []
    steps += [step for step in reversed(journey.steps) if step.held and not step.ours]
    for step in steps:
        for line in scene.met:
            if line.place == step.place:
                return line
    return None


def _overruling(place: str, packet: object, journey: Journey, wanted: Journey) -> Finding:
    becomes = f"captured by :{journey.port}" if journey.port else "not captured"
    if journey.verdict is Verdict.MAYBE:
        becomes = f"undecided: {', '.join(journey.maybe[:2])}"
    return report(
        "MN110",
        f"{place} decides before our rules are asked",
        [
            step_in_words(journey.decider),
            f"by our rules alone captured by :{wanted.port}: {packet_in_words(journey.packet)}",
            f"by all rules {becomes}",
        ],
    )
