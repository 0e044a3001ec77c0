"""Sockets, flows and rules joined: hand-made snapshots, each a way that a connection can take."""

from __future__ import annotations

from typing import Any

import pytest

from meshnet.compile import compile_spec
from meshnet.model.connection import Connection, Direction, Path
from meshnet.model.frozen import replace
from meshnet.model.packet import Family
from meshnet.model.rule import Rule, jump
from meshnet.model.ruleset import Ruleset
from meshnet.model.snapshot import (
    Flow,
    Gap,
    InterfaceAddress,
    Link,
    Namespace,
    Process,
    Route,
    Snapshot,
    Socket,
)
from meshnet.model.spec import CaptureSpec, Cidr, Cidrs, Form, Inbound, Ports
from meshnet.reason import ruling
from meshnet.reason.connections import join
from meshnet.reason.routing import Routing

POD, WORLD, CLIENT, SERVICE = "10.9.0.1", "192.0.2.10", "10.9.0.2", "198.51.100.7"
APP, PROXY, CALLER = 40, 41, 42
UIDS = {APP: 1000, PROXY: 1337, CALLER: 1001}
NAMES = {APP: "python", PROXY: "envoy", CALLER: "curl"}
DEFAULT = CaptureSpec(in_ports=Ports(every=True), out_cidrs=Cidrs(every=True))


def rules_of(form: Form = Form.IPTABLES, **changes: Any) -> dict[str, Ruleset]:
    """The rules of DEFAULT with ``changes``, by backend."""
    backend = "nft" if form is Form.NFT else "legacy"
    return {backend: compile_spec(replace(DEFAULT, **changes), form)}


RULES = rules_of()
TPROXY = rules_of(Form.NFT, inbound=Inbound.TPROXY)
_inodes = iter(range(1000, 1 << 30))


def sock(local: str, lport: int, remote: str, rport: int, pid: int, **more: Any) -> Socket:
    values: dict[str, Any] = {
        "family": "ip6" if ":" in local else "ip",
        "proto": "tcp",
        "state": "established",
        "uid": UIDS.get(pid, 0),
        "inode": next(_inodes),
        "pids": (pid,) if pid else (),
        **more,
    }
    return Socket(local=local, lport=lport, remote=remote, rport=rport, **values)


def listener(port: int, pid: int, **more: Any) -> Socket:
    return sock("0.0.0.0", port, "0.0.0.0", 0, pid, **{"state": "listen", **more})


def flow(src: str, sport: int, dst: str, dport: int, *answers: Any, **more: Any) -> Flow:
    """``answers`` is the translated end, if any: address and port."""
    reply = answers or (dst, dport)
    values: dict[str, Any] = {"proto": 6, "state": "established", "status": 0xE, **more}
    return Flow("ip", src=src, sport=sport, dst=dst, dport=dport, reply_src=reply[0],
                reply_sport=reply[1], reply_dst=src, reply_dport=sport, **values)  # fmt: skip


def taken(sockets: list[Socket] = (), flows: list[Flow] = (), **more: Any) -> Snapshot:  # type: ignore[assignment]
    """A pod with a proxy and an application that listen, and what is given besides."""
    held = (listener(15001, PROXY), listener(15006, PROXY), listener(8080, APP))
    values: dict[str, Any] = {"sysctls": {}, **more}
    return Snapshot(
        schema="meshnet/v1/snapshot",
        version="0",
        taken="2026-01-01T00:00:00Z",
        kernel="6.18",
        namespace=Namespace(1, "netns blue"),
        links=(Link(1, "lo", True, True), Link(2, "eth0", True)),
        addresses=(
            InterfaceAddress("lo", "ip", "127.0.0.1", 8, "host"),
            InterfaceAddress("eth0", "ip", POD, 24),
        ),
        routes=(
            Route("ip", 254, "0.0.0.0/0", gateway=CLIENT, link="eth0"),
            Route("ip", 254, "10.9.0.0/24", link="eth0"),
        ),
        processes=tuple(Process(p, 1, NAMES[p], u, u, u, u) for p, u in UIDS.items()),
        sockets=(*held, *sockets),
        flows=tuple(flows),
        **values,
    )


