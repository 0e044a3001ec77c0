"""The rules that a packet met, as rows: one for a rule, or for a run that failed for one reason."""

from __future__ import annotations

from typing import NamedTuple

from meshnet.model.explanation import MetRule
from meshnet.model.packet import Family, Field
from meshnet.model.rule import Kind, Rule, Target
from meshnet.reason.action import is_loopback
from meshnet.reason.effects import Beyond, Effect
from meshnet.reason.hooks import DESTINATION, PRIORITIES
from meshnet.reason.whynot import RANK, Sights, fact, most_telling, other_family, reason
from meshnet.reason.words import rule_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from meshnet.model.match import Match
    from meshnet.model.verdict import Place
    from meshnet.reason.evaluate import View
    from meshnet.reason.fates import Stretch
    from meshnet.reason.lines import Code, Line

    #: Rules of ours with id, why and setting, by backend and place.
    Reasons = Mapping[str, Mapping[tuple[Family, str, str, int], Rule]]

HELD = {True: "yes", False: "no", None: "maybe"}


class Leading:
    """Knows which rules can hand a packet to a port, themselves or by a chain that they go to.

    It is kept as long as the rules: what is worked out about a line is true of every packet.
    """

    def __init__(self) -> None:
        self._chains: dict[Code, bool] = {}
        self._lines: dict[Line, bool] = {}
        self._texts: dict[Line, str] = {}

    def line(self, line: Line) -> bool:
        """Whether ``line`` can."""
        found = self._lines.get(line)
        if found is None:
            found = any(map(captures, line.effects))
            found = found or (line.to is not None and self.code(line.to))
            self._lines[line] = found
        return found

    def text(self, line: Line) -> str:
        """The rule of ``line`` in words; that is kept as well."""
        if line.rule is None:
            return line.action
        found = self._texts.get(line)
        if found is None:
            found = self._texts[line] = rule_in_words(line.rule, line.place.family)
        return found

    def code(self, code: Code) -> bool:
        """Whether some rule of a chain can; chains do not go round, or there were no walker."""
        found = self._chains.get(code)
        if found is None:
            found = self._chains[code] = any(map(self.line, code.lines))
        return found


def captures(effect: Effect) -> bool:
    """Whether an effect hands a packet to a port of this namespace."""
    if isinstance(effect, Target):
        return effect.kind in (Kind.REDIRECT, Kind.TPROXY)
    if effect.what is Beyond.DNAT:
        to = effect.address
        return to is not None and (is_loopback(Family.IP, to) or is_loopback(Family.IP6, to))
    return effect.what in (Beyond.REDIRECT, Beyond.HAND)


class Spot(NamedTuple):
    """The priority of the base chain that is run, and how many chains deep a rule is in it."""

    priority: int
    depth: int


def _priority(base: Code, hook: str) -> int:
    """iptables' chains have theirs from the table (:mod:`meshnet.reason.hooks`)."""
    if base.native:
        return base.priority
    table = base.policy.place.table if base.policy is not None else ""
    return PRIORITIES.get(table, -100 if hook in DESTINATION else 100)


