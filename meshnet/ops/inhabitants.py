"""Who lives in which network namespace, and who holds which socket: one look at /proc."""

from __future__ import annotations

import os

from meshnet.host.capabilities import held
from meshnet.host.containers.membership import membership
from meshnet.host.processes import pids_by_netns, read_process, socket_owners
from meshnet.model.frozen import dataclass, replace
from meshnet.model.snapshot import Gap, Process, Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from meshnet.host.userns import IdMap

_BLIND = "needs CAP_SYS_PTRACE"


@dataclass(frozen=True)
class Inhabitants:
    """The pids of each network namespace (0: not to be seen), and of each socket's inode.

    ``owners`` is None where they were not looked up beforehand.
    """

    places: Mapping[int, Sequence[int]]
    owners: Mapping[int, tuple[int, ...]] | None = None

    def of(self, inode: int) -> list[int]:
        """The pids in a network namespace, this process not counted."""
        return [pid for pid in self.places.get(inode, ()) if pid != os.getpid()]

    def everybody(self) -> list[int]:
        """All pids, this process not counted."""
        return [pid for pids in self.places.values() for pid in pids if pid != os.getpid()]


def look_around(sockets: bool) -> Inhabitants:
    """Everybody on this machine, with their sockets where ``sockets``.

    Raises ToolFailed where /proc is not there.
    """
    places = pids_by_netns()
    if not sockets:
        return Inhabitants(places)
    return Inhabitants(places, socket_owners(pid for pids in places.values() for pid in pids))


def with_holders(
    sockets: Iterable[Socket], inode: int, seen: Inhabitants
) -> tuple[tuple[Socket, ...], list[Gap]]:
    """``sockets`` of namespace ``inode`` with the pids that hold them.

    Processes elsewhere are asked only for sockets that nobody in the namespace holds: one
    can be handed over, or opened here by a proxy that lives elsewhere.
    """
    found = list(sockets)
    owners = seen.owners
    if owners is None:
        mine = seen.of(inode)
        owners = socket_owners(mine)
        if any(socket.inode and socket.inode not in owners for socket in found):
            others = set(seen.everybody()) - set(mine)
            owners = {**socket_owners(sorted(others)), **owners}
    joined = tuple(
        replace(socket, pids=owners[socket.inode]) if socket.inode in owners else socket
        for socket in found
    )
    return joined, _orphans([socket for socket in joined if socket.inode and not socket.pids])


def _orphans(sockets: list[Socket]) -> list[Gap]:
    """A gap where sockets have holders that cannot be seen."""
    if not sockets:
        return []
    if "CAP_SYS_PTRACE" not in held():
        return [Gap("sockets", f"the owners of {len(sockets):,} sockets cannot be seen ({_BLIND})")]
    # A connection may have been closed meanwhile. Who listens does so for long.
    listening = sum(1 for socket in sockets if socket.state == "listen")
    if not listening:
        return []
    return [Gap("sockets", f"no process that /proc shows holds {listening:,} of the listeners")]


def describe(
    pids: Iterable[int], limit: int, uids: IdMap, gids: IdMap
) -> tuple[tuple[Process, ...], list[Gap]]:
    """The processes ``pids``, at most ``limit``, their ids as ``uids`` and ``gids`` have them.

    Kernel threads and those that are gone are left out.
    """
    found: list[Process] = []
    count = 0
    for pid in pids:
        if count >= limit:
            count += 1
            continue
        record = read_process(pid)
        if record is None or record.kernel:
            continue
        count += 1
        place = membership(record.cgroup)
        uid, gid = record.uids[3], record.gids[3]
        found.append(
            Process(
                pid,
                record.parent,
                record.command,
                uids.shown(uid),
                gids.shown(gid),
                uid,
                gid,
                place.id if place else "",
                record.started,
            )
        )
    gaps = [Gap("processes", f"{limit:,} of {count:,} processes kept")] if count > limit else []
    return tuple(found), gaps


def hidden(seen: Inhabitants) -> list[Gap]:
    """A gap where processes did not say which namespace they are in, for want of a capability."""
    count = len(seen.places.get(0, ()))
    if not count or "CAP_SYS_PTRACE" in held():
        return []
    return [Gap("processes", f"{count:,} processes do not show their namespace ({_BLIND})")]
