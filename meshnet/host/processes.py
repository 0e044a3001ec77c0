"""Processes as ``/proc`` shows them: who they are, where they are, which sockets they hold.

No command line and no environment is read: arguments hold secrets. Ids are those of the
reader's own user namespace (``fs/proc/array.c``, task_state; host/userns.py translates).
"""

from __future__ import annotations

import os

from meshnet.errors import ToolFailed
from meshnet.model.frozen import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: PF_KTHREAD of include/linux/sched.h, in field 9 of /proc/PID/stat.
_KERNEL_THREAD = 0x00200000
_HANDLE = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
#: More than stat needs, and than status needs up to the lines that we look for.
_ENOUGH = 4096
_SOCKET = "socket:["


@dataclass(frozen=True)
class ProcessRecord:
    """One process (its first thread).

    ``command`` is the kernel's name for it, at most 15 bytes (64 for a kernel thread), with
    whatever characters the process chose; bytes that are not UTF-8 stand as ``\\xNN``.
    ``netns`` and ``userns`` are inodes, 0 where they could not be read (another user's
    process without CAP_SYS_PTRACE, the network of a zombie) or were not (a kernel thread).
    ``uids`` and ``gids`` are real, effective, saved and file-system ids. ``cgroup`` is its
    path in the unified hierarchy, or the longest of cgroup v1; "" where unreadable.
    ``started`` is in clock ticks since boot (proc(5), field 22).
    """

    pid: int
    parent: int
    command: str
    netns: int
    userns: int
    uids: tuple[int, int, int, int]
    gids: tuple[int, int, int, int]
    cgroup: str
    started: int
    kernel: bool


def read_processes() -> Iterator[ProcessRecord]:
    """Every process that this reader sees, in order of pid; those that vanish midway are left out.

    Raises ToolFailed where ``/proc`` is not mounted.
    """
    for pid in _pids():
        if (record := read_process(pid)) is not None:
            yield record


def pids_by_netns() -> dict[int, list[int]]:
    """The pids in each network namespace, by its inode: ten times as fast as full records.

    Kernel threads count where the kernel says (the first namespace); processes whose
    namespace cannot be read are under 0. Raises ToolFailed as :func:`read_processes` does.
    """
    places: dict[int, list[int]] = {}
    for pid in _pids():
        try:
            link = os.readlink(f"/proc/{pid}/ns/net")
            inode = int(link[5:-1])
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            inode = 0
        places.setdefault(inode, []).append(pid)
    return places


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError as e:
        raise ToolFailed(f"cannot read /proc: {e.strerror}") from e


def read_process(pid: int) -> ProcessRecord | None:
    """Process ``pid``, or None where there is none or it is hidden (``hidepid``).

    All is read through one handle of its directory, so that a pid that is given away again
    in between mixes no two processes.
    """
    try:
        folder = os.open(f"/proc/{pid}", _HANDLE)
    except OSError:
        return None
    try:
        return _read(pid, folder)
    except (OSError, ValueError, IndexError):
        return None
    finally:
        os.close(folder)


def _read(pid: int, folder: int) -> ProcessRecord:
    command, parent, flags, started = parse_stat(_content("stat", folder))
    if flags & _KERNEL_THREAD:
        nobody = (0, 0, 0, 0)
        return ProcessRecord(pid, parent, command, 0, 0, nobody, nobody, "", started, True)
    uids, gids = parse_status(_content("status", folder))
    netns, userns = _inode("ns/net", folder), _inode("ns/user", folder)
    try:
        cgroup = parse_cgroup(_content("cgroup", folder))
    except OSError:
        cgroup = ""
    return ProcessRecord(pid, parent, command, netns, userns, uids, gids, cgroup, started, False)


def parse_stat(data: bytes) -> tuple[str, int, int, int]:
    """Name, parent, flags and start of a ``/proc/PID/stat``.

    The name stands there as it is, with parentheses and newlines: what follows its last
    parenthesis are numbers. Raises ValueError or IndexError for anything else.
    """
    start, end = data.index(b"(") + 1, data.rindex(b")")
    fields = data[end + 2 :].split(b" ", 20)
    command = data[start:end].decode("utf-8", "backslashreplace")
    return command, int(fields[1]), int(fields[6]), int(fields[19])


def parse_status(data: bytes) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """The four UIDs and four GIDs of a ``/proc/PID/status``; the name in it is escaped there.

    Raises ValueError for anything else.
    """
    at = data.index(b"\nUid:\t") + 6
    uid_line, gid_line = data[at:].split(b"\n", 2)[:2]
    if not gid_line.startswith(b"Gid:\t"):
        raise ValueError("no Gid line behind the Uid line")
    real, effective, saved, filesystem = map(int, uid_line.split(b"\t"))
    uids = (real, effective, saved, filesystem)
    real, effective, saved, filesystem = map(int, gid_line[5:].split(b"\t"))
    return uids, (real, effective, saved, filesystem)


def parse_cgroup(data: bytes) -> str:
    """The path that says most about a process in a ``/proc/PID/cgroup``.

    That of the unified hierarchy, unless the process is at its root and cgroup v1 has more.
    """
    paths = []
    for line in data.split(b"\n"):
        number, _, rest = line.partition(b":")
        _, colon, path = rest.partition(b":")
        if colon:
            text = path.removesuffix(b" (deleted)").decode("utf-8", "backslashreplace")
            if number == b"0" and text != "/":
                return text
            paths.append(text)
    return max(paths, key=len, default="")


def _content(name: str, folder: int) -> bytes:
    handle = os.open(name, _READ, dir_fd=folder)
    try:
        return os.read(handle, _ENOUGH)
    finally:
        os.close(handle)


def _inode(name: str, folder: int) -> int:
    """The number in a link like ``net:[4026531840]``; 0 where it cannot be read."""
    try:
        link = os.readlink(name, dir_fd=folder)
        return int(link[link.index("[") + 1 : -1])
    except (OSError, ValueError):
        return 0


def socket_owners(
    pids: Iterable[int], unseen: list[int] | None = None
) -> dict[int, tuple[int, ...]]:
    """Who holds which socket: inode -> pids, in the order of ``pids``.

    A process that is gone holds none. One whose handles this reader may not see (another
    user's, without CAP_SYS_PTRACE) is left out, and appended to ``unseen`` if given.
    """
    owners: dict[int, tuple[int, ...]] = {}
    for pid in pids:
        try:
            folder = os.open(f"/proc/{pid}/fd", _HANDLE)
        except PermissionError:
            if unseen is not None:
                unseen.append(pid)
            continue
        except OSError:
            continue
        try:
            for inode in _sockets_in(folder):
                held = owners.get(inode, ())
                if pid not in held:
                    owners[inode] = (*held, pid)
        except OSError:
            pass
        finally:
            os.close(folder)
    return owners


def _sockets_in(folder: int) -> Iterator[int]:
    for name in os.listdir(folder):
        try:
            link = os.readlink(name, dir_fd=folder)
        except OSError:
            continue
        if link.startswith(_SOCKET):
            yield int(link[8:-1])
