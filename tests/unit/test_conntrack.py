"""Tracked connections by ctnetlink and by /proc: crafted answers, broken ones, and limits."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import NotPermitted, ToolFailed
from meshnet.host import conntrack, procflows
from meshnet.host.conntrack import collect, read_flows
from meshnet.host.netlink import Changed, NetlinkError, attribute
from meshnet.host.procflows import TCP_STATES, collect_lines
from meshnet.model.frozen import replace
from meshnet.model.snapshot import Flow

NESTED = 0x8000
TCP = Flow("ip", 6, "10.0.0.1", 4711, "10.0.0.2", 80, "127.0.0.1", 15001, "10.0.0.1", 4711, 46)
PLAIN = replace(TCP, reply_src="10.0.0.2", reply_sport=80, status=14)


def nest(kind: int, *parts: bytes) -> bytes:
    """An attribute of attributes, as ctnetlink makes them."""
    return attribute(kind | NESTED, b"".join(parts))


def way(kind: int, flow: Flow, ends: tuple[str, int, str, int], *more: bytes) -> bytes:
    """CTA_TUPLE_ORIG or CTA_TUPLE_REPLY."""
    af, first = (socket.AF_INET, 1) if flow.family == "ip" else (socket.AF_INET6, 3)
    src, sport, dst, dport = ends
    addresses = [
        attribute(first + n, socket.inet_pton(af, end)) for n, end in enumerate((src, dst))
    ]
    ports = [attribute(2, struct.pack("!H", sport)), attribute(3, struct.pack("!H", dport))]
    if flow.proto not in (6, 17):
        ports = [attribute(4, b"\0\7"), attribute(5, b"\10"), attribute(6, b"\0")]
    proto = nest(2, attribute(1, bytes([flow.proto])), *ports)
    return nest(kind, nest(1, *addresses), proto, *more)


def message(flow: Flow, zone_of_one_way: bool = False) -> bytes:
    """An IPCTNL_MSG_CT_NEW as the kernel sends it for ``flow``."""
    there = (flow.src, flow.sport, flow.dst, flow.dport)
    back = (flow.reply_src, flow.reply_sport, flow.reply_dst, flow.reply_dport)
    zone = attribute(3, struct.pack("!H", flow.zone))
    body = b"\2\0\0\0" + way(1, flow, there, *([zone] if zone_of_one_way else []))
    body += way(2, flow, back)
    if flow.zone and not zone_of_one_way:
        body += attribute(18, struct.pack("!H", flow.zone))
    body += attribute(3, struct.pack("!I", flow.status)) + attribute(7, struct.pack("!I", 30))
    if flow.state:
        number = next(n for n, name in TCP_STATES.items() if name == flow.state)
        body += nest(4, nest(1, attribute(1, bytes([number])), attribute(2, b"\7")))
    return body + attribute(8, struct.pack("!I", flow.mark)) + attribute(12, b"\1\2\3\4")


def line(flow: Flow, zone: str = "zone") -> bytes:
    """The same as /proc/net/nf_conntrack has it."""
    family, number, af = (
        ("ipv4", 2, socket.AF_INET) if flow.family == "ip" else ("ipv6", 10, socket.AF_INET6)
    )

    def ends(src: str, sport: int, dst: str, dport: int) -> str:
        if af == socket.AF_INET6:
            src, dst = (socket.inet_pton(af, end).hex(":", 2) for end in (src, dst))
        if flow.proto not in (6, 17):
            return f"src={src} dst={dst} type=8 code=0 id=7 "
        return f"src={src} dst={dst} sport={sport} dport={dport} "

    text = f"{family:<8} {number} {'name':<8} {flow.proto} 431999 "
    text += f"{flow.state.upper()} " if flow.state else ""
    text += ends(flow.src, flow.sport, flow.dst, flow.dport)
    text += f"zone-orig={flow.zone} " if zone == "zone-orig" else ""
    text += "packets=1 bytes=60 " + ("" if flow.status & 2 else "[UNREPLIED] ")
    text += ends(flow.reply_src, flow.reply_sport, flow.reply_dst, flow.reply_dport)
    text += "packets=0 bytes=0 " + ("[ASSURED] " if flow.status & 4 else "")
    text += f"mark={flow.mark} secctx=system_u:object_r:x "
    return (text + (f"zone={flow.zone} " if zone == "zone" else "") + "use=2\n").encode()


ADDRESSES = {
    "ip": st.binary(min_size=4, max_size=4).map(lambda b: socket.inet_ntop(socket.AF_INET, b)),
    "ip6": st.binary(min_size=16, max_size=16).map(lambda b: socket.inet_ntop(socket.AF_INET6, b)),
}


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    """Any entry that the kernel could have; its status is what /proc can tell of it."""
    family = draw(st.sampled_from(["ip", "ip6"]))
    proto = draw(st.sampled_from([6, 17, 1 if family == "ip" else 58]))
    port = st.integers(0, 65535) if proto in (6, 17) else st.just(0)
    address = ADDRESSES[family]
    src, sport, dst, dport = draw(st.tuples(address, port, address, port))
    back = draw(
        st.one_of(st.just((dst, dport, src, sport)), st.tuples(address, port, address, port))
    )
    status = 8 | draw(st.sampled_from([0, 2, 6]))
    status |= (16 if back[2:] != (src, sport) else 0) | (32 if back[:2] != (dst, dport) else 0)
    state = draw(st.sampled_from(sorted(TCP_STATES.values()))) if proto == 6 else ""
    mark, zone = draw(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 65535)))
    return Flow(family, proto, src, sport, dst, dport, *back, status, state, mark, zone)


@given(st.lists(flows(), max_size=8), st.booleans())
def test_both_sources_are_read_alike(wanted: list[Flow], one_way: bool) -> None:
    asked, _ = collect(message(flow, one_way) for flow in wanted)
    read, _ = collect_lines([line(f, "zone-orig" if one_way else "zone") for f in wanted], 100)
    assert asked == wanted
    assert read == wanted


def test_layouts_that_alternate_are_each_read() -> None:
    other = replace(TCP, family="ip6", src="::1", dst="::2", reply_src="::2", reply_dst="::1")
    ping = replace(PLAIN, proto=1, sport=0, dport=0, reply_sport=0, reply_dport=0)
    known = [TCP, replace(TCP, state="established"), other, ping, replace(TCP, proto=17, zone=3)]
    wanted = known * 20
    assert collect(map(message, wanted))[0] == wanted


@given(st.lists(st.integers(0, 30), min_size=30, max_size=30))
def test_more_layouts_than_are_kept(kinds: list[int]) -> None:
    bodies = [message(TCP) + attribute(100 + kind, b"1234") for kind in kinds]
    assert collect(bodies)[0] == [TCP] * 30


@pytest.mark.parametrize("limit", [0, 1, 4, 9])
def test_the_rest_is_counted(limit: int) -> None:
    wanted = [replace(PLAIN, mark=n) for n in range(5)]
    found = (wanted[:limit], max(0, 5 - limit))
    assert collect(map(message, wanted), limit) == found
    assert collect_lines(map(line, wanted), limit) == found


@given(st.lists(st.binary(max_size=300)))
def test_other_answers_are_refused_or_read_but_never_crash(bodies: list[bytes]) -> None:
    for body in bodies:
        with pytest.raises(ToolFailed, match="makes no sense"):
            collect([body])


@given(data=st.data(), flow=flows())
def test_a_damaged_answer_is_refused_or_read_but_never_crashes(
    data: st.DataObject, flow: Flow
) -> None:
    body = bytearray(message(flow))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(4, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    for damaged in (bytes(body), bytes(body[:cut])):
        try:
            collect([message(flow), damaged, message(flow)])
        except ToolFailed as e:
            assert "makes no sense" in str(e)


@given(data=st.data(), flow=flows())
def test_damaged_text_is_refused_or_read_but_never_crashes(data: st.DataObject, flow: Flow) -> None:
    text = bytearray(line(flow))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        collect_lines([bytes(text), data.draw(st.binary(max_size=99))], 10)
    except ToolFailed as e:
        assert "makes no sense" in str(e)


def answers(*found: Flow | Exception) -> Iterator[bytes]:
    """A kernel that answers so."""
    for one in found:
        if isinstance(one, Exception):
            raise one
        yield message(one)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with one tracked connection, and no way yet to see it; gives its table's path."""
    monkeypatch.setattr(conntrack, "_count", lambda: 1)
    monkeypatch.setattr(conntrack, "loads_nothing", lambda module: False)
    monkeypatch.setattr(conntrack, "stream", lambda *_: answers(AssertionError("asked")))
    monkeypatch.setattr(procflows, "_PATH", str(tmp_path / "nf_conntrack"))
    return tmp_path / "nf_conntrack"


