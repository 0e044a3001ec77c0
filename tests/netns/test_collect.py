"""Collecting: all of a namespace comes back, and nothing in it changes by being looked at."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshnet.backends.dumps import read_dumps
from meshnet.backends.nft_listing import list_by_chain
from meshnet.dialects.dumps import rulesets
from meshnet.dialects.snapshot_json import read_snapshot, write_snapshot
from meshnet.errors import MeshnetError
from meshnet.host.netns import run_child
from meshnet.host.process import run_tool
from meshnet.host.surroundings import read_surroundings
from meshnet.host.target import Target
from meshnet.model.packet import Family
from meshnet.model.snapshot import SECTIONS, Snapshot
from meshnet.ops.collect import Limits, collect, collect_all, condense
from tests.support.cases import BACKENDS, CASES
from tests.support.namespaces import Namespace, Namespaces

#: iptables-nft cannot say this rule: nft alone shows the table.
UNSAYABLE = """\
table ip nat {
  chain OUTPUT {
    type nat hook output priority -100
    ip daddr { 192.0.2.4, 192.0.2.9 } tcp dport { 80, 81 } dnat to 192.0.2.5
  }
}
"""


def target(netns: Namespace) -> Target:
    """What resolving the namespace gives."""
    return Target(netns.path, netns.path, os.stat(netns.path).st_ino, f"netns {netns.name}")


@contextmanager
def inside(netns: Namespace, *argv: str, ready: str = "ready") -> Iterator[subprocess.Popen[str]]:
    """A process in ``netns`` that has said that it is ready; it ends with the block."""
    process = subprocess.Popen(
        ["nsenter", f"--net={netns.path}", *argv], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline().strip() == ready
        yield process
    finally:
        process.kill()
        process.communicate()


def modules() -> str:
    """The loaded modules; "" on a kernel without."""
    path = Path("/proc/modules")
    return path.read_text() if path.exists() else ""


def state(netns: Namespace) -> list[object]:
    """Everything that the kernel holds, counters and generation ids included."""
    names = [netns.run("cat", f"/proc/self/net/{f}_tables_names").stdout for f in ("ip", "ip6")]
    counted = [netns.run(f"{p}-nft-save", "-c").stdout for p in ("iptables", "ip6tables")]
    if names[0]:
        counted.append(netns.run("iptables-legacy-save", "-c").stdout)
    lines = [line for dump in counted for line in dump.splitlines() if line[:1] != "#"]
    generation = netns.run("nft", "-j", "list", "ruleset").stdout
    routes = netns.run("ip", "route", "show", "table", "all").stdout
    return [netns.everything(), names, lines, generation, modules(), routes]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "case", ["both-families", "tproxy-both-families", "dns", "strict-everything"]
)
def test_each_backend_is_read_whole_and_left_alone(
    netns: Namespace, backend: str, case: str
) -> None:
    netns.init(*CASES[case], "--backend", backend)
    netns.run("ip", "route", "add", "198.51.100.0/24", "dev", "lo")
    # So that there is something in the counters to lose.
    netns.run("sh", "-c", "exec 3<>/dev/udp/127.0.0.1/9; echo x >&3", check=False)
    before = state(netns)
    snapshot = collect(target(netns))
    assert state(netns) == before
    assert not snapshot.gaps
    assert {dump.backend for dump in snapshot.dumps} == {backend}
    held = rulesets(snapshot)
    assert set(held) == {backend}
    if backend == "nft":
        assert [d.tool for d in snapshot.dumps] == ["nft -j list ruleset"]
        assert {t.family for t in held[backend].tables} == {Family.INET}
    else:
        variant = "legacy" if backend == "legacy" else "nft"
        for dump in snapshot.dumps:
            prefix = "iptables" if dump.family == "ip" else "ip6tables"
            assert dump.tool == f"{prefix}-{variant}-save -c"
            shown = netns.run(*dump.tool.split()).stdout
            assert _bare(shown) == _bare(dump.text)
        assert {t.family for t in held[backend].tables} == {Family.IP, Family.IP6}
    assert not any(rule.opaque for _, _, rule in held[backend].rules())
    assert read_snapshot(write_snapshot(snapshot)) == snapshot


def _bare(dump: str) -> list[str]:
    return [line for line in dump.splitlines() if line[:1] != "#"]


def test_an_empty_namespace_stays_empty(netns: Namespace) -> None:
    before = state(netns)
    snapshot = collect(target(netns))
    assert snapshot.dumps == () and not snapshot.gaps
    assert rulesets(snapshot) == {}
    assert state(netns) == before
    assert netns.run("cat", "/proc/self/net/ip_tables_names").stdout == ""
    assert [link.name for link in snapshot.links] == ["lo"]
    assert snapshot.namespace.inode == os.stat(netns.path).st_ino
    assert snapshot.namespace.owner == os.stat("/proc/self/ns/user").st_ino
    assert snapshot.processes == () and snapshot.sockets == () and snapshot.flows == ()


def test_counters_are_kept_and_not_reset(netns: Namespace) -> None:
    netns.run("iptables-nft", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT")
    netns.run("nft", "add", "table", "inet", "mine")
    netns.run("nft", "add chain inet mine output { type filter hook output priority 5 ; }")
    netns.run("nft", "add rule inet mine output meta l4proto udp counter accept")
    netns.run("bash", "-c", "for i in 1 2 3; do echo x > /dev/udp/127.0.0.1/9; done", check=False)
    for _ in range(2):
        held = rulesets(collect(target(netns), ("rules",)))
        packets = [rule.packets for name in held for _, _, rule in held[name].rules()]
        assert packets == [3, 3]


def test_two_backends_at_once_and_a_table_that_iptables_cannot_show(netns: Namespace) -> None:
    netns.run("iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT")
    netns.run("ip6tables-nft", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
    netns.run("nft", "-f", "-", text=UNSAYABLE)
    snapshot = collect(target(netns), ("rules",))
    assert [dump.backend for dump in snapshot.dumps] == [
        "nft-compat",
        "nft-compat",
        "legacy",
        "nft",
    ]
    held = rulesets(snapshot)
    assert [(t.family.value, t.name) for t in held["nft-compat"].tables] == [("ip6", "nat")]
    assert [(t.family.value, t.name) for t in held["nft"].tables] == [("ip", "nat")]
    assert [(t.family.value, t.name) for t in held["legacy"].tables] == [("ip", "nat")]


def test_dormant_tables_are_named(netns: Namespace) -> None:
    netns.run("nft", "-f", "-", text="table inet idle { flags dormant; chain c { accept; }; }")
    netns.run("nft", "add", "table", "ip", "awake")
    assert collect(target(netns), ("rules",)).dormant == (("inet", "idle"),)


def test_a_listing_that_breaks_off_is_made_of_its_chains(netns: Namespace) -> None:
    netns.init(*CASES["both-families"], "--backend", "nft")
    tables = [("inet", f"istio-proxy-{t}") for t in ("nat", "mangle", "raw")]

    def both() -> list[str]:
        (dump,), _ = read_dumps()
        there = [t for t in tables if f'"name": "{t[1]}"' in dump.text]
        text, left_out = list_by_chain(there, lambda argv: run_tool(argv).out)
        assert left_out == 0
        return [dump.text, text]

    from meshnet.dialects.nft_json import parse_listing

    whole, joined = (parse_listing(text) for text in run_child(both, netns=netns.path))
    for table in whole.tables:
        twin = joined.table(table.family, table.name)
        assert twin is not None and {c.name: c for c in twin.chains} == {
            c.name: c for c in table.chains
        }


def test_a_missing_tool_is_a_gap_that_names_it(netns: Namespace, monkeypatch) -> None:
    netns.init(*CASES["both-families"], "--backend", "nft-compat")
    netns.run("nft", "add", "table", "inet", "mine")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("meshnet.host.process.SBIN", ())
    snapshot = collect(target(netns), ("rules",))
    assert snapshot.dumps == ()
    assert [gap.section for gap in snapshot.gaps] == ["rules"] * 3
    for name, gap in zip(
        ("iptables-nft-save", "ip6tables-nft-save", "nft"), snapshot.gaps, strict=True
    ):
        assert f"the program {name} is not installed" in gap.reason


def test_a_tool_that_hangs_costs_its_own_part_only(netns: Namespace, tmp_path, monkeypatch) -> None:
    netns.init(*CASES["default"], "--backend", "nft-compat")
    slow = tmp_path / "iptables-nft-save"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin")
    snapshot = collect(target(netns), timeout=2.0)
    assert [gap.section for gap in snapshot.gaps] == ["rules"]
    assert "iptables-nft-save did not end" in snapshot.gaps[0].reason
    assert snapshot.links and snapshot.sysctls


def test_twenty_thousand_rules_come_back_and_an_absurd_dump_does_not(netns: Namespace) -> None:
    rules = "".join(
        f"-A OUTPUT -d 10.{n >> 8 & 255}.{n & 255}.1/32 -j ACCEPT\n" for n in range(20_000)
    )
    netns.run("iptables-nft-restore", text=f"*filter\n:OUTPUT ACCEPT [0:0]\n{rules}COMMIT\n")
    began = time.monotonic()
    snapshot = collect(target(netns))
    assert time.monotonic() - began < 10
    assert not snapshot.gaps and snapshot.dumps[0].text.count("-A OUTPUT") == 20_000
    snapshot = collect(target(netns), ("rules",), Limits(dump=100_000))
    assert snapshot.dumps == ()
    assert snapshot.gaps[0].reason == (
        "iptables-nft-save printed more than 100,000 bytes: its dump is left out"
    )


MANY = """
import os, socket, sys, time
children = int(sys.argv[1])
while children and os.fork():
    children -= 1
held = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(1000)]
for one in held:
    one.bind(("127.0.0.1", 0))
os.write(1, b".")
time.sleep(60)
"""


def test_many_sockets_are_cut_with_a_number(netns: Namespace) -> None:
    argv = ["nsenter", f"--net={netns.path}", "/usr/bin/python3", "-c", MANY, "19"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        for _ in range(20):
            assert process.stdout.read(1) == b"."
        began = time.monotonic()
        snapshot = collect(target(netns))
        assert time.monotonic() - began < 10
        assert len(snapshot.sockets) == 20_000 and not snapshot.gaps
        assert {len(socket.pids) for socket in snapshot.sockets} == {1}
        few = collect(target(netns), ("sockets",), Limits(sockets=500))
        assert len(few.sockets) == 500
        assert [gap.reason for gap in few.gaps] == ["500 of 20,000 sockets kept"]
    finally:
        os.killpg(process.pid, 9)
        process.communicate()


def test_many_routes_and_processes_are_cut_with_a_number(netns: Namespace) -> None:
    batch = "".join(f"route add 10.{n >> 8}.{n & 255}.0/24 dev lo\n" for n in range(3000))
    netns.run("ip", "-batch", "-", text=batch)
    shell = "for i in 1 2 3 4 5 6; do sleep 60 & done; echo ready; wait"
    with inside(netns, "sh", "-c", shell):
        snapshot = collect(target(netns), limits=Limits(routes=1000, processes=3))
        assert len(snapshot.routes) == 1000 and len(snapshot.processes) == 3
        reasons = {gap.section: gap.reason for gap in snapshot.gaps}
        assert reasons["processes"] == "3 of 7 processes kept"
        assert reasons["routes"].startswith("1,000 of 3,0") and "routes kept" in reasons["routes"]
        for process in collect(target(netns), ("processes",)).processes:
            os.kill(process.pid, 9)


def test_processes_and_sockets_are_joined(netns: Namespace) -> None:
    script = (
        "import os, socket, time\n"
        "os.setgid(1337); os.setuid(1337)\n"
        "s = socket.create_server(('127.0.0.1', 15001)); print('ready', flush=True); time.sleep(60)"
    )
    with inside(netns, "/usr/bin/python3", "-c", script) as process:
        snapshot = collect(target(netns))
    (found,) = snapshot.processes
    assert (found.pid, found.uid, found.gid, found.host_uid) == (process.pid, 1337, 1337, 1337)
    assert found.command.startswith("python3")
    (listener,) = (s for s in snapshot.sockets if s.state == "listen")
    assert (listener.lport, listener.pids, listener.uid) == (15001, (process.pid,), 1337)


def test_a_socket_held_by_a_process_elsewhere_has_its_owner(netns: Namespace) -> None:
    from meshnet.host.probe import open_sockets
    from meshnet.model.packet import Family as F

    (handed,) = open_sockets([(F.IP, 6)], netns=netns.path)
    with handed:
        handed.bind(("127.0.0.1", 15006))
        handed.listen()
        for snapshot in (collect(target(netns)), dict(collect_all([target(netns)]))[target(netns)]):
            assert isinstance(snapshot, Snapshot)
            (listener,) = snapshot.sockets
            assert os.getpid() in listener.pids
            assert os.getpid() in {process.pid for process in snapshot.processes}


POD = """
import ctypes, os, socket, sys, time
assert ctypes.CDLL(None).unshare(0x50000000) == 0
print("unshared", flush=True)
sys.stdin.readline()
os.setgroups([])
os.setgid(1337)
os.setuid(1337)
held = socket.create_server(("127.0.0.1", 15001))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_user_namespaced_pod_has_the_ids_that_its_rules_mean() -> None:
    pod = subprocess.Popen(
        ["/usr/bin/python3", "-c", POD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert pod.stdout is not None and pod.stdin is not None
        assert pod.stdout.readline() == "unshared\n"
        for kind in ("uid", "gid"):
            Path(f"/proc/{pod.pid}/{kind}_map").write_text("0 100000 65536\n")
        pod.stdin.write("\n")
        pod.stdin.flush()
        assert pod.stdout.readline() == "ready\n"
        path = f"/proc/{pod.pid}/ns/net"
        snapshot = collect(Target(path, path, os.stat(path).st_ino, "pod", pids=(pod.pid,)))
    finally:
        pod.kill()
        pod.communicate()
    (process,) = snapshot.processes
    assert (process.uid, process.host_uid) == (1337, 101337)
    assert (process.gid, process.host_gid) == (1337, 101337)
    (listener,) = snapshot.sockets
    assert listener.uid == 1337
    assert snapshot.namespace.owner not in (0, os.stat("/proc/self/ns/user").st_ino)


def test_surroundings_are_what_pyroute2_sees(namespaces: Namespaces) -> None:
    one, other = namespaces.make(), namespaces.make()
    namespaces.connect(one, other)
    for words in (
        "addr add 192.0.2.1/24 dev eth0",
        "-6 addr add fd00::1/64 dev eth0 nodad",
        "route add default via 192.0.2.254",
        "route add 198.51.100.0/24 nexthop via 192.0.2.7 nexthop via 192.0.2.8",
        "route add blackhole 203.0.113.0/24 table 133 metric 7",
        "-6 route add 2001:db8::/32 via fd00::9",
        "route add local default dev lo table 133",
        "rule add fwmark 1337 lookup 133 priority 100",
        "rule add not fwmark 0/0xf iif eth0 to 10.0.0.0/8 lookup 133 priority 101",
        "rule add uidrange 1000-2000 ipproto tcp dport 80-90 lookup main priority 102",
        "-6 rule add from fd00::/8 prohibit priority 103",
    ):
        one.run("ip", *words.split())

    def compare() -> list[object]:
        from pyroute2 import IPRoute

        mine = read_surroundings(10_000)
        with IPRoute() as ip:
            links = sorted((m["index"], m.get_attr("IFLA_IFNAME")) for m in ip.get_links())
            theirs = sorted((m.get_attr("IFA_ADDRESS"), m["prefixlen"]) for m in ip.get_addr())
            routes = len(list(ip.get_routes(family=2))) + len(list(ip.get_routes(family=10)))
            rules = [
                sorted(
                    (m.get_attr("FRA_PRIORITY") or 0, m.get_attr("FRA_TABLE") or 0)
                    for m in ip.get_rules(family=f)
                )
                for f in (2, 10)
            ]
        assert sorted((link.index, link.name) for link in mine.links) == links
        assert sorted((a.address, a.length) for a in mine.addresses) == theirs
        single = [r for r in mine.routes if r.destination != "198.51.100.0/24"]
        assert len(single) + 1 == routes
        for family, found in zip(("ip", "ip6"), rules, strict=True):
            ours = sorted((p.priority, p.table) for p in mine.policies if p.family == family)
            assert ours == found
        return []

    run_child(compare, netns=one.path)
    snapshot = collect(target(one), ("routes", "sysctls"))
    routes = {(r.destination, r.table): r for r in snapshot.routes}
    assert routes["0.0.0.0/0", 254].gateway == "192.0.2.254"
    assert routes["0.0.0.0/0", 133].kind == "local" and routes["0.0.0.0/0", 133].link == "lo"
    assert routes["203.0.113.0/24", 133].kind == "blackhole"
    assert routes["203.0.113.0/24", 133].metric == 7
    hops = [r.gateway for r in snapshot.routes if r.destination == "198.51.100.0/24"]
    assert hops == ["192.0.2.7", "192.0.2.8"]
    rules = {p.priority: p for p in snapshot.policies}
    assert (rules[100].mark, rules[100].mask, rules[100].table) == (1337, 0xFFFFFFFF, 133)
    assert rules[101].inverted and rules[101].iif == "eth0"
    assert rules[101].destination == "10.0.0.0/8"
    assert set(rules[102].other) == {"uidrange 1000-2000", "ipproto 6", "dport 80-90"}
    assert rules[103].action == "prohibit" and rules[103].source == "fd00::/8"
    assert rules[32766].mark is None and rules[32766].other == ()


def test_sysctls_are_those_of_the_namespace(namespaces: Namespaces) -> None:
    one, other = namespaces.make(), namespaces.make()
    namespaces.connect(one, other, "eth0.7")
    one.run("sysctl", "-w", "net.ipv4.conf.all.route_localnet=1", "net.ipv4.ip_forward=1")
    one.run("sysctl", "-w", "net.ipv6.conf.lo.disable_ipv6=1", "net.netfilter.nf_log.2=NONE")
    found = collect(target(one), ("sysctls",)).sysctls
    twin = collect(target(other), ("sysctls",)).sysctls
    assert found is not None and twin is not None
    assert found["net.ipv4.conf.all.route_localnet"] == "1"
    assert twin["net.ipv4.conf.all.route_localnet"] == "0"
    assert found["net.ipv4.ip_forward"] == "1"
    assert (found["net.ipv6.conf.lo.disable_ipv6"], twin["net.ipv6.conf.lo.disable_ipv6"]) == (
        "1",
        "0",
    )
    assert "net.ipv4.conf.eth0/7.rp_filter" in found
    for name, value in found.items():
        if name != "net.netfilter.nf_log_all_netns" and "eth0" not in name:
            assert one.run("sysctl", "-n", name).stdout.strip() == value, name


def test_the_inode_says_which_namespace_is_meant(namespaces: Namespaces) -> None:
    one, other = namespaces.make(), namespaces.make()
    wrong = Target(one.path, one.path, os.stat(other.path).st_ino, "x")
    with pytest.raises(MeshnetError, match="is gone"):
        collect(wrong)


def test_collecting_many(namespaces: Namespaces) -> None:
    made = [namespaces.make() for _ in range(12)]
    for number, netns in enumerate(made):
        netns.run("ip", "addr", "add", f"192.0.2.{number + 1}/32", "dev", "lo")
    targets = [target(netns) for netns in made]
    subprocess.run(["ip", "netns", "del", made[5].name], check=True)
    found = dict(collect_all(targets))
    assert set(found) == set(targets)
    for number, netns in enumerate(targets):
        snapshot = found[netns]
        if number == 5:
            assert isinstance(snapshot, MeshnetError)
            continue
        assert isinstance(snapshot, Snapshot)
        assert snapshot.namespace.inode == netns.inode
        assert f"192.0.2.{number + 1}" in {a.address for a in snapshot.addresses}
    counted = dict(condense(targets[:3], lambda s: len(s.addresses), ("routes",)))
    assert set(counted.values()) == {3}


def test_only_what_was_asked_for_is_read(netns: Namespace) -> None:
    netns.init(*CASES["default"], "--backend", "legacy")
    for section in SECTIONS:
        snapshot = collect(target(netns), (section,))
        assert snapshot.sections == (section,)
        assert bool(snapshot.dumps) == (section == "rules")
        assert bool(snapshot.links) == (section == "routes")
        assert (snapshot.sysctls is not None) == (section == "sysctls")
