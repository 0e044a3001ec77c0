"""What decided about a packet: the reason of a rule of ours, or that no rule of ours did."""

from __future__ import annotations

from meshnet.errors import printable
from meshnet.model.explanation import Because
from meshnet.model.verdict import Verdict
from meshnet.reason.whynot import Sights, failing, most_telling, reason
from meshnet.reason.words import rule_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.verdict import Journey, Step
    from meshnet.reason.fates import Stretch, Trail
    from meshnet.reason.lines import Line
    from meshnet.reason.met import Leading, Rows

#: Longer texts of foreign rules are cut.
_LONG = 120


class Judge:
    """Tells what decided; ``ours`` says whether any rule of ours is there at all."""

    def __init__(self, rows: Rows, leading: Leading, sights: Sights, ours: bool) -> None:
        self._rows = rows
        self._sights = sights
        self._leading = leading
        self._ours = ours

    def because(self, journey: Journey, trail: Trail) -> Because:
        """What decided about ``journey``, whose way is ``trail``."""
        verdict, decider = journey.verdict, journey.decider
        if verdict is Verdict.MAYBE:
            return Because("it hangs on what no dump shows")
        if verdict is Verdict.CAPTURED and decider is not None:
            return self._of_capture(decider, trail)
        if decider is not None:
            return self._of(decider, _GENERAL[verdict])
        return self._missed(trail)

    def _of_capture(self, decider: Step, trail: Trail) -> Because:
        """The rule that sent it to the chain of the one that redirects says more than that one."""
        for stretch in trail.stretches:
            frames = stretch.at.frames
            if len(frames) < 2 or not any(step.place == decider.place for step in stretch.steps):
                continue
            code, at = frames[-2]
            sender = code.lines[at - 1]
            known = self._rows.known(sender.place)
            if sender.to is frames[-1][0] and known is not None:
                return Because(known.why, known.setting, known.id)
        return self._of(decider, "a rule that is not ours hands it over")

    def _of(self, step: Step, general: str) -> Because:
        known = self._rows.known(step.place)
        if known is not None:
            return Because(known.why, known.setting, known.id)
        if step.rule is None:
            return Because(f"no rule decided, and the {step.action} of {step.place.chain} did")
        text = printable(rule_in_words(step.rule, step.place.family), _LONG)
        if step.ours:
            return Because(f"a rule in a chain of ours that no profile makes: {text}")
        return Because(f"{general}: {text}")

    def _missed(self, trail: Trail) -> Because:
        """No rule decided: the last one that leads to a capture, and why it does not hold."""
        last: tuple[Line, Stretch] | None = None
        for stretch in trail.stretches:
            if stretch.at.state.over_lo:
                break
            code, first = stretch.at.frames[-1]
            if not self._leading.code(code):
                continue
            for line, step in zip(code.lines[first:], stretch.steps, strict=False):
                if step.held is False and self._leading.line(line):
                    last = line, stretch
        if last is None:
            what = "no rule of ours is asked about such packets" if self._ours else ""
            return Because(what or "no rule here captures anything")
        line, view = last[0], self._sights.of(last[1]).view
        false = failing(view, line)
        why = reason(view, most_telling(false)) if false else "it is of another family"
        known = self._rows.known(line.place)
        if known is not None:
            return Because(f"{known.why}, and {why}", known.setting, known.id)
        where = f"{line.place.chain} {line.place.position}"
        return Because(f"{where} would lead to a capture, and {why}")


_GENERAL = {
    Verdict.BYPASSED: "a rule of ours lets it go",
    Verdict.DIRECT: "a rule that is not ours lets it go before ours are asked",
    Verdict.DROPPED: "a rule that is not ours drops it",
    Verdict.CAPTURED: "a rule that is not ours hands it over",
    Verdict.MAYBE: "",
}
