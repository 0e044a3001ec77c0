"""Children: jobs that run in another network namespace, or must not spoil this process.

The caller's own namespace never changes. A child does one job and answers in JSON on a
pipe; an error crosses it as what it was. One that only reads leads a process group of its
own, so that it can be given up together with the tools that it started; one that writes
stays in its parent's: whoever kills that group shall get it too.
"""

from __future__ import annotations

import errno
import os
import select
import time
from _signal import SIGKILL  # type: ignore[import-not-found]

from meshnet.errors import BY_NAME, MeshnetError, NotPermitted, ToolFailed, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CLONE_NEWNET = 0x40000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNS = 0x00020000
TIMEOUT = 120.0
#: What precedes an answer that is bytes; no JSON text begins with it.
_RAW = b"\0"
_libc: Any = None


class Door:
    """Which namespaces a child enters: the paths of their files, None or "" for "not this one".

    ``inode`` is the network namespace that is meant, 0 for whichever is there: a path below
    /proc/PID leads elsewhere once another process got the number.
    """

    def __init__(self, net: str | None, inode: int = 0, mnt: str = "", user: str = "") -> None:
        self.net = net
        self.inode = inode
        self.mnt = mnt
        self.user = user


class Child:
    """A child at work. ``reader`` is readable when it has something to say, or ended."""

    def __init__(self, pid: int, reader: int, leads: bool) -> None:
        self.pid = pid
        self.reader = reader
        self._leads = leads
        self._parts: list[bytes] = []

    def take(self) -> bool:
        """Read what is there; False at the end of the answer."""
        part = os.read(self.reader, 1 << 18)
        self._parts.append(part)
        return bool(part)

    def result(self) -> Any:
        """What the job gave, once :meth:`take` said that this is all; raises what it raised."""
        data = b"".join(self._parts)
        self._parts.clear()
        self.end(kill=not data)
        if not data:
            raise ToolFailed("a child ended without an answer")
        if data[:1] == _RAW:
            return data[1:]
        import json

        kind, body = json.loads(data)
        if kind == "error":
            raise BY_NAME.get(body[0], MeshnetError)(body[1], body[2])
        return body

    def end(self, kill: bool = True) -> None:
        """Close and reap it; with ``kill`` it ends now, and so do its tools."""
        if self.reader < 0:
            return
        try:
            if kill:
                (os.killpg if self._leads else os.kill)(self.pid, SIGKILL)
        except ProcessLookupError:
            # It ended before it led anybody.
            pass
        finally:
            os.close(self.reader)
            self.reader = -1
            os.waitpid(self.pid, 0)


def run_child(
    job: Callable[[], Any],
    *,
    netns: str | None = None,
    door: Door | None = None,
    timeout: float = TIMEOUT,
) -> Any:
    """The JSON-able result of ``job``, run in a forked child, inside ``netns`` (a path) if given.

    ``door`` says more than a path can. A result that is bytes comes back as it is. Raises
    what the job raised, if that was a MeshnetError; UsageError where the path is no network
    namespace; NotPermitted where entering needs CAP_SYS_ADMIN; ToolFailed where the child
    ends without an answer or exceeds ``timeout`` seconds.
    """
    child = start_child(job, door or Door(netns))
    ends = time.monotonic() + timeout
    poll = select.poll()
    poll.register(child.reader, select.POLLIN)
    try:
        while poll.poll(max(0.0, ends - time.monotonic()) * 1000):
            if not child.take():
                return child.result()
        raise too_slow(timeout)
    finally:
        child.end()


def too_slow(timeout: float) -> ToolFailed:
    """The error of a child that exceeded its time limit."""
    return ToolFailed(f"a child did not answer within {timeout:g} s and was killed")


def start_child(job: Callable[[], Any], door: Door, *, leads: bool = False) -> Child:
    """A child that goes through ``door`` and does ``job``; raises as :func:`run_child` does.

    With ``leads`` it leads a process group. The handles of the namespaces are open no longer
    than this takes.
    """
    handles: list[tuple[int, int, str]] = []
    try:
        _open(door, handles)
        reader, writer = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(reader)
            os.close(writer)
            raise
        if pid == 0:
            os.close(reader)
            if leads:
                _lead(0)
            _answer(writer, job, handles)
        os.close(writer)
    except OSError as e:
        raise ToolFailed(f"no child can be started: {e.strerror}") from e
    finally:
        for handle, _, _ in handles:
            os.close(handle)
    if leads:
        _lead(pid)
    return Child(pid, reader, leads)


