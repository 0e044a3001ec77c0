"""The same sockets by sock_diag, by /proc, and by pyroute2; and whose they are."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from meshnet.host import sockdiag
from meshnet.host.netns import run_child
from meshnet.host.processes import pids_by_netns, read_process, socket_owners
from meshnet.host.sockdiag import read_sockets
from meshnet.model.snapshot import Socket
from tests.support.namespaces import Namespace

#: What /proc does not tell.
TOLD = {"link": "", "only6": False, "transparent": None}
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
V4, V6 = socket.AF_INET, socket.AF_INET6
#: From port 99 on lo no answer to a first packet comes back; port 98 is cut off when told so.
DROPS = """
table inet drops {
    chain input {
        type filter hook input priority 0
        tcp sport 99 tcp flags & (syn|ack) == (syn|ack) drop
        iifname "off" drop
    }
}
"""
CUT_OFF = "add rule inet drops input tcp sport 98 drop; add rule inet drops input tcp dport 98 drop"


def nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True, timeout=30)


class Kinds:
    """Sockets of every kind and state, kept open."""

    def __init__(self) -> None:
        self.kept: list[socket.socket] = []

    def bound(self, af: int, kind: int, address: str, port: int, *options: Any) -> socket.socket:
        """A socket bound there, listening if it can."""
        one = socket.socket(af, kind)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option in options:
            one.setsockopt(*option)
        one.bind((address, port))
        if kind == TCP:
            one.listen()
        self.kept.append(one)
        return one

    def dialled(self, server: socket.socket, address: str) -> tuple[socket.socket, socket.socket]:
        """A connection to ``server``: the client's end, and the server's."""
        client = socket.create_connection((address, server.getsockname()[1]))
        self.kept += [client, server.accept()[0]]
        return client, self.kept[-1]

    def make(self) -> None:
        only6 = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        plain = self.bound(V4, TCP, "127.0.0.1", 80)
        both = self.bound(V6, TCP, "::", 81, (*only6, 0))
        self.bound(V6, TCP, "::1", 82, (*only6, 1))
        self.bound(V6, TCP, "::ffff:127.0.0.9", 83, (*only6, 0))
        self.bound(V4, TCP, "0.0.0.0", 84, (socket.SOL_IP, 19, 1))
        self.bound(V6, TCP, "::", 85, (socket.IPPROTO_IPV6, 75, 1))
        self.bound(V4, TCP, "0.0.0.0", 86, (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0"))
        self.dialled(plain, "127.0.0.1")
        self.dialled(both, "::1")
        self.dialled(both, "127.0.0.5")
        half, _ = self.dialled(plain, "127.0.0.1")
        half.shutdown(socket.SHUT_WR)
        gone, other = self.dialled(plain, "127.0.0.1")
        gone.close()
        other.close()
        self.bound(V4, UDP, "0.0.0.0", 53)
        self.bound(V6, UDP, "::1", 53, (*only6, 1))
        self.bound(V4, UDP, "127.0.0.1", 54).connect(("127.0.0.2", 55))
        self.bound(V6, UDP, "::", 56, (*only6, 0)).connect(("::ffff:127.0.0.2", 57))
        self.bound(V6, UDP, "::", 58).connect(("::1", 59))
        self.cut_off()

    def cut_off(self) -> None:
        """The states of a connection whose packets are lost."""
        deaf = self.bound(V4, TCP, "127.0.0.1", 99)
        waiting = socket.socket()
        waiting.setblocking(False)
        waiting.connect_ex(deaf.getsockname())
        self.kept.append(waiting)
        server = self.bound(V4, TCP, "127.0.0.1", 98)
        first, second = self.dialled(server, "127.0.0.1"), self.dialled(server, "127.0.0.1")
        first[0].shutdown(socket.SHUT_WR)
        time.sleep(0.1)
        nft(CUT_OFF)
        first[1].close()
        second[0].close()


def by_proc() -> tuple[list[Socket], int]:
    """As read where sock_diag would have to be loaded."""
    asked, sockdiag.loads_nothing = sockdiag.loads_nothing, lambda module: False
    try:
        return read_sockets()
    finally:
        sockdiag.loads_nothing = asked


def by_pyroute2() -> list[list[Any]]:
    """[protocol, ports, inode] of each socket."""
    from pyroute2 import DiagSocket

    found = []
    with DiagSocket() as diag:
        diag.bind()
        for af in (V4, V6):
            for name, proto in (("tcp", 6), ("udp", 17)):
                for one in diag.get_sock_stats(family=af, protocol=proto):
                    ports = (one["idiag_sport"], one["idiag_dport"])
                    found.append([name, *ports, one["idiag_inode"]])
    return sorted(found)


def shown(sockets: list[Socket], **changes: Any) -> list[dict[str, Any]]:
    return sorted(
        ({**vars(s), **changes} for s in sockets), key=lambda s: sorted(map(str, s.items()))
    )


def in_here(netns: Namespace, job: Callable[[], Any]) -> Any:
    return run_child(job, netns=netns.path, timeout=60)


def test_every_kind_of_socket_by_every_way(netns: Namespace) -> None:
    def job() -> Any:
        nft(DROPS)
        kinds = Kinds()
        kinds.make()
        for _ in range(50):
            asked, cut = read_sockets()
            told, cut_too = by_proc()
            listening, _ = read_sockets(listening_only=True)
            oracle = by_pyroute2()
            if read_sockets()[0] == asked:
                break
            time.sleep(0.1)
        assert (cut, cut_too) == (0, 0)
        return [shown(asked), shown(asked, **TOLD), shown(told), shown(listening), oracle]

    asked, comparable, told, listening, oracle = in_here(netns, job)
    assert comparable == told
    assert sorted([s["proto"], s["lport"], s["rport"], s["inode"]] for s in asked) == oracle
    states = {(s["proto"], s["state"]) for s in asked}
    words = (
        "established syn-sent syn-recv fin-wait-1 fin-wait-2 time-wait close-wait last-ack listen"
    )
    assert states == {("tcp", w) for w in words.split()} | {
        ("udp", "unconn"),
        ("udp", "established"),
    }
    assert shown_equal(listening, [s for s in asked if s["state"] in ("listen", "unconn")])
    check_listeners({s["lport"]: s for s in listening if s["proto"] == "tcp"})
    families = {(s["lport"], s["family"], s["remote"]) for s in asked if s["state"] != "listen"}
    assert (81, "ip", "127.0.0.1") in families and (81, "ip6", "::1") in families
    assert (56, "ip", "127.0.0.2") in families


def shown_equal(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return sorted(map(str, one)) == sorted(map(str, other))


def check_listeners(at: dict[int, dict[str, Any]]) -> None:
    """What each listener of Kinds should look like, by its port."""
    assert {p: s["only6"] for p, s in at.items() if s["family"] == "ip6"} == {
        81: False,
        82: True,
        85: False,
    }
    assert {p for p, s in at.items() if s["transparent"]} == {84, 85}
    assert {p: s["link"] for p, s in at.items() if s["link"]} == {86: "lo"}
    assert (at[83]["family"], at[83]["local"], at[83]["remote"]) == ("ip", "127.0.0.9", "0.0.0.0")
    assert (at[81]["family"], at[81]["local"]) == ("ip6", "::")


def test_a_socket_belongs_to_whom_it_was_made_by(netns: Namespace) -> None:
    def job() -> Any:
        kinds = Kinds()
        libc = ctypes.CDLL(None)
        for uid in (0, 1337, 4_000_000_000):
            libc.setfsuid(ctypes.c_uint(uid))
            kinds.kept.append(socket.socket())
            libc.setfsuid(0)
            kinds.kept[-1].bind(("127.0.0.1", 0))
            kinds.kept[-1].listen()
        both = [read_sockets()[0], by_proc()[0]]
        return [sorted(s.uid for s in found) for found in both]

    assert in_here(netns, job) == [[0, 1337, 4_000_000_000]] * 2


def test_an_interface_that_is_gone_has_its_number(netns: Namespace) -> None:
    netns.run("ip", "link", "add", "off", "type", "veth", "peer", "name", "away")

    def job() -> Any:
        kinds = Kinds()
        device = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"off\0")
        kinds.bound(V4, UDP, "0.0.0.0", 70, device)
        index = socket.if_nametoindex("off")
        before = read_sockets()[0][0].link
        subprocess.run(["ip", "link", "del", "off"], check=True, timeout=30)
        return [before, [s.link for s in read_sockets()[0]], f"#{index}"]

    before, after, number = in_here(netns, job)
    assert before == "off"
    assert after in ([number], [""])


def test_other_namespaces_are_not_seen(netns: Namespace) -> None:
    assert in_here(netns, lambda: [read_sockets(), by_proc()]) == [[[], 0], [[], 0]]


def test_looking_needs_no_capability_and_changes_nothing(netns: Namespace) -> None:
    def job() -> Any:
        kinds = Kinds()
        kinds.bound(V4, TCP, "127.0.0.1", 80)
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        unseen: list[int] = []
        socket_owners([1, os.getpid()], unseen)
        first = read_process(1)
        hidden = pids_by_netns().get(0, [])
        seen = [read_sockets()[0][0].lport, by_proc()[0][0].lport]
        return [*seen, unseen, first and [first.netns, first.userns, first.uids], 1 in hidden]

    before = netns.everything()
    modules = set(os.listdir("/sys/module"))
    assert in_here(netns, job) == [80, 80, [1], [0, 0, [0, 0, 0, 0]], True]
    assert netns.everything() == before
    assert set(os.listdir("/sys/module")) == modules


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_listeners_are_kept_before_connections(netns: Namespace, limit: int) -> None:
    def job() -> Any:
        kinds = Kinds()
        server = kinds.bound(V4, TCP, "127.0.0.1", 80)
        kinds.dialled(server, "127.0.0.1")
        kinds.bound(V6, TCP, "::1", 81)
        found, cut = read_sockets(limit=limit)
        return [[s.lport for s in found if s.state == "listen"], len(found), cut]

    ports, count, cut = in_here(netns, job)
    assert ports == [80, 81][:limit]
    assert (count, count + cut) == (min(limit, 4), 4)
