"""The DNS servers that this machine's resolver uses."""

from __future__ import annotations

import os

from meshnet.errors import MeshnetError
from meshnet.model.address import read_cidr
from meshnet.model.spec import Cidr

RESOLV_CONF = "/etc/resolv.conf"


def resolv_conf_of(netns: str | None) -> str:
    """The resolv.conf of the processes in a namespace: of /proc/PID/ns/net, of a named one.

    That of this machine where ``netns`` is None, or where it has none of its own.
    """
    words = (netns or "").split("/")
    if len(words) == 5 and words[1] == "proc" and words[3:] == ["ns", "net"]:
        own = f"/proc/{words[2]}/root{RESOLV_CONF}"
    else:
        own = f"/etc/netns/{words[-1]}/resolv.conf"
    return own if netns is not None and os.path.exists(own) else RESOLV_CONF


def dns_servers(path: str = RESOLV_CONF) -> tuple[Cidr, ...]:
    """The nameservers of ``path`` as host blocks, in order; lines that name none are skipped.

    A zone index (``fe80::1%eth0``) is dropped: rules know no zones. Raises MeshnetError
    where the file cannot be read.
    """
    servers = []
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            lines = f.read().splitlines()
    except OSError as e:
        raise MeshnetError(
            f"cannot read {path}: {e.strerror}", "--dns-server names servers instead"
        ) from e
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                servers.append(read_cidr(words[1].partition("%")[0])[0])
            except ValueError:
                continue
    return tuple(servers)