class Rows:
    """Makes rows of what was met. ``every``: no rules are put together."""

    def __init__(self, reasons: Reasons, leading: Leading, sights: Sights, every: bool) -> None:
        self._reasons = reasons
        self._sights = sights
        self._leading = leading
        self._every = every

    def of(self, stretches: Iterable[Stretch]) -> tuple[MetRule, ...]:
        """The rows of one way."""
        return tuple(row for stretch in stretches for row in self._stretch(stretch))

    def known(self, place: Place) -> Rule | None:
        """The compiled rule of ours that stands at ``place``, with its reasons."""
        found = self._reasons.get(place.backend, {})
        return found.get((place.family, place.table, place.chain, place.position))

    def _stretch(self, stretch: Stretch) -> Iterator[MetRule]:
        at = stretch.at
        code, first = at.frames[-1]
        sight = self._sights.of(stretch)
        view, missed = sight.view, iter(sight.false)
        where = Spot(_priority(at.frames[0][0], at.state.hook), len(at.frames) - 1)
        run = _Run(self, view, where)
        for number, step in enumerate(stretch.steps, first):
            line = code.lines[number] if number < len(code.lines) else code.policy
            assert line is not None
            if step.held is False:
                false = next(missed)
                if not run.takes(line, false):
                    yield from run.end()
                    run.begin(line, step.hook, false)
                continue
            yield from run.end()
            yield self._held(line, step.hook, step.held, view, where)
        yield from run.end()

    def _held(self, line: Line, hook: str, held: bool | None, view: View, where: Spot) -> MetRule:
        note = ""
        if held is None:
            doubts = ", ".join(view.doubts(line))
            note = f"cannot be told: {doubts}; both ways are walked"
        elif (known := self.known(line.place)) is not None:
            note = known.why
        return self.row(line, line, hook, HELD[held], note, where)

    def row(self, line: Line, last: Line, hook: str, held: str, note: str, where: Spot) -> MetRule:
        """The row from ``line`` to ``last``, two of one chain."""
        place = line.place
        run = last is not line
        known = None if run else self.known(place)
        text = "" if run else self._leading.text(line)
        return MetRule(
            hook,
            where.priority,
            place.backend,
            place.family.value,
            place.table,
            place.chain,
            place.position,
            last.place.position,
            "policy" if line.rule is None else "run" if run else "rule",
            text,
            held,
            note,
            line.ours,
            where.depth,
            known.id if known else "",
            known.why if known else "",
            known.setting if known else "",
        )

    @property
    def every(self) -> bool:
        """Whether each rule gets a row of its own."""
        return self._every

    def leads(self, line: Line) -> bool:
        """Whether ``line`` can hand a packet to a port."""
        return self._leading.line(line)


class _Run:
    """Rules, one behind the other, that do not hold and share a reason.

    Those that would lead to a capture but for one thing are not put together with others.
    """

    def __init__(self, rows: Rows, view: View, where: Spot) -> None:
        self._rows = rows
        self._view = view
        self._spot = where
        self._first: Line | None = None
        self._last: Line | None = None
        self._hook = ""
        self._near = False
        #: Whether some are for the other family; rules fail for that whatever they ask.
        self._foreign = False
        #: The fields for which all the others fail.
        self._shared: set[Field] = set()
        self._false: list[Match] = []

    def begin(self, line: Line, hook: str, false: list[Match]) -> None:
        """Begin with ``line``, of which ``false`` are the matches that are false."""
        self._first = self._last = line
        self._hook, self._false, self._foreign = hook, false, not false
        self._near = self._is_near(line, false)
        self._shared = {match.field for match in false}

    def _is_near(self, line: Line, false: list[Match]) -> bool:
        return len(false) == 1 and self._rows.leads(line)

    def takes(self, line: Line, false: list[Match]) -> bool:
        """Whether a rule with these reasons belongs to the run; it is part of it then."""
        if self._first is None or self._rows.every or self._is_near(line, false) is not self._near:
            return False
        if not false:
            self._foreign = True
        elif not self._shared:
            self._shared, self._false = {match.field for match in false}, false
        else:
            fields = [match.field for match in false if match.field in self._shared]
            if not fields:
                return False
            if len(fields) != len(self._shared):
                self._shared = set(fields)
        self._last = line
        return True

    def end(self) -> Iterator[MetRule]:
        """The row of what was put together."""
        first, last = self._first, self._last
        if first is None or last is None:
            return
        self._first = None
        yield self._rows.row(first, last, self._hook, "no", self._note(first, last), self._spot)

    def _note(self, first: Line, last: Line) -> str:
        if not self._shared:
            return other_family(self._view)
        if first is last:
            if self._rows.every:
                return ", ".join(dict.fromkeys(reason(self._view, m) for m in self._false))
            return reason(self._view, most_telling(self._false))
        said = fact(self._view, min(self._shared, key=lambda f: RANK[f]))
        return f"{said}, or {other_family(self._view)}" if self._foreign else said
