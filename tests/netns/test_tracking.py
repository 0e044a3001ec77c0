"""The same tracked connections by ctnetlink, by /proc, by pyroute2 and by conntrack(8)."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from meshnet.errors import NotPermitted
from meshnet.host import conntrack, procflows
from meshnet.host.conntrack import read_flows
from meshnet.host.netns import run_child
from meshnet.model.snapshot import Flow
from tests.support.namespaces import Namespace

#: The status bits that /proc tells of.
TOLD = 2 | 4 | 8 | 16 | 32
RULES = """
table inet marks {
    chain raw {
        type filter hook output priority -300
        udp dport 700 ct zone set 7
        udp dport 701 ct original zone set 8
    }
    chain output {
        type filter hook output priority 0
        udp dport 702 ct mark set 0x539
    }
}
table inet lost {
    chain input {
        type filter hook input priority 0
        tcp dport 90 drop
    }
}
"""
REDIRECT = ("-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "80")
REDIRECT += ("-j", "REDIRECT", "--to-ports", "15001")
NAT6 = "add table ip6 n; add chain ip6 n p { type nat hook postrouting priority 100; }; "
NAT6 += "add rule ip6 n p udp dport 703 snat to [::1]:40000"
ECHO = {socket.AF_INET: (socket.IPPROTO_ICMP, 8), socket.AF_INET6: (58, 128)}


def in_here(netns: Namespace, job: Callable[[], Any]) -> Any:
    return run_child(job, netns=netns.path, timeout=120)


def converse() -> list[socket.socket]:
    """Traffic of every kind; gives what keeps it going."""
    kept: list[socket.socket] = []
    for af, any_one, address in (
        (socket.AF_INET, "0.0.0.0", "127.0.0.2"),
        (socket.AF_INET6, "::", "::1"),
    ):
        proxy = socket.socket(af)
        if af == socket.AF_INET6:
            proxy.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        proxy.bind((any_one, 15001))
        proxy.listen()
        clients = [socket.create_connection((address, 80)) for _ in range(3)]
        servers = [proxy.accept()[0] for _ in clients]
        servers[0].close()
        clients[1].close()
        servers[1].close()
        lost = socket.socket(af)
        lost.setblocking(False)
        lost.connect_ex((address, 90))
        talk = socket.socket(af, socket.SOCK_DGRAM)
        for port in (700, 701, 702, 703):
            talk.sendto(b"x", (address, port))
        echo = socket.socket(af, socket.SOCK_RAW, ECHO[af][0])
        echo.sendto(struct.pack("!BBHHH", ECHO[af][1], 0, 0, 7, 1), (address, 0))
        kept += [proxy, *clients, *servers, lost, talk, echo]
    return kept


def facts(flows: list[Flow]) -> list[list[Any]]:
    return sorted(list(vars(flow).values()) for flow in flows)


def told(flows: list[Flow]) -> list[list[Any]]:
    """What /proc can tell of them."""
    return facts([Flow(**{**vars(f), "status": f.status & TOLD}) for f in flows])


def by_pyroute2() -> list[list[Any]]:
    """[protocol, source, target, those of replies, ports, status, mark] of each entry."""
    from pyroute2 import NFCTSocket

    def ends(way: Any) -> list[str]:
        ip = way.get_attr("CTA_TUPLE_IP")
        version = "V4" if ip.get_attr("CTA_IP_V4_SRC") else "V6"
        return [ip.get_attr(f"CTA_IP_{version}_{end}") for end in ("SRC", "DST")]

    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        with NFCTSocket(nfgen_family=family) as tracker:
            entries = list(tracker.dump())
        for one in entries:
            there, back = one.get_attr("CTA_TUPLE_ORIG"), one.get_attr("CTA_TUPLE_REPLY")
            proto = there.get_attr("CTA_TUPLE_PROTO")
            ports = [proto.get_attr(f"CTA_PROTO_{n}_PORT") or 0 for n in ("SRC", "DST")]
            number = proto.get_attr("CTA_PROTO_NUM")
            rest = [one.get_attr("CTA_STATUS"), one.get_attr("CTA_MARK")]
            found.append([number, *ends(there), *ends(back), *ports, *rest])
    return sorted(found)


def for_pyroute2(flow: Flow) -> list[Any]:
    ends = [flow.src, flow.dst, flow.reply_src, flow.reply_dst]
    return [flow.proto, *ends, flow.sport, flow.dport, flow.status, flow.mark]


def by_program() -> list[list[Any]]:
    """[protocol, source, target, state] of each line of conntrack(8)."""
    found = []
    for family in ("ipv4", "ipv6"):
        text = subprocess.run(
            ["conntrack", "-L", "-o", "extended", "-f", family],
            capture_output=True,
            text=True,
            timeout=30,
        ).stdout
        for line in text.splitlines():
            words = line.split()
            src, dst = (re.findall(rf"{n}=(\S+)", line)[0] for n in ("src", "dst"))
            state = words[5].lower() if words[3] == "6" else ""
            found.append([int(words[3]), src, dst, state])
    return sorted(found)


def prepare(netns: Namespace) -> None:
    for tool in ("iptables-nft", "ip6tables-nft"):
        netns.run(tool, *REDIRECT)
    netns.run("nft", "-f", "-", text=RULES)
    netns.run("nft", NAT6)


def test_every_kind_of_entry_by_every_way(netns: Namespace) -> None:
    prepare(netns)

    def job() -> Any:
        kept = converse()
        for _ in range(50):
            found = read_flows()
            text = procflows.read_table(1000)
            oracle = by_pyroute2()
            program = by_program() if shutil.which("conntrack") else None
            assert isinstance(found, tuple) and text is not None and kept
            assert found[1] == text[1] == 0
            if read_flows() == found:
                break
            # An acknowledgement was still on its way.
            time.sleep(0.1)
        ours = sorted(for_pyroute2(flow) for flow in found[0])
        return [facts(found[0]), told(found[0]), told(text[0]), ours, oracle, program]

    flows, comparable, text, ours, oracle, program = in_here(netns, job)
    assert comparable == text
    assert ours == oracle
    names = Flow.__match_args__
    entries = [dict(zip(names, flow, strict=True)) for flow in flows]
    if program is not None:
        assert program == sorted([e["proto"], e["src"], e["dst"], e["state"]] for e in entries)
    for family in ("ip", "ip6"):
        check_kinds([e for e in entries if e["family"] == family])


def check_kinds(entries: list[dict[str, Any]]) -> None:
    """What :func:`converse` must have left, in one family."""
    redirected = [e for e in entries if e["dport"] == 80]
    assert {e["state"] for e in redirected} >= {"established", "time_wait"}
    assert {e["reply_sport"] for e in redirected} == {15001}
    assert all(e["status"] & 32 and not e["status"] & 16 for e in redirected)
    (lost,) = (e for e in entries if e["dport"] == 90)
    assert (lost["state"], lost["status"] & 2) == ("syn_sent", 0)
    by_port = {e["dport"]: e for e in entries if e["proto"] == 17}
    assert [by_port[port]["zone"] for port in (700, 701, 702)] == [7, 8, 0]
    assert by_port[702]["mark"] == 0x539
    (echo,) = (e for e in entries if e["proto"] in (1, 58) and e["sport"] == 0 == e["dport"])
    assert echo["status"] & 8
    if by_port[703]["family"] == "ip6":
        assert (by_port[703]["reply_dport"], by_port[703]["status"] & 16) == (40000, 16)


def count(netns: Namespace) -> int:
    return int(netns.run("sysctl", "-n", "net.netfilter.nf_conntrack_count").stdout)


def test_asking_does_not_switch_tracking_on(netns: Namespace) -> None:
    def job() -> Any:
        first = [read_flows(), conntrack._ask(10), procflows.read_table(10)]
        kept = []
        for port in range(100, 105):
            kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            kept[-1].sendto(b"x", ("127.0.0.1", port))
        return [first, read_flows(), conntrack._ask(10)]

    before = netns.everything()
    assert in_here(netns, job) == [[[[], 0]] * 3, [[], 0], [[], 0]]
    assert count(netns) == 0
    assert netns.everything() == before


def test_without_the_capability_it_is_named(netns: Namespace) -> None:
    prepare(netns)

    def job() -> Any:
        kept = converse()
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        assert kept
        return read_flows()

    with pytest.raises(NotPermitted, match="needs CAP_NET_ADMIN in this network namespace"):
        in_here(netns, job)


def test_very_many_entries_are_cut_and_need_little_memory(netns: Namespace) -> None:
    prepare(netns)
    many, kept = 60_000, 1_000

    def job() -> Any:
        talk = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for n in range(many):
            talk.sendto(b"x", (f"127.1.{n >> 8}.{n & 255}", 9))
        held = conntrack._count()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = [read_flows(kept), procflows.read_table(kept)]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        return [held, [[len(flows), cut] for flows, cut in found], grown]

    held, found, grown = in_here(netns, job)
    if held < many:
        pytest.skip(f"cannot run here: the kernel tracks at most {held} connections")
    assert [sum(one) for one in found] == [held, held]
    assert [one[0] for one in found] == [kept, kept]
    assert grown < 8 << 10, f"{grown} KiB"
