"""The user namespace that owns a network namespace, and what its ids are to this reader.

Rules hold the ids of the owner (``net/netfilter/xt_owner.c`` makes them valid in
``net->user_ns``), ``/proc`` and sock_diag show those of the reader's own user namespace.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

from meshnet.errors import MeshnetError, NotPermitted, ToolFailed, printable
from meshnet.host import gate
from meshnet.model.frozen import dataclass
from meshnet.model.snapshot import UNMAPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: include/uapi/linux/nsfs.h
_NS_GET_USERNS = 0xB701
_CLONE_NEWUSER = 0x10000000
#: What /proc shows in place of an id that the reader's user namespace does not have.
_NOWHERE = 0xFFFFFFFF


@dataclass(frozen=True)
class IdMap:
    """Which ids of a user namespace are which of the reader's: (inside, reader's, how many)."""

    extents: tuple[tuple[int, int, int], ...]

    def inside(self, id: int) -> int | None:
        """What the reader's ``id`` is in that user namespace; None where it has no such id."""
        for inside, outside, count in self.extents:
            if outside <= id < outside + count:
                return inside + id - outside
        return None

    def shown(self, id: int) -> int:
        """As :meth:`inside`, with UNMAPPED for None, as the kernel itself would show it there."""
        found = self.inside(id)
        return UNMAPPED if found is None else found


#: Every id is itself.
SAME = IdMap(((0, 0, _NOWHERE),))


def parse_map(text: str) -> IdMap:
    """A ``/proc/PID/uid_map``: ``inside reader's count`` a line, empty before it was written.

    Raises ValueError for anything else.
    """
    extents = []
    for line in text.splitlines():
        inside, outside, count = map(int, line.split())
        if outside != _NOWHERE:
            extents.append((inside, outside, count))
    return IdMap(tuple(extents))


def owner_of(
    netns: int | str = "/proc/thread-self/ns/net", pids: Iterable[int] = ()
) -> tuple[int, IdMap, IdMap]:
    """(inode of the owning user namespace, its UIDs, its GIDs) for a network namespace.

    ``netns`` is an open file of it or a path; ``pids`` are processes that may well be in the
    owner: the first that is serves to read the maps, else a child enters it for that.
    Where the owner is the reader's own, ids are the same. Inode 0, and the same ids, where the
    kernel does not say: before Linux 4.9, without user namespaces, or for an owner above the
    reader's own (EPERM of ``kernel/nsfs.c``; nothing of such a namespace can be changed).
    Raises NotPermitted where entering the owner needs CAP_SYS_ADMIN in it, MeshnetError where
    ``netns`` is not there.
    """
    handle = netns if isinstance(netns, int) else _open(netns)
    try:
        owner = _owner(handle)
    finally:
        if handle != netns:
            os.close(handle)
    if owner is None:
        return 0, SAME, SAME
    try:
        inode = os.fstat(owner).st_ino
        if inode == _own():
            return inode, SAME, SAME
        uids, gids = _maps_by_one_of(pids, inode) or _maps_by_child(owner)
        return inode, uids, gids
    finally:
        os.close(owner)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as e:
        raise NotPermitted(f"cannot open the network namespace {printable(path)}") from e
    except (OSError, ValueError) as e:
        raise MeshnetError(f"there is no network namespace at {printable(path)}") from e


def _owner(netns: int) -> int | None:
    """A new handle of the owner, or None where the kernel does not give one."""
    try:
        return int(fcntl.ioctl(netns, _NS_GET_USERNS))
    except OSError as e:
        if e.errno in (errno.EPERM, errno.ENOTTY, errno.EINVAL, errno.ENOSYS):
            return None
        raise ToolFailed(f"the owner of a network namespace: {e.strerror}") from e


def _own() -> int:
    try:
        return os.stat("/proc/thread-self/ns/user").st_ino
    except OSError:
        return 0


def _maps_by_one_of(pids: Iterable[int], inode: int) -> tuple[IdMap, IdMap] | None:
    """The maps of user namespace ``inode`` by the first process of ``pids`` that is in it."""
    for pid in pids:
        try:
            before = os.stat(f"/proc/{pid}/ns/user").st_ino
            maps = _maps_of(pid)
            after = os.stat(f"/proc/{pid}/ns/user").st_ino
        except (OSError, ValueError):
            continue
        if before == after == inode:
            return maps
    return None


def _maps_of(pid: int) -> tuple[IdMap, IdMap]:
    """The maps as this process sees them: the kernel goes by who opened the file.

    (``kernel/user_namespace.c``, uid_m_show.)
    """
    with open(f"/proc/{pid}/uid_map", encoding="ascii") as f:
        uids = parse_map(f.read())
    with open(f"/proc/{pid}/gid_map", encoding="ascii") as f:
        return uids, parse_map(f.read())


def _maps_by_child(owner: int) -> tuple[IdMap, IdMap]:
    """The maps of a user namespace that may be empty: a child goes in and stands still there."""
    return gate.touch("the user namespace of a network namespace", lambda: _visit(owner))


def _visit(owner: int) -> tuple[IdMap, IdMap]:
    libc = ctypes.CDLL(None, use_errno=True)
    says, tell = os.pipe()
    waits, hold = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(hold)
            # The number that /proc has for us: it may be mounted for another pid namespace.
            name = os.readlink("/proc/self").encode()
            code = ctypes.get_errno() if libc.setns(owner, _CLONE_NEWUSER) else 0
            os.write(tell, bytes([code]) + name)
            os.read(waits, 1)
        finally:
            os._exit(code)
    os.close(tell)
    os.close(waits)
    try:
        answer = os.read(says, 32)
        if answer[:1] == b"\0":
            return _maps_of(int(answer[1:]))
    except (OSError, ValueError) as e:
        raise ToolFailed(f"the ids of a user namespace: {printable(str(e))}") from e
    finally:
        os.close(says)
        os.close(hold)
        os.waitpid(pid, 0)
    if answer[:1] == bytes([errno.EPERM]):
        raise NotPermitted(
            "the user namespace that owns the network namespace: needs CAP_SYS_ADMIN in it"
        )
    reason = os.strerror(answer[0]) if answer else "the child ended"
    raise ToolFailed(f"the user namespace that owns the network namespace: {reason}")
