"""--run-validation: what it proves, what it finds broken, and what it says it could not ask."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from meshnet.model.packet import Family
from meshnet.ops.cells import Cell, Expect
from meshnet.ops.verdicts import Outcome, judge
from tests.support.namespaces import Namespace, Namespaces, meshnet_init

BACKENDS = ("nft-compat", "nft", "legacy")
POD, POD6, NODE, NODE6 = "10.9.0.1", "fd09::1", "10.9.0.2", "fd09::2"
BOTH = ("--profile", "istio", "-p", "15001", "-u", "1337", "-i", "*", "-b", "*", "--ipv6", "on")
STRICT = ("--profile", "strict", "-p", "15001", "-u", "1337", "-i", "*", "-b", "*")
ASK = ("--skip-rule-apply", "--run-validation", "--probe-timeout", "700ms")
INSIDE_ONLY = {("IPv4", "inbound", "a peer"), ("IPv6", "inbound", "a peer")}


class Network:
    """A pod with a default route to its node."""

    def __init__(self, namespaces: Namespaces) -> None:
        self.pod, self.node = namespaces.make(), namespaces.make()
        namespaces.connect(self.pod, self.node)
        pod = f"addr add {POD}/24 dev eth0\naddr add {POD6}/64 dev eth0 nodad\n"
        pod += f"route add default via {NODE}\nroute add ::/0 via {NODE6}\n"
        self.pod.run("ip", "-batch", "-", text=pod)
        node = f"addr add {NODE}/24 dev eth0\naddr add {NODE6}/64 dev eth0 nodad\n"
        self.node.run("ip", "-batch", "-", text=node)

    def ask(
        self, *arguments: str, code: int = 0, node: bool = False, before: tuple[str, ...] = ()
    ) -> dict:
        """The report of a validation alone, in the pod or from the node."""
        where = self.node if node else self.pod
        target = ("--target", f"netns:{self.pod.path}") if node else ()
        done = where.run(
            *before, meshnet_init(), *arguments, *ASK, "--output", "json", *target, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        report = json.loads(done.stdout)
        report["stderr"] = done.stderr
        return report


@pytest.fixture
def network(namespaces: Namespaces) -> Network:
    return Network(namespaces)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def verdicts(report: dict) -> dict[tuple[str, str, str, str], str]:
    """The verdict of each row by family, direction, who and what was dialled."""
    found = {
        (r["family"], r["direction"], r["who"], r["dialled"]): r["verdict"] for r in report["cells"]
    }
    assert len(found) == len(report["cells"])
    return found


def failed(report: dict) -> set[tuple[str, str, str, str]]:
    return {row for row, verdict in verdicts(report).items() if verdict == "failed"}


def happened(report: dict, *row: str) -> str:
    """What a row says, by the beginning of its columns."""
    texts = [
        r["happened"] or r["reason"]
        for r in report["cells"]
        if (r["family"], r["direction"], r["who"], r["dialled"])[: len(row)] == row
    ]
    assert len(texts) == 1, (row, report)
    return texts[0]


# What holds.


def test_a_pod_by_itself(network: Network, backend: str) -> None:
    network.pod.init(*BOTH, "--backend", backend)
    report = network.ask(*BOTH)
    assert (report["schema"], report["failed"], report["cause"]) == (
        "meshnet/v1/validation", False, None,
    )  # fmt: skip
    for family, to in (("IPv4", "192.0.2.2:1404"), ("IPv6", "[2001:db8::2]:1404")):
        plain = (family, "outbound", "user 65534", f"tcp {to}")
        assert happened(report, *plain) == "reached port 15001, destination intact"
        for who in ("proxy uid 1337", "proxy gid 1337"):
            assert verdicts(report)[family, "outbound", who, f"tcp {to}"] == "ok"
        assert happened(report, family, "inbound").startswith("needs a peer")
        control = (family, "control", "bare namespace", f"tcp {to}")
        assert happened(report, *control) == "reached port 1404"
    assert report["counts"] == {"ok": 8, "failed": 0, "not tested": 2}


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
@pytest.mark.parametrize("profile", [BOTH, STRICT], ids=["istio", "strict"])
def test_a_pod_from_its_node(
    network: Network, backend: str, profile: tuple[str, ...], mode: str
) -> None:
    spec = (*profile, "-m", mode, "-d", "15020", "-o", "6379", "-x", "10.96.0.0/12,fd10::/64")
    network.pod.init(*spec, "--backend", backend)
    report = network.ask(*spec, node=True)
    assert set(verdicts(report).values()) == {"ok"}
    for family, peer, pod in (("IPv4", NODE, POD), ("IPv6", NODE6, f"[{POD6}]")):
        row = (family, "inbound", f"peer {peer}", f"tcp {pod}:15002")
        assert happened(report, *row) == "reached port 15006, destination intact"
        row = (family, "inbound", f"peer {peer}", f"tcp {pod}:15020")
        assert happened(report, *row) == "reached port 15020"
        excluded = [r for r in report["cells"] if "is excluded" in r["expected"]]
        assert len([r for r in excluded if r["family"] == family]) == 3


@pytest.mark.parametrize("servers", [("--capture-all-dns",), ("--dns-server", NODE)])
def test_dns(network: Network, backend: str, servers: tuple[str, ...]) -> None:
    spec = (*BOTH, "--redirect-dns", *servers)
    network.pod.init(*spec, "--backend", backend)
    report = network.ask(*spec)
    asked = [r for r in report["cells"] if r["direction"] == "dns"]
    assert {r["verdict"] for r in asked} == {"ok"}
    told = {r["dialled"].split()[0]: r["happened"] for r in asked if r["who"] == "user 65534"}
    assert told == {
        "udp": "reached port 15053, and answered",
        "tcp": "reached port 15053, destination intact",
    }
    network.pod.init("--cleanup-only")
    network.pod.init(*BOTH, "--backend", backend)
    lost = {row for row in failed(network.ask(*spec, code=126)) if row[0] == "IPv4"}
    to = NODE if servers[-1] == NODE else "192.0.2.2"
    assert lost == {("IPv4", "dns", "user 65534", f"{kind} {to}:53") for kind in ("udp", "tcp")}


def test_classic_is_one_port_for_both_directions(network: Network, backend: str) -> None:
    spec = ("-p", "15001", "-u", "1337")
    network.pod.init(*spec, "--backend", backend)
    report = network.ask(*spec, node=True)
    assert happened(report, "IPv4", "inbound") == "reached port 15001, destination intact"
    assert happened(report, "IPv6").startswith("needs IPv6 to be on")


def test_ipv6_refused(network: Network, backend: str) -> None:
    spec = (*STRICT, "--ipv6", "drop", "--redirect-dns", "--capture-all-dns")
    network.pod.init(*spec, "--backend", backend)
    report = network.ask(*spec, node=True)
    assert not report["failed"]
    refused = [r for r in report["cells"] if r["expected"] == "refused"]
    assert [r["happened"] for r in refused] == ["was refused"] * 4
    network.pod.init(*STRICT, "--ipv6", "allow", "--backend", backend)
    lost = failed(network.ask(*spec, node=True, code=126))
    assert ("IPv6", "outbound", "user 65534", "tcp [2001:db8::2]:1404") in lost


def test_a_spec_that_captures_some_ports_and_blocks(network: Network, backend: str) -> None:
    spec = ("--profile", "istio", "-p", "15001", "-u", "1337", "--ipv6", "off")
    for what, dialled in (
        (("-q", "443,8443"), "tcp 192.0.2.2:443"),
        (("-i", "203.0.113.0/24"), "tcp 203.0.113.2:1404"),
        ((), "tcp 192.0.2.2:1404"),
    ):
        network.pod.init(*spec, *what, "--backend", backend)
        report = network.ask(*spec, *what)
        (row,) = [r for r in report["cells"] if r["who"] == "user 65534"]
        assert (row["dialled"], row["verdict"]) == (dialled, "ok")
        assert ("15001" in row["happened"]) is bool(what)


def test_apply_and_validate_in_one_run(network: Network) -> None:
    done = network.pod.init(*BOTH, "--run-validation")
    assert done.stdout.startswith("8 ok, 0 failed, 2 not tested\n")
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_an_old_conntrack_entry_is_no_leak(network: Network) -> None:
    """Whatever port the probe gets, an unanswered SYN of before the rules holds it already."""
    network.pod.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40063")
    # Something must track connections before the rules are there.
    network.pod.run("iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW")
    code = """
        import socket
        kept = []
        for port in range(40000, 40064):
            kept.append(socket.socket())
            kept[-1].setblocking(False)
            kept[-1].bind(("", port))
            kept[-1].connect_ex(("192.0.2.2", 1404))
    """
    network.pod.run(sys.executable, "-c", textwrap.dedent(code))
    network.pod.init(*BOTH)
    report = network.ask(*BOTH)
    assert happened(report, "IPv4", "outbound", "user 65534").startswith("reached port 15001")


# What is found broken.


def test_no_rules(network: Network) -> None:
    report = network.ask(*BOTH, code=126)
    plain = {
        ("IPv4", "outbound", "user 65534", "tcp 192.0.2.2:1404"),
        ("IPv6", "outbound", "user 65534", "tcp [2001:db8::2]:1404"),
    }
    assert failed(report) == plain
    assert report["cause"].startswith(
        "IPv4 outbound as user 65534 to tcp 192.0.2.2:1404: expected captured by port 15001, but: "
    )
    assert report["cause"].endswith("no backend holds rules of ours in this namespace")
    assert report["cause"] in report["stderr"]
    report = network.ask(*BOTH, node=True, code=126)
    inbound = {
        ("IPv4", "inbound", f"peer {NODE}", f"tcp {POD}:15002"),
        ("IPv6", "inbound", f"peer {NODE6}", f"tcp [{POD6}]:15002"),
    }
    assert failed(report) == plain | inbound
    assert happened(report, *min(inbound)) == "reached port 15002, destination intact"


def test_a_foreign_rule_decides_first(network: Network, backend: str) -> None:
    network.pod.init(*BOTH, "--backend", backend)
    if backend == "nft":
        # Between nat chains an accept decides nothing; a translation does, for all later ones.
        chain = "type nat hook output priority -150\ntcp dport 1404 redirect to :9\n"
        text = f"table ip foreign {{\nchain first {{\n{chain}}}\n}}\n"
        network.pod.run("nft", "-f", "-", text=text)
    else:
        tool = "iptables-legacy" if backend == "legacy" else "iptables"
        network.pod.run(tool, "-t", "nat", "-I", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
    report = network.ask(*BOTH, code=126)
    assert failed(report) == {("IPv4", "outbound", "user 65534", "tcp 192.0.2.2:1404")}
    assert f"our rules ({backend}) are there: a foreign one decides first" in report["cause"]


def test_another_port(network: Network, backend: str) -> None:
    network.pod.init(*BOTH, "--backend", backend)
    report = network.ask(*BOTH, "-p", "15011", code=126)
    assert happened(report, "IPv4", "outbound", "user 65534") == "was refused"
    assert report["cause"].endswith(
        f"our rules ({backend}) redirect IPv4 to 15001, 15006, not to 15011"
    )
    inbound = network.ask(*BOTH, "-z", "15016", node=True, code=126)
    assert {row[1] for row in failed(inbound)} == {"inbound"}
    assert inbound["cause"].endswith("to 15001, 15006, not to 15016")


@pytest.mark.parametrize(
    ("held", "asked", "who", "dialled"),
    [
        (["-u", "1338"], [], "proxy uid 1337", "tcp 192.0.2.2:1404"),
        (["-g", "1338"], [], "proxy gid 1337", "tcp 192.0.2.2:1404"),
        ([], ["-o", "6379"], "user 65534", "tcp 192.0.2.2:6379"),
        ([], ["-x", "198.51.100.0/24"], "user 65534", "tcp 198.51.100.2:1404"),
        ([], ["-d", "15020"], f"peer {NODE}", f"tcp {POD}:15020"),
        (["-e", "15108"], [], f"peer {NODE}", f"tcp {POD}:15008"),
        ([], ["-c", "eth0"], "user 65534", "tcp 192.0.2.2:1404"),
    ],
)
def test_what_should_be_left_alone_is_captured(
    network: Network, held: list[str], asked: list[str], who: str, dialled: str
) -> None:
    spec = (*STRICT, "--ipv6", "allow")
    network.pod.init(*spec, *asked)
    assert not network.ask(*spec, *asked, node=True)["failed"]
    network.pod.init(*spec, *held)
    lost = failed(network.ask(*spec, *asked, node=True, code=126))
    direction = "inbound" if who.startswith("peer") else "outbound"
    assert ("IPv4", direction, who, dialled) in lost
    assert {row[0] for row in lost} == {"IPv4"}


def test_a_source_that_should_be_left_alone(network: Network) -> None:
    excluded = {"MESHNET_EXCLUDE_SOURCES": f"{NODE}/32"}
    spec = (*STRICT, "--ipv6", "allow")
    target = ("--target", f"netns:{network.pod.path}", "--output", "json")
    network.pod.init(*spec, env=excluded)
    done = network.node.init(*spec, *ASK, *target, env=excluded)
    assert happened(json.loads(done.stdout), "IPv4", "inbound") == "reached port 15002"
    network.pod.init(*spec)
    done = network.node.init(*spec, *ASK, *target, env=excluded, check=False)
    assert done.returncode == 126
    report = json.loads(done.stdout)
    assert failed(report) == {("IPv4", "inbound", f"peer {NODE}", f"tcp {POD}:15002")}


@pytest.mark.parametrize(
    "seen",
    [Outcome("arrived", 15001), Outcome("silent"), Outcome("refused"), Outcome("failed")],
    ids=lambda seen: seen.end,
)
def test_a_probe_that_sees_capture_where_no_rule_is_has_failed(seen: Outcome) -> None:
    cell = Cell(Family.IP, "control", "bare namespace", 6, 0xC0000202, 1404, Expect.LEFT)
    assert judge(cell, seen)[0] == "failed"
    assert judge(cell, Outcome("arrived", 1404))[0] == "ok"


# What cannot be asked.


def test_no_route_is_not_a_leak(network: Network) -> None:
    network.pod.run("ip", "route", "del", "default")
    network.pod.run("ip", "route", "add", "unreachable", "2001:db8::/32")
    report = network.ask(*BOTH)
    for family, address in (("IPv4", "192.0.2.2"), ("IPv6", "2001:db8::2")):
        assert happened(report, family, "outbound", "user 65534") == f"no route to {address}"
    assert report["counts"]["not tested"] == 8


def test_no_addresses(netns: Namespace) -> None:
    done = netns.init(*BOTH, *ASK)
    assert done.stdout.startswith("0 ok, 0 failed, 2 not tested\n")
    assert "not tested: needs an IPv4 address in this namespace" in done.stdout


def test_without_the_capability_to_be_somebody_else(network: Network) -> None:
    """As in a container with NET_ADMIN and NET_RAW: user namespaces still make a bare one."""
    network.pod.init(*BOTH)
    limited = ("setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all")
    report = network.ask(*BOTH, before=limited)
    assert happened(report, "IPv4", "outbound", "user 0") == (
        "reached port 15001, destination intact"
    )
    assert happened(report, "IPv4", "outbound", "proxy uid 1337") == (
        "needs CAP_SETUID to be uid 1337"
    )
    assert happened(report, "IPv4", "outbound", "proxy gid 1337") == (
        "needs CAP_SETGID to be gid 1337"
    )
    assert verdicts(report)["IPv4", "control", "bare namespace", "tcp 192.0.2.2:1404"] == "ok"


def test_in_a_user_namespace(network: Network) -> None:
    network.pod.init(*BOTH)
    report = network.ask(*BOTH, before=("unshare", "-U"))
    assert happened(report, "IPv4", "control").startswith("needs CAP_SYS_ADMIN")
    assert report["counts"]["ok"] == 2
    report = network.ask(*BOTH, before=("unshare", "-Ur"))
    assert happened(report, "IPv4", "outbound", "proxy uid 1337") == (
        "needs a user namespace that has uid 1337"
    )
    assert report["counts"]["ok"] == 4


def test_as_the_proxy_itself(network: Network) -> None:
    network.pod.init(*BOTH)
    proxy = ("setpriv", "--reuid=1337", "--regid=1337", "--clear-groups")
    report = network.ask(*BOTH, before=proxy)
    assert happened(report, "IPv4", "outbound", "user 1337") == (
        "needs CAP_SETUID to be a plain user"
    )
    to = "tcp 192.0.2.2:1404"
    assert verdicts(report)["IPv4", "outbound", "proxy uid 1337", to] == "ok"


def test_a_peer_that_cannot_reach_the_pod(network: Network) -> None:
    network.pod.init(*BOTH)
    network.node.run("ip", "-4", "addr", "flush", "dev", "eth0")
    network.node.run("ip", "addr", "add", "10.77.0.1/32", "dev", "lo")
    network.node.run("ip", "route", "add", "default", "dev", "lo")
    report = network.ask(*BOTH, node=True)
    for port in (15002, 15008):
        row = ("IPv4", "inbound", "peer 10.77.0.1", f"tcp {POD}:{port}")
        assert happened(report, *row).startswith(f"needs a peer that reaches {POD}")
    assert happened(report, "IPv6", "inbound", f"peer {NODE6}", f"tcp [{POD6}]:15002") == (
        "reached port 15006, destination intact"
    )


# A proxy that already listens.

_PROXY = """
import select, socket, struct, sys
listeners = [
    socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    for port in (15001, 15006)
]
kept = []
print("ready", flush=True)
while True:
    for listener in select.select(listeners, [], [])[0]:
        kept.append(listener.accept()[0])
        if sys.argv[1] == "closes":
            kept.pop().close()
        elif sys.argv[1] == "resets":
            linger = struct.pack("ii", 1, 0)
            kept[-1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            kept.pop().close()
"""


@pytest.fixture
def proxy(network: Network, request: pytest.FixtureRequest) -> Iterator[str]:
    command = ["nsenter", f"--net={network.pod.path}", sys.executable, "-c", _PROXY, request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield request.param
        process.kill()


@pytest.mark.parametrize("proxy", ["holds", "closes", "resets"], indirect=True)
def test_another_process_listens(network: Network, proxy: str, backend: str) -> None:
    network.pod.init(*BOTH, "--backend", backend)
    report = network.ask(*BOTH, node=True)
    for family in ("IPv4", "IPv6"):
        told = happened(report, family, "outbound", "user 65534")
        if proxy == "resets":
            assert told == "needs port 15001 free (a proxy listens)"
        else:
            assert told == "reached port 15001, where another process listens, destination intact"
    network.pod.init("--cleanup-only")
    lost = failed(network.ask(*BOTH, node=True, code=126))
    assert {row[:2] for row in lost} == {
        (family, direction) for family in ("IPv4", "IPv6") for direction in ("outbound", "inbound")
    }
    network.pod.init(*BOTH, "-u", "1338", "--backend", backend)
    if proxy == "holds":
        report = network.ask(*BOTH, code=126)
        assert ("IPv4", "outbound", "proxy uid 1337", "tcp 192.0.2.2:1404") in failed(report)


# What stays as it was.


def test_nothing_is_left_behind(network: Network) -> None:
    network.pod.init(*BOTH)
    before = network.pod.everything()
    for node in (False, True):
        network.ask(*BOTH, node=node)
    assert network.pod.everything() == before
    for namespace in (network.pod, network.node):
        pids = subprocess.run(
            ["ip", "netns", "pids", namespace.name], capture_output=True, text=True, check=True
        )
        assert pids.stdout == ""


def test_the_caller_stays_who_and_where_it_is(network: Network) -> None:
    network.pod.init(*BOTH)
    code = f"""
        import os
        from meshnet.model.intent import Intent
        from meshnet.model.spec import CaptureSpec, IPv6, Ports, Cidrs
        from meshnet.ops.validate import validate

        def state():
            ids = os.getresuid(), os.getresgid(), os.getgroups()
            return ids, os.stat("/proc/self/ns/net").st_ino, len(os.listdir("/proc/self/fd"))

        spec = CaptureSpec(in_ports=Ports(every=True), out_cidrs=Cidrs(every=True))
        before = state()
        report = validate(Intent(spec), {network.pod.path!r}, 15002, 1.0)
        assert report["counts"]["ok"] > 4 and not report["failed"], report
        assert state() == before, (state(), before)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("no child")
    """
    done = network.node.run(sys.executable, "-c", textwrap.dedent(code))
    assert done.stdout == "no child\n"
