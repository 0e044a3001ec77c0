"""Children: jobs that run in another network namespace, or must not spoil this process.

The caller's own namespace never changes. A child does one job and answers in JSON on a
pipe; an error crosses it as what it was.
"""

from __future__ import annotations

import os
import select
from _signal import SIGKILL  # type: ignore[import-not-found]

from meshnet.errors import BY_NAME, MeshnetError, NotPermitted, ToolFailed, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CLONE_NEWNET = 0x40000000
CLONE_NEWUSER = 0x10000000
TIMEOUT = 120.0


def run_child(job: Callable[[], Any], *, netns: str | None = None, timeout: float = TIMEOUT) -> Any:
    """The JSON-able result of ``job``, run in a forked child, inside ``netns`` (a path) if given.

    Raises what the job raised, if that was a MeshnetError; UsageError where the path is
    no network namespace; NotPermitted where entering needs CAP_SYS_ADMIN; ToolFailed
    where the child ends without an answer or exceeds ``timeout`` seconds.
    """
    handle = None if netns is None else _open_netns(netns)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _answer(writer, job, handle, netns)
    os.close(writer)
    if handle is not None:
        os.close(handle)
    try:
        text = _read_answer(reader, timeout)
    except BaseException:
        os.kill(pid, SIGKILL)
        raise
    finally:
        os.close(reader)
        os.waitpid(pid, 0)
    if not text:
        raise ToolFailed("a child ended without an answer")
    import json

    kind, body = json.loads(text)
    if kind == "error":
        raise BY_NAME.get(body[0], MeshnetError)(body[1], body[2])
    return body


def _open_netns(path: str) -> int:
    from meshnet.errors import UsageError

    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as e:
        raise MeshnetError(f"there is no network namespace at {printable(path)}") from e
    except PermissionError as e:
        raise NotPermitted(
            f"cannot open the network namespace {printable(path)}: {e.strerror}"
        ) from e
    except (OSError, ValueError) as e:
        raise UsageError(
            f"no network namespace at {printable(path)}",
            "a path such as /run/netns/NAME or /proc/PID/ns/net",
        ) from e


def _answer(writer: int, job: Callable[[], Any], handle: int | None, netns: str | None) -> None:
    """Run the job and end; never returns."""
    import json

    code = 0
    try:
        try:
            if handle is not None:
                enter(handle, netns or "")
            answer = ("result", job())
        except MeshnetError as e:
            answer = ("error", (type(e).__name__, e.message, e.hint))
        data = json.dumps(answer).encode()
        while data:
            data = data[os.write(writer, data) :]
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)


def enter(handle: int, name: str) -> None:
    """Move this process into the network namespace open as ``handle``: for children only."""
    import ctypes

    from meshnet.errors import UsageError

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, CLONE_NEWNET) == 0:
        return
    code = ctypes.get_errno()
    if code == 1:
        raise NotPermitted(f"entering the network namespace {printable(name)} needs CAP_SYS_ADMIN")
    raise UsageError(f"{printable(name)} is not a network namespace: {os.strerror(code)}")


def _read_answer(reader: int, timeout: float) -> str:
    parts: list[bytes] = []
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while True:
        if not poll.poll(timeout * 1000):
            raise ToolFailed(f"a child did not answer within {timeout:g} s and was killed")
        part = os.read(reader, 1 << 16)
        if not part:
            return b"".join(parts).decode()
        parts.append(part)
