"""Sockets by sock_diag and by /proc: crafted answers, broken ones, limits, and the real kernel."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import ToolFailed
from meshnet.host import sockdiag
from meshnet.host.netlink import Changed, NetlinkError, attribute
from meshnet.host.procnet import collect_lines
from meshnet.host.sockdiag import collect, read_sockets
from meshnet.host.socket_list import STATES, SocketList
from meshnet.host.userns import IdMap
from meshnet.model.snapshot import UNMAPPED, Socket

HEADING = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
V4, V6 = 2, 10


def message(
    family: int = V4,
    state: int = 1,
    local: tuple[str, int] = ("127.0.0.1", 80),
    remote: tuple[str, int] = ("127.0.0.2", 81),
    uid: int = 0,
    inode: int = 7,
    link: int = 0,
    rest: bytes = b"",
) -> bytes:
    """struct inet_diag_msg with attributes behind it."""
    ends = [socket.inet_pton(family, end[0]).ljust(16, b"\0") for end in (local, remote)]
    head = struct.pack("=BBBB", family, state, 0, 0) + struct.pack("!HH", local[1], remote[1])
    return head + ends[0] + ends[1] + struct.pack("=III", link, 1, 2) + struct.pack(
        "=IIIII", 0, 0, 0, uid, inode
    ) + rest  # fmt: skip


def line(family: int, state: int, local: tuple[str, int], remote: tuple[str, int]) -> bytes:
    """A line of /proc/net/tcp as this machine's kernel prints it."""

    def end(address: str, port: int) -> str:
        words = struct.iter_unpack("=I", socket.inet_pton(family, address))
        return "".join(f"{word:08X}" for (word,) in words) + f":{port:04X}"

    text = f"   0: {end(*local)} {end(*remote)} {state:02X} 00000000:00000000 00:00000000 00000000"
    return f"{text}  1000        0 77 2 0000000000000000 0\n".encode()


def parsed(*bodies: bytes, proto: str = "tcp", **options: object) -> list[Socket]:
    """What sock_diag's answers are read as."""
    found = SocketList(**options)  # type: ignore[arg-type]
    collect(bodies, proto, found)
    return found.result()[0]


@given(
    family=st.sampled_from([V4, V6]),
    state=st.sampled_from(sorted(STATES)),
    raw=st.binary(min_size=32, max_size=32),
    ports=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
)
def test_both_sources_are_read_alike(
    family: int, state: int, raw: bytes, ports: tuple[int, int]
) -> None:
    size = 4 if family == V4 else 16
    local, remote = (
        (socket.inet_ntop(family, raw[at : at + size]), port)
        for at, port in ((0, ports[0]), (16, ports[1]))
    )
    found = SocketList()
    collect_lines([HEADING, line(family, state, local, remote)], "tcp", found)
    asked = parsed(message(family, state, local, remote, uid=1000, inode=77))
    assert found.result()[0] == asked
    assert (asked[0].lport, asked[0].rport, asked[0].state) == (*ports, STATES[state])


def test_ipv4_in_ipv6s_clothes_is_ipv4() -> None:
    (both,) = parsed(message(V6, 1, ("::ffff:10.0.0.1", 1), ("::ffff:10.0.0.2", 2)))
    assert (both.family, both.local, both.remote) == ("ip", "10.0.0.1", "10.0.0.2")
    (listener,) = parsed(message(V6, 10, ("::ffff:10.0.0.1", 1), ("::", 0)))
    assert (listener.family, listener.local, listener.remote) == ("ip", "10.0.0.1", "0.0.0.0")
    (anybody,) = parsed(message(V6, 10, ("::", 1), ("::", 0)))
    assert (anybody.family, anybody.local) == ("ip6", "::")


@pytest.mark.parametrize("only6", [False, True])
@pytest.mark.parametrize("transparent", [False, True, None])
def test_options_are_read(only6: bool, transparent: bool | None) -> None:
    bit = 0x20 if sys.byteorder == "little" else 0x04
    rest = attribute(8, b"\0") + attribute(11, bytes([only6])) + attribute(99, b"later")
    if transparent is not None:
        rest += attribute(22, bytes([0xFF if transparent else 0xFF ^ bit, 0]))
    (found,) = parsed(message(V6, 10, ("::", 1), ("::", 0), rest=rest))
    assert (found.only6, found.transparent) == (only6, transparent)


def test_more_kinds_of_options_than_are_remembered() -> None:
    bodies = [message(inode=n, rest=attribute(21, struct.pack("=Q", n))) for n in range(3000)]
    assert [s.inode for s in parsed(*bodies)] == list(range(3000))


def test_uids_are_those_of_the_owner() -> None:
    inside = IdMap(((0, 100000, 65536),))
    bodies = [message(uid=101337), message(uid=5), message(state=6, uid=0), message(state=3)]
    assert [s.uid for s in parsed(*bodies, uids=inside)] == [1337, UNMAPPED, UNMAPPED, UNMAPPED]