def ask(monkeypatch: pytest.MonkeyPatch, *found: Flow | Exception) -> None:
    """Let ctnetlink be there, and answer so."""
    monkeypatch.setattr(conntrack, "loads_nothing", lambda module: True)
    monkeypatch.setattr(conntrack, "stream", lambda *_: answers(*found))


def test_where_neither_is_there_the_reason_is_given(kernel: Path) -> None:
    assert read_flows() == (
        "tracked connections cannot be seen: nf_conntrack_netlink is not in the kernel, "
        "and there is no /proc/net/nf_conntrack"
    )


def test_where_nothing_is_tracked_nothing_is_asked(
    kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrack, "_count", lambda: None)
    assert read_flows() == ([], 0)
    ask(monkeypatch, AssertionError("asked"))
    monkeypatch.setattr(conntrack, "_count", lambda: 0)
    assert read_flows() == ([], 0)


def test_the_text_serves_where_asking_would_load_a_module(kernel: Path) -> None:
    kernel.write_bytes(line(TCP))
    assert read_flows() == ([TCP], 0)


@pytest.mark.parametrize("code", [2, 22, 93, 95])
def test_the_text_serves_where_the_kernel_has_no_ctnetlink(
    kernel: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    kernel.write_bytes(line(TCP))
    ask(monkeypatch, NetlinkError("connection tracking", code))
    assert read_flows() == ([TCP], 0)


def test_without_the_capability_it_is_named(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = NotPermitted("connection tracking: needs CAP_NET_ADMIN in this network namespace")
    ask(monkeypatch, refusal)
    with pytest.raises(NotPermitted, match="CAP_NET_ADMIN") as caught:
        read_flows()
    assert caught.value is refusal
    kernel.write_bytes(line(TCP))
    assert read_flows() == ([TCP], 0)


def test_other_errors_are_raised(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, TCP, NetlinkError("connection tracking", 12))
    with pytest.raises(ToolFailed, match="Cannot allocate memory"):
        read_flows()
    ask(monkeypatch, TCP, Changed("connection tracking: changed"))
    with pytest.raises(Changed):
        read_flows()
