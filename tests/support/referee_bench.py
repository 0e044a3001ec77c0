"""A namespace where the referee's packets run: wires that end in itself, a trace, and a sink."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meshnet.dialects.iptables import parse_save, print_save
from meshnet.dialects.nft_json import parse_listing
from meshnet.dialects.nft_text import print_rule, print_table
from meshnet.model.address import read_address, read_cidr
from meshnet.model.frozen import replace
from meshnet.model.packet import Family
from meshnet.model.rule import Kind
from meshnet.model.ruleset import Ruleset, Table
from tests.support.lottery import TABLES
from tests.support.namespaces import Namespace, Namespaces
from tests.support.referee_agent import LISTENER

PREFIX = {Family.IP: "iptables", Family.IP6: "ip6tables"}
#: Packets with this bit in their mark are for this namespace, wherever they are addressed to.
BY_MARK = 0x2000
#: The interface, the other end of its wire, its addresses, and what is routed to it.
LINKS = (
    ("v0", "x0", "10.9.0.1/24", "fd09::1/64", ("default",), ("::/0",)),
    ("eth7", "x7", "10.7.0.1/24", "fd07::1/64", ("198.51.100.0/24",), ("2001:db8:51::/48",)),
    ("vm0", "x8", "10.8.0.1/24", "fd08::1/64", ("10.128.0.0/9",), ("2001:db8:80::/48",)),
)
WIRES = {link[0]: link[1] for link in LINKS}
PATIENCE, LONGER = 0.004, 0.1
_SYSCTLS = (
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.default.router_solicitations=0",
    "net.ipv6.conf.default.addr_gen_mode=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
)
#: Switches the trace on before all rules; tells what survived behind all, and ends it.
_SINK = f"""
table inet sink {{
    chain begin-out {{ type filter hook output priority -1000; meta nftrace set 1; }}
    chain begin-in {{ type filter hook prerouting priority -1000; meta nftrace set 1; }}
    chain handed {{ drop; }}
    chain out {{ type filter hook postrouting priority 1000; oifname != "lo" drop; }}
    chain in {{ type filter hook input priority 1000; meta skuid {LISTENER} goto handed; drop; }}
}}
"""
#: The order in which backends are loaded: nft's part begins with an empty nf_tables.
_ORDER = ("nft", "nft-compat", "legacy")


class Bench:
    """A namespace with its wires, and the agent that sends in it."""

    def __init__(self, namespaces: Namespaces) -> None:
        self.netns: Namespace = namespaces.make()
        self.tag = 0
        self.netns.run("sysctl", "-qw", *_SYSCTLS)
        for version, lines in _wiring().items():
            self.netns.run("ip", version, "-batch", "-", text="\n".join(lines))
        self.netns.run("nft", "-f", "-", text=_SINK)
        # Conntrack is there now, with its sysctl: an ACK out of nowhere is invalid.
        self.netns.run("nft", "add table ip t; add chain ip t c; add rule ip t c ct state new")
        self.netns.run("nft", "delete table ip t")
        self.netns.run("sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_loose=0")
        shown = self.netns.run("ip", "-br", "link", "show").stdout.splitlines()
        self.macs = {words[0].partition("@")[0]: words[2] for words in map(str.split, shown)}
        self.process = subprocess.Popen(
            [
                *("nsenter", f"--net={self.netns.path}"),
                *(sys.executable, "-m", "tests.support.referee_agent"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "LC_ALL": "C"},
        )

    def load(self, rulesets: dict[str, Ruleset]) -> tuple[dict[str, Ruleset], Any]:
        """Put the rules in, in place of those before; as dumped, with nf_tables' handles."""
        for backend in sorted(rulesets, key=_ORDER.index):
            ruleset = rulesets[backend]
            if backend == "nft":
                lines = [line for table in ruleset.tables for line in _lines(table)]
                text = "\n".join(["flush ruleset", _SINK, *lines]) + "\n"
                self.netns.run("nft", "-f", "-", text=text)
                continue
            for family, prefix in PREFIX.items():
                text = print_save(ruleset.of(family))
                text += "".join(f"*{n}\nCOMMIT\n" for n in TABLES if f"*{n}\n" not in text)
                self.netns.run(f"{prefix}-{_variant(backend)}-restore", text=text)
        return self._read(rulesets)

    def load_text(self, text: str) -> tuple[dict[str, Ruleset], Any]:
        """As :meth:`load`, for rules as nft reads them."""
        self.netns.run("nft", "-f", "-", text=f"flush ruleset\n{_SINK}\n{text}")
        return self._read({"nft": Ruleset()})

    def _read(self, rulesets: dict[str, Ruleset]) -> tuple[dict[str, Ruleset], Any]:
        tools = [tool for backend in rulesets for tool in _tools(backend)]
        told = self._ask({"tools": tools, "listen": sorted(_ports(rulesets))})
        dumps = iter(told["dumps"])
        found = {}
        for backend in rulesets:
            if backend == "nft":
                tables = parse_listing(next(dumps)).tables
                kept = (t for t in tables if t.name != "sink" and t.name not in TABLES)
                found[backend] = Ruleset(tuple(kept))
            else:
                parts = [parse_save(next(dumps), family) for family in PREFIX]
                found[backend] = Ruleset(tuple(t for part in parts for t in part.tables))
        return found, told["handles"]

    def send(
        self, packets: list[dict[str, Any]], patience: float = PATIENCE
    ) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Each packet with a tag of its own, and what the kernel told of it.

        After ``patience`` seconds of silence nothing more is awaited.
        """
        tagged = []
        for packet in packets:
            self.tag = self.tag % 0xFFFF + 1
            fresh = {**packet, "tag": self.tag}
            if packet["sport"] is None:
                fresh["sport"] = 1024 + self.tag % 60000
            if "wire" in packet:
                fresh["mac"] = self.macs[packet["link"]]
            tagged.append(fresh)
        return list(zip(tagged, self._ask({"packets": tagged, "patience": patience}), strict=True))

    def _ask(self, asked: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the agent ended"
        return json.loads(line)

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


def _wiring() -> dict[str, list[str]]:
    """What ip makes the wires and routes of, by the version that it is asked to speak."""
    made: dict[str, list[str]] = {"-4": [], "-6": []}
    for near, far, address, address6, blocks, blocks6 in LINKS:
        made["-4"] += [f"link add {near} type veth peer name {far}"]
        made["-4"] += [
            f"link set {near} up",
            f"link set {far} up",
            f"addr add {address} dev {near}",
        ]
        made["-6"] += [f"addr add {address6} dev {near} nodad"]
        for version, text, routed in (("-4", address, blocks), ("-6", address6, blocks6)):
            gateway = f"{text.split('/')[0][:-1]}2"
            made[version] += [f"route add {block} via {gateway} dev {near}" for block in routed]
    for lines in made.values():
        lines.append(f"rule add fwmark {BY_MARK}/{BY_MARK} lookup 133")
        lines.append("route add local default dev lo table 133")
    return made


def _lines(table: Table) -> list[str]:
    """As nft reads it; rules of others are in its own words already."""
    where = f"{table.family.value} {table.name}"
    known = [replace(c, rules=()) for c in table.chains]
    lines = print_table(replace(table, chains=tuple(known)))
    for chain in table.chains:
        for rule in chain.rules:
            text = rule.opaque or print_rule(rule, table.family)
            lines.append(f"add rule {where} {chain.name} {text}")
    return lines


def addresses() -> dict[tuple[str, Family], int]:
    """The primary addresses of the interfaces, for a walker."""
    found = {}
    for near, _, *both, _, _ in LINKS:
        for text in both:
            family, number = read_address(text.split("/")[0])
            found[near, family] = number
    return found


_OWN = {(family, number): near for (near, family), number in addresses().items()}
_ROUTES = [
    (read_cidr(text)[0], near)
    for near, _, address, address6, *routed in LINKS
    for text in (address, address6, *routed[0], *routed[1])
    if text not in ("default", "::/0")
]


def is_own(family: Family, number: int) -> bool:
    """Whether an address is one of this namespace's."""
    inside = number >> 24 == 127 if family is Family.IP else number == 1
    return inside or (family, number) in _OWN


def way_out(family: Family, number: int) -> str:
    """The interface that the route to an address leads to."""
    if is_own(family, number):
        return "lo"
    for block, near in _ROUTES:
        if block.family is family and number in block.values():
            return near
    return "v0"


def _variant(backend: str) -> str:
    return "nft" if backend == "nft-compat" else backend


def _tools(backend: str) -> list[list[str]]:
    if backend == "nft":
        return [["nft", "-j", "list", "ruleset"]]
    return [[f"{prefix}-{_variant(backend)}-save"] for prefix in PREFIX.values()]


def _ports(rulesets: dict[str, Ruleset]) -> set[int]:
    """The ports that TPROXY hands packets to."""
    targets = [rule.target for ruleset in rulesets.values() for _, _, rule in ruleset.rules()]
    return {t.port for t in targets if t is not None and t.kind is Kind.TPROXY}