def one(snapshot: Snapshot, rules: dict[str, Ruleset] = RULES) -> Connection:
    (connection,) = join(snapshot, rules)
    return connection


CAPTURED_OUT = (
    [
        sock(POD, 41002, WORLD, 80, APP),
        sock("127.0.0.1", 15001, POD, 41002, PROXY),
    ],
    [flow(POD, 41002, WORLD, 80, "127.0.0.1", 15001)],
)


def test_nothing_is_no_connection() -> None:
    assert join(taken(), RULES) == ()


def test_captured_outbound_is_one_row_with_both_ends() -> None:
    row = one(taken(*CAPTURED_OUT))
    assert (row.path, row.direction) == (Path.CAPTURED, Direction.OUTBOUND)
    assert (str(row.dialled), str(row.taken)) == (f"{WORLD}:80", "127.0.0.1:15001")
    assert row.owner and row.owner.pid == APP and row.peer and row.peer.pid == PROXY
    assert row.pids == (APP, PROXY) and "127.0.0.1:15001" in row.reason


def test_captured_is_seen_without_conntrack_by_the_proxys_end() -> None:
    sockets, _ = CAPTURED_OUT
    row = one(taken(sockets, gaps=(Gap("connections", "not permitted"),)))
    assert row.path is Path.CAPTURED and "no entry in conntrack" in row.reason
    assert len(row.sockets) == 2


def test_a_leg_is_of_the_only_connection_to_the_same_address() -> None:
    sockets, flows = CAPTURED_OUT
    leg = sock(POD, 52144, WORLD, 80, PROXY)
    captured, found = join(taken([*sockets, leg], [*flows, flow(POD, 52144, WORLD, 80)]), RULES)
    assert captured.path is Path.CAPTURED
    assert (found.path, found.leg_of) == (Path.LEG, f"{POD}:41002")
    assert "uid 1337" in found.reason and found.rule.startswith("ISTIO_OUTPUT")


def test_a_leg_that_may_be_of_several_is_shared() -> None:
    sockets, flows = CAPTURED_OUT
    more = [sock(POD, 41003, WORLD, 80, APP), sock("127.0.0.1", 15001, POD, 41003, PROXY)]
    also = flow(POD, 41003, WORLD, 80, "127.0.0.1", 15001)
    legs = [sock(POD, port, WORLD, 80, PROXY) for port in (52144, 52145)]
    rows = join(taken([*sockets, *more, *legs], [*flows, also]), RULES)
    assert [row.leg_of for row in rows if row.path is Path.LEG] == ["shared", "shared"]


def test_a_leg_elsewhere_may_be_of_any_captured_one_and_else_is_the_proxys_own() -> None:
    leg = sock(POD, 52144, SERVICE, 443, PROXY)
    sockets, flows = CAPTURED_OUT
    rows = join(taken([*sockets, leg], flows), RULES)
    assert [row.leg_of for row in rows if row.path is Path.LEG] == ["shared"]
    assert one(taken([leg])).leg_of == ""


def test_direct_names_the_rule() -> None:
    rules = rules_of(Form.NFT, out_ports_excluded=Ports(((443, 443),)))
    row = one(taken([sock(POD, 1, WORLD, 443, APP)], [flow(POD, 1, WORLD, 443)]), rules)
    assert row.path is Path.DIRECT
    assert "443" in row.reason and row.rule.split()[0] in ("istio-output", "ISTIO_OUTPUT")


def test_direct_without_rules() -> None:
    row = one(taken([sock(POD, 1, WORLD, 443, APP)]), {})
    assert (row.path, row.reason, row.rule) == (Path.DIRECT, "no rules here", "")


