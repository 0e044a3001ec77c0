"""Running a tool: its input and output in memory, a time limit, no shell.

``subprocess`` would cost more at import than the whole start of ``meshnet-init`` may
(docs/performance.md); memory files make pipes, and so threads or polling, unnecessary.
"""

from __future__ import annotations

import os
import select
import stat
from _signal import SIGKILL  # type: ignore[import-not-found]

from meshnet.errors import KernelLacks, ToolFailed
from meshnet.host import gate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Where system tools are, beside PATH: an init container's PATH may be bare.
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")
TIMEOUT = 30.0


class Finished:
    """How a tool ended. ``code`` is its exit code, or minus the signal that ended it."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


def find_tool(name: str) -> str | None:
    """The path of the executable ``name``, from PATH or the system's directories, or None."""
    for folder in (*os.environ.get("PATH", "").split(":"), *SBIN):
        path = f"{folder}/{name}"
        if folder.startswith("/") and _is_executable(path):
            return path
    return None


def _is_executable(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and os.access(path, os.X_OK)


def run_tool(
    argv: Sequence[str],
    text: str = "",
    *,
    timeout: float = TIMEOUT,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Run ``argv`` (the tool's name first) with ``text`` as its standard input.

    Raises KernelLacks where there is no such tool, ToolFailed where it does not end
    within ``timeout`` seconds; it is killed then. A non-zero exit is no error here.
    """
    path = find_tool(argv[0])
    if path is None:
        raise KernelLacks(
            f"the program {argv[0]} is not installed", "install it, or choose another --backend"
        )
    return gate.touch(" ".join(argv), lambda: _spawn(path, argv, text, timeout, env))


def _spawn(
    path: str, argv: Sequence[str], text: str, timeout: float, env: Mapping[str, str] | None
) -> Finished:
    files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    try:
        _write_all(files[0], text.encode())
        os.lseek(files[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(files)]
        environment = {**os.environ, "LC_ALL": "C", **(env or {})}
        pid = os.posix_spawn(path, list(argv), environment, file_actions=actions)
        code = _wait(pid, argv[0], timeout)
        return Finished(code, _read_all(files[1]), _read_all(files[2]))
    finally:
        for fd in files:
            os.close(fd)


def _wait(pid: int, name: str, timeout: float) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise ToolFailed(f"{name} did not end within {timeout:g} s and was killed")
    except BaseException:
        # Also when we are interrupted: a tool left behind would commit when nobody expects it.
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_all(fd: int) -> str:
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0).decode("utf-8", "backslashreplace")
