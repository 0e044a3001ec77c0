"""MN111: rules that no packet ever makes match, with those that take everything before them."""

from __future__ import annotations

from meshnet.model.finding import Finding
from meshnet.reason.findings.reached import HANDS
from meshnet.reason.findings.report import report
from meshnet.reason.words import rule_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from meshnet.model.verdict import Place
    from meshnet.reason.lines import Code, Line
    from meshnet.reason.lint.scene import Ground, LintScene
    from meshnet.reason.symbolic.passage import Row, Visit
    from meshnet.reason.symbolic.terms import Bit


def dead_rules(ground: Ground) -> Iterator[Finding]:
    """MN111, one for each rule that cannot match; one for a chain that nothing leads to."""
    for table in ground.program.tables:
        for code in table.codes.values():
            dead = [
                line for line in code.lines if line in ground.lines and line not in ground.alive
            ]
            if not dead:
                continue
            lines = [line for line in code.lines if line in ground.lines]
            if len(dead) == len(lines) and not code.chain.hook and not _entered(ground, code):
                if not (code.ours and code.chain.name in HANDS):
                    yield _unused(ground, code, dead)
                continue
            for line in dead:
                yield _dead(ground, line)


def _entered(ground: Ground, code: Code) -> bool:
    """Whether any packet comes into ``code``."""
    return any(
        scene.question.possible(visit.entered)
        for scene in ground.scenes
        for visit in scene.passage.visits
        if visit.code is code and visit.entered is not False
    )


def _unused(ground: Ground, code: Code, dead: list[Line]) -> Finding:
    callers = _callers(ground, code)
    count = "its rule" if len(dead) == 1 else f"its {len(dead)} rules"
    evidence = [f"only {said(line)} leads there, which never matches" for line in callers]
    return report(
        "MN111",
        f"no packet comes to {code.name}: {count} can never match",
        evidence or [f"no rule goes to {code.chain.name}"],
    )


def _callers(ground: Ground, code: Code) -> list[Line]:
    return [line for line in ground.program.lines() if line.to is code]


def _dead(ground: Ground, line: Line) -> Finding:
    shadows: dict[Line, None] = {}
    callers: dict[Line, None] = {}
    for scene in ground.scenes:
        for visit, row in scene.met.get(line, ()):
            if row.asks is False or _is_shadowed(scene, visit, line, shadows):
                continue
            if not scene.question.possible(visit.entered, row.asks):
                if visit.caller is not None:
                    callers[visit.caller] = None
                continue
            guess = ground.trials.takers.get(line.place)
            shadows.update(dict.fromkeys(_shadows(scene, visit, line, guess)))
    # All rules that shadow it are of its own chain.
    evidence = [
        f"rule {each.place.position} takes what it asks for: {words_of(each)}"
        for each in sorted(shadows, key=_order)
    ]
    if not shadows:
        evidence = [f"no packet that it asks for comes by {said(each)}" for each in callers]
    return report(
        "MN111",
        f"{line.place} can never match",
        [words_of(line), *(evidence or ["no packet that comes to its hook has what it asks for"])],
    )


def _is_shadowed(scene: LintScene, visit: Visit, line: Line, shadows: Container[Line]) -> bool:
    """Whether the rules that were found to shadow ``line`` elsewhere do so here."""
    rows, at = _rows_before(visit, line)
    chosen = [row for row in rows if row.line in shadows]
    if not chosen:
        return False
    passed = _passed(scene, chosen)
    return not scene.question.possible(visit.entered, visit.rows[at].asks, *passed)


def _shadows(scene: LintScene, visit: Visit, line: Line, guess: Place | None) -> list[Line]:
    """A few rules in front of ``line`` that together take all packets that it asks for.

    None of them could be left out of the proof. Rules that decide by themselves are preferred
    to those that only lead to a chain that does, and one alone, ``guess``, to all others.
    """
    before, at = _rows_before(visit, line)
    base = (visit.entered, visit.rows[at].asks)
    question = scene.question
    deciding = [row for row in before if _decides(row)]
    alone = [row for row in deciding if row.line.place == guess]
    for rows in (alone, deciding, before) if alone else (deciding, before):
        passed = _passed(scene, rows)
        if question.possible(*base, *passed):
            continue
        kept = [n - len(base) for n in question.core(*base, *passed) if n >= len(base)]
        for each in list(kept) if len(kept) > 1 else ():
            fewer = [n for n in kept if n != each]
            if not question.possible(*base, *(passed[n] for n in fewer)):
                kept = fewer
        return [rows[n].line for n in kept]
    return []


def _rows_before(visit: Visit, line: Line) -> tuple[list[Row], int]:
    """The rules in front of ``line`` that take something, and its position."""
    at = next(i for i, row in enumerate(visit.rows) if row.line is line)
    return [row for row in visit.rows[:at] if row.taken is not False], at


def _passed(scene: LintScene, rows: list[Row]) -> list[Bit]:
    """For each of ``rows`` that it does not have the packet.

    Who asks for a packet has it, unless another one in front had it first.
    """
    sides = scene.question.sides
    return [sides(row.asks if _decides(row) else row.taken)[1] for row in rows]


def _decides(row: Row) -> bool:
    """Whether each packet that the rule holds for is done with the chain."""
    return row.taken is row.held and row.line.to is None


def _order(line: Line) -> tuple[str, int]:
    return line.place.chain, line.place.position


def said(line: Line) -> str:
    """A rule with its place."""
    return f"{line.place}: {words_of(line)}"


def words_of(line: Line) -> str:
    """A rule without its place."""
    assert line.rule is not None
    return rule_in_words(line.rule, line.place.family)
