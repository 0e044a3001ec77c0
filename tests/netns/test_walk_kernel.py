"""The walk against the kernel: random rulesets, real packets, each rule's counter, each outcome."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meshnet.dialects.iptables import parse_save, print_save
from meshnet.dialects.nft_json import parse_listing
from meshnet.dialects.nft_text import print_table
from meshnet.model.address import read_address
from meshnet.model.packet import Family
from meshnet.model.rule import Kind
from meshnet.model.ruleset import Ruleset
from meshnet.model.verdict import Journey, Step, Verdict
from meshnet.reason import fates
from meshnet.reason.walk import Walker
from tests.support.cases import BACKENDS, CASES
from tests.support.lottery import OWN, TABLES, TPROXY_PORT, Lottery, as_packet
from tests.support.namespaces import Namespace, Namespaces
from tests.support.walks import compiled

PROGRAM = str(Path(__file__).parents[1] / "support" / "injector.py")
PREFIX = {Family.IP: "iptables", Family.IP6: "ip6tables"}
FAMILIES = {4: Family.IP, 6: Family.IP6}
#: How many rulesets and packets; MESHNET_WALKS=20 makes it twenty times as many rulesets.
RULESETS, PACKETS = 8 * int(os.environ.get("MESHNET_WALKS", "1")), 12
FIRST_SEED = int(os.environ.get("MESHNET_SEED", "1"))
#: Seconds that a packet gets to arrive; a second look has more, for a machine that is busy.
PATIENCE, LONGER = 0.001, 0.1
#: How often a packet is sent again that the two disagree about.
AGAIN = 3
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
#: Tells what survived, behind everything else, and lets nobody answer it.
_SINK = """
table inet sink {
    chain post {
        type filter hook postrouting priority 400
        oifname != "lo" log group 7
        oifname != "lo" drop
    }
    chain in {
        type filter hook input priority 400
        log group 7
        drop
    }
}
"""

#: Every table but the sink's away.
_SINK_ONLY = "flush ruleset\n" + _SINK

Key = tuple[str, str, str, str, int]
Counts = Counter[Key]


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

    def send(
        self, backends: tuple[str, ...], packets: list[dict[str, Any]], patience: float
    ) -> list[dict[str, Any]]:
        """For each packet the events and the dumps; before them the dumps alone."""
        tools = {v: [_tools(b, v) for b in backends] for v in (4, 6)}
        sent = [{**p, "mac": self.mac} for p in packets]
        asked = {"tools": tools, "packets": sent, "patience": patience, "listen": [TPROXY_PORT]}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        told: list[dict[str, Any]] = json.loads(self.process.stdout.readline())
        for one in told:
            parts = [_parsed(backends, v, one["dumps"].get(str(v))) for v in (4, 6)]
            one["rulesets"] = _joined(parts)
        return told

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


def _tools(backend: str, version: int) -> list[str]:
    """What shows the rules for packets of one IP version."""
    if backend == "nft":
        return ["nft", "-j", "list", "ruleset"]
    return [f"{PREFIX[FAMILIES[version]]}-{_variant(backend)}-save", "-c"]


def _parsed(backends: tuple[str, ...], version: int, dumps: list[str] | None) -> dict[str, Ruleset]:
    found = {}
    for backend, dump in zip(backends, dumps or (), strict=False):
        if backend == "nft":
            tables = parse_listing(dump).tables
            kept = (t for t in tables if t.name != "sink" and t.name not in TABLES)
            found[backend] = Ruleset(tuple(kept))
        else:
            found[backend] = parse_save(dump, FAMILIES[version])
    return found


def _joined(parts: list[dict[str, Ruleset]]) -> dict[str, Ruleset]:
    """Dumps for both versions as one; nft's has both already."""
    found = {**parts[1], **parts[0]}
    for backend in parts[1]:
        if backend != "nft" and backend in parts[0]:
            found[backend] = Ruleset(parts[0][backend].tables + parts[1][backend].tables)
    return found


def _counts(rulesets: dict[str, Ruleset]) -> Counts:
    found: Counts = Counter()
    for backend, ruleset in rulesets.items():
        for table in ruleset.tables:
            for chain in table.chains:
                for at, rule in enumerate(chain.rules, 1):
                    key = (backend, table.family.value, table.name, chain.name, at)
                    found[key] = rule.packets
    return found