@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize("limit", [0, 1, 3, 5, 100])
def test_listeners_come_first_and_the_rest_is_counted(proto: str, limit: int) -> None:
    states = [1, 10, 7, 1, 6, 10, 7, 12]
    first = 10 if proto == "tcp" else 7
    bodies = [message(state=s, inode=n) for n, s in enumerate(states)]
    lines = [line(V4, s, ("1.1.1.1", n), ("2.2.2.2", 2)) for n, s in enumerate(states)]
    asked, read = SocketList(limit), SocketList(limit)
    collect(bodies, proto, asked)
    collect_lines([HEADING, *lines], proto, read)
    order = sorted(range(len(states)), key=lambda n: states[n] != first)
    assert [s.inode for s in asked.result()[0]] == order[:limit]
    assert [s.lport for s in read.result()[0]] == order[:limit]
    assert asked.result()[1] == read.result()[1] == max(0, len(states) - limit)


@given(st.lists(st.binary(max_size=200)))
def test_other_answers_are_refused_or_read_but_never_crash(bodies: list[bytes]) -> None:
    try:
        parsed(*bodies)
    except ToolFailed as e:
        assert "cut short" in str(e)


@given(cut=st.integers(0, 80), noise=st.binary(max_size=40))
def test_a_cut_answer_is_refused(cut: int, noise: bytes) -> None:
    whole = message(rest=attribute(22, b"\x20\0"))
    if cut < 72:
        with pytest.raises(ToolFailed, match="cut short"):
            parsed(whole[:cut])
    assert parsed(message(rest=noise))[0].lport == 80


@given(
    st.lists(
        st.one_of(st.binary(max_size=200), st.just(line(V4, 1, ("1.1.1.1", 1), ("2.2.2.2", 2))))
    )
)
def test_other_text_is_refused_or_read_but_never_crashes(lines: list[bytes]) -> None:
    found = SocketList()
    try:
        collect_lines([HEADING, *lines], "tcp", found)
    except ToolFailed as e:
        assert "makes no sense" in str(e)


def failing(error: Exception, times: int = 1000) -> Callable[..., Iterator[bytes]]:
    """A kernel that fails so many times in the middle of an answer."""
    left = [times]

    def stream(*_: object) -> Iterator[bytes]:
        yield message()
        if left[0]:
            left[0] -= 1
            raise error

    return stream


def test_a_list_that_changed_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockdiag, "stream", failing(Changed("tcp sockets: changed"), 2))
    assert len(read_sockets()[0]) == 4
    monkeypatch.setattr(sockdiag, "stream", failing(Changed("tcp sockets: changed")))
    with pytest.raises(Changed):
        read_sockets()


def test_an_error_is_not_mistaken_for_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockdiag, "stream", failing(NetlinkError("tcp sockets", 12)))
    with pytest.raises(ToolFailed, match="tcp sockets: Cannot allocate memory"):
        read_sockets()


def refused(*_: object) -> Iterator[bytes]:
    """A kernel without sock_diag."""
    raise NetlinkError("tcp sockets", 2)
    yield b""


@pytest.fixture(params=["sock_diag", "no such answers", "/proc"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where sockets are read from."""
    if request.param == "/proc":
        monkeypatch.setattr(sockdiag, "loads_nothing", lambda module: False)
        monkeypatch.setattr(sockdiag, "stream", None)
    elif request.param == "no such answers":
        monkeypatch.setattr(sockdiag, "stream", refused)
    elif sockdiag.lacking():
        pytest.skip("cannot run here: this kernel has no sock_diag loaded")
    return str(request.param)


def test_ones_own_sockets_are_found(source: str) -> None:
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        udp.bind(("127.0.0.1", 0))
        with socket.create_connection(tcp.getsockname()) as client:
            found = {s.inode: s for s in read_sockets()[0]}
            listening = {s.inode: s for s in read_sockets(listening_only=True)[0]}
            seen = [found[os.fstat(one.fileno()).st_ino] for one in (tcp, udp, client)]
            words = [(s.proto, s.state, s.local, s.lport, s.uid) for s in seen]
            local = client.getsockname()[1]
            inodes = {os.fstat(s.fileno()).st_ino for s in (tcp, udp)}
        assert words == [
            ("tcp", "listen", "127.0.0.1", tcp.getsockname()[1], os.getuid()),
            ("udp", "unconn", "127.0.0.1", udp.getsockname()[1], os.getuid()),
            ("tcp", "established", "127.0.0.1", local, os.getuid()),
        ]
        assert inodes <= set(listening)
        assert {s.state for s in listening.values()} <= {"listen", "unconn"}


def test_what_is_lacking_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockdiag, "loads_nothing", lambda module: module.name != "udp_diag")
    assert sockdiag.lacking().startswith("without udp_diag in the kernel it is not known")
    monkeypatch.setattr(sockdiag, "loads_nothing", lambda module: True)
    assert sockdiag.lacking() == ""
