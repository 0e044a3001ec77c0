"""MN110, proven: rules of others that decide over packets that ours alone would capture."""

from __future__ import annotations

from meshnet.model.finding import Finding
from meshnet.model.frozen import replace
from meshnet.model.verdict import Verdict
from meshnet.reason.findings.foreign import ours_alone
from meshnet.reason.findings.report import packet_in_words, report
from meshnet.reason.lint.dead import words_of
from meshnet.reason.symbolic.fate import CAPTURED, DROPPED
from meshnet.reason.symbolic.passage import Passage
from meshnet.reason.symbolic.terms import Bit, engine, equal, every, no, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshnet.model.packet import Packet
    from meshnet.model.verdict import Journey
    from meshnet.reason.lines import Line
    from meshnet.reason.lint.scene import Ground, LintScene
    from meshnet.reason.symbolic.world import Start
    from meshnet.reason.walk import Walker

#: So many deciding rules are told.
MOST = 32


def overruled(ground: Ground) -> Iterator[Finding]:
    """MN110, one for each rule that takes a packet which our rules alone would capture."""
    strangers = any(not line.ours for line in ground.lines) or _extra(ground)
    if not ground.drifts or not strangers:
        return
    alone = replace(ground.side, rulesets=ours_alone(ground.side.rulesets, ground.drifts))
    program, walker, wanted = alone.program(), ground.side.walker(), alone.walker()
    for scene in ground.scenes:
        ours = Passage(program, scene.world)
        told = [_overruled(ours, scene)]
        seen: set[str] = set()
        for start in _suspects(ground, scene, told, wanted):
            journey = walker.walk(start.packet, start.hook, local=start.local)
            line = _decider(scene, journey)
            place = str(line.place) if line is not None else "rules together"
            if place in seen:
                continue
            told.append(no(scene.held(line)) if line is not None else False)
            if len(seen) == MOST:
                yield _further()
                break
            seen.add(place)
            by_ours = wanted.walk(start.packet, start.hook, local=start.local)
            yield _overruling(line, start.packet, journey, by_ours)


def _overruled(ours: Passage, scene: LintScene) -> Bit:
    """Packets that our rules alone would capture, and all together do not, or by another port."""
    parts = no(equal(ours.outcome, scene.passage.outcome))
    # What is dropped did not go past the proxy.
    return every((parts, _is_captured(ours), no(equal(scene.passage.outcome, DROPPED))))


def _suspects(ground: Ground, scene: LintScene, told: list[Bit], wanted: Walker) -> Iterator[Start]:
    """Packets that part: of those that were walked already, then of all that there are.

    ``told`` are what is asked of the latter; whoever takes one adds to it.
    """
    world = scene.world
    for end in ground.trials.ends:
        packet, hook = end.start.packet, end.start.hook
        if (hook, packet.family) != (world.hook, world.family) or end.verdict is Verdict.DROPPED:
            continue
        alone = wanted.walk(packet, hook, local=end.start.local)
        if alone.verdict is Verdict.CAPTURED and (alone.verdict, alone.port) != end[1:]:
            yield end.start
    for _ in range(2 * MOST):
        found = scene.question.likely(*told)
        if found is None:
            return
        yield found[0]


def _further() -> Finding:
    return report(
        "MN110",
        "further rules decide before our rules are asked",
        [f"at each hook and family {MOST} are told"],
    )


def _extra(ground: Ground) -> bool:
    return any(found.extra for found in ground.drifts.values())


def _is_captured(ours: Passage) -> object:
    outcome = number(ours.outcome, 18)
    z3 = engine()
    return z3.And(z3.UGE(outcome, CAPTURED), z3.ULT(outcome, DROPPED))


def _decider(scene: LintScene, journey: Journey) -> Line | None:
    """The rule that decided; else the last that was not ours, and held, or may have."""
    steps = [journey.decider] if journey.decider is not None else []
    if journey.verdict is Verdict.MAYBE:
        steps += [step for step in journey.steps if step.held is None and not step.ours]
    steps += [step for step in reversed(journey.steps) if step.held and not step.ours]
    for step in steps:
        for line in scene.met:
            if line.place == step.place:
                return line
    return None


def _overruling(line: Line | None, packet: Packet, journey: Journey, wanted: Journey) -> Finding:
    place = str(line.place) if line is not None else "what is undecided"
    maybe = journey.verdict is Verdict.MAYBE
    becomes = f"captured by :{journey.port}" if journey.port else "not captured"
    if maybe:
        becomes = f"undecided: {', '.join(journey.maybe[:2])}"
    return report(
        "MN110",
        f"{place} {'may decide' if maybe else 'decides'} before our rules are asked",
        [
            *([words_of(line)] if line is not None and line.rule is not None else []),
            f"by our rules alone captured by :{wanted.port}: {packet_in_words(packet)}",
            f"by all rules {becomes}",
        ],
    )
