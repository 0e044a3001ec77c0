"""TARGET: whose network namespace a command is about.

``self``, ``pid:4140`` or a bare number, ``netns:/run/netns/blue`` or a bare path.
"""

from __future__ import annotations

import os

from meshnet.errors import MeshnetError, NotPermitted, UsageError, printable
from meshnet.host.netns import CLONE_NEWNET

#: include/uapi/linux/nsfs.h: which kind of namespace a file stands for.
_NS_GET_NSTYPE = 0xB703


def netns_of(target: str, origin: str = "--target") -> str | None:
    """The path of the target's network namespace; None for this process's own.

    ``origin`` is what the target was written in, for errors. Raises UsageError for what
    is no target, MeshnetError for a process or a namespace that is not there.
    """
    kind, _, name = target.partition(":")
    if target == "self":
        return None
    if target.startswith("/"):
        return netns_at(target, origin)
    if target.isascii() and target.isdigit():
        kind, name = "pid", target
    if kind == "pid" and name.isascii() and name.isdigit():
        if not os.path.lexists(f"/proc/{name}/ns/net"):
            raise MeshnetError(f"{origin}: there is no process {name}")
        return f"/proc/{name}/ns/net"
    if kind == "netns" and name.startswith("/"):
        return netns_at(name, origin)
    raise UsageError(
        f"{origin}: '{printable(target)}' is no target",
        "self, pid:NUMBER, a number, netns:/PATH, or a path",
    )


def netns_at(path: str, origin: str) -> str:
    """``path``, if a network namespace is there; raises as :func:`netns_of` does."""
    import fcntl

    shown = printable(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError as e:
        raise NotPermitted(f"{origin}: cannot open {shown}: {e.strerror}") from e
    except (OSError, ValueError) as e:
        raise MeshnetError(f"{origin}: there is no network namespace at '{shown}'") from e
    try:
        kind = fcntl.ioctl(handle, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    finally:
        os.close(handle)
    if kind != CLONE_NEWNET:
        raise UsageError(
            f"{origin}: '{shown}' is no network namespace",
            "a path such as /run/netns/NAME or /proc/PID/ns/net",
        )
    return path