def _lead(pid: int) -> None:
    """Give ``pid`` its own process group. Parent and child both do it: either may be first."""
    try:
        os.setpgid(pid, pid)
    except OSError:
        # The child has ended already, or did it itself.
        return


def _open(door: Door, handles: list[tuple[int, int, str]]) -> None:
    """Open what is to be entered, in nsenter's order: user gives the right to the rest."""
    if door.user and not _is_own_user(door.user):
        handles.append((_open_one(door.user, "user"), CLONE_NEWUSER, door.user))
    if door.mnt:
        handles.append((_open_one(door.mnt, "mount"), CLONE_NEWNS, door.mnt))
    if door.net is not None:
        handles.append((_open_one(door.net, "network"), CLONE_NEWNET, door.net))
        if door.inode and os.fstat(handles[-1][0]).st_ino != door.inode:
            raise MeshnetError(f"the network namespace at {printable(door.net)} is gone")


def _is_own_user(path: str) -> bool:
    """Whether ``path`` is the user namespace that we are in: the kernel refuses to enter it."""
    try:
        here, there = os.stat("/proc/self/ns/user"), os.stat(path)
    except (OSError, ValueError):
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _open_one(path: str, kind: str) -> int:
    from meshnet.errors import UsageError

    shown = printable(path)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, ProcessLookupError) as e:
        raise MeshnetError(f"there is no {kind} namespace at {shown}") from e
    except PermissionError as e:
        need = ": needs CAP_SYS_PTRACE" if path.startswith("/proc/") else ""
        raise NotPermitted(f"cannot open the {kind} namespace {shown}{need}") from e
    except (OSError, ValueError) as e:
        raise UsageError(
            f"no {kind} namespace at {shown}", "a path such as /run/netns/NAME or /proc/PID/ns/net"
        ) from e


def _answer(writer: int, job: Callable[[], Any], handles: list[tuple[int, int, str]]) -> None:
    """Run the job and end; never returns."""
    code = 0
    try:
        try:
            for handle, kind, name in handles:
                _enter(handle, kind, name)
                os.close(handle)
            result = job()
            data = _RAW + result if isinstance(result, bytes) else _encode("result", result)
        except MeshnetError as e:
            data = _encode("error", (type(e).__name__, e.message, e.hint))
        view = memoryview(data)
        while view:
            view = view[os.write(writer, view) :]
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)


def _encode(kind: str, body: Any) -> bytes:
    import json

    return json.dumps((kind, body)).encode()


def call(name: str, *numbers: int) -> int:
    """Call a function of libc that takes ``numbers``; 0, or the errno of what went wrong."""
    global _libc
    import ctypes

    if _libc is None:
        # Kept: a sweep's children have it from their parent.
        _libc = ctypes.CDLL(None, use_errno=True)
    return 0 if getattr(_libc, name)(*numbers) == 0 else ctypes.get_errno()


_KINDS = {CLONE_NEWNET: "network", CLONE_NEWNS: "mount", CLONE_NEWUSER: "user"}


def _enter(handle: int, kind: int, name: str) -> None:
    """Move this process into the namespace open as ``handle``: for children only."""
    if (code := call("setns", handle, kind)) == 0:
        if kind == CLONE_NEWUSER:
            _become_root()
        return
    from meshnet.errors import UsageError

    shown = f"the {_KINDS[kind]} namespace {printable(name)}"
    if code == errno.EPERM:
        raise NotPermitted(f"entering {shown} needs CAP_SYS_ADMIN")
    raise UsageError(f"{shown} cannot be entered: {os.strerror(code)}")


def _become_root() -> None:
    """Take the ids 0 of the user namespace just entered, as nsenter does."""
    try:
        os.setgid(0)
        os.setuid(0)
    except OSError as e:
        raise NotPermitted(f"the user namespace maps no root: {e.strerror}") from e
