"""Finding the network namespace that a target means: what :mod:`meshnet.host.target` hands over."""

from __future__ import annotations

import os

from meshnet.errors import MeshnetError, NotPermitted, UsageError, printable
from meshnet.host.capabilities import held
from meshnet.host.containers.container import Container, merge
from meshnet.host.containers.kubelet import containers_of, read_logs
from meshnet.host.containers.membership import is_process_of
from meshnet.host.containers.sources import Census, take_census
from meshnet.host.namespaces import Found, find_namespaces
from meshnet.host.naming import command_of, containers_in, describe, members_of, role_of
from meshnet.host.processes import read_process
from meshnet.host.target import NAMED, Target, netns_at, netns_of_process, split
from meshnet.model.frozen import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: How many candidates an error lists.
_SHOWN = 8


def resolve_one(target: str, origin: str) -> Target:
    """See :func:`meshnet.host.target.resolve`."""
    kind, name = split(target, origin)
    if kind == "all":
        raise UsageError(f"{origin}: 'all' is more than one namespace", "name one of them here")
    if kind in ("name", "pod", "container"):
        return _named(target, kind, name, origin)
    if kind == "cgroup" or (kind == "path" and os.path.isdir(name)):
        return _in_cgroup(target, name, origin)
    found = find_namespaces()
    if kind == "self":
        return describe(target, found.namespaces[found.own], found)
    if kind == "pid":
        path = netns_of_process(name, origin)
    else:
        path = netns_at(name if name.startswith("/") else f"{NAMED}/{name}", origin)
    return _at(target, path, found, origin)


def resolve_every() -> tuple[Target, ...]:
    """See :func:`meshnet.host.target.resolve_all`."""
    found = find_namespaces()
    if found.hidden and _lacks_ptrace():
        processes = "1 process" if found.hidden == 1 else f"{found.hidden} processes"
        raise _unreadable(f"the network namespaces of {processes} cannot be read")
    known, logs = merge(take_census().containers), read_logs()
    targets = [
        describe("all", seen, found)
        if role_of(seen, found)
        else describe("all", seen, found, containers_in(seen, known, logs))
        for seen in found.namespaces.values()
    ]
    ordered = sorted(_told_apart(targets), key=lambda t: (t.inode != found.own, t.name, t.inode))
    return tuple(ordered)


def _told_apart(targets: Sequence[Target]) -> list[Target]:
    """Where namespaces share their best name, all but the one of the oldest process say more.

    A process of a container may make a namespace of its own; the first one is the container's.
    """
    by_name: dict[str, list[Target]] = {}
    for target in targets:
        by_name.setdefault(target.name, []).append(target)
    apart: list[Target] = []
    for name, same in by_name.items():
        first, *others = sorted(same, key=lambda t: _age(t.pids)) if len(same) > 1 else same
        apart.append(first)
        for other in others:
            own = f"{name} {other.names[-1]}"
            apart.append(replace(other, name=own, names=(own, *other.names)))
    return apart


def _age(pids: Iterable[int]) -> tuple[int, int]:
    """Sorts the one with the oldest process first, and last what has none."""
    records = [record for pid in pids if (record := read_process(pid)) is not None]
    return min(((record.started, record.pid) for record in records), default=(1 << 62, 0))


def _at(target: str, path: str, found: Found, origin: str, cgroup: str = "") -> Target:
    """The namespace at ``path``, with all its names."""
    seen = found.seen(_inode(path, origin), path)
    if role_of(seen, found) or not seen.pids:
        return describe(target, seen, found, path=path, cgroup=cgroup)
    logs = read_logs()
    containers = containers_in(seen, (), logs)
    if not containers or not all(one.pod for one in containers):
        containers = containers_in(seen, merge(take_census().containers), logs)
    return describe(target, seen, found, containers, path=path, cgroup=cgroup)


def _inode(path: str, origin: str) -> int:
    try:
        return os.stat(path).st_ino
    except PermissionError as e:
        raise _unreadable(f"{origin}: {path} cannot be read") from e
    except OSError as e:
        raise MeshnetError(f"{origin}: {printable(path)} is gone") from e


def _lacks_ptrace() -> bool:
    return "CAP_SYS_PTRACE" not in held()


def _unreadable(message: str) -> NotPermitted:
    needs = "needs CAP_SYS_PTRACE, in the user namespace of the process"
    return NotPermitted(message, needs if _lacks_ptrace() else "the kernel refuses it")


