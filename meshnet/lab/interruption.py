"""Signals that end a run, turned into one exception, so that leaving cleans up."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Raised where the program was when the signal came; ``exit_code`` is the shell's 128 + n."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interruptible:
    """A context manager: inside it the first of SIGNALS raises Interrupted, all others nothing.

    So what cleans up behind the exception is not cut short by a second Ctrl-C. A program that
    has come to its cleaning up by itself calls ``ignore`` first.
    """

    def __init__(self) -> None:
        self._armed = True

    def __enter__(self) -> Interruptible:
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ignore()
        # Interrupted: the program is about to end, and a late signal must not change its exit code.
        ending = isinstance(error, Interrupted)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if ending else handler)

    def ignore(self) -> None:
        """From here on signals do nothing."""
        self._armed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise Interrupted(number)
