"""The names of a network namespace, best first: pod, container, file, first process."""

from __future__ import annotations

import os

from meshnet.host.containers.container import Container, merge
from meshnet.host.containers.kubelet import containers_of
from meshnet.host.containers.membership import Membership, is_process_of, membership_of
from meshnet.host.target import NAMED, Target
from meshnet.model.snapshot import ContainerName

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meshnet.host.containers.kubelet import Logs
    from meshnet.host.namespaces import Found, Seen

#: What kubelet calls the container that a pod's namespaces are made with.
PAUSE = "pause"


def members_of(pids: Iterable[int]) -> list[tuple[int, Membership]]:
    """The processes that belong to a container or pod, oldest pid first."""
    found = ((pid, membership_of(pid)) for pid in pids)
    return [(pid, member) for pid, member in found if member is not None]


def containers_in(seen: Seen, known: Sequence[Container], logs: Logs) -> list[Container]:
    """The containers of ``known`` and of the logs that have a process in ``seen``."""
    inside = containers_of(members_of(seen.pids), logs)
    ids = {one.id for one in inside}
    pids = frozenset(seen.pids)
    told = (
        one
        for one in known
        if one.id in ids or (one.pid in pids and is_process_of(one.pid, one.id))
    )
    # What a process belongs to by its cgroup counts, also where a runtime gave another pid.
    return sorted(merge([*told, *inside]), key=lambda one: not one.sandbox)


def describe(
    asked: str,
    seen: Seen,
    found: Found,
    containers: Sequence[Container] = (),
    *,
    path: str = "",
    cgroup: str = "",
) -> Target:
    """The target for a namespace, with the containers that are known to be in it.

    ``path`` is where it was found, if that is known better than from what holds it.
    The reader's own, and the one of process 1, are called "self" and "host" before
    anything else, unless the question was about a container there.
    """
    pods = [one.pod for one in containers if one.pod]
    names = [*pods, *(one.called for one in containers if not one.sandbox or not one.pod)]
    names += [_file_name(file) for file in seen.files]
    if role := role_of(seen, found):
        names.insert(len(names) if containers else 0, role)
    else:
        names += [f"pid {pid} ({command_of(pid)})" for pid in seen.pids[:1]]
    names = [*dict.fromkeys(names)] or [f"net:[{seen.inode}]"]
    return Target(
        asked=asked,
        path=None if seen.inode == found.own else path or seen.path,
        inode=seen.inode,
        name=names[0],
        pod=pods[0] if pods else "",
        containers=tuple(
            ContainerName(one.id, PAUSE if one.sandbox else one.name, one.pod, one.runtime)
            for one in containers
        ),
        pids=seen.pids,
        cgroup=cgroup,
        names=tuple(names),
    )


def role_of(seen: Seen, found: Found) -> str:
    """ "host" for the namespace of process 1, "self" for the reader's own where it is another's."""
    if seen.pids[:1] == (1,):
        return "host"
    if seen.inode != found.own:
        return ""
    return "self" if any(one.pids[:1] == (1,) for one in found.namespaces.values()) else "host"


def _file_name(path: str) -> str:
    folder, _, name = path.rpartition("/")
    name = name if folder in (NAMED, f"/var{NAMED}") else path
    return "netns " + os.fsencode(name).decode("utf-8", "backslashreplace")


def command_of(pid: int) -> str:
    """The kernel's name of a process, "?" where it is gone."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as f:
            return f.read().removesuffix(b"\n").decode("utf-8", "backslashreplace")
    except OSError:
        return "?"
