"""Capabilities of this process, by name."""

from __future__ import annotations

from meshnet.errors import NotPermitted

_BITS = {"CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
_BITS |= {"CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}


def held() -> frozenset[str]:
    """The names, of those that meshnet asks for, in this process's effective set.

    Empty on a machine without ``/proc/self/status``.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as f:
            line = next(line for line in f if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return frozenset()
    mask = int(line.split()[1], 16)
    return frozenset(name for name, bit in _BITS.items() if mask >> bit & 1)


def unmapped_ids_hint(words: str) -> str:
    """Why the kernel may have said "Invalid argument": an owner that this user namespace lacks.

    "" where ``words`` say something else, or every id is mapped (``net/netfilter/xt_owner.c``
    makes ids valid in the user namespace of the network namespace).
    """
    try:
        with open("/proc/self/uid_map", encoding="ascii") as f:
            whole = f.read().split() == ["0", "0", "4294967295"]
    except OSError:
        whole = True
    if whole or "Invalid argument" not in words:
        return ""
    return "in a user namespace, rules can name only UIDs and GIDs that are mapped in it"


def require(*names: str) -> None:
    """Raise NotPermitted for the first of ``names`` that is not held."""
    have = held()
    for name in names:
        if name not in have:
            raise NotPermitted(
                f"needs {name} in this network namespace",
                "run as root, or add the capability to the container",
            )
