"""The sysctls that decide what becomes of captured traffic, as this network namespace has them.

``/proc/sys/net`` shows the namespace of whoever looks (net/sysctl_net.c, net_ctl_set_lookup),
so that a child reads its own there, whatever namespace that /proc was mounted in.
"""

from __future__ import annotations

import os

from meshnet.model.snapshot import Gap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ROOT = "/proc/sys/"
_NET = "net."
#: Names as sysctl(8) prints them; IF stands for all, default and each interface.
_NAMES = (
    "net.ipv4.ip_forward",
    "net.ipv4.ip_nonlocal_bind",
    "net.ipv4.tcp_fwmark_accept",
    "net.ipv4.conf.IF.route_localnet",
    "net.ipv4.conf.IF.rp_filter",
    "net.ipv4.conf.IF.accept_local",
    "net.ipv4.conf.IF.src_valid_mark",
    "net.ipv6.conf.all.forwarding",
    "net.ipv6.conf.IF.disable_ipv6",
    "net.netfilter.nf_log.2",
    "net.netfilter.nf_log.10",
    "net.netfilter.nf_conntrack_tcp_loose",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_count",
)
#: Whether loggers work outside the first namespace: shown in that one only, meant for all.
GLOBAL = ("net.netfilter.nf_log_all_netns",)
_MOST_LINKS = 1000


def read_sysctls(links: Iterable[str]) -> tuple[dict[str, str], tuple[Gap, ...]]:
    """Name and value of those that exist here; ``links`` are the interfaces to ask about.

    A dot in an interface's name is a slash, as sysctl(8) has it. Needs no capability; one
    that may not be read is named by a gap. Raises OSError where /proc/sys is not there.
    """
    found: dict[str, str] = {}
    gaps: list[Gap] = []
    every = ["all", "default", *links]
    if len(every) > _MOST_LINKS:
        gaps.append(Gap("sysctls", f"{_MOST_LINKS:,} of {len(every):,} interfaces kept"))
    # Each part of a path below /proc/sys is looked up anew: this saves two of them each time.
    folder = os.open(f"{_ROOT}net", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name, path in _paths(every[:_MOST_LINKS]):
            try:
                found[name] = _read(path, folder)
            except FileNotFoundError:
                continue
            except OSError as e:
                gaps.append(Gap("sysctls", f"{name}: {e.strerror}"))
    finally:
        os.close(folder)
    return found, tuple(gaps)


def read_global() -> dict[str, str]:
    """The sysctls of :data:`GLOBAL`, as far as this process's namespace shows them."""
    found = {}
    for name in GLOBAL:
        try:
            found[name] = _read(_ROOT + name.replace(".", "/"))
        except OSError:
            continue
    return found


def _paths(links: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each name, with its path below /proc/sys/net."""
    for name in _NAMES:
        head, between, tail = name.partition(".IF.")
        path = head.removeprefix(_NET).replace(".", "/")
        if not between:
            yield name, path
            continue
        for link in links:
            yield f"{head}.{link.replace('.', '/')}.{tail}", f"{path}/{link}/{tail}"


def _read(path: str, folder: int | None = None) -> str:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(handle, 4096).decode("utf-8", "backslashreplace").strip()
    finally:
        os.close(handle)