def _in_cgroup(target: str, path: str, origin: str) -> Target:
    """The network namespace of the processes of a cgroup and of those below it."""
    shown = printable(path)
    if not os.path.isdir(path):
        raise MeshnetError(f"{origin}: there is no cgroup at '{shown}'")
    if not os.path.exists(f"{path}/cgroup.procs"):
        raise UsageError(f"{origin}: '{shown}' is no cgroup", "a directory below /sys/fs/cgroup")
    pids = processes_of_cgroup(path)
    if not pids:
        raise MeshnetError(f"{origin}: no process is in the cgroup '{shown}'")
    found = find_namespaces()
    inside = [one for one in found.namespaces.values() if not pids.isdisjoint(one.pids)]
    if not inside:
        raise _unreadable(f"{origin}: no process of the cgroup '{shown}' can be read")
    if len(inside) > 1:
        first = [min(pids.intersection(one.pids)) for one in inside]
        names = [f"pid:{pid} ({printable(command_of(pid))})" for pid in first]
        raise _ambiguous(f"{origin}: the cgroup '{shown}' has processes in", "namespaces", names)
    return _at(
        target, f"/proc/{min(pids.intersection(inside[0].pids))}/ns/net", found, origin, path
    )


def processes_of_cgroup(path: str) -> frozenset[int]:
    """The processes in a cgroup and in those below it; empty where it is gone."""
    pids: set[int] = set()
    for folder, _, files in os.walk(path):
        # A threaded cgroup (cgroup v2) refuses to list processes; its threads' numbers do here.
        for name in ("cgroup.procs", "cgroup.threads"):
            if name not in files:
                continue
            try:
                with open(f"{folder}/{name}", "rb") as f:
                    pids.update(int(line) for line in f.read().split())
                break
            except OSError:
                continue
    return frozenset(pids)


def _named(target: str, kind: str, name: str, origin: str) -> Target:
    """The namespace of the one pod or container that is called so, or whose name begins so."""
    census = take_census(lambda one: how_called(one, kind, name) > 0)
    found = find_namespaces()
    logs = read_logs()
    members = members_of(pid for seen in found.namespaces.values() for pid in seen.pids)
    containers = merge([*census.containers, *containers_of(members, logs)])
    best = max((how_called(one, kind, name) for one in containers), default=0)
    chosen = [one for one in containers if best and how_called(one, kind, name) == best]
    owners = dict.fromkeys(one.pod or (one.id, one.pid) for one in chosen)
    if len(owners) > 1:
        raise _ambiguous(f"{origin}: '{name}' may be", "pods or containers", _shown(chosen))
    if not chosen:
        raise _nothing(name, kind, origin, census, len(members), found.hidden, logs.refused)
    group = [one for one in containers if one in chosen or (one.pod and one.pod == chosen[0].pod)]
    by_id: dict[str, list[int]] = {}
    for pid, member in members:
        by_id.setdefault(member.id, []).append(pid)
    # The pause container lives as long as the pod does.
    for one in sorted(group, key=lambda one: (not one.sandbox, one not in chosen)):
        seen_by_cgroup = min(by_id.get(one.id, ()), key=_started, default=0)
        pid = one.pid if is_process_of(one.pid, one.id) else seen_by_cgroup
        if pid:
            path = f"/proc/{pid}/ns/net"
            seen = found.seen(_inode(path, origin), path)
            group.sort(key=lambda one: not one.sandbox)
            return describe(target, seen, found, group, path=path)
    raise MeshnetError(
        f"{origin}: {_shown(chosen)[0]} has no process that can be seen from here",
        "it just ended, or this process has a PID namespace of its own",
    )


def _started(pid: int) -> tuple[int, int]:
    return _age((pid,))


def how_called(container: Container, kind: str, name: str) -> int:
    """2 where ``name`` is the container's or its pod's, 1 where one begins so, else 0."""
    names = []
    if kind != "container" and container.pod:
        names += [container.pod, container.pod.rpartition("/")[2]]
    if kind != "pod":
        names += [container.id, container.name]
    return 2 if name in names else int(any(one.startswith(name) for one in names))


def _shown(chosen: Iterable[Container]) -> list[str]:
    """The candidates as they can be asked for."""
    names = (
        f"pod:{one.pod}" if one.pod else f"container:{one.name or one.id} ({one.id[:12]})"
        for one in chosen
    )
    return [printable(name) for name in sorted(set(names))]


def _ambiguous(start: str, what: str, names: list[str]) -> MeshnetError:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    listed = ", ".join(names[:_SHOWN]) + more
    return MeshnetError(f"{start} {len(names)} {what}: {listed}", "name one of them")


def _nothing(
    name: str, kind: str, origin: str, census: Census, members: int, hidden: int, refused: bool
) -> MeshnetError:
    what = "pod or container" if kind == "name" else kind
    asked = [*census.asked, f"/proc and /var/log/pods ({members} processes in containers)"]
    unasked = [*census.unasked]
    hidden = hidden if _lacks_ptrace() else 0
    if hidden:
        unasked.append(f"{hidden} processes, without CAP_SYS_PTRACE")
    if refused:
        unasked.append("/var/log/pods, which this user may not read")
    missing = f"; not asked: {'; '.join(unasked)}" if unasked else ""
    error = NotPermitted if census.refused or hidden or refused else MeshnetError
    hint = f"asked: {', '.join(asked)}{missing}"
    if kind == "name" and os.path.exists(f"{NAMED}/{name}"):
        hint = f"there is a network namespace of that name: netns:{name}; {hint}"
    return error(f"{origin}: there is no {what} '{name}'", hint)
