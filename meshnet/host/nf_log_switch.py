"""Sending the trace of legacy tables to NFLOG: a sysctl that does not come back by itself.

A guard, a child that outlives whoever is killed, holds the right to it and puts it back. That
right is an abstract socket of the network namespace: one trace of legacy tables at a time,
and none begins before the guard of the one before has done its work.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import time

from meshnet.errors import KernelLacks, LockBusy, NotPermitted, ToolFailed
from meshnet.model.packet import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LOGGER = "nfnetlink_log"
_PATHS = {
    Family.IP: "/proc/sys/net/netfilter/nf_log/2",
    Family.IP6: "/proc/sys/net/netfilter/nf_log/10",
}
_NAMES = {Family.IP: "net.netfilter.nf_log.2", Family.IP6: "net.netfilter.nf_log.10"}
_LOCK = b"\0meshnet-trace-legacy"
#: How long the guard of a trace that was just killed may take, in seconds.
_PATIENCE = 2.0
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


class LogSwitch:
    """The sysctls of ``families`` set to nfnetlink_log, until :meth:`put_back` or our end.

    ``report`` is a pipe's handle where the guard writes, in one line, what it could not put
    back; nothing where it could. ``changed`` are the sysctls that were set, ``already`` those
    that were so before.
    """

    def __init__(self, families: Sequence[Family], report: int) -> None:
        self.changed: tuple[str, ...] = ()
        self.already: tuple[str, ...] = ()
        lock = _take_lock()
        try:
            before = {family: _read(family) for family in families}
            self.already = tuple(_NAMES[f] for f, value in before.items() if value == LOGGER)
            change = {f: value for f, value in before.items() if value != LOGGER}
            self.changed = tuple(_NAMES[f] for f in change)
            self._lifeline, self._guard = _start_guard(change, lock, report)
        finally:
            # The guard has it now.
            lock.close()
        try:
            for family in change:
                _write(family, LOGGER)
        except BaseException:
            self.put_back()
            raise

    def put_back(self) -> None:
        """Let the guard do its work, and wait for it."""
        if self._guard:
            os.close(self._lifeline)
            os.waitpid(self._guard, 0)
            self._guard = 0


def _take_lock() -> socket.socket:
    """The right to the sysctls; raises LockBusy where another trace has it."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            lock.bind(_LOCK)
            lock.listen(1)
            return lock
        except OSError as e:
            if e.errno != errno.EADDRINUSE:
                lock.close()
                raise ToolFailed(f"the trace's lock: {e.strerror}") from e
        if time.monotonic() >= deadline:
            lock.close()
            raise LockBusy(
                f"another meshnet trace {_holder()} traces the legacy tables of this namespace: "
                "their lines have one listener (NFLOG group 0)",
                "wait for it, or end it",
            )
        time.sleep(0.02)


def _holder() -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as peer:
        try:
            peer.connect(_LOCK)
            found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            return "(gone by now)"
    return f"(pid {struct.unpack('3i', found)[0]})"


def _read(family: Family) -> str:
    try:
        with open(_PATHS[family], encoding="ascii", errors="replace") as f:
            return f.read().strip()
    except OSError as e:
        raise KernelLacks(f"{_NAMES[family]} cannot be read: {e.strerror}") from e


def _write(family: Family, value: str) -> None:
    name = _NAMES[family]
    try:
        handle = os.open(_PATHS[family], os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(handle, value.encode())
        finally:
            os.close(handle)
    except OSError as e:
        if e.errno == errno.ENOENT:
            raise KernelLacks(f"this kernel has no {value}: {name} cannot be set to it") from e
        raise NotPermitted(
            f"{name} cannot be set, so legacy tables cannot be traced: {e.strerror}",
            "needs CAP_NET_ADMIN in this network namespace and a writable /proc/sys",
        ) from e


def _start_guard(change: dict[Family, str], lock: socket.socket, report: int) -> tuple[int, int]:
    """The writing end of its lifeline, and its pid: it is ready when this returns."""
    waits, lifeline = os.pipe()
    says, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _be_guard(change, waits, ready, lock.fileno(), report)
        finally:
            os._exit(0)
    os.close(waits)
    os.close(ready)
    select.select([says], [], [], _PATIENCE)
    os.close(says)
    return lifeline, pid


def _be_guard(change: dict[Family, str], waits: int, ready: int, lock: int, report: int) -> None:
    """Wait for the end of the lifeline, and put back what the trace changed. Never returns."""
    os.setsid()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    kept = sorted({2, waits, ready, lock, report})
    for low, high in zip([-1, *kept], [*kept, 1 << 16], strict=True):
        os.closerange(low + 1, high)
    os.write(ready, b".")
    os.close(ready)
    os.read(waits, 1)
    failed = []
    for family, value in change.items():
        try:
            # What somebody else has set meanwhile is theirs.
            if _read(family) == LOGGER:
                _write(family, value)
                if _read(family) != value:
                    failed.append(f"{_NAMES[family]} is {_read(family)}, and was {value}")
        except Exception as e:
            failed.append(f"{_NAMES[family]} is not {value} again: {e}")
    if failed:
        text = "; ".join(failed).replace("\n", " ") + "\n"
        for handle in (report, 2):
            try:
                os.write(handle, text.encode())
                break
            except OSError:
                continue
    os._exit(0)
