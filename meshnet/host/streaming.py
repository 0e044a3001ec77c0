"""A child in another network namespace that tells line by line, until it is told to stop.

It ends with its parent, whatever ends that. It leads a process group of its own, so that an
interrupt from the terminal reaches the parent alone, which then lets it finish.
"""

from __future__ import annotations

import os
import select
import signal
import time

from meshnet.errors import MeshnetError, ToolFailed
from meshnet.host.netns import Child, Door, call, start_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    #: What a child does: it gets :class:`Voice` and gives a JSON-able result at its end.
    Job = Callable[["Voice"], Any]

_PR_SET_PDEATHSIG = 1
#: How long a child may be silent, once it is told to end, and what outlives it may take to
#: report, in seconds.
_ENDING, _REPORTING = 10.0, 3.0


class Voice:
    """The child's side: where it tells, and hears that it has to stop.

    ``control`` is readable from the moment on when the parent wants it to stop, or is gone.
    ``report`` is a pipe for whatever outlives this child (one line).
    """

    def __init__(self, lines: int, control: int, report: int) -> None:
        self._lines = lines
        self.control = control
        self.report = report

    def tell(self, data: bytes) -> None:
        """Write whole lines, each with its end; waits for the parent to read."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._lines, view) :]


class Stream:
    """The parent's side."""

    def __init__(self, job: Job, door: Door) -> None:
        lines, voice = os.pipe()
        control, self._stop = os.pipe()
        self._report, report = os.pipe()
        parent = os.getpid()

        def inside() -> Any:
            call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                raise ToolFailed("its parent is gone")
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for handle in (lines, self._stop, self._report):
                os.close(handle)
            return job(Voice(voice, control, report))

        self._lines = lines
        try:
            self.child: Child = start_child(inside, door, leads=True)
        except BaseException:
            for handle in (lines, self._stop, self._report):
                os.close(handle)
            raise
        finally:
            for handle in (voice, control, report):
                os.close(handle)
        self._part = b""

    def stop(self) -> None:
        """Let the child finish; can be called at any time, also from a signal's handler."""
        handle, self._stop = self._stop, -1
        if handle >= 0:
            os.close(handle)

    def lines(self, until: float = float("inf")) -> Iterator[bytes]:
        """Each line, without its end, until the child has told all.

        At ``until`` (of the monotonic clock) it is told to stop. Raises ToolFailed where it
        then neither ends nor tells anything for ten seconds.
        """
        poll = select.poll()
        poll.register(self._lines, select.POLLIN)
        deadline = float("inf")
        while True:
            now = time.monotonic()
            if now >= until:
                self.stop()
            if self._stop < 0 and deadline == float("inf"):
                deadline = now + _ENDING
            if now >= deadline:
                raise ToolFailed(f"a child did not end within {_ENDING:g} s and was killed")
            # Short enough to see that somebody else called stop().
            wait = min(until - now if self._stop >= 0 else 0.2, deadline - now, 0.2)
            if not poll.poll(max(0.0, wait) * 1000):
                continue
            part = os.read(self._lines, 1 << 20)
            if not part:
                return
            # What it still tells, it may tell to the end.
            deadline = float("inf")
            *whole, self._part = (self._part + part).split(b"\n")
            yield from whole

    def result(self) -> Any:
        """What the job gave, once it told all; raises what it raised."""
        while self.child.take():
            pass
        return self.child.result()

    def reported(self) -> str:
        """What those that outlive the child said, once they have ended too; "" for nothing."""
        parts = []
        deadline = time.monotonic() + _REPORTING
        while select.select([self._report], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = os.read(self._report, 4096)
            if not part:
                break
            parts.append(part)
        else:
            return "what was to put it back does not answer"
        return b"".join(parts).decode("utf-8", "backslashreplace").strip()

    def close(self) -> None:
        """End the child, if it is still there, and close everything."""
        self.stop()
        try:
            self.child.end()
        finally:
            for name in ("_lines", "_report"):
                handle = getattr(self, name)
                setattr(self, name, -1)
                if handle >= 0:
                    os.close(handle)


def is_gone(error: MeshnetError) -> bool:
    """Whether an error of :meth:`Stream.result` says that the child ended without a word."""
    return isinstance(error, ToolFailed) and "without an answer" in error.message
