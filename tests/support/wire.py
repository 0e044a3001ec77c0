"""A namespace with a wire that ends in itself, and a program that sends packets in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meshnet.dialects.iptables import print_save
from meshnet.dialects.nft_text import print_table
from meshnet.model.packet import Family
from meshnet.model.ruleset import Ruleset
from tests.support.lottery import TABLES, TPROXY_PORT
from tests.support.namespaces import Namespace, Namespaces

PROGRAM = str(Path(__file__).parent / "injector.py")
PREFIX = {Family.IP: "iptables", Family.IP6: "ip6tables"}
FIRST_SEED = int(os.environ.get("MESHNET_SEED", "1"))
#: Seconds that a packet gets to arrive.
PATIENCE = 0.001
#: The backends that hold rules at once.
SETUPS: dict[str, tuple[str, ...]] = {
    "legacy": ("legacy",),
    "nft-compat": ("nft-compat",),
    "nft": ("nft",),
    "legacy-and-nft": ("legacy", "nft"),
    "nft-compat-and-nft": ("nft-compat", "nft"),
}
_SYSCTLS = (
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.default.router_solicitations=0",
    "net.ipv6.conf.default.addr_gen_mode=1",
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
)
_LINKS = """
link add v0 type veth peer name v1
addr add 10.9.0.1/24 dev v0
addr add fd09::1/64 dev v0 nodad
link set v0 up
link set v1 up
route add default via 10.9.0.2
route add ::/0 via fd09::2
"""
#: Lets nobody answer what survived.
_SINK = """
table inet sink {
    chain post {
        type filter hook postrouting priority 400
        oifname != "lo" drop
    }
    chain in {
        type filter hook input priority 400
        drop
    }
}
"""


class Bench:
    """A namespace with a wire that ends in itself, and the program that sends in it."""

    def __init__(self, namespaces: Namespaces) -> None:
        self.netns: Namespace = namespaces.make()
        self.port = 1024
        self.netns.run("sysctl", "-qw", *_SYSCTLS)
        self.netns.run("ip", "-batch", "-", text=_LINKS)
        self.netns.run("nft", "-f", "-", text=_SINK)
        # Conntrack is there now, with its sysctl: an ACK out of nowhere is invalid.
        self.netns.run("nft", "add table ip t; add chain ip t c; add rule ip t c ct state new")
        self.netns.run("nft", "delete table ip t")
        self.netns.run("sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_loose=0")
        self.mac = self.netns.run("ip", "-br", "link", "show", "v0").stdout.split()[2]
        self.process = subprocess.Popen(
            ["nsenter", f"--net={self.netns.path}", sys.executable, "-I", "-S", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fresh_port(self) -> int:
        """A source port that was not used here before.

        What left by lo is a connection now: its tuple is never the first again.
        """
        self.port = self.port + 1 if self.port < 60000 else 1025
        return self.port

    def load(self, rulesets: dict[str, Ruleset]) -> None:
        """Put the rules of each backend in, in place of those before."""
        for backend, ruleset in rulesets.items():
            if backend == "nft":
                names = {(t.family.value, t.name) for t in ruleset.tables}
                lines = [f"add table {f} {n}\ndelete table {f} {n}" for f, n in sorted(names)]
                lines += [line for table in ruleset.tables for line in print_table(table)]
                self.netns.run("nft", "-f", "-", text="\n".join(lines) + "\n")
                continue
            for family, prefix in PREFIX.items():
                text = print_save(ruleset.of(family))
                text += "".join(f"*{n}\nCOMMIT\n" for n in TABLES if f"*{n}\n" not in text)
                self.netns.run(f"{prefix}-{_variant(backend)}-restore", text=text)

    def send(self, packets: list[dict[str, Any]], patience: float = PATIENCE) -> None:
        """Send them one by one; each has ``patience`` seconds to arrive."""
        sent = [{**p, "mac": self.mac} for p in packets]
        asked = {"packets": sent, "patience": patience, "listen": [TPROXY_PORT]}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline(), "the injector ended"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def bench(namespaces: Namespaces) -> Iterator[Bench]:
    """A bench that ends with the block."""
    made = Bench(namespaces)
    try:
        yield made
    finally:
        made.end()


def _variant(backend: str) -> str:
    return "nft" if backend == "nft-compat" else backend
