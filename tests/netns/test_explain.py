"""``meshnet explain`` of a live namespace: the kernel's routes, and what the kernel then does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meshnet.dialects.dumps import rulesets
from meshnet.host.route import Request, kernel_route
from meshnet.host.target import Target, resolve
from meshnet.model.address import read_address
from meshnet.model.packet import TCP, Family
from meshnet.ops.collect import collect
from meshnet.reason.ask import Question
from meshnet.reason.way_out import NoRoute, snapshot_way
from tests.support.cases import DEFAULT, TPROXY
from tests.support.cli import run_cli
from tests.support.explaining import document, explained
from tests.support.namespaces import Namespace, Namespaces

WORLD, WORLD6 = "93.184.216.34", "2001:db8::1"
#: Dial as UID and GID; what the first packet became is what conntrack or the peer then says.
DIAL = """
import os, socket, sys
os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[3] else socket.AF_INET)
s.settimeout(0.2)
try: s.connect((sys.argv[3], int(sys.argv[4])))
except OSError: pass
"""


@pytest.fixture
def pod(namespaces: Namespaces) -> Namespace:
    """A namespace with an address and a default route of each family, and a second network."""
    pod, world, other = (namespaces.make() for _ in range(3))
    namespaces.connect(pod, world)
    for where, last in ((pod, 2), (world, 1)):
        where.run("ip", "addr", "add", f"10.9.0.{last}/24", "dev", "eth0")
        where.run("ip", "addr", "add", f"fd09::{last}/64", "dev", "eth0", "nodad")
    pod.run("ip", "route", "add", "default", "via", "10.9.0.1")
    pod.run("ip", "-6", "route", "add", "default", "via", "fd09::1")
    other.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "far")
    other.run("ip", "link", "set", "eth1", "netns", pod.name)
    other.run("ip", "link", "set", "far", "up")
    pod.run("ip", "addr", "add", "10.8.0.2/24", "dev", "eth1")
    pod.run("ip", "link", "set", "eth1", "up")
    pod.run("ip", "route", "add", "default", "via", "10.8.0.1", "table", "100")
    pod.run("ip", "rule", "add", "uidrange", "2000-2009", "lookup", "100", "priority", "90")
    pod.run("ip", "rule", "add", "fwmark", "7", "lookup", "100", "priority", "91")
    pod.run("ip", "rule", "add", "to", "198.51.100.0/24", "prohibit", "priority", "92")
    pod.run("ip", "route", "add", "unreachable", "203.0.113.0/24")
    return pod


def target(pod: Namespace) -> Target:
    return resolve(f"netns:{pod.path}")


def asked(pod: Namespace, address: str, uid: int, mark: int) -> tuple[str, str] | None:
    """What ``ip route get`` says: (interface, source); None where there is no way."""
    argv = ["ip", "route", "get", address, "uid", str(uid), "mark", str(mark), "ipproto", "tcp"]
    done = pod.run(*argv, check=False)
    if done.returncode:
        return None
    line = done.stdout.splitlines()[0]
    link, source = re.search(r" dev (\S+)", line), re.search(r" src (\S+)", line)
    return (link[1] if link else "", source[1] if source else "")


ADDRESSES = (
    WORLD, "10.9.0.77", "10.8.0.9", "10.9.0.2", "127.0.0.1", "127.1.2.3", "198.51.100.3",
    "203.0.113.3", "2001:db8::1", "fd09::7", "fd09::2", "::1",
)  # fmt: skip


def test_routes_are_the_kernels_for_the_user_and_a_snapshot_tells_the_same(
    pod: Namespace,
) -> None:
    """Three ways to ask: ``ip route get``, our request, and the routes of a snapshot."""
    at, snapshot = target(pod), collect(target(pod))
    seen = set()
    for address in ADDRESSES:
        family, number = read_address(address)
        for uid in (0, 1000, 2005):
            for mark in (0, 7):
                wanted = asked(pod, address, uid, mark)
                size = 4 if family.value == "ip" else 16
                request = Request(number.to_bytes(size, "big"), uid=uid, mark=mark, dport=80)
                question = Question(family, TCP, number, 80, uid=uid, gid=uid, mark=mark)
                seen.add(wanted)
                if wanted is None:
                    with pytest.raises(NoRoute):
                        kernel_route(at, request)
                    with pytest.raises(NoRoute):
                        snapshot_way(snapshot, question)
                    continue
                for way in (kernel_route(at, request), snapshot_way(snapshot, question)):
                    assert (way.link, way.source) == wanted, (address, uid, mark, way)
    assert {None, ("eth1", "10.8.0.2"), ("eth0", "10.9.0.2")} <= seen


def test_an_inbound_packet_is_for_this_namespace_or_on(pod: Namespace) -> None:
    pod.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    at, snapshot = target(pod), collect(target(pod))
    source = read_address("10.9.0.77")[1]
    for address, local, link in (("10.9.0.2", True, "lo"), (WORLD, False, "eth0")):
        family, number = read_address(address)
        request = Request(number.to_bytes(4, "big"), source.to_bytes(4, "big"), iif="eth0")
        way = kernel_route(at, request)
        question = Question(family, TCP, number, 80, src=source, iif="eth0")
        stored = snapshot_way(snapshot, question)
        assert (way.local, stored.local) == (local, local)
        assert local or (way.link, stored.link) == (link, link)


@pytest.mark.parametrize("backend", ["nft-compat", "legacy"])
def test_the_verdict_is_what_the_kernel_does(pod: Namespace, backend: str) -> None:
    """Packets of several users, and what became of each: counted by the rules themselves."""
    options = ("-i", "10.9.0.0/24", "-x", "10.9.0.128/25", "-o", "9090")
    pod.init("-p", "15001", "-u", "1337", "-b", "*", *options, "--backend", backend)
    asks = [
        (1000, 1000, "10.9.0.77:8080", "captured"),
        (1000, 1000, "10.9.0.200:8080", "bypassed"),
        (1000, 1000, "10.9.0.77:9090", "bypassed"),
        (1337, 1337, "10.9.0.77:8080", "bypassed"),
        (1000, 1337, "10.9.0.77:8080", "bypassed"),
        (1000, 1000, f"{WORLD}:8080", "direct"),
        (1000, 1000, "127.0.0.1:8080", "bypassed"),
        (1337, 1337, "10.9.0.2:8080", "captured"),
        (2005, 2005, "10.9.0.77:8080", "captured"),
    ]
    for uid, gid, to, verdict in asks:
        found = document(
            f"netns:{pod.path}", "--uid", str(uid), "--gid", str(gid), "tcp", to,
            "--expect", verdict,
        )  # fmt: skip
        leg = found["legs"][0]
        assert leg["verdict"] == verdict and leg["way"]["origin"] == "kernel"
        before = counted(pod, backend)
        host, port = to.rsplit(":", 1)
        pod.run("/usr/bin/python3", "-c", DIAL, str(uid), str(gid), host, port)
        grown = {place for place, n in counted(pod, backend).items() if n > before.get(place, 0)}
        held = {
            (row["table"], row["chain"], row["first"])
            for row in leg["rules"]
            if row["held"] == "yes" and row["kind"] == "rule"
        }
        assert held == grown, (uid, gid, to)


def counted(pod: Namespace, backend: str) -> dict[tuple[str, str, int], int]:
    """How many packets each rule has counted."""
    held = rulesets(collect(target(pod), ("rules",)))[backend]
    return {
        (table.name, chain.name, number): rule.packets
        for table in held.of(Family.IP).tables
        for chain in table.chains
        for number, rule in enumerate(chain.rules, 1)
    }


def test_the_journey_is_followed_to_its_end(pod: Namespace) -> None:
    pod.init(*DEFAULT)
    out = document(f"netns:{pod.path}", "--uid", "1000", "--follow", "tcp", f"{WORLD}:80")
    assert [leg["verdict"] for leg in out["legs"]] == ["captured", "bypassed"]
    assert out["legs"][1]["packet"]["uid"] == 1337
    into = document(
        f"netns:{pod.path}", "--in", "eth0", "--src", "10.9.0.1:4", "--follow", "tcp",
        "10.9.0.2:8080",
    )  # fmt: skip
    assert [leg["verdict"] for leg in into["legs"]] == ["captured", "bypassed"]
    assert into["legs"][1]["packet"]["src"] == "127.0.0.6"
    assert any("nobody listens on :15006" in note for note in into["notes"])


def test_tproxy_gives_the_socket_and_the_proxy_speaks_with_the_clients_address(
    pod: Namespace,
) -> None:
    pod.init(*TPROXY)
    into = document(
        f"netns:{pod.path}", "--in", "eth0", "--src", "10.9.0.1:4", "--follow", "tcp",
        "10.9.0.2:8080",
    )  # fmt: skip
    first, second = into["legs"]
    assert (first["verdict"], first["port"]) == ("captured", 15006)
    assert "given to the socket" in first["leaves"]
    assert (second["packet"]["src"], second["packet"]["mark"]) == ("10.9.0.1", 1337)


def test_no_route_means_that_no_rule_is_asked(pod: Namespace) -> None:
    pod.init(*DEFAULT)
    done = explained(f"netns:{pod.path}", "--uid", "1", "tcp", "203.0.113.3:80", code=1)
    assert "connect() fails before any rule is asked" in done.stderr


def test_a_snapshot_is_explained_as_its_namespace(pod: Namespace, tmp_path: Path) -> None:
    pod.init(*DEFAULT)
    path = tmp_path / "pod.json"
    run_cli("snapshot", f"netns:{pod.path}", "--to", str(path))
    for uid in (1000, 1337, 2005):
        words = ("--uid", str(uid), "tcp", f"{WORLD}:443")
        live = document(f"netns:{pod.path}", *words)
        stored = document("--from", str(path), *words)
        assert live["legs"][0]["way"].pop("origin") == "kernel"
        assert stored["legs"][0]["way"].pop("origin") == "snapshot"
        for one in (live, stored):
            one["legs"][0]["way"].pop("words")
        assert live == stored


def test_nothing_changes_by_being_explained(pod: Namespace) -> None:
    pod.init(*DEFAULT, "--backend", "legacy")
    before = pod.everything()
    document(f"netns:{pod.path}", "--uid", "1000", "--follow", "tcp", f"{WORLD}:80")
    assert pod.everything() == before
