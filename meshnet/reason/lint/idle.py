"""MN114: rules that match, and without which every packet has the same fate."""

from __future__ import annotations

from meshnet.model.finding import Finding
from meshnet.reason.findings.report import report
from meshnet.reason.lint.dead import words_of
from meshnet.reason.lint.scene import only_decides
from meshnet.reason.symbolic.passage import Passage
from meshnet.reason.symbolic.terms import Bit, both, either, engine, equal, no, some

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from meshnet.reason.lines import Line
    from meshnet.reason.lint.scene import Ground, LintScene

#: So many rules are asked about together: mostly all of them are needed, or none is.
TOGETHER = 16
#: What a packet leaves the rules with, and routing or somebody else may look at.
_LEAVES_WITH = ("mark", "ctmark", "dst", "dport", "src", "zoned", "tracked", "ctstate")


def idle_rules(ground: Ground) -> Iterator[Finding]:
    """MN114, one for each rule that could go alone."""
    pending = [
        line
        for line in ground.lines
        if line in ground.alive and only_decides(line) and line.place not in ground.trials.needed
    ]
    for scene in ground.scenes:
        pending = _unneeded(ground, scene, pending)
    for line in pending:
        yield report(
            "MN114",
            f"{line.place} changes nothing",
            [
                words_of(line),
                "without it every packet has the same fate, and leaves with the same mark, proven",
            ],
        )


def _parts(one: Passage, other: Passage) -> Bit:
    """Whether a packet has another fate, or goes on as another packet."""
    left = [
        no(equal(getattr(one.moving, name), getattr(other.moving, name))) for name in _LEAVES_WITH
    ]
    alive = no(one.moving.gone)
    return either(no(equal(one.outcome, other.outcome)), both(alive, some(left)))


def _unneeded(ground: Ground, scene: LintScene, lines: list[Line]) -> list[Line]:
    """Those of ``lines`` without which nothing changes for the packets of ``scene``."""
    z3 = engine()
    here = [line for line in lines if scene.held(line) is not False]
    if not here:
        return lines
    left_out = z3.BitVec("left out", 16)
    off: dict[Line, Any] = {line: left_out == at for at, line in enumerate(here)}
    without = Passage(ground.program, scene.world, off=off)
    parts = scene.question.sides(_parts(scene.passage, without))[0]
    question = scene.question
    # Only who meets a rule can miss it.
    asked = {line: question.sides(both(off[line], scene.held(line)))[0] for line in here}
    needed: set[Line] = set()
    for at in range(0, len(here), TOGETHER):
        group = here[at : at + TOGETHER]
        if question.possible(parts, some(asked[line] for line in group)):
            needed |= {line for line in group if question.possible(parts, asked[line])}
    return [line for line in lines if line not in needed]