def _predicted(journey: Journey) -> Counts:
    found: Counts = Counter()
    for step in journey.steps:
        if step.held and step.rule is not None:
            found[_key(step)] += 1
    return found


def _key(step: Step) -> Key:
    place = step.place
    return (place.backend, place.family.value, place.table, place.chain, place.position)


class Referee:
    """Compares what a walk says with what the kernel did, and counts what was compared."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: Counter[str] = Counter()
        self.forked = False
        added = fates.Tree.add

        def add(tree: fates.Tree, found: Any, *met: Any) -> None:
            self.forked = self.forked or (isinstance(found, fates.Fork) and len(found.ways) > 1)
            added(tree, found, *met)

        monkeypatch.setattr(fates.Tree, "add", add)

    def check_coverage(self) -> None:
        """Assert that the packets were of all kinds."""
        total = sum(n for name, n in self.seen.items() if not name.startswith("rules"))
        for hook in ("output", "prerouting"):
            for verdict in ("captured", "direct", "dropped"):
                seen = sum(
                    n for name, n in self.seen.items() if name.startswith(f"{hook} {verdict}")
                )
                assert seen >= total / 100, f"{hook} {verdict}: {seen} of {total}"

    def disagreement(
        self, walker: Walker, sent: dict[str, Any], before: Counts, after: dict[str, Any]
    ) -> str:
        """What the two say differently about one packet; "" where nothing."""
        packet, hook, local = as_packet(sent)
        # A remembered outcome would not show its forks.
        walker.forget()
        self.forked = False
        journey = walker.walk(packet, hook, local=local)
        self.seen[f"{hook} {journey.verdict.value}{' by a fork' if self.forked else ''}"] += 1
        # A reset that a rule sends goes the other way; and IPv6 has its own to say.
        heard = [e for e in after["events"] if e["proto"] == sent["proto"]]
        events = [e for e in heard if e["sport"] in (None, sent["sport"])]
        if len(events) > 1:
            return f"several packets were heard: {events}"
        event = events[0] if events else None
        possible = journey.fates or (journey,)
        wrong = [_outcome(one, sent, event, self.forked) for one in possible]
        if all(wrong):
            return " or ".join(wrong)
        if self.forked or answers(journey):
            return ""
        counted = _counts(after["rulesets"])
        met = Counter({key: n - before[key] for key, n in counted.items() if n != before[key]})
        said = _predicted(journey)
        for step in journey.steps:
            if step.held is None:
                # It makes no difference whether it held; nobody knows.
                met.pop(_key(step), None)
        for key in said:
            self.seen[f"rules met in {key[0]}"] += 1
        if met != said:
            return f"only the kernel met {dict(met - said)}, only the walk {dict(said - met)}"
        return ""


def answers(journey: Journey) -> bool:
    """Whether a rule answers the packet: the answer is counted too."""
    decider = journey.decider
    target = decider.rule.target if decider is not None and decider.rule is not None else None
    return target is not None and target.kind in (Kind.RESET, Kind.REJECT)


def _outcome(
    journey: Journey, sent: dict[str, Any], event: dict[str, Any] | None, forked: bool
) -> str:
    """How the end of a packet differs from the walk's; "" where it does not.

    Ways with one fate may leave other marks behind.
    """
    if journey.verdict is Verdict.DROPPED:
        return f"not dropped: {event}" if event else ""
    if event is None:
        return f"dropped, and not {journey.verdict.value}"
    left = journey.packet
    over_lo = "wire" not in sent and event["hook"] == 1
    wrong = []
    if event["dport"] is not None and event["dport"] != left.dport:
        wrong.append(f"port {event['dport']}, not {left.dport}")
    handed = journey.decider is not None and "hand to" in journey.decider.action
    if journey.verdict is Verdict.CAPTURED and not handed and event["dport"] != journey.port:
        wrong.append(f"port {event['dport']}, captured by {journey.port}")
    if read_address(event["dst"])[1] != left.dst:
        wrong.append(f"to {event['dst']}, not {left.dst:x}")
    if not over_lo and not forked and event["mark"] != left.mark:
        wrong.append(f"mark {event['mark']}, not {left.mark}")
    if "wire" not in sent and (left.oif == "lo") is not over_lo:
        wrong.append(f"by {event['oif'] or 'lo'}, not {left.oif}")
    return ", ".join(wrong)


def _walker(rulesets: dict[str, Ruleset]) -> Walker:
    addresses = {("v0", family): read_address(text)[1] for family, text in OWN.items()}
    return Walker(rulesets, addresses, marks_route=False)


def _is_routed(sent: dict[str, Any], rulesets: dict[str, Ruleset]) -> bool:
    """Whether TPROXY may get a packet that no policy route leads back here."""
    elsewhere = "wire" in sent and not as_packet(sent)[2]
    kinds = {r.target.kind.value for s in rulesets.values() for _, _, r in s.rules() if r.target}
    return elsewhere and "tproxy" in kinds


def _compare(
    made: Bench,
    referee: Referee,
    seed: int,
    rulesets: dict[str, Ruleset],
    lottery: Lottery,
    count: int = PACKETS,
) -> list[str]:
    """Send packets under ``rulesets``; the disagreements, each with the seed and the packet."""
    made.load(rulesets)
    backends = tuple(rulesets)
    packets = [p for p in (lottery.packet() for _ in range(count)) if not _is_routed(p, rulesets)]
    packets = [{**packet, "sport": made.fresh_port()} for packet in packets]
    told = made.send(backends, packets, PATIENCE)
    walker = _walker(told[0]["rulesets"])
    counts = _counts(told[0]["rulesets"])
    found = []
    for sent, after in zip(packets, told[1:], strict=True):
        said = referee.disagreement(walker, sent, counts, after)
        counts |= _counts(after["rulesets"])
        for _ in range(AGAIN):
            # The kernel has packets of its own, neighbour discovery among them: what is wrong
            # with the walk is wrong each time.
            if not said:
                break
            sent = {**sent, "sport": made.fresh_port()}
            again = made.send(backends, [sent], LONGER)
            said = referee.disagreement(walker, sent, _counts(again[0]["rulesets"]), again[1])
        if said:
            found.append(f"seed {seed} {sent}: {said}")
    return found


SETUPS: dict[str, tuple[str, ...]] = {
    "legacy": ("legacy",),
    "nft-compat": ("nft-compat",),
    "nft": ("nft",),
    "legacy-and-nft": ("legacy", "nft"),
    "nft-compat-and-nft": ("nft-compat", "nft"),
}


@pytest.mark.parametrize("setup", SETUPS)
def test_walk_is_what_the_kernel_does(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch, setup: str
) -> None:
    """Every rule that the walk meets, the kernel meets, as often; and both end alike."""
    referee, found = Referee(monkeypatch), []
    with bench(namespaces) as made:
        for seed in range(FIRST_SEED, FIRST_SEED + RULESETS):
            lottery = Lottery(seed)
            rulesets: dict[str, Ruleset] = {}
            for backend in SETUPS[setup]:
                if backend == "nft":
                    rulesets[backend] = lottery.nft(ties=len(SETUPS[setup]) > 1)
                else:
                    parts = [lottery.iptables(family) for family in PREFIX]
                    rulesets[backend] = Ruleset(tuple(t for p in parts for t in p.tables))
            found += _compare(made, referee, seed, rulesets, lottery)
    print(f"seeds {FIRST_SEED}..{FIRST_SEED + RULESETS - 1}: {dict(referee.seen)}")
    assert not found, "\n".join(found)
    referee.check_coverage()


@pytest.mark.parametrize("backend", BACKENDS)
def test_walk_of_our_own_rules(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """The same for what meshnet-init programs, with rules of others around it."""
    referee, found = Referee(monkeypatch), []
    with bench(namespaces) as made:
        for seed, case in enumerate(CASES, FIRST_SEED):
            lottery = Lottery(seed)
            found += _compare(made, referee, seed, compiled(CASES[case], backend), lottery, 5)
            if backend == "nft":
                made.netns.run("nft", "-f", "-", text=_SINK_ONLY)
    print(f"seeds from {FIRST_SEED}: {dict(referee.seen)}")
    assert not found, "\n".join(found)
    verdicts = {name.split()[1] for name in referee.seen}
    assert {"captured", "bypassed", "direct", "dropped"} <= verdicts