def test_direct_names_the_rule_that_it_missed() -> None:
    rules = rules_of(out_cidrs=Cidrs((Cidr(Family.IP, 0x0A600000, 16),)))
    row = one(taken([sock(POD, 1, WORLD, 443, APP)], [flow(POD, 1, WORLD, 443)]), rules)
    assert row.path is Path.DIRECT and "10.96.0.0/16" in row.reason


@pytest.mark.parametrize(
    ("flows", "more", "path", "fate"),
    [
        ([flow(POD, 1, WORLD, 80)], {}, Path.OLDER, "direct"),
        ([], {}, Path.OLDER, "reset"),
        ([], {"sysctls": {"net.netfilter.nf_conntrack_tcp_loose": "0"}}, Path.OLDER, "direct"),
        ([], {"gaps": (Gap("connections", "not permitted"),)}, Path.OLDER, ""),
        (
            [],
            {"gaps": (Gap("connections", "not permitted"), Gap("sockets", "cut at 10"))},
            Path.UNKNOWN,
            "",
        ),
    ],
)
def test_older_than_the_rules(
    flows: list[Flow], more: dict[str, Any], path: Path, fate: str
) -> None:
    row = one(taken([sock(POD, 1, WORLD, 80, APP)], flows, **more))
    assert (row.path, row.fate) == (path, fate)
    assert row.code == ("MN140" if path is Path.OLDER else "")


def test_a_connection_that_is_not_answered_yet_is_unknown() -> None:
    assert one(taken([sock(POD, 1, WORLD, 80, APP, state="syn-sent")])).path is Path.UNKNOWN


def test_what_nobody_holds_any_more_is_not_called_older() -> None:
    ended = sock(POD, 1, WORLD, 80, 0, state="time-wait", inode=0)
    row = one(taken([ended], [flow(POD, 1, WORLD, 80)]))
    assert row.path is Path.DIRECT and row.owner and row.owner.uid is None


def test_inbound_by_redirect_and_the_applications_end() -> None:
    sockets = [
        sock(POD, 15006, CLIENT, 5000, PROXY),
        sock("127.0.0.6", 33000, POD, 8080, PROXY),
        sock(POD, 8080, "127.0.0.6", 33000, APP),
    ]
    flows = [flow(CLIENT, 5000, POD, 8080, POD, 15006), flow("127.0.0.6", 33000, POD, 8080)]
    captured, leg = join(taken(sockets, flows), RULES)
    assert (captured.path, captured.direction) == (Path.CAPTURED, Direction.INBOUND)
    assert (str(captured.source), str(captured.dialled)) == (f"{CLIENT}:5000", f"{POD}:8080")
    assert captured.owner and captured.owner.proxy
    assert (leg.path, leg.leg_of) == (Path.LEG, f"{CLIENT}:5000")
    assert leg.peer and leg.peer.pid == APP and len(leg.sockets) == 2


def test_inbound_by_tproxy() -> None:
    sockets = [
        sock(POD, 8080, CLIENT, 5000, PROXY, transparent=True),
        sock(CLIENT, 33000, POD, 8080, PROXY, transparent=True),
        sock(POD, 8080, CLIENT, 33000, APP, transparent=False),
    ]
    flows = [flow(CLIENT, 5000, POD, 8080), flow(CLIENT, 33000, POD, 8080, mark=1337)]
    captured, leg = join(taken(sockets, flows), TPROXY)
    assert (captured.path, captured.direction) == (Path.CAPTURED, Direction.INBOUND)
    assert "TPROXY" in captured.reason
    assert (leg.path, leg.leg_of) == (Path.LEG, f"{CLIENT}:5000")
    assert leg.peer and leg.peer.pid == APP


