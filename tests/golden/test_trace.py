"""What ``meshnet trace`` and ``meshnet verify`` print, to the letter, at 100 columns.

Packets are made up, as the kernel would tell them of the rules in a snapshot; everything behind
that is the real thing. The goldens are written anew by
``MESHNET_UPDATE_GOLDENS=1 make test ARGS=tests/golden``.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from meshnet.dialects.snapshot_json import read_snapshot
from meshnet.model.frozen import replace
from meshnet.model.trace import (
    Agreement,
    Met,
    Point,
    Sighting,
    TracedPacket,
    TraceEnd,
    TraceNote,
    TraceStart,
)
from meshnet.model.trace_filter import PortTerm, TraceFilter
from meshnet.model.verification import Verification, VerifiedCell
from meshnet.reason.trace_judge import Judge
from meshnet.reason.trace_rules import RuleBook
from meshnet.render import verify as verify_text
from meshnet.render.trace import TraceWriter, end_document, packet_document, start_document

DATA = Path(__file__).parent / "data"
POD, POD6 = "10.244.0.7", "fd00:10::7"
FAR6 = "2001:db8:1111:2222:3333:4444:5555:6666"
SYN = 2
ALL = ("OUTPUT 1", "ISTIO_OUTPUT 9", "ISTIO_REDIRECT 1")
START = TraceStart(
    "netns cart", 4026532315, "meshnet-trace-4102", ("nft-compat",), 200,
    TraceFilter(ports=(PortTerm(443, "dst"),)).in_words(every=False),
)  # fmt: skip
LEGACY = replace(
    START,
    backends=("legacy", "nft"),
    rate=0,
    what=TraceFilter(uid=1000).in_words(every=True),
    switched=("net.netfilter.nf_log.2", "net.netfilter.nf_log.10"),
    notes=("net.netfilter.nf_log.2 was nfnetlink_log before, and stays so",),
)
END = TraceEnd(6, 0, 6, 2, 0, 4, 4, 1, 1)
LOST = replace(
    END, matched=5000, skipped=12, disagreed=0, lost=1234, incomplete=3, orphans=77,
    left="net.netfilter.nf_log.2 is not nf_log_ipv4 again: Read-only file system",
)  # fmt: skip


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clocks show UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def compared(name: str, found: str) -> None:
    golden = DATA / "tracing" / name
    if os.environ.get("MESHNET_UPDATE_GOLDENS"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found)
    assert found == golden.read_text()
    assert max(map(len, found.splitlines()), default=0) <= 100 or name.endswith(".jsonl")


def judge() -> Judge:
    """Judges by the rules of the leaking snapshot; a rule's handle is ten times its position."""
    snapshot = read_snapshot((DATA / "snapshots" / "leaking.json").read_bytes())
    held = RuleBook(snapshot).rulesets["nft-compat"]
    handles = [
        (t.family.value, t.name, c.name, [10 * n for n in range(1, len(c.rules) + 1)])
        for t in held.tables
        for c in t.chains
    ]
    return Judge(snapshot, RuleBook(snapshot, handles))


def met(*places: str, family: str = "ip") -> tuple[Met, ...]:
    """Rules, "CHAIN POSITION"; without a number it is the chain's policy."""
    found = []
    for place in places:
        chain, _, position = place.partition(" ")
        found.append(Met(False, family, "nat", chain, 10 * int(position or 0), 1))
    return tuple(found)


def seen(number: int, dst: str, dport: int, rules: tuple[str, ...], **rest: object) -> Sighting:
    """A packet of the application that left by eth0, unless told otherwise."""
    wide = ":" in dst
    family, src = ("ip6", POD6) if wide else ("ip", POD)
    made = Sighting(
        number, 1_000_000_000.25 + number, "output", family, 6, src, 40000 + number, dst, dport,
        SYN, "", "eth0", 1000, 1000, pid=4140, command="python", generation=1, known=False,
        met=met(*rules, family=family),
        points=(
            Point("end-of-output", src, 40000 + number, dst, dport, "", "eth0"),
            Point("end-of-postrouting", src, 40000 + number, dst, dport, "", "eth0"),
        ),
    )  # fmt: skip
    return replace(made, **rest)


def handed(number: int, to: str, port: int, link: str = "lo") -> tuple[Point, ...]:
    """Where a packet is that was redirected."""
    return (Point("end-of-input", POD, 40000 + number, to, port, link, ""),)


