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
from meshnet.ops.trace_report import Report
from meshnet.ops.tracer import TraceOrder, trace_here
from meshnet.reason.trace_judge import Judge
from meshnet.reason.trace_rules import RuleBook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshnet.host.target import Target

    Item = TraceStart | TracedPacket | TraceNote | TraceEnd

__all__ = ["TraceOrder", "Tracing"]

#: Legacy tables, addresses and routes tell nobody that they changed: looked at again before we
#: blame ourselves, but not more often than this, in seconds.
_AGAIN = 1.0
_CHANGED = "legacy tables, addresses or routes changed about the time of this packet"


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
        self._report = Report()
        #: When it was looked at again, and whether all was as before.
        self._looked, self._quiet = 0.0, True

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
        if found.agreement is Agreement.DISAGREES:
            found, judge = self._judged_again(seen, found, judge)
        if found.agreement is Agreement.DISAGREES:
            found = replace(found, report=self._report.add(found, judge))
        return found

    def _judged_again(
        self, seen: Sighting, found: TracedPacket, judge: Judge
    ) -> tuple[TracedPacket, Judge]:
        """Judged by what is there now, if that is not what was there when it was read."""
        if time.monotonic() - self._looked >= _AGAIN:
            snapshot = collect(self.target, ("rules", "routes"), timeout=self.order.timeout)
            self._looked = time.monotonic()
            fresh = judge.of_now(snapshot)
            self._quiet = fresh is None
            if fresh is not None:
                self._judges[self._newest] = fresh
                found, judge = fresh.judge(seen), fresh
        if self._quiet or found.agreement is not Agreement.DISAGREES:
            return found, judge
        unsure = replace(found, agreement=Agreement.UNCHECKED, reason=_CHANGED, expected=())
        return unsure, judge

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
        # The counter was read a moment before the last packet was marked.
        matched = max(counts["matched"], counts["begun"] + counts["missed"])
        return TraceEnd(
            matched=matched,
            skipped=matched - counts["begun"] - counts["missed"],
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
