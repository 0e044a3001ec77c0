"""Why a traced packet went where it went: the reason that explain gives, kept for its likes."""

from __future__ import annotations

from meshnet.model.frozen import replace
from meshnet.model.verdict import Verdict
from meshnet.reason.because import Judge
from meshnet.reason.met import Leading, Rows
from meshnet.reason.whynot import Sights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.explanation import Because
    from meshnet.model.packet import Field, Packet
    from meshnet.model.verdict import Journey
    from meshnet.reason.met import Reasons
    from meshnet.reason.walk import Walker

#: Of so many kinds of packets the reason is kept; then all are forgotten.
REMEMBERED = 5000


class Becauses:
    """Gives reasons by one read of the rules; ``reasons`` are those of our own rules."""

    def __init__(self, walker: Walker, reasons: Reasons) -> None:
        self._walker = walker
        self._reasons = reasons
        self._ours = any(reasons.values())
        self._leading = Leading()
        self._known: dict[object, Because] = {}

    def of(
        self, packet: Packet, journey: Journey, hook: str, unknown: frozenset[Field], local: bool
    ) -> Because | None:
        """Why ``packet`` goes as ``journey`` says; None where that is left open."""
        if journey.verdict is Verdict.MAYBE:
            return None
        decider = journey.decider.place if journey.decider is not None else None
        # Who dials the same place again gets the same reason: each connection has another port.
        key = (replace(packet, sport=None), hook, unknown, local, journey.verdict, decider)
        if key not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = self._of(packet, hook, unknown, local)
        return self._known[key]

    def _of(self, packet: Packet, hook: str, unknown: frozenset[Field], local: bool) -> Because:
        tree = self._walker.follow(packet, hook, unknown, local)
        sights = Sights()
        rows = Rows(self._reasons, self._leading, sights, False)
        judge = Judge(rows, self._leading, sights, self._ours)
        return judge.because(tree.outcome().journey(packet), tree.trails()[0])