def packets() -> list[TracedPacket]:
    """One of each kind."""
    left = ("OUTPUT 1", "OUTPUT")
    wrong = seen(7, "10.1.2.3", 80, ("OUTPUT 1", "ISTIO_OUTPUT 4", "OUTPUT"), pid=0, command="")
    inbound = seen(
        4, POD, 8080, ("PREROUTING 1", "ISTIO_INBOUND 5", "ISTIO_IN_REDIRECT 1"),
        hook="prerouting", src="10.244.9.2", iif="eth0", oif="", uid=None, gid=None, pid=0,
        command="",
        points=handed(4, POD, 15006, "eth0"),
    )  # fmt: skip
    sightings = [
        seen(1, "10.1.2.3", 80, ALL, points=handed(1, "127.0.0.1", 15001)),
        seen(2, "93.184.216.34", 443, left),
        seen(3, "10.1.2.3", 80, ("OUTPUT 1", "ISTIO_OUTPUT 4", "OUTPUT"),
             uid=1337, gid=1337, pid=4177, command="envoy"),
        inbound,
        seen(5, FAR6, 443, (), uid=0, gid=1000, command="a name \x1b[31m that is rather long"),
        seen(6, "10.1.2.3", 80, (), known=True, flags=24),
        wrong,
    ]  # fmt: skip
    one = judge()
    found = [one.judge(sighting) for sighting in sightings]
    return [*found[:-1], replace(found[-1], report="/tmp/meshnet-trace-x1")]


def printed(verbose: bool = False, start: TraceStart = START, end: TraceEnd = END) -> str:
    out = io.StringIO()
    writer = TraceWriter(Console(file=out, width=100, highlight=False), "shop/cart", verbose)
    writer.start(start)
    for packet in packets():
        writer.packet(packet)
    writer.note(TraceNote("changed", "the rules were changed by iptables-restore (pid 77)"))
    writer.end(end)
    return out.getvalue()


def test_the_made_up_packets_are_judged_as_they_should_be() -> None:
    assert [p.verdict.value for p in packets()] == [
        "captured", "direct", "bypassed", "captured", "direct", "direct", "direct",
    ]  # fmt: skip
    *agreed, known, wrong = [p.agreement for p in packets()]
    assert set(agreed) == {Agreement.AGREES}
    assert (known, wrong) == (Agreement.UNCHECKED, Agreement.DISAGREES)


def test_text() -> None:
    compared("text.txt", printed())


def test_verbose() -> None:
    compared("verbose.txt", printed(verbose=True, start=LEGACY, end=LOST))


def test_nothing_matched() -> None:
    out = io.StringIO()
    writer = TraceWriter(Console(file=out, width=100, highlight=False), "shop/cart")
    writer.start(replace(START, backends=()))
    writer.end(TraceEnd(0, 0, 0, 0, 0, 0, 0, 0, 0))
    compared("nothing.txt", out.getvalue())


def test_json() -> None:
    documents = [start_document(LEGACY), *map(packet_document, packets()), end_document(LOST)]
    compared("events.jsonl", "".join(f"{json.dumps(one)}\n" for one in documents))


CELLS = (
    VerifiedCell(
        "IPv4", "outbound", "user 1000 (python)", "tcp 192.0.2.2:1404", 7, "captured by port 15001",
        "ok", "captured by :15001, 7 answered", "ISTIO_REDIRECT 1", "redirect", 7,
    ),
    VerifiedCell(
        "IPv4", "outbound", "proxy uid 1337", "tcp 192.0.2.2:1404", 5, "left alone", "ok",
        "bypassed, 5 no answer", "ISTIO_OUTPUT 4", "return", 6,
    ),
    VerifiedCell(
        "IPv4", "dns", "user 1000 (python)", "udp 10.96.0.10:53", 7, "captured by port 15053",
        "failed", "direct, 7 answered", "OUTPUT 1", "accept", 7, "MN110",
        "direct: OUTPUT 1 decides first",
    ),
    VerifiedCell(
        "IPv4", "inbound", "peer 10.9.0.2", "tcp 10.9.0.1:1404", 3, "captured by port 15006",
        "failed", "captured by :15006, 3 refused", "ISTIO_IN_REDIRECT 1", "redirect", 3, "MN150",
        "nobody listens on :15006",
    ),
    VerifiedCell(
        "IPv4", "control", "bare namespace", "tcp 192.0.2.2:1404", 1, "direct", "ok",
        "reached port 1404",
    ),
    VerifiedCell(
        "IPv6", "outbound", "user 65534", "tcp [2001:db8::2]:1404", 7, "left alone", "warn",
        "direct, 7 no answer", code="MN130",
    ),
    VerifiedCell(
        "IPv6", "inbound", "a peer", "", 0, "", "not tested",
        reason="needs a peer: run it from the node",
    ),
)  # fmt: skip
VERIFIED = Verification("netns cart", 4026532315, "nft-compat", "istio", "envoy/4177", CELLS)


def test_a_verification() -> None:
    out = io.StringIO()
    verify_text.show_verification(Console(file=out, width=100, highlight=False), VERIFIED)
    compared("verification.txt", out.getvalue())


def test_the_document_of_a_verification() -> None:
    found = json.dumps(verify_text.as_document(VERIFIED), indent=1)
    compared("verification.json.txt", f"{found}\n")