def test_inbound_past_the_proxy() -> None:
    rules = rules_of(in_ports_excluded=Ports(((8080, 8080),)))
    snapshot = taken([sock(POD, 8080, CLIENT, 5000, APP)], [flow(CLIENT, 5000, POD, 8080)])
    row = one(snapshot, rules)
    assert (row.path, row.direction) == (Path.DIRECT, Direction.INBOUND) and "8080" in row.reason
    assert one(snapshot).path is Path.OLDER
    # Picked up midway by a packet of the application's, the entry begins there.
    turned = [flow(POD, 8080, CLIENT, 5000)]
    midway = one(replace(snapshot, flows=tuple(turned)), rules)
    assert (midway.direction, str(midway.dialled)) == (Direction.INBOUND, f"{POD}:8080")


def test_loopback_is_one_row() -> None:
    sockets = [
        sock("127.0.0.1", 8080, "127.0.0.1", 5, APP),
        sock("127.0.0.1", 5, "127.0.0.1", 8080, CALLER),
    ]
    for flows in ([], [flow("127.0.0.1", 5, "127.0.0.1", 8080)]):
        row = one(taken(sockets, flows))
        assert (row.path, row.direction) == (Path.LOOPBACK, Direction.INSIDE)
        assert row.owner and row.owner.pid == CALLER and row.peer and row.peer.pid == APP


def test_the_proxys_call_to_its_own_pod_is_captured_inbound() -> None:
    sockets = [sock(POD, 5, POD, 8080, PROXY), sock("127.0.0.1", 15006, POD, 5, PROXY)]
    row = one(taken(sockets, [flow(POD, 5, POD, 8080, "127.0.0.1", 15006)]))
    assert row.path is Path.CAPTURED and len(row.sockets) == 2


def test_a_foreign_translation_is_told() -> None:
    # Docker's name server: translated to a port of its own on a loopback address.
    inside = flow(POD, 5, "127.0.0.11", 53, "127.0.0.11", 40000)
    client = sock(POD, 5, "127.0.0.11", 53, CALLER)
    assert one(taken([client], [inside]), {}).path is Path.LOOPBACK
    elsewhere = flow(POD, 5, SERVICE, 80, WORLD, 8080)
    row = one(taken([sock(POD, 5, SERVICE, 80, CALLER)], [elsewhere]), {})
    assert row.path is Path.DIRECT and f"translated to {WORLD}:8080" in row.reason


def test_udp_flows_and_connected_sockets() -> None:
    dns = sock("0.0.0.0", 15053, "0.0.0.0", 0, PROXY, proto="udp", state="close")
    client = sock(POD, 5, SERVICE, 53, APP, proto="udp")
    snapshot = taken(
        [dns, client],
        [
            flow(POD, 5, SERVICE, 53, "127.0.0.1", 15053, proto=17, state=""),
            flow(POD, 6, SERVICE, 53, "127.0.0.1", 15053, proto=17, state=""),
        ],
    )
    rows = join(snapshot, rules_of(dns=True, dns_servers=None))
    assert [(row.proto, row.path) for row in rows] == [("udp", Path.CAPTURED)] * 2
    assert {row.owner.pid if row.owner else 0 for row in rows} == {0, APP}
    assert all(row.peer is None or row.peer.pid == PROXY for row in rows)
    # Connected and silent: what will happen is told as what will happen.
    silent = one(taken([client]))
    assert silent.path in (Path.UNKNOWN, Path.DIRECT)


def test_what_passes_through_is_forwarded() -> None:
    row = one(taken(flows=[flow("172.16.0.9", 5, SERVICE, 80)]))
    assert (row.path, row.direction) == (Path.FORWARDED, Direction.THROUGH)
    # An entry whose socket is closed is no live connection.
    assert join(taken(flows=[flow(POD, 5, SERVICE, 80)]), RULES) == ()


def test_what_needs_a_look_stands_first() -> None:
    sockets, flows = CAPTURED_OUT
    more = [
        sock(POD, 1, WORLD, 9000, APP),
        sock(POD, 2, WORLD, 80, PROXY),
        sock(POD, 3, WORLD, 80, 0, state="time-wait", inode=0),
    ]
    rows = join(taken([*sockets, *more], flows), RULES)
    assert [row.path for row in rows] == [Path.OLDER, Path.CAPTURED, Path.LEG, Path.DIRECT]


