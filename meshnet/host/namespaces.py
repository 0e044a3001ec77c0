"""Every network namespace of this machine, wherever something keeps one alive.

A process in it, a file under /run/netns (``ip netns``, CNI) or /run/docker/netns, or a bind
mount anywhere. Nothing stays open: a handle is held only to ask what a file is.
"""

from __future__ import annotations

import os

from meshnet.host.processes import pids_by_netns
from meshnet.host.target import NAMED, is_netns
from meshnet.model.frozen import dataclass

OWN = "/proc/thread-self/ns/net"
#: Where files of namespaces are looked for by name: they may also be symbolic links to /proc.
FOLDERS = (NAMED, "/run/docker/netns")


@dataclass(frozen=True)
class Seen:
    """A network namespace: the processes in it, in order of pid, and the files that hold it."""

    inode: int
    pids: tuple[int, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Where to enter it: a file stays, a process may end; a file with a plain name first."""
        plain = [file for file in self.files if file.isprintable()]
        processes = [f"/proc/{pid}/ns/net" for pid in self.pids[:1]]
        return [*plain, *processes, *self.files][0]


@dataclass(frozen=True)
class Found:
    """All of them by inode, the reader's own, and how many processes would not be read."""

    namespaces: dict[int, Seen]
    own: int
    hidden: int = 0

    def seen(self, inode: int, path: str) -> Seen:
        """The one with that inode; where the search missed it, what ``path`` says of it."""
        if inode in self.namespaces:
            return self.namespaces[inode]
        parts = path.split("/")
        if parts[:2] == ["", "proc"] and parts[2].isdigit() and parts[3:] == ["ns", "net"]:
            return Seen(inode, (int(parts[2]),))
        return Seen(inode, (), (path,))


def find_namespaces() -> Found:
    """Look for all of them. One that disappears midway is left out.

    Processes of other users are hidden without CAP_SYS_PTRACE. Raises ToolFailed where
    ``/proc`` is not mounted.
    """
    own = os.stat(OWN)
    pids = pids_by_netns()
    hidden = len(pids.pop(0, ()))
    files: dict[int, list[str]] = {}
    for inode, path in _mounts():
        if _inode(path, own.st_dev) == inode:
            files.setdefault(inode, []).append(path)
    known = {own.st_ino, *pids, *files}
    for path in _entries():
        inode = _inode(path, own.st_dev)
        if inode and (inode in known or is_netns(path)):
            known.add(inode)
            if path not in files.setdefault(inode, []):
                files[inode].append(path)
    found = {
        inode: Seen(inode, tuple(pids.get(inode, ())), tuple(files.get(inode, ())))
        for inode in sorted(known)
    }
    return Found(found, own.st_ino, hidden)


def _mounts() -> list[tuple[int, str]]:
    """(inode, path) of what is mounted from nsfs, once each: proc(5), /proc/PID/mountinfo."""
    try:
        with open("/proc/thread-self/mountinfo", "rb") as f:
            lines = [line for line in f if b" - nsfs " in line]
    except OSError:
        return []
    found: dict[tuple[int, str], None] = {}
    for line in lines:
        fields = line.split(b" ")
        root = fields[3]
        if root.startswith(b"net:[") and root[5:-1].isdigit():
            found[int(root[5:-1]), unescape(fields[4])] = None
    return list(found)


def unescape(path: bytes) -> str:
    """A path as mountinfo writes it: space, tab, newline and backslash in octal (seq_path)."""
    first, *rest = path.split(b"\\")
    parts = [first]
    for part in rest:
        octal = part[:3]
        is_code = len(octal) == 3 and all(c in b"01234567" for c in octal) and octal < b"400"
        parts.append(bytes((int(octal, 8),)) + part[3:] if is_code else b"\\" + part)
    return os.fsdecode(b"".join(parts))


def _entries() -> list[str]:
    found = []
    for folder in FOLDERS:
        try:
            found += [f"{folder}/{name}" for name in sorted(os.listdir(folder))]
        except OSError:
            continue
    return found


def _inode(path: str, device: int) -> int:
    """The inode of the namespace at ``path``; 0 where there is none (any more)."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return 0
    return status.st_ino if status.st_dev == device else 0
