"""Each defect, built in a real namespace, is reported; its sound twin is not."""

from __future__ import annotations

import pytest

from tests.support import watched as support
from tests.support.namespaces import Namespace
from tests.support.watched import (
    BOTH,
    EVERYWHERE,
    IPV4_ONLY,
    OFF,
    ON,
    POD,
    STRICT,
    WORLD,
    Watched,
)

watched, watched4 = support.watched, support.watched4
every_backend = pytest.mark.parametrize("backend", support.BACKENDS)


def tool(backend: str, version: int = 4) -> str:
    """The iptables program of a backend."""
    variant = {"legacy": "legacy", "nft-compat": "nft"}[backend]
    return f"{'ip' if version == 4 else 'ip6'}tables-{variant}"


def expect(pod: Watched, code: str, *words: str) -> None:
    """``code`` is reported, and its sentence and evidence hold ``words``."""
    found = pod.findings()
    assert code in found, sorted(found)
    said = "\n".join([found[code].summary, *found[code].evidence])
    for word in words:
        assert word in said, said


@every_backend
@pytest.mark.parametrize("profile", [(), STRICT])
def test_a_sound_pod_has_no_findings(
    watched: Watched, backend: str, profile: tuple[str, ...]
) -> None:
    watched.proxy()
    watched.settle(listen=[(6, "tcp", "::", 8080)])
    watched.init(*BOTH, *(profile or ON), backend=backend)
    assert watched.codes() == set()


def test_a_pod_without_a_mesh_has_no_findings(watched: Watched) -> None:
    watched.settle(listen=[(6, "tcp", "::", 8080)])
    app = watched.settle(1337, name="sh")
    abroad = watched.abroad(listen=[(4, "tcp", "0.0.0.0", 80)])
    assert abroad.pid and app.dial(WORLD, 80) == ""
    assert watched.findings() == {}


@every_backend
def test_mn101_rules_flushed(watched: Watched, backend: str) -> None:
    proxy = watched.proxy(name="somebody")
    watched.init(*BOTH, *ON, backend=backend)
    assert "MN101" not in watched.codes()
    watched.pod.init("--cleanup-only", "--backend", backend)
    expect(watched, "MN101", f"pid {proxy.pid}", "UID 1337", ":15001", "no redirect rule")


def test_mn101_by_name(watched: Watched) -> None:
    """A gateway needs no rules; that it might is a note. Who listens nowhere is no proxy."""
    watched.settle(1000, name="envoy")
    assert watched.findings() == {}
    watched.settle(1000, name="envoy", listen=[(4, "tcp", "0.0.0.0", 8443)])
    assert watched.findings()["MN101"].severity.value == "note"
    watched.settle(1000, name="envoy", listen=[(4, "tcp", "0.0.0.0", 15001)])
    assert watched.findings()["MN101"].severity.value == "error"


def test_mn101_every_jump_gone(watched: Watched) -> None:
    watched.proxy()
    watched.init(*BOTH, *OFF, backend="nft-compat")
    watched.pod.run("iptables-nft", "-t", "nat", "-F", "OUTPUT")
    assert "MN101" not in watched.codes()
    watched.pod.run("iptables-nft", "-t", "nat", "-F", "PREROUTING")
    expect(watched, "MN101", "redirect rules are there, and no hook leads to them")


@pytest.mark.parametrize(
    ("one", "other"), [("legacy", "nft-compat"), ("legacy", "nft"), ("nft", "nft-compat")]
)
def test_mn102(watched: Watched, namespaces: Watched, one: str, other: str) -> None:
    watched.proxy()
    watched.init(*BOTH, *OFF, backend=one)
    assert "MN102" not in watched.codes()
    lend(watched, namespaces, other)
    expect(watched, "MN102", one, other)


def lend(pod: Watched, namespaces: Watched, backend: str) -> None:
    """Rules of a second backend, as a program makes them that does not see the first."""
    other = namespaces.make()
    other.init(*BOTH, *OFF, "--backend", backend)
    if backend == "nft":
        pod.pod.run("nft", "-f", "-", text=other.run("nft", "list", "ruleset").stdout)
    else:
        save, restore = f"{tool(backend)}-save", f"{tool(backend)}-restore"
        pod.pod.run(restore, "--noflush", text=other.run(save, "-t", "nat").stdout)


