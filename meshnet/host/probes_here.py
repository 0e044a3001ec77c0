"""Probes of this process and this kernel that change nothing by looking."""

from __future__ import annotations

import os

from meshnet.host.apart import try_unshare
from meshnet.host.capabilities import held
from meshnet.host.modules import KernelParts
from meshnet.host.netns import CLONE_NEWNET, CLONE_NEWUSER
from meshnet.host.probes_programs import PROGRAM_PROBES
from meshnet.model.feature import Answer, Feature, degraded, missing, ok, untold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Probe = Callable[[Feature, KernelParts], Answer]

#: The kernel asks for these in the first user namespace only (kernel/bpf/syscall.c).
_FIRST_ONLY = ("CAP_BPF", "CAP_PERFMON")
_SO_NETNS_COOKIE = 71
_NS_GET_USERNS = 0xB701
_PIDFD_GETFD = 438


def in_first_userns() -> bool:
    """Whether every id is mapped, as in the first user namespace; True without /proc."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as f:
            return f.read().split() == ["0", "0", "4294967295"]
    except OSError:
        return True


def _capability(feature: Feature, parts: KernelParts) -> Answer:
    name = feature.probe[1]
    have = held()
    if name not in have and not (name in _FIRST_ONLY and "CAP_SYS_ADMIN" in have):
        return missing("this process does not have it")
    if name in _FIRST_ONLY and not in_first_userns():
        return degraded(
            "held in this user namespace, and the kernel asks for it in the first one",
            "run outside of the user namespace",
        )
    return ok("held" if name in have else "CAP_SYS_ADMIN stands for it")


def _mount(feature: Feature, parts: KernelParts) -> Answer:
    _, kind, usual = feature.probe
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as f:
        rows = [line.split() for line in f]
    places = [row[4] for row in rows if row[row.index("-") + 1] == kind]
    if places:
        return ok(f"mounted at {usual if usual in places else places[0]}")
    with open("/proc/filesystems", encoding="ascii", errors="replace") as f:
        known = any(line.split()[-1:] == [kind] for line in f)
    if known:
        return degraded("the kernel has it, and none is mounted here")
    return missing("the kernel has no such file system", "boot a kernel that has it")


def _file(feature: Feature, parts: KernelParts) -> Answer:
    path = feature.probe[1]
    if not os.path.exists(path):
        return missing(f"there is no {path}")
    if not os.access(path, os.R_OK):
        return degraded(f"{path} is closed to this user", "run as root")
    return ok(path)


def _sysctl(feature: Feature, parts: KernelParts) -> Answer:
    path = f"/proc/sys/{feature.probe[1]}"
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            return ok(f"it is {f.read().strip()}")
    except OSError as e:
        return degraded(f"{path} is not to be seen here: {e.strerror}")


def _namespace(feature: Feature, parts: KernelParts) -> Answer:
    user = try_unshare(CLONE_NEWUSER | CLONE_NEWNET)
    code = user if feature.probe[1] == "user" else try_unshare(CLONE_NEWNET)
    if code == 0:
        return ok("one was made, and is gone")
    if feature.probe[1] == "net" and user == 0:
        return degraded("allowed inside a user namespace only", "run with CAP_SYS_ADMIN")
    return missing(f"making one was refused: {os.strerror(code)}")


def _namespace_owner(feature: Feature, parts: KernelParts) -> Answer:
    import errno
    import fcntl

    handle = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.close(fcntl.ioctl(handle, _NS_GET_USERNS))
    except OSError as e:
        if e.errno != errno.EPERM:
            return missing(f"the kernel does not tell: {e.strerror}")
        return degraded(
            "this network namespace is owned outside of this user namespace", "ask outside of it"
        )
    finally:
        os.close(handle)
    return ok("the kernel tells")


def _pidfd(feature: Feature, parts: KernelParts) -> Answer:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as e:
        return missing(f"pidfd_open was refused: {e.strerror}")
    return ok("pidfd_open works")


def _pidfd_getfd(feature: Feature, parts: KernelParts) -> Answer:
    import ctypes
    import errno

    libc = ctypes.CDLL(None, use_errno=True)
    own = os.pidfd_open(os.getpid())
    try:
        got = libc.syscall(_PIDFD_GETFD, own, own, 0)
    finally:
        os.close(own)
    if got >= 0:
        os.close(got)
        return ok("works on this process")
    code = ctypes.get_errno()
    said = os.strerror(code)
    return missing(said) if code == errno.ENOSYS else untold(f"it was refused: {said}")


def _netns_cookie(feature: Feature, parts: KernelParts) -> Answer:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError as e:
            return missing(f"the kernel does not tell: {e.strerror}")
    return ok("the kernel tells")


def _ipv6(feature: Feature, parts: KernelParts) -> Answer:
    try:
        with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", encoding="ascii") as f:
            off = f.read().strip() != "0"
    except OSError:
        return missing("this kernel has none, or it was switched off at boot")
    return degraded("disable_ipv6 is set in this network namespace") if off else ok("on")


#: By the first word of a feature's probe.
HERE: dict[str, Probe] = {
    **PROGRAM_PROBES,
    "capability": _capability,
    "mount": _mount,
    "file": _file,
    "folder": _file,
    "sysctl": _sysctl,
    "namespace": _namespace,
    "namespace-owner": _namespace_owner,
    "pidfd": _pidfd,
    "pidfd-getfd": _pidfd_getfd,
    "netns-cookie": _netns_cookie,
    "ipv6": _ipv6,
}
