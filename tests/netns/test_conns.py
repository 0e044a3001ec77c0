"""``meshnet conns`` on real connections: the way that each is said to go is the way it went."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.cases import BACKENDS
from tests.support.cli import run_cli
from tests.support.conversations import APP_PORT, Conversations, row_of, talk
from tests.support.probe import API, API6, APP, FAR, FAR6, POD, POD6, PROXY, WEB, WEB6

__all__ = ["talk"]

BOTH = ("-p", "15001", "-z", "15006", "-u", "1337", "-g", "1337", "--ipv6", "on")
ALL = (*BOTH, "-i", "*", "-b", "*")
#: Web, what is excluded, the pod itself, its loopback, by family.
ADDRESSES = {
    4: (WEB, API, POD, "127.0.0.1"),
    6: (WEB6, API6, POD6, "::1"),
}
EXCLUDED = ("-o", "443", "-x", f"{API}/32,{API6}/128")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each netfilter backend."""
    return str(request.param)


@pytest.fixture(params=(4, 6), ids=("ipv4", "ipv6"))
def where(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Addresses of one family: the world's, an excluded one, the pod's, loopback."""
    return ADDRESSES[request.param]


def end(address: str, port: int) -> dict[str, Any]:
    return {"address": address, "port": port}


def test_each_way_out(talk: Conversations, backend: str, where: tuple[str, ...]) -> None:
    web, excluded, pod, loopback = where
    talk.start_proxy()
    talk.pod.init(*ALL, *EXCLUDED, "--backend", backend)
    proxys = talk.start(talk.pod, "dial", uid=PROXY)
    captured = talk.client.dial(web, 80)
    by_port = talk.client.dial(web, 443)
    by_block = talk.client.dial(excluded, 80)
    by_uid = proxys.dial(web, 9000)
    inside = talk.client.dial(loopback, APP_PORT)
    own = talk.client.dial(pod, APP_PORT)
    seen = talk.conns()

    row = row_of(seen, captured)
    assert (row["path"], row["direction"]) == ("captured", "outbound"), row
    assert row["dialled"] == end(web, 80)
    assert row["taken"]["port"] == 15001 and row["taken"]["address"] in ("127.0.0.1", "::1")
    assert row["owner"]["pid"] == talk.client.pid and row["owner"]["uid"] == APP
    assert row["peer"]["pid"] == talk.proxy.pid and row["peer"]["proxy"]
    leg = next(r for r in seen["connections"] if r["dialled"] == end(web, 80) and r is not row)
    assert leg["path"] == "leg" and leg["owner"]["pid"] == talk.proxy.pid
    assert leg["leg_of"] == f"{shown(captured)}" and "1337" in leg["reason"]

    assert row_of(seen, by_port)["path"] == "direct" and "443" in row_of(seen, by_port)["reason"]
    row = row_of(seen, by_block)
    assert row["path"] == "direct" and excluded in row["reason"], row
    row = row_of(seen, by_uid)
    assert row["owner"]["pid"] == proxys.pid and "uid 1337" in row["reason"], row
    for loop in (inside, own):
        row = row_of(seen, loop)
        assert (row["path"], row["direction"]) == ("loopback", "inside"), row
        assert row["owner"]["pid"] == talk.client.pid and row["peer"]["pid"] == talk.app.pid
    # Each of them once, the proxy's ends folded into the rows of what it captured.
    assert len(seen["connections"]) == 7 == sum(seen["counts"].values())


def shown(pair: tuple[str, int]) -> str:
    address, port = pair
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def test_the_rule_that_is_named_is_the_kernels(talk: Conversations, backend: str) -> None:
    talk.start_proxy()
    talk.pod.init(*ALL, *EXCLUDED, "--backend", backend)
    row = talk.row(talk.client.dial(WEB, 443))
    chain, position = row["rule"].split()[-2:]
    if backend == "nft":
        lines = talk.pod.run("nft", "list", "chain", "inet", "istio-proxy-nat", chain).stdout
        rules = [line for line in lines.splitlines()[2:] if line.strip(" \t}")]
        assert "443" in rules[int(position) - 1]
        return
    tool = "iptables-legacy" if backend == "legacy" else "iptables-nft"
    found = talk.pod.run(tool, "-t", "nat", "-S", chain, position).stdout
    assert "--dport 443" in found and "-j RETURN" in found


def test_inbound_by_redirect(talk: Conversations, backend: str, where: tuple[str, ...]) -> None:
    _, _, pod, _ = where
    talk.start_proxy()
    talk.pod.init(*ALL, "--backend", backend)
    caller = talk.caller.dial(pod, APP_PORT)
    seen = talk.conns()
    row = row_of(seen, caller)
    assert (row["path"], row["direction"]) == ("captured", "inbound"), row
    assert row["dialled"] == end(pod, APP_PORT) and row["taken"] == end(pod, 15006)
    assert row["owner"]["pid"] == talk.proxy.pid and row["owner"]["proxy"]
    (leg,) = (r for r in seen["connections"] if r["path"] == "leg")
    assert leg["dialled"] == end(pod, APP_PORT) and leg["leg_of"] == shown(caller)
    assert leg["owner"]["pid"] == talk.proxy.pid and leg["peer"]["pid"] == talk.app.pid
    assert len(seen["connections"]) == 2


def test_inbound_by_tproxy(talk: Conversations, backend: str, where: tuple[str, ...]) -> None:
    _, _, pod, _ = where
    talk.start_proxy(tproxy=True)
    talk.pod.init(*ALL, "-m", "TPROXY", "--backend", backend)
    caller = talk.caller.dial(pod, APP_PORT)
    seen = talk.conns()
    row = row_of(seen, caller)
    assert (row["path"], row["direction"]) == ("captured", "inbound"), row
    assert row["dialled"] == end(pod, APP_PORT) and "TPROXY" in row["reason"]
    assert row["owner"]["pid"] == talk.proxy.pid
    (leg,) = (r for r in seen["connections"] if r is not row)
    assert leg["path"] == "leg" and leg["leg_of"] == shown(caller), leg
    assert leg["source"]["address"] == caller[0] and leg["peer"]["pid"] == talk.app.pid


def test_inbound_past_the_proxy(talk: Conversations, backend: str, where: tuple[str, ...]) -> None:
    _, _, pod, _ = where
    talk.start_proxy()
    talk.pod.init(*ALL, "-d", str(APP_PORT), "--backend", backend)
    row = talk.row(talk.caller.dial(pod, APP_PORT))
    assert (row["path"], row["direction"]) == ("direct", "inbound"), row
    assert str(APP_PORT) in row["reason"] and row["rule"]
    assert row["owner"]["pid"] == talk.app.pid


def test_the_proxys_call_to_its_own_pod(talk: Conversations, backend: str) -> None:
    talk.start_proxy()
    talk.pod.init(*ALL, "--backend", backend)
    proxys = talk.start(talk.pod, "dial", uid=PROXY)
    row = talk.row(proxys.dial(POD, APP_PORT))
    assert (row["path"], row["taken"]["port"]) == ("captured", 15006)


def test_older_than_the_rules(talk: Conversations, backend: str, where: tuple[str, ...]) -> None:
    web, _, pod, _ = where
    talk.start_proxy()
    out, inward = talk.client.dial(web, 80), talk.caller.dial(pod, APP_PORT)
    talk.pod.init(*ALL, "--backend", backend)
    # Conntrack began with the rules and has not seen a packet of these.
    seen = talk.conns(code=3)
    for which in (out, inward):
        row = row_of(seen, which)
        assert (row["path"], row["fate"], row["code"]) == ("older", "reset", "MN140"), row
        assert not row["tracked"]
    # As it was told: the next packet is redirected to a proxy that does not know it.
    assert talk.client.ask(speak=1) != ["heard"]


def test_older_than_the_rules_and_tracked(
    talk: Conversations, backend: str, where: tuple[str, ...]
) -> None:
    web, _, pod, _ = where
    talk.start_proxy()
    for family in ("ip", "ip6"):
        # Any rule that asks for connections makes the kernel track them.
        talk.pod.run("nft", "add", "table", family, "before")
        talk.pod.run(
            *("nft", "add", "chain", family, "before", "out"),
            "{ type filter hook output priority 0; }",
        )
        talk.pod.run("nft", "add", "rule", family, "before", "out", "ct", "state", "new", "counter")
    out, inward = talk.client.dial(web, 80), talk.caller.dial(pod, APP_PORT)
    assert talk.row(out)["path"] == "direct"
    talk.pod.init(*ALL, "--backend", backend)
    seen = talk.conns(code=3)
    for which in (out, inward):
        row = row_of(seen, which)
        assert (row["path"], row["fate"], row["tracked"]) == ("older", "direct", True), row
    # As it was told: both go on.
    assert talk.client.ask(speak=1) == ["heard"] and talk.caller.ask(speak=1) == ["heard"]


def test_without_loose_tracking_what_has_no_entry_goes_direct(talk: Conversations) -> None:
    talk.start_proxy()
    out = talk.client.dial(WEB, 80)
    talk.pod.init(*ALL)
    talk.pod.run("sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_loose=0")
    row = talk.row(out, code=3)
    assert (row["path"], row["fate"]) == ("older", "direct"), row
    assert talk.client.ask(speak=1) == ["heard"]


def test_a_file_tells_the_same_without_privileges(talk: Conversations) -> None:
    talk.start_proxy()
    talk.pod.init(*ALL)
    talk.client.dial(WEB, 80)
    document = run_cli("snapshot", talk.pod.path).stdout
    live = talk.conns()
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
    done = run_cli("conns", "--from", "-", "-o", "json", text=document, prefix=nobody)
    offline = json.loads(done.stdout)
    assert offline["connections"] == live["connections"]


def test_filters_and_text(talk: Conversations) -> None:
    talk.start_proxy()
    talk.pod.init(*ALL, *EXCLUDED)
    captured, direct = talk.client.dial(WEB, 80), talk.client.dial(WEB, 443)
    only = talk.conns("--path", "direct")
    assert [row["path"] for row in only["connections"]] == ["direct"] and only["left_out"] == 2
    assert len(talk.conns("--pid", str(talk.proxy.pid))["connections"]) == 2
    (by_port,) = talk.conns("--port", "443")["connections"]
    assert by_port["source"] == end(*direct)
    text = run_cli("conns", talk.pod.path).stdout
    assert max(map(len, text.splitlines())) <= 100
    lines = text.splitlines()
    assert lines[1] == "3 connections: 1 direct, 1 captured, 1 of the proxy's own"
    assert lines[3].split() == ["FROM", "DIALLED", "OWNER", "UID", "PATH"]
    assert any(shown(captured) in line and "captured" in line for line in lines)
    cut = run_cli("conns", talk.pod.path, "--limit", "1").stdout
    assert "... and 2 more (--limit)" in cut


def test_hostile_names_print_harmlessly(talk: Conversations) -> None:
    for name in ("\x1b[31mred\x07", "[bold]x[/nope]", "a\nb\r\tc", ":smile: [/]"):
        talk.client.ask(name=name)
        talk.client.dial(WEB, 80)
        text = run_cli("conns", talk.pod.path).stdout
        assert "\x1b" not in text and "\x07" not in text and "\r" not in text
        told = talk.conns()["connections"]
        assert {row["owner"]["command"] for row in told} <= {name[:15], name}
        if name.startswith("[bold]"):
            assert "[bold]x[/nope]" in text.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_dns_and_connected_udp(talk: Conversations, backend: str) -> None:
    talk.pod.init(
        *ALL, "--redirect-dns", "--dns-server", FAR, "--dns-server", FAR6, "--backend", backend
    )
    asked = talk.client.dial(FAR, 53, udp=True)
    other = talk.client.dial(FAR, 5000, udp=True)
    seen = talk.conns()
    row = row_of(seen, asked)
    assert (row["proto"], row["path"], row["taken"]) == ("udp", "captured", end("127.0.0.1", 15053))
    assert row["owner"]["pid"] == talk.client.pid
    row = row_of(seen, other)
    assert (row["proto"], row["path"]) == ("udp", "direct")


def test_two_thousand_connections(talk: Conversations) -> None:
    talk.start_proxy()
    talk.pod.init(*ALL)
    for port in (80, 443, 9000, 80):
        talk.client.ask(to=WEB, port=port, count=500)
    seen = talk.conns()
    assert seen["counts"]["captured"] == 2000 and seen["counts"]["leg"] == 2000
    assert {r["leg_of"] for r in seen["connections"] if r["path"] == "leg"} == {"shared"}
    assert all(r["peer"]["pid"] == talk.proxy.pid for r in seen["connections"][:2000])
    assert len(run_cli("conns", talk.pod.path, "--limit", "50").stdout.splitlines()) < 300
