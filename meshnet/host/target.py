"""TARGET: whose network namespace a command is about.

``self``, ``pid:4140`` or a bare number, ``netns:/run/netns/blue`` or a bare path.
"""

from __future__ import annotations

import os

from meshnet.errors import MeshnetError, UsageError, printable


def netns_of(target: str) -> str | None:
    """The path of the target's network namespace; None for this process's own.

    Raises UsageError for what is no target, MeshnetError for a process that is not there.
    """
    kind, _, name = target.partition(":")
    if target == "self":
        return None
    if target.startswith("/"):
        return _checked(target)
    if target.isascii() and target.isdigit():
        return _process(target)
    if kind == "pid" and name.isascii() and name.isdigit():
        return _process(name)
    if kind == "netns" and name.startswith("/"):
        return _checked(name)
    raise UsageError(
        f"--target: {printable(target)!r} is no target",
        "self, pid:NUMBER, a number, netns:/PATH, or a path",
    )


def _process(pid: str) -> str:
    path = f"/proc/{pid}/ns/net"
    if not os.path.lexists(path):
        raise MeshnetError(f"there is no process {pid}")
    return path


def _checked(path: str) -> str:
    if not os.path.exists(path):
        raise MeshnetError(f"there is no network namespace at {printable(path)}")
    return path
