"""Which container and pod a process belongs to, by the path of its cgroup.

Every runtime puts the container's id into it, and kubelet the pod's UID above it::

    /kubepods/burstable/pod<uid>/<id>                                  cgroupfs
    /kubepods.slice/…/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope
    /system.slice/containerd.service/kubepods-pod<uid>.slice:cri-containerd:<id>
    /docker/<id>    /system.slice/docker-<id>.scope    /machine.slice/libpod-<id>.scope/container
    /docker/<id>/kubelet/kubepods/besteffort/pod<uid>/<id>             kind

The innermost container is the one that a process belongs to.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache

from meshnet.model.frozen import dataclass

#: A container's id is 32 random bytes; what stands before it says who made it.
_CONTAINER = re.compile(r"(?:(?P<maker>[a-z][a-z-]*?)-)?(?P<id>[0-9a-f]{64})(?:\.scope)?")
#: A pod's UID: a UUID, with "_" where systemd allows no "-", or the hash of a static pod.
_POD = re.compile(
    r"(?:[a-z-]+-)?pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?"
)
#: PROC_PID_INIT_INO of include/linux/proc_ns.h: the inode of the first PID namespace.
_FIRST_PID_NAMESPACE = 0xEFFFFFFC
_RUNTIMES = {
    "docker": "docker",
    "libpod": "podman",
    "libpod-payload": "podman",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "cri-o",
}


@dataclass(frozen=True)
class Membership:
    """The container's id and the pod's UID, either may be ""; the runtime as far as it shows."""

    id: str = ""
    uid: str = ""
    runtime: str = ""


# The processes of a container, and its hierarchies in cgroup v1, share one path.
@lru_cache(4096)
def membership(path: str) -> Membership | None:
    """What a cgroup's path tells, or None where it tells of no container and no pod.

    A monitor (conmon) runs beside its container, not in it, and belongs to nothing.
    """
    parts = [part for level in path.split("/") for part in level.split(":")]
    for at in range(len(parts) - 1, -1, -1):
        found = _CONTAINER.fullmatch(parts[at])
        if found is not None:
            maker = found["maker"] or ""
            if maker.endswith("conmon"):
                return None
            above = [part for part in parts[max(0, at - 2) : at] if part not in _RUNTIMES]
            pod = _POD.fullmatch(above[-1]) if above else None
            if not maker and at and parts[at - 1] in _RUNTIMES:
                maker = parts[at - 1]
            return Membership(found["id"], _uid(pod), _RUNTIMES.get(maker, ""))
        pod = _POD.fullmatch(parts[at])
        if pod is not None:
            return Membership("", _uid(pod))
    return None


def _uid(pod: re.Match[str] | None) -> str:
    return pod["uid"].replace("_", "-") if pod else ""


def membership_in(text: str) -> Membership | None:
    """The same for ``/proc/PID/cgroup``: the first hierarchy that tells of a container."""
    pod_only = None
    for line in text.splitlines():
        # cgroups(7): hierarchy-ID:controller-list:path, and the path may hold colons.
        found = membership(line.split(":", 2)[-1])
        if found is not None and found.id:
            return found
        pod_only = pod_only or found
    return pod_only


def membership_of(pid: int) -> Membership | None:
    """The same for a process; None also where it is gone or may not be read."""
    try:
        handle = os.open(f"/proc/{pid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(handle, 1 << 16)
    except OSError:
        return None
    finally:
        os.close(handle)
    return membership_in(text.decode("utf-8", "backslashreplace"))


def is_process_of(pid: int, identity: str) -> bool:
    """Whether ``pid``, which a runtime gave for container ``identity``, may be believed.

    The runtime may live in another PID namespace, where the number means another process:
    the cgroup says whose it is, and where it does not, only the first PID namespace is safe.
    """
    if not pid or not os.path.lexists(f"/proc/{pid}/ns/net"):
        return False
    member = membership_of(pid)
    if member is not None and member.id:
        return member.id == identity
    try:
        return os.stat("/proc/self/ns/pid").st_ino == _FIRST_PID_NAMESPACE
    except OSError:
        return False
