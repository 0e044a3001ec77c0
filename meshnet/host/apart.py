"""A child in a network namespace of its own, where a probe may do what it likes.

The namespace has no name and nobody else in it: it ends with the child.
"""

from __future__ import annotations

import os

from meshnet.errors import NotPermitted
from meshnet.host.capabilities import held
from meshnet.host.netns import CLONE_NEWNET, CLONE_NEWUSER, run_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_FULL = frozenset({"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW"})
#: What a job apart may take, in seconds.
TIMEOUT = 20.0


def run_apart(job: Callable[[], Any]) -> Any:
    """The result of ``job``, run with all capabilities over a fresh network namespace.

    Where this process lacks some, the child makes a user namespace as well. Raises
    NotPermitted where the kernel or its policy allows neither; else as ``run_child`` does.
    """

    def inside() -> Any:
        _leave()
        return job()

    return run_child(inside, timeout=TIMEOUT)


def try_unshare(kinds: int) -> int:
    """0 where a child may unshare ``kinds`` (CLONE_NEW… bits), else the errno it got."""
    return int(run_child(lambda: _unshare(kinds), timeout=TIMEOUT))


def _leave() -> None:
    if held() >= _FULL:
        code = _unshare(CLONE_NEWNET)
        if code == 0:
            return
    user, group = os.geteuid(), os.getegid()
    code = _unshare(CLONE_NEWUSER | CLONE_NEWNET)
    if code:
        raise NotPermitted(
            f"a network namespace of its own was refused: {os.strerror(code)}",
            "run with CAP_SYS_ADMIN and CAP_NET_ADMIN, or where user namespaces are allowed",
        )
    # Without an id mapped to root, a program that is started loses what this child may do.
    try:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {user} 1"),
            ("gid_map", f"0 {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as f:
                f.write(text)
    except OSError as e:
        raise NotPermitted(
            f"a user namespace of its own cannot be used: {e.strerror}",
            "run with CAP_SYS_ADMIN and CAP_NET_ADMIN, or as root with CAP_SETFCAP",
        ) from e


def _unshare(kinds: int) -> int:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    return 0 if libc.unshare(kinds) == 0 else ctypes.get_errno()
