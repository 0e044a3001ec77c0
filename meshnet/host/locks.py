"""Two locks: ours, of a network namespace, and the xtables lock that iptables programs share."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import struct
import time

from meshnet.errors import LockBusy, ToolFailed, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_NAMESPACE_LOCK = b"\0meshnet-apply"
_PAUSE = 0.01


class NamespaceLock:
    """One meshnet at a time in this network namespace.

    An abstract unix socket is of the namespace that it is bound in, and dies with its
    holder (``net/unix/af_unix.c``): there is no file to be left behind. Waits up to
    ``wait`` seconds, then raises LockBusy with the holder's pid.
    """

    def __init__(self, wait: float) -> None:
        self.wait = wait
        self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)

    def __enter__(self) -> NamespaceLock:
        deadline = time.monotonic() + self.wait
        while True:
            try:
                self.socket.bind(_NAMESPACE_LOCK)
                self.socket.listen(8)
                # A tool that outlives us, because we are killed, keeps the lock until it ends.
                os.set_inheritable(self.socket.fileno(), True)
                return self
            except OSError as e:
                if e.errno != errno.EADDRINUSE:
                    raise ToolFailed(f"cannot lock this network namespace: {e.strerror}") from e
            if time.monotonic() >= deadline:
                raise LockBusy(
                    f"another meshnet {_namespace_holder()} has worked in this network namespace"
                    f" for more than {self.wait:g} s",
                    "wait for it, or end it",
                )
            time.sleep(_PAUSE)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()


def _namespace_holder() -> str:
    peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        peer.connect(_NAMESPACE_LOCK)
        credentials = peer.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        return f"(pid {struct.unpack('3i', credentials)[0]})"
    except OSError:
        return "(gone by now)"
    finally:
        peer.close()


class XtablesLock:
    """The lock that legacy iptables programs take: a flock on ``XTABLES_LOCKFILE``.

    The default is ``/run/xtables.lock``, as iptables 1.8 has it. Waits up to ``wait``
    seconds, then raises LockBusy with the holder's pid and command.
    """

    def __init__(self, wait: float) -> None:
        self.wait = wait
        self.path = os.environ.get("XTABLES_LOCKFILE") or "/run/xtables.lock"
        self.fd = -1

    def __enter__(self) -> XtablesLock:
        try:
            self.fd = os.open(self.path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise ToolFailed(
                f"cannot open the xtables lock {printable(self.path)}: {e.strerror}",
                "XTABLES_LOCKFILE names another",
            ) from e
        deadline = time.monotonic() + self.wait
        while not self._try_lock():
            if time.monotonic() >= deadline:
                held = os.fstat(self.fd)
                os.close(self.fd)
                raise LockBusy(
                    f"the xtables lock {self.path} was held for more than {self.wait:g} s"
                    f" by {_flock_holder(held)}",
                    "wait for it, or end it",
                )
            time.sleep(_PAUSE)
        os.set_inheritable(self.fd, True)
        return self

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.fd)


def _flock_holder(file: os.stat_result) -> str:
    """Who holds a flock on ``file``, from /proc/locks (``fs/locks.c``: device and inode)."""
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
    try:
        with open("/proc/locks", encoding="ascii", errors="replace") as f:
            for line in f:
                words = line.split()
                if words[1] == "FLOCK" and words[5] == f"{device}:{file.st_ino}":
                    return f"pid {words[4]} ({_command(words[4])})"
    except (OSError, IndexError):
        pass
    return "a process that this one cannot see"


def _command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as f:
            return printable(f.read().strip())
    except OSError:
        return "?"