def test_mn102_silent_for_rules_of_others(watched: Watched) -> None:
    """Rules in another backend that redirect nothing are nobody's second capture."""
    watched.proxy()
    watched.init(*BOTH, *ON, backend="nft")
    for rule in (
        ("nat", "-A", "POSTROUTING", "-s", "172.17.0.0/16", "-j", "MASQUERADE"),
        ("filter", "-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT"),
    ):
        watched.pod.run("iptables-legacy", "-t", *rule)
    assert watched.codes() == set()


@every_backend
@pytest.mark.parametrize(("hook", "lost"), [("OUTPUT", "OUTPUT"), ("PREROUTING", "INBOUND")])
def test_mn103_nobody_jumps(watched: Watched, backend: str, hook: str, lost: str) -> None:
    watched.proxy()
    watched.init(*BOTH, *ON, backend=backend)
    assert "MN103" not in watched.codes()
    if backend == "nft":
        watched.pod.run("nft", "flush", "chain", "inet", "istio-proxy-nat", hook.lower())
        expect(watched, "MN103", f"istio-{lost.lower()}", "no rule goes to")
    else:
        watched.pod.run(tool(backend), "-t", "nat", "-F", hook)
        expect(watched, "MN103", f"ISTIO_{lost}", "no rule goes to")


def test_mn103_no_base_chain(watched: Watched) -> None:
    watched.proxy()
    watched.init(*BOTH, *ON, backend="nft")
    watched.pod.run("nft", "flush", "chain", "inet", "istio-proxy-nat", "output")
    watched.pod.run("nft", "delete", "chain", "inet", "istio-proxy-nat", "output")
    expect(watched, "MN103", "istio-output", "no chain at the hook output")


@pytest.mark.parametrize("backend", ["nft", "nft-compat"])
def test_mn103_dormant(watched: Watched, backend: str) -> None:
    watched.proxy()
    watched.init(*BOTH, *OFF, backend=backend)
    table = "inet istio-proxy-nat" if backend == "nft" else "ip nat"
    watched.pod.run("nft", f"add table {table} {{ flags dormant; }}")
    expect(watched, "MN103", table, "dormant")
    assert "MN101" in watched.codes()
    watched.pod.run("nft", f"add table {table}")
    assert not {"MN101", "MN103"} & watched.codes()


@pytest.mark.parametrize("backend", ["legacy", "nft-compat"])
def test_mn110_before_our_jump(watched: Watched, backend: str) -> None:
    watched.proxy()
    watched.init(*BOTH, *ON, backend=backend)
    rule = ("-p", "tcp", "-d", "192.0.2.0/24", "--dport", "5432", "-j", "ACCEPT")
    watched.pod.run(tool(backend), "-t", "nat", "-A", "OUTPUT", *rule)
    assert "MN110" not in watched.codes()
    watched.pod.run(tool(backend), "-t", "nat", "-I", "OUTPUT", *rule)
    expect(watched, "MN110", "ip nat OUTPUT 1", "192.0.2.", "5432", ":15001")


@pytest.mark.parametrize("backend", ["legacy", "nft-compat"])
def test_mn110_in_a_chain_of_others(watched: Watched, backend: str) -> None:
    """A uid that is let go three jumps deep, and a return that takes nothing."""
    watched.proxy()
    watched.init(*BOTH, *ON, backend=backend)
    run = watched.pod.run
    for chain in ("A", "B"):
        run(tool(backend), "-t", "nat", "-N", chain)
    run(tool(backend), "-t", "nat", "-I", "OUTPUT", "-p", "tcp", "-j", "A")
    run(tool(backend), "-t", "nat", "-A", "A", "-m", "owner", "--uid-owner", "33", "-g", "B")
    run(tool(backend), "-t", "nat", "-A", "B", "-j", "RETURN")
    assert "MN110" not in watched.codes()
    run(tool(backend), "-t", "nat", "-I", "B", "-d", "10.0.0.0/8", "-j", "ACCEPT")
    expect(watched, "MN110", "ip nat B 1", "UID 33")


@every_backend
def test_mn110_by_another_redirect(watched: Watched, backend: str) -> None:
    """A table of another's translates first: what it takes does not come to the proxy."""
    watched.proxy()
    watched.settle(listen=[(6, "tcp", "::", 9999)])
    watched.init(*BOTH, *ON, backend=backend)
    chain = "add chain inet other out { type nat hook output priority -150; }"
    for line in ("add table inet other", chain, "add rule inet other out tcp dport 22 accept"):
        watched.pod.run("nft", line)
    assert "MN110" not in watched.codes()
    watched.pod.run("nft", "add rule inet other out tcp dport 6379 redirect to :9999")
    expect(watched, "MN110", "nft inet other out 2", "6379", ":9999")


