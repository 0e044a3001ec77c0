"""TARGET: whose network namespace a command is about.

``self``, ``all``, ``pid:4140``, ``container:3f2a``, ``pod:shop/cart-7d9f``,
``netns:/run/netns/blue`` or ``netns:blue``, ``cgroup:/sys/fs/cgroup/shop``. A bare number is
a pid, a bare path a network namespace (or a cgroup, below a cgroup mount), and anything else
the beginning of the name of a pod or container or of a container's id, as far as only one
has it.

``meshnet-init`` asks :func:`netns_of`, which loads nothing for what needs no search.
"""

from __future__ import annotations

import os

from meshnet.errors import MeshnetError, NotPermitted, UsageError, printable
from meshnet.host.netns import CLONE_NEWNET
from meshnet.model.frozen import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from meshnet.model.snapshot import ContainerName

#: include/uapi/linux/nsfs.h: which kind of namespace a file stands for.
_NS_GET_NSTYPE = 0xB703

#: What a target can begin with, and where "netns:NAME" is looked for.
KINDS = ("pid", "container", "pod", "netns", "cgroup")
NAMED = "/run/netns"
HINT = "self, all, pid:NUMBER, container:ID, pod:NAMESPACE/NAME, netns:PATH, cgroup:PATH"


@dataclass(frozen=True)
class Target:
    """A network namespace that somebody asked for, and what it is known as.

    ``path`` is where to enter it, None for this process's own; ``inode`` tells it from any
    other that lives. ``name`` is the best of its ``names``: pod, container, name of the
    namespace, "pid N (command)"; "host" for the one of process 1. ``pids`` are the
    processes seen in it, in order; empty where nothing runs. ``cgroup`` is the one asked
    for, else "". All texts are as the outside gave them: escape before printing.
    """

    asked: str
    path: str | None
    inode: int
    name: str
    pod: str = ""
    containers: tuple[ContainerName, ...] = ()
    pids: tuple[int, ...] = ()
    cgroup: str = ""
    names: tuple[str, ...] = ()


def resolve(target: str, origin: str = "TARGET") -> Target:
    """The one network namespace that ``target`` means.

    ``origin`` is what the target was written in, for errors. Raises UsageError for what is
    no target and for "all"; MeshnetError for what is not there (with the sources asked and
    those that could not be) and for what more than one is called; NotPermitted where
    looking needs a capability, or a runtime's socket refused us.
    """
    from meshnet.host.resolving import resolve_one

    return resolve_one(target, origin)


def resolve_all() -> tuple[Target, ...]:
    """Every network namespace of this machine once; the reader's own first, then by name.

    Raises NotPermitted where processes of others cannot be read (CAP_SYS_PTRACE): a list
    with holes would be taken for whole.
    """
    from meshnet.host.resolving import resolve_every

    return resolve_every()


def split(target: str, origin: str) -> tuple[str, str]:
    """``target`` as (kind, name). Kinds: KINDS, "self", "all", "path", and "name" for a bare one.

    Raises UsageError for what cannot be any of them.
    """
    if target in ("self", "all"):
        return target, ""
    if target.startswith("/"):
        return "path", target
    if is_number(target):
        return "pid", target
    kind, colon, name = target.partition(":")
    if not colon:
        kind, name = "name", target
    elif name.startswith("//"):
        kind, name = "container", target
    if kind == "container":
        # As "kubectl get pod -o yaml" shows it: containerd://3f2a...
        name = name.rpartition("://")[2]
    if not _FITS.get(kind, _never)(name):
        raise UsageError(f"{origin}: '{printable(target)}' is no target", HINT)
    return kind, name


def is_number(text: str) -> bool:
    """Whether ``text`` is a number as a pid is written."""
    return text.isascii() and text.isdigit() and len(text) <= 10


def _is_name(text: str) -> bool:
    """Whether a pod or container can be called so: what Kubernetes and every runtime allow."""
    plain = text.replace("-", "").replace("_", "").replace(".", "").replace("/", "")
    return plain.isascii() and plain.isalnum() and text[0].isalnum() and text.count("/") <= 1


def _is_netns_name(text: str) -> bool:
    plain = "/" not in text and text not in ("", ".", "..")
    return (text.startswith("/") or plain) and "\0" not in text


def _never(text: str) -> bool:
    return False


_FITS: dict[str, Callable[[str], bool]] = {
    "pid": is_number,
    "container": _is_name,
    "pod": _is_name,
    "name": _is_name,
    "netns": _is_netns_name,
    "cgroup": lambda text: text.startswith("/") and "\0" not in text,
}


def netns_of(target: str, origin: str = "--target") -> str | None:
    """The path of the target's network namespace; None for this process's own.

    Raises as :func:`resolve` does.
    """
    kind, name = split(target, origin)
    if kind == "self":
        return None
    if kind == "pid":
        return netns_of_process(name, origin)
    if kind == "netns":
        return netns_at(name if name.startswith("/") else f"{NAMED}/{name}", origin)
    if kind == "path" and not os.path.isdir(name):
        return netns_at(name, origin)
    return resolve(target, origin).path


def netns_of_process(pid: str, origin: str) -> str:
    """The path of a process's network namespace; MeshnetError where there is no such process."""
    path = f"/proc/{int(pid)}/ns/net"
    if not os.path.lexists(path):
        raise MeshnetError(f"{origin}: there is no process {int(pid)}")
    return path


def netns_at(path: str, origin: str) -> str:
    """``path``, if a network namespace is there.

    Raises MeshnetError where nothing is, NotPermitted where it may not be opened,
    UsageError where it is something else.
    """
    shown = printable(path)
    try:
        found = is_netns(path)
    except PermissionError as e:
        raise NotPermitted(f"{origin}: cannot open {shown}: {e.strerror}") from e
    except (OSError, ValueError) as e:
        raise MeshnetError(f"{origin}: there is no network namespace at '{shown}'") from e
    if not found:
        raise UsageError(
            f"{origin}: '{shown}' is no network namespace",
            "a path such as /run/netns/NAME or /proc/PID/ns/net",
        )
    return path


def is_netns(path: str) -> bool:
    """Whether the file at ``path`` is a network namespace. Raises what open() raises."""
    import fcntl

    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return fcntl.ioctl(handle, _NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False
    finally:
        os.close(handle)
