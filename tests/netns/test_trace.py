"""``meshnet trace`` on real connections: who, which rules, what became of it, and agreement."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.cases import BACKENDS
from tests.support.cli import run_cli
from tests.support.conversations import APP_PORT, Conversations, talk
from tests.support.probe import API, API6, APP, FAR, FAR6, POD, POD6, PROXY, WEB, WEB6
from tests.support.tracing import Tracer, chains, loggers, tables

__all__ = ["talk"]

BOTH = ("-p", "15001", "-z", "15006", "-u", "1337", "-g", "1337", "--ipv6", "on")
ALL = (*BOTH, "-i", "*", "-b", "*")
EXCLUDED = ("-o", "443", "-x", f"{API}/32,{API6}/128")
ADDRESSES = {4: (WEB, POD, "127.0.0.1"), 6: (WEB6, POD6, "::1")}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each netfilter backend."""
    return str(request.param)


@pytest.fixture(params=(4, 6), ids=("ipv4", "ipv6"))
def where(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Addresses of one family: the world's, the pod's, loopback."""
    return ADDRESSES[request.param]


def test_each_way(talk: Conversations, backend: str, where: tuple[str, ...]) -> None:
    web, pod, loopback = where
    talk.start_proxy()
    talk.pod.init(*ALL, *EXCLUDED, "--backend", backend)
    proxys = talk.start(talk.pod, "dial", uid=PROXY)
    before = loggers(talk.pod)
    tracer = Tracer(talk.pod)
    try:
        captured = tracer.packet(port=talk.client.dial(web, 80)[1])
        excluded = tracer.packet(port=talk.client.dial(web, 443)[1])
        leg = tracer.packet(port=proxys.dial(web, 9000)[1])
        inside = tracer.packet(port=talk.client.dial(loopback, APP_PORT)[1])
        inbound = tracer.packet(port=talk.caller.dial(pod, APP_PORT)[1])
        end = tracer.end()
    finally:
        tracer.kill()
    assert (captured["verdict"], captured["port"]) == ("captured", 15001)
    assert captured["destination"] == {"address": web, "port": 80}
    assert (captured["uid"], captured["gid"]) == (APP, APP)
    assert captured["pid"] == talk.client.pid and captured["command"].startswith("python3")
    assert captured["hook"] == "output" and captured["oif"] == "eth0"
    assert (excluded["verdict"], leg["verdict"]) == ("bypassed", "bypassed")
    assert excluded["rules"][-1]["setting"] or any("443" in r["text"] for r in excluded["rules"])
    assert (leg["uid"], leg["pid"]) == (PROXY, proxys.pid)
    assert inside["verdict"] == "bypassed" and inside["oif"] == "lo"
    assert (inbound["verdict"], inbound["port"]) == ("captured", 15006)
    assert inbound["hook"] == "prerouting" and inbound["iif"] == "eth0" and inbound["pid"] is None
    for packet in tracer.packets:
        assert packet["agreement"] == "agrees", packet
        assert packet["rules"] and all(rule["backend"] == backend for rule in packet["rules"])
        assert all(rule["text"] for rule in packet["rules"])
    why = [rule["why"] for rule in captured["rules"] if not rule["policy"]]
    assert all(why) and all(r["ours"] for r in captured["rules"] if not r["policy"])
    assert end["disagreed"] == end["lost"] == end["skipped"] == 0 and end["left"] == ""
    assert end["shown"] == len(tracer.packets) == end["matched"] == end["agreed"]
    assert not tables(talk.pod) and loggers(talk.pod) == before


def test_rules_are_the_kernels_own(talk: Conversations, backend: str) -> None:
    """A rule that is named is the one whose counter grew."""
    talk.start_proxy()
    talk.pod.init(*ALL, *EXCLUDED, "--backend", backend)
    tracer = Tracer(talk.pod)
    try:
        packet = tracer.packet(port=talk.client.dial(WEB, 443)[1])
        tracer.end()
    finally:
        tracer.kill()
    last = [rule for rule in packet["rules"] if not rule["policy"]][-1]
    if backend == "nft":
        shown = talk.pod.run("nft", "list", "chain", "inet", last["table"], last["chain"]).stdout
        rules = [line for line in shown.splitlines()[2:] if line.strip(" \t}")]
        rule = rules[last["position"] - 1]
        assert "443" in rule and "packets 1 " in rule
        return
    tool = "iptables-legacy" if backend == "legacy" else "iptables-nft"
    position = str(last["position"])
    rule = talk.pod.run(tool, "-t", "nat", "-v", "-S", last["chain"], position).stdout
    assert "--dport 443" in rule and "-c 1 " in rule
    assert last["source"] in rule.replace("-c 1 60 ", "")


def test_tproxy(talk: Conversations, backend: str, where: tuple[str, ...]) -> None:
    _, pod, _ = where
    talk.start_proxy(tproxy=True)
    talk.pod.init(*ALL, "-m", "TPROXY", "--backend", backend)
    tracer = Tracer(talk.pod)
    try:
        inbound = tracer.packet(port=talk.caller.dial(pod, APP_PORT)[1])
        tracer.end()
    finally:
        tracer.kill()
    assert (inbound["verdict"], inbound["port"]) == ("captured", 15006)
    assert {packet["agreement"] for packet in tracer.packets} == {"agrees"}


def test_tproxy_without_a_listener_is_no_defect_of_ours(talk: Conversations, backend: str) -> None:
    talk.pod.init(*ALL, "-m", "TPROXY", "--backend", backend)
    tracer = Tracer(talk.pod)
    try:
        refused(talk, POD, APP_PORT, inbound=True)
        packet = tracer.packet(to=(POD, APP_PORT))
        tracer.end()
    finally:
        tracer.kill()
    assert packet["agreement"] == "unchecked"
    assert "takes for granted that a transparent socket has :15006" in packet["reason"]


def refused(talk: Conversations, to: str, port: int, inbound: bool = False) -> None:
    """Dial once, whatever becomes of it."""
    code = f"""
        import socket
        s = socket.socket(socket.AF_INET6 if ":" in "{to}" else socket.AF_INET)
        s.settimeout(0.3)
        s.connect_ex(("{to}", {port}))
    """
    where = talk.world if inbound else talk.pod
    where.run("/usr/bin/python3", "-c", "\n".join(line[8:] for line in code.splitlines()))


@pytest.mark.parametrize("target", ["DROP", "REJECT"])
def test_dropped(talk: Conversations, backend: str, target: str) -> None:
    talk.pod.init(*ALL, "--backend", backend)
    if backend == "nft":
        verdict = target.lower()
        chain = f"type filter hook output priority 0\ntcp dport 99 counter {verdict}\n"
        talk.pod.run("nft", "-f", "-", text=f"table ip mine {{\nchain out {{\n{chain}}}\n}}\n")
    else:
        tool = "iptables-legacy" if backend == "legacy" else "iptables-nft"
        talk.pod.run(tool, "-A", "OUTPUT", "-p", "tcp", "--dport", "99", "-j", target)
    # nat is asked before filter: its redirect would hide the port.
    talk.pod.init("--cleanup-only")
    tracer = Tracer(talk.pod)
    try:
        refused(talk, WEB, 99)
        packet = tracer.packet(to=(WEB, 99))
        tracer.end()
    finally:
        tracer.kill()
    assert (packet["verdict"], packet["agreement"]) == ("dropped", "agrees"), packet
    assert not packet["rules"][-1]["ours"]


def test_what_undecided_rules_do_is_seen(talk: Conversations, backend: str) -> None:
    """The dumps leave a statistic open; the kernel decided, and one of the ways is its."""
    if backend == "nft":
        chain = "type nat hook output priority -150\nnumgen random mod 2 < 1 tcp dport 80 accept\n"
        talk.pod.run("nft", "-f", "-", text=f"table ip mine {{\nchain out {{\n{chain}}}\n}}\n")
    talk.start_proxy()
    talk.pod.init(*ALL, "--backend", backend)
    if backend != "nft":
        tool = "iptables-legacy" if backend == "legacy" else "iptables-nft"
        rule = ("-p", "tcp", "-m", "statistic", "--mode", "random", "--probability", "0.5")
        talk.pod.run(tool, "-t", "nat", "-I", "OUTPUT", *rule, "-j", "ACCEPT")
    tracer = Tracer(talk.pod, "dst", "port", "80")
    try:
        talk.client.ask(to=WEB, port=80, count=20)
        tracer.until(lambda events: len(events) > 20)
        end = tracer.end()
    finally:
        tracer.kill()
    packets = [p for p in tracer.packets if p["uid"] == APP]
    assert {p["agreement"] for p in packets} == {"agrees"}
    assert end["disagreed"] == 0
    if backend != "nft":
        assert {p["verdict"] for p in packets} == {"captured", "direct"}
        assert all(p["explain"].startswith("maybe: ") for p in packets)


def test_two_backends_at_once(talk: Conversations) -> None:
    """Legacy and native rules both run, and both are traced, in the kernel's order."""
    talk.start_proxy()
    talk.pod.init(*ALL, "--backend", "legacy")
    chain = "type filter hook output priority -10\ntcp dport 80 counter\n"
    talk.pod.run("nft", "-f", "-", text=f"table inet mine {{\nchain out {{\n{chain}}}\n}}\n")
    tracer = Tracer(talk.pod)
    try:
        packet = tracer.packet(port=talk.client.dial(WEB, 80)[1])
        tracer.end()
    finally:
        tracer.kill()
    told = [(r["backend"], r["chain"]) for r in packet["rules"] if not r["policy"]]
    assert ("legacy", "ISTIO_REDIRECT") in told
    assert packet["agreement"] == "agrees" and packet["verdict"] == "captured"
    start = tracer.events[0]
    assert start["backends"] == ["legacy", "nft"]


EXPRESSIONS = {
    "tcp and dst port 443": {443},
    "port 443": {443},
    f"dst host {API}": {8080},
    f"host {API} and tcp": {8080},
    "uid 1000 and tcp dst port 80": {80},
    "uid 4711": set(),
    "udp": {5300},
    "udp and src port 1": set(),
    f"dst host {FAR6}": {9000},
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_filter(talk: Conversations, expression: str) -> None:
    talk.pod.init(*BOTH)
    tracer = Tracer(talk.pod, expression)
    try:
        for port in (80, 443):
            talk.client.dial(WEB, port)
        refused(talk, API, 8080)
        talk.client.dial(FAR6, 9000)
        talk.client.dial(FAR, 5300, udp=True)
        end = tracer.end()
    finally:
        tracer.kill()
    assert {p["destination"]["port"] for p in tracer.packets} == EXPRESSIONS[expression]
    assert end["disagreed"] == 0


def test_count_ends_it(talk: Conversations) -> None:
    tracer = Tracer(talk.pod, "--count", "2")
    try:
        talk.client.ask(to=WEB, port=80, count=5)
        end = tracer.finish()
    finally:
        tracer.kill()
    assert end["shown"] == len(tracer.packets) == 2


def test_text_fits_a_hundred_columns(talk: Conversations) -> None:
    talk.start_proxy()
    talk.pod.init(*ALL, "--backend", "nft")
    program = str(Path(sys.executable).parent / "meshnet")
    with subprocess.Popen(
        [program, "trace", talk.pod.path, "dst port 80", "--count", "2", "-v"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        head = [process.stdout.readline()]
        while "gone with" not in head[-1]:
            head.append(process.stdout.readline())
            assert head[-1]
        talk.client.dial(WEB6, 80)
        text = "".join(head) + process.stdout.read()
    assert process.returncode == 0
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100, text
    told = [line for line in lines if f"python3/{talk.client.pid} uid {APP}" in line]
    assert len(told) == 1 and f"> [{WEB6}]:80 tcp   out eth0" in told[0]
    assert any(line.strip().startswith("CAPTURED by :15001, agrees with") for line in lines)
    assert lines[-1].startswith("2 packets: 1 captured, 1 not captured, 0 dropped; 0 disagreements")


BAD: dict[str, Any] = {
    "tcp and and": "column 9",
    "tcp or udp": "column 5",
    "tcp and udp": "column 9",
    "port": "column 5",
    "port http": "column 6",
    "host 10.0.0.0/8": "column 6",
    "tcp and": "ends at column 8",
    "src uid 5": "column 5",
    "host 10.0.0.1 and host ::1": "column 24",
}


@pytest.mark.parametrize("expression", BAD)
def test_bad_filters_name_the_column(talk: Conversations, expression: str) -> None:
    done = run_cli("trace", talk.pod.path, expression, code=2)
    assert BAD[expression] in done.stderr and done.stderr.count("\n") == 1


def test_every_packet(talk: Conversations) -> None:
    """Packets in the middle of a connection are told, and not compared."""
    talk.start_proxy()
    talk.pod.init(*ALL)
    tracer = Tracer(talk.pod, "tcp and dst port 80 and uid 1000", "--every-packet")
    try:
        talk.client.dial(WEB, 80)
        tracer.until(lambda events: len(events) >= 4)
        tracer.end()
    finally:
        tracer.kill()
    first, *others = tracer.packets
    assert (first["flags"], first["agreement"]) == ("S", "agrees")
    assert {other["agreement"] for other in others} == {"unchecked"}
    assert all("in the middle of a connection" in other["reason"] for other in others)
    assert not any(chain.startswith("ISTIO") for other in others for chain in chains(other))


def test_json_lines_are_documents(talk: Conversations) -> None:
    done = run_cli("trace", talk.pod.path, "--for", "300ms", "-o", "json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["start", "end"]
    assert {line["schema"] for line in lines} == {"meshnet/v1/trace-event"}