@every_backend
def test_mn110_by_a_service_address(watched: Watched, backend: str) -> None:
    """What kube-proxy does, in the pod itself: translated first, it is not redirected any more."""
    watched.proxy()
    watched.init(*BOTH, *ON, backend=backend)
    iptables = tool("nft-compat" if backend == "nft" else backend)
    if backend == "nft":
        watched.pod.run("nft", "add table ip kube")
        chain = "add chain ip kube out { type nat hook output priority -150; }"
        watched.pod.run("nft", chain)
        rule = (
            "add rule ip kube out ip daddr 10.96.0.11 tcp dport 80 counter dnat to 10.244.0.9:8080"
        )
        assert "MN110" not in watched.codes()
        watched.pod.run("nft", rule)
    else:
        for line in (
            "-N KUBE-SERVICES",
            "-N KUBE-SEP",
            "-I OUTPUT -m comment --comment portals -j KUBE-SERVICES",
            "-A KUBE-SERVICES -d 10.96.0.11/32 -p tcp -m tcp --dport 80 -j KUBE-SEP",
        ):
            watched.pod.run(iptables, "-t", "nat", *line.split())
        assert "MN110" not in watched.codes()
        line = "-A KUBE-SEP -p tcp -m tcp -j DNAT --to-destination 10.244.0.9:8080"
        watched.pod.run(iptables, "-t", "nat", *line.split())
    expect(watched, "MN110", "10.96.0.11", "80", ":15001", "not captured")


@every_backend
def test_mn110_silent_beside_docker(watched: Watched, backend: str) -> None:
    """Docker's name server in a pod, a masquerade, and rules behind ours."""
    watched.proxy()
    watched.init(*BOTH, *ON, backend=backend)
    iptables = tool("nft-compat" if backend == "nft" else backend)
    for line in (
        "-N DOCKER_OUTPUT",
        "-I OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT",
        "-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT "
        "--to-destination 127.0.0.11:37337",
        "-A POSTROUTING -s 10.9.0.0/24 -j MASQUERADE",
    ):
        watched.pod.run(iptables, "-t", "nat", *line.split())
    assert watched.codes() == set()


@every_backend
def test_mn120(watched: Watched, backend: str) -> None:
    watched.proxy(children=2)
    watched.settle(1000, name="app")
    watched.init(*BOTH, *ON, backend=backend)
    assert watched.codes() == set()
    shell = watched.settle(1337, gid=0, name="sh")
    expect(watched, "MN120", f"pid {shell.pid} (sh)", "UID 1337, GID 0", "envoy")
    assert watched.findings()["MN120"].pids == (shell.pid,)


@every_backend
def test_mn120_by_group(watched: Watched, backend: str) -> None:
    watched.proxy()
    app = watched.settle(1000, gid=1337, name="app")
    watched.init(*BOTH, *STRICT, backend=backend)
    expect(watched, "MN120", f"pid {app.pid} (app)", "UID 1000, GID 1337", "proxy's GID 1337")


