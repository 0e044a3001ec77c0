"""The join on any snapshot: it never raises, and loses no socket and shows none twice."""

from __future__ import annotations

import io
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshnet.model.connection import Path
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
from meshnet.reason.connections import join
from meshnet.render.connections import as_document, show_connections
from meshnet.render.console import console
from tests.unit.test_connections import RULES, TPROXY, rules_of

#: Few of each, so that they meet: a pod's own, others', and text that is no address.
OWN = ("127.0.0.1", "127.0.0.6", "10.9.0.1", "::1", "::6", "fd09::1")
OTHERS = ("10.9.0.2", "192.0.2.1", "0.0.0.0", "fd09::2", "::", "", "word", "[bold]\x1b[31m")
ADDRESSES = st.sampled_from((*OWN, *OTHERS))
PORTS = st.sampled_from((0, 53, 80, 8080, 15001, 15006, 15053, 40000, 40001, 65535))
STATES = ("listen", "established", "syn-sent", "syn-recv", "time-wait", "close", "odd")
FAMILIES = st.sampled_from(("ip", "ip6"))
RULESETS = ({}, RULES, TPROXY, rules_of(dns=True, dns_servers=None, drop_invalid=True))


@st.composite
def sockets(draw: st.DrawFn) -> Socket:
    return Socket(
        family=draw(FAMILIES),
        proto=draw(st.sampled_from(("tcp", "tcp", "udp"))),
        state=draw(st.sampled_from(STATES)),
        local=draw(ADDRESSES),
        lport=draw(PORTS),
        remote=draw(ADDRESSES),
        rport=draw(PORTS),
        uid=draw(st.sampled_from((0, 1000, 1337, 65534))),
        inode=draw(st.integers(0, 5)),
        pids=draw(st.sampled_from(((), (1,), (2,), (2, 3), (99,)))),
        transparent=draw(st.sampled_from((None, True, False))),
    )


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    ends = draw(st.tuples(ADDRESSES, PORTS, ADDRESSES, PORTS))
    turned = (ends[2], ends[3], ends[0], ends[1])
    answers = draw(st.one_of(st.just(turned), st.tuples(ADDRESSES, PORTS, ADDRESSES, PORTS)))
    return Flow(
        draw(FAMILIES),
        draw(st.sampled_from((6, 17, 1))),
        *ends,
        *answers,
        state=draw(st.sampled_from(("", "established", "time-wait"))),
        mark=draw(st.sampled_from((0, 1337, 0xFFFFFFFF))),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    found = draw(st.lists(sockets(), max_size=12))
    # Some with their other end, as loopback and redirected connections have it.
    for socket in draw(st.lists(st.sampled_from(found), max_size=4)) if found else ():
        port = draw(st.sampled_from((socket.rport, 15001, 15006)))
        ends = (socket.remote, port, socket.local, socket.lport)
        found.append(Socket(socket.family, socket.proto, socket.state, *ends, 1337, 9, (2,)))
    gaps = st.sampled_from(("rules", "sockets", "connections", "processes"))
    return Snapshot(
        schema="meshnet/v1/snapshot",
        version="0",
        taken="",
        kernel="",
        namespace=Namespace(1, "any"),
        sections=draw(st.sampled_from((("sockets",), ("rules", "sockets", "connections")))),
        links=draw(st.sampled_from(((), (Link(1, "lo", True, True), Link(2, "eth0"))))),
        addresses=draw(
            st.sampled_from(
                (
                    (),
                    (
                        InterfaceAddress("eth0", "ip", "10.9.0.1", 24),
                        InterfaceAddress("eth0", "ip6", "fd09::1", 64),
                    ),
                )
            )
        ),
        routes=draw(
            st.sampled_from(
                ((), (Route("ip", 254, "0.0.0.0/0", link="eth0"), Route("ip", 254, "odd")))
            )
        ),
        sysctls=draw(st.sampled_from((None, {}, {"net.netfilter.nf_conntrack_tcp_loose": "0"}))),
        processes=tuple(
            Process(pid, pid - 1, f"p{pid}", uid, uid, uid, uid)
            for pid, uid in ((1, 1000), (2, 1337), (3, 1337))
        ),
        sockets=tuple(found),
        flows=tuple(draw(st.lists(flows(), max_size=8))),
        gaps=tuple(Gap(s, "odd") for s in draw(st.sets(gaps))),
    )


MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@MANY
@given(snapshots(), st.sampled_from(RULESETS))
def test_every_tcp_socket_is_an_end_of_exactly_one_connection(snapshot, rules) -> None:
    rows = join(snapshot, rules)
    shown = sorted(id(s) for row in rows for s in row.sockets if s.proto == "tcp")
    wanted = [s for s in snapshot.sockets if s.proto == "tcp" and s.state != "listen"]
    assert shown == sorted(id(s) for s in wanted)
    for row in rows:
        assert 1 <= len(row.sockets) <= 2 or row.flow is not None
        assert row.reason and row.path in Path
        assert (row.path is Path.OLDER) >= bool(row.code)
        assert (row.path is Path.LEG) >= bool(row.leg_of)


@MANY
@given(snapshots())
def test_whatever_is_found_can_be_shown(snapshot) -> None:
    rows = join(snapshot, RULES)
    document = json.loads(json.dumps(as_document(snapshot, rows, rows)))
    assert len(document["connections"]) == len(rows) == sum(document["counts"].values())
    out = io.StringIO()
    show_connections(console(out), snapshot, rows, rows, 0)
    lines = out.getvalue().split("\n")
    assert all(line.isprintable() and len(line) <= 100 for line in lines)


@MANY
@given(snapshots(), st.randoms(use_true_random=False))
def test_what_conntrack_saw_redirected_is_never_called_direct(snapshot, random) -> None:
    """Whatever else there is: its entry is answered from the proxy's port."""
    ends = ("10.9.0.1", 45678, "192.0.2.9", 80)
    client = Socket("ip", "tcp", "established", *ends, 1000, 7, (1,))
    entry = Flow("ip", 6, *ends, "127.0.0.1", 15001, *ends[:2])
    held = [*snapshot.sockets, client]
    random.shuffle(held)
    changed = {**snapshot.__dict__, "sockets": tuple(held), "flows": (*snapshot.flows, entry)}
    (row,) = [r for r in join(Snapshot(**changed), RULES) if client in r.sockets]
    assert row.path is Path.CAPTURED