def test_fifty_thousand_connections_beside_twenty_thousand_rules() -> None:
    blocks = tuple(Cidr(Family.IP, 0x0B000000 + n * 512, 32) for n in range(20_000))
    held = rules_of(out_cidrs_excluded=Cidrs(blocks))
    sockets, flows = [], []
    for n in range(25_000):
        near, port = f"10.9.{n >> 8 & 255}.{n & 255}", 20_000 + n
        sockets.append(sock(POD, port, near, 80 + n % 7, APP))
        sockets.append(sock("127.0.0.1", 15001, POD, port, PROXY))
        sockets.append(sock(POD, port, near, 9000 + n % 5, APP))
        flows.append(flow(POD, port, near, 80 + n % 7, "127.0.0.1", 15001))
    snapshot = taken(sockets, flows)
    rows = join(snapshot, held)
    assert len(rows) == 50_000


def test_what_is_in_the_queue_of_a_transparent_listener_is_captured() -> None:
    waiting = sock(POD, 8080, CLIENT, 5000, 0, inode=0, transparent=True)
    entry = [flow(CLIENT, 5000, POD, 8080)]
    assert one(taken([waiting], entry), TPROXY).path is Path.CAPTURED
    row = one(taken([replace(waiting, transparent=None)], entry), TPROXY)
    assert row.path is Path.UNKNOWN


def test_the_proxys_call_to_its_own_pod_by_tproxy() -> None:
    sockets = [
        sock(POD, 5, POD, 8080, PROXY),
        sock(POD, 8080, POD, 5, PROXY, transparent=True),
    ]
    row = one(taken(sockets, [flow(POD, 5, POD, 8080)]), TPROXY)
    assert row.path is Path.CAPTURED and "TPROXY" in row.reason


def test_too_many_rules_and_kinds_of_packets_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ruling, "MOST_RULES", 0)
    monkeypatch.setattr(ruling, "FEWEST", 1)
    rules = rules_of(out_ports_excluded=Ports(((443, 443), (9000, 9000))))
    sockets = [sock(POD, port, WORLD, port, APP) for port in (443, 9000)]
    rows = join(taken(sockets), rules)
    assert [row.path for row in rows] == [Path.DIRECT] * 2
    assert [row.reason.startswith("not asked") for row in rows] == [False, True]


def test_rules_that_no_packet_can_walk_through_leave_the_evidence() -> None:
    (table,) = (t for t in RULES["legacy"].tables if t.name == "nat" and t.family is Family.IP)
    chains = tuple(
        replace(chain, rules=(Rule((), jump(chain.name)),)) if chain.name == "OUTPUT" else chain
        for chain in table.chains
    )
    round_and_round = {"legacy": Ruleset((replace(table, chains=chains),))}
    row = one(taken([sock(POD, 1, WORLD, 80, APP)], [flow(POD, 1, WORLD, 80)]), round_and_round)
    assert row.path is Path.DIRECT and "cannot be followed" in row.reason


def test_which_interface_a_packet_leaves_by() -> None:
    routing = Routing(
        replace(
            taken(),
            routes=(
                Route("ip", 254, "0.0.0.0/0", link="eth0", metric=100),
                Route("ip", 254, "0.0.0.0/0", link="eth9", metric=200),
                Route("ip", 254, "192.0.2.0/24", link="eth1"),
                Route("ip", 133, "0.0.0.0/0", "local", link="lo"),
                Route("ip6", 254, "::/0", link="eth6"),
            ),
        )
    )
    leaves = [routing.leaves_by(a) for a in (SERVICE, WORLD, POD, "127.8.8.8", "2001:db8::1", "x")]
    assert leaves == ["eth0", "eth1", "lo", "lo", "eth6", ""]
    assert routing.comes_by(WORLD, POD) == "eth1" and routing.comes_by(POD, POD) == "lo"