@every_backend
def test_mn120_silent_for_groups_let_go_on_purpose(watched: Watched, backend: str) -> None:
    watched.proxy()
    watched.settle(1000, gid=2001, name="app")
    exempt = {"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "2001"}
    watched.pod.init(*BOTH, *ON, "--backend", backend, env=exempt)
    assert watched.codes() == set()


@every_backend
def test_mn121(watched: Watched, backend: str) -> None:
    proxy = watched.proxy(uid=2000)
    watched.init(*BOTH, *ON, backend=backend)
    expect(watched, "MN121", f"pid {proxy.pid} (envoy)", ":15001", "let pass UID 1337")
    watched.init(*BOTH[:4], "-u", "2000", *BOTH[6:], *ON, backend=backend)
    assert watched.codes() == set()


@every_backend
def test_mn121_silent_by_group(watched: Watched, backend: str) -> None:
    """With TPROXY Istio's proxy is root with the group 1337."""
    watched.proxy(uid=0, gid=1337)
    watched.init(*BOTH, *STRICT, backend=backend)
    assert "MN121" not in watched.codes()


@pytest.mark.parametrize("backend", ["legacy", "nft-compat"])
def test_mn130(watched: Watched, backend: str) -> None:
    watched.proxy()
    watched.init(*BOTH, *OFF, backend=backend)
    expect(watched, "MN130", "eth0 has fd09::1/64", "outbound", "inbound", ":15001", ":15006")
    watched.init(*BOTH, *ON, backend=backend)
    assert watched.codes() == set()


@every_backend
@pytest.mark.parametrize(("answer", "told"), [("allow", {"MN130"}), ("drop", set())])
def test_mn130_strict(watched: Watched, backend: str, answer: str, told: set[str]) -> None:
    watched.proxy()
    watched.init(*BOTH, *STRICT, "--ipv6", answer, backend=backend)
    assert watched.codes() == told


@every_backend
def test_mn130_silent_without_ipv6(watched4: Watched, backend: str) -> None:
    watched4.proxy()
    watched4.init(*BOTH, *OFF, backend=backend)
    assert watched4.codes() == set()


@every_backend
def test_mn130_silent_where_only_some_addresses_are_wanted(watched: Watched, backend: str) -> None:
    watched.proxy()
    watched.init(*BOTH[:8], "-i", "10.0.0.0/8", *ON, backend=backend)
    assert watched.codes() == set()


@every_backend
def test_mn131(watched: Watched, backend: str) -> None:
    watched.proxy()
    watched.init(*BOTH, *ON, backend=backend)
    expect(watched, "MN131", "TCP", "UDP", "port 443")
    for version in (4, 6):
        program = tool("nft-compat" if backend == "nft" else backend, version)
        rule = ("-A", "OUTPUT", "-p", "udp", "--dport", "443", "-j", "REJECT")
        watched.pod.run(program, *rule)
    assert watched.findings() == {}


def test_mn131_silent_where_nothing_leaves(netns: Namespace) -> None:
    netns.init(*BOTH, *OFF, "--backend", "nft")
    pod = Watched.__new__(Watched)
    pod.pod, pod.people = netns, []
    assert set(pod.findings()) == {"MN150"}


@every_backend
def test_mn150_nobody(watched: Watched, backend: str) -> None:
    watched.init(*BOTH, *ON, backend=backend)
    expect(watched, "MN150", ":15001", "TCP over IPv4", "TCP over IPv6", "no socket listens")
    watched.proxy()
    assert watched.codes() == set()


@every_backend
def test_mn150_another_port(watched: Watched, backend: str) -> None:
    watched.proxy(listen=[(6, "tcp", "::", 15001), (6, "tcp", "::", 15016)])
    watched.init(*BOTH, *ON, backend=backend)
    expect(watched, "MN150", ":15006", "inbound")


@every_backend
def test_mn150_one_family(watched: Watched, backend: str) -> None:
    """IPv6 captured towards a proxy that listens on IPv4 only; :: serves both unless it may not."""
    proxy = watched.proxy(listen=IPV4_ONLY)
    watched.init(*BOTH, *ON, backend=backend)
    expect(watched, "MN150", "TCP over IPv6", "a socket is there: tcp 0.0.0.0:15001")
    assert "IPv4" not in watched.findings()["MN150"].summary
    proxy.end()
    six = watched.proxy(listen=[(*one, "only6") for one in EVERYWHERE])
    expect(watched, "MN150", "TCP over IPv4", "IPv6 only")
    six.end()
    watched.proxy(listen=EVERYWHERE)
    assert watched.codes() == set()


def test_mn150_istios_nft_form_captures_ipv6_when_it_is_off(watched: Watched) -> None:
    watched.proxy(listen=IPV4_ONLY)
    watched.init(*BOTH, *OFF, backend="nft")
    expect(watched, "MN150", "TCP over IPv6")


@every_backend
def test_mn150_on_the_wrong_address(watched4: Watched, backend: str) -> None:
    """What leaves is redirected to 127.0.0.1, what comes in to the interface's address."""
    outside = [(4, "tcp", "0.0.0.0", 15008), (4, "tcp", POD, 15006)]
    watched4.proxy(listen=[(4, "tcp", "127.0.0.1", 15001), *outside])
    watched4.init(*BOTH, *OFF, backend=backend)
    assert watched4.codes() == set()
    watched4.people[0].end()
    watched4.proxy(listen=[(4, "tcp", POD, 15001), (4, "tcp", "127.0.0.1", 15006)])
    said = watched4.findings()
    assert "MN150" in said
    both = {f.summary for f in watched4.all_findings() if f.code == "MN150"}
    assert len(both) == 2


@every_backend
def test_mn150_dns(watched: Watched, backend: str) -> None:
    dns = ("--redirect-dns", "--capture-all-dns")
    watched.proxy(listen=[one for one in EVERYWHERE if one[1] == "tcp"])
    watched.init(*BOTH, *dns, *ON, backend=backend)
    expect(watched, "MN150", ":15053", "UDP over IPv4")
    watched.people[0].end()
    watched.proxy()
    assert watched.codes() == set()
