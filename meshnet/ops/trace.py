"""Tracing a namespace: a child inside switches the kernel's trace on and tells, this judges."""

from __future__ import annotations

import time

from meshnet.errors import MeshnetError, ToolFailed
from meshnet.host.netns import Door
from meshnet.host.streaming import Stream
from meshnet.model.frozen import replace
from meshnet.model.snapshot import Snapshot
from meshnet.model.trace import (
    Agreement,
    Sighting,
    TracedPacket,
    TraceEnd,
    TraceNote,
    TraceStart,
)
from meshnet.model.verdict import Verdict
from meshnet.ops.collect import collect
from meshnet.ops.tracer import TraceOrder, trace_here
from meshnet.reason.trace_judge import Judge
from meshnet.reason.trace_rules import RuleBook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshnet.host.target import Target

    Item = TraceStart | TracedPacket | TraceNote | TraceEnd

__all__ = ["TraceOrder", "Tracing"]

#: Legacy tables tell nobody that they changed: read again before we blame ourselves, but not
#: more often than this, in seconds.
_AGAIN = 1.0


class Tracing:
    """A trace of ``target``, begun with the first item that is asked for.

    ``count`` packets at most, for ``seconds`` at most (None: until :meth:`stop`).
    """

    def __init__(
        self,
        target: Target,
        order: TraceOrder,
        count: int | None = None,
        seconds: float | None = None,
    ) -> None:
        self.target = target
        self.order = order
        self.count = count
        self.seconds = seconds
        self._stream: Stream | None = None
        self._judges: dict[int, Judge] = {}
        self._newest = 0
        self._fates = dict.fromkeys(Verdict, 0)
        self._agreed = dict.fromkeys(Agreement, 0)
        self._shown = self._incomplete = 0
        self._looked = 0.0

    def stop(self) -> None:
        """End it soon; what is under way is still told. For signal handlers as well."""
        if self._stream is not None:
            self._stream.stop()

    def items(self) -> Iterator[Item]:
        """How it began, packets and notes as they come, and how it ended.

        Raises what :func:`meshnet.ops.tracer.trace_here` raises; ToolFailed where the child
        was killed: the message says what is left of it. Whoever stops reading ends it.
        """
        target, order = self.target, self.order
        door = Door(target.path, target.inode)
        self._stream = Stream(lambda voice: trace_here(target, order, voice), door)
        until = float("inf") if self.seconds is None else time.monotonic() + self.seconds
        try:
            for line in self._stream.lines(until):
                yield from self._item(line)
                if self.count is not None and self._shown >= self.count:
                    self.stop()
            yield self._end()
        finally:
            self._stream.close()

    def _item(self, line: bytes) -> Iterator[Item]:
        import msgspec

        kind, body = line[:1], line[1:]
        if kind == b"R":
            self._take_rules(body)
        elif kind == b"S":
            yield msgspec.json.decode(body, type=TraceStart)
        elif kind == b"N":
            yield msgspec.json.decode(body, type=TraceNote)
        elif self.count is None or self._shown < self.count:
            packet = self._judged(msgspec.json.decode(body, type=Sighting))
            self._shown += 1
            self._fates[packet.verdict] += 1
            self._agreed[packet.agreement] += 1
            doubtful = packet.seen.lossy and packet.agreement is not Agreement.AGREES
            self._incomplete += doubtful
            yield packet

    def _take_rules(self, body: bytes) -> None:
        import msgspec

        found = msgspec.json.decode(body)
        snapshot = msgspec.convert(found["snapshot"], Snapshot)
        self._newest = found["read"]
        # Packets under way may have met the rules before.
        self._judges = {n: judge for n, judge in self._judges.items() if n == self._newest - 1}
        book = RuleBook(snapshot, found["handles"])
        self._judges[self._newest] = Judge(snapshot, book, found["blind"])

    def _judged(self, seen: Sighting) -> TracedPacket:
        judge = self._judges.get(seen.generation) or self._judges[self._newest]
        found = judge.judge(seen)
        if found.agreement is not Agreement.DISAGREES or "legacy" not in judge.book.rulesets:
            return found
        if time.monotonic() - self._looked < _AGAIN:
            return found
        return self._with_legacy_of_now(seen, found, judge)

    def _with_legacy_of_now(
        self, seen: Sighting, found: TracedPacket, judge: Judge
    ) -> TracedPacket:
        """Judged by legacy tables as they are now, if they changed since they were read."""
        self._looked = time.monotonic()
        snapshot = collect(self.target, ("rules", "routes"), timeout=self.order.timeout)
        now = RuleBook(snapshot)
        if now.rulesets.get("legacy") == judge.book.rulesets["legacy"]:
            return found
        self._judges[self._newest] = fresh = judge.with_legacy(snapshot)
        again = fresh.judge(seen)
        if again.agreement is Agreement.DISAGREES:
            why = "legacy tables changed about the time of this packet"
            return replace(again, agreement=Agreement.UNCHECKED, reason=why, expected=())
        return again

    def _end(self) -> TraceEnd:
        assert self._stream is not None
        try:
            counts = self._stream.result()
        except ToolFailed as e:
            left = self._stream.reported()
            raise ToolFailed(f"the trace broke off: {e.message}{_also(left)}", e.hint) from e
        except MeshnetError as e:
            if left := self._stream.reported():
                e.message += _also(left)
            raise
        left = self._stream.reported()
        return TraceEnd(
            matched=counts["matched"],
            skipped=max(0, counts["matched"] - counts["begun"] - counts["missed"]),
            shown=self._shown,
            captured=self._fates[Verdict.CAPTURED],
            dropped=self._fates[Verdict.DROPPED],
            passed=self._fates[Verdict.DIRECT] + self._fates[Verdict.BYPASSED],
            agreed=self._agreed[Agreement.AGREES],
            disagreed=self._agreed[Agreement.DISAGREES],
            unchecked=self._agreed[Agreement.UNCHECKED],
            lost=counts["lost"],
            incomplete=self._incomplete,
            orphans=counts["orphans"],
            left=left,
        )


def _also(left: str) -> str:
    return f"; left behind: {left}" if left else ""
