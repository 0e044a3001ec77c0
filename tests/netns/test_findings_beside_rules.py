"""Findings about what lies beside rules: old connections, routes, sysctls, user namespaces."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshnet.dialects.dumps import rulesets
from meshnet.host.target import resolve
from meshnet.ops.collect import collect
from meshnet.reason.findings import find
from tests.support import watched as support
from tests.support.inhabitant import Inhabitant
from tests.support.namespaces import Namespaces
from tests.support.watched import BOTH, EVERYWHERE, OFF, ON, POD, STRICT, WORLD, WORLD6, Watched

watched, watched4 = support.watched, support.watched4
every_backend = pytest.mark.parametrize("backend", support.BACKENDS)
LISTENS = [(6, "tcp", "::", 80)]
TRACKED = "add chain inet before out { type filter hook output priority 0; }"


def track(pod: Watched) -> None:
    """Have connections tracked before any rule of ours is there."""
    for line in ("add table inet before", TRACKED, "add rule inet before out ct state new accept"):
        pod.pod.run("nft", line)


def older(pod: Watched) -> list[str]:
    """The sentences of MN140."""
    return [f.summary for f in pod.all_findings() if f.code == "MN140"]


@every_backend
@pytest.mark.parametrize("address", [WORLD, WORLD6])
def test_mn140_tracked_goes_direct(watched: Watched, backend: str, address: str) -> None:
    watched.abroad(listen=LISTENS)
    watched.proxy()
    app = watched.settle()
    track(watched)
    assert app.dial(address, 80) == ""
    assert older(watched) == []
    watched.init(*BOTH, *ON, backend=backend)
    (said,) = older(watched)
    assert f"app (pid {app.pid})" in said and address in said and "for as long as it lives" in said
    assert app.speak() == ""
    assert len(older(watched)) == 1


@every_backend
@pytest.mark.parametrize(("loose", "fate"), [("1", "reset"), ("0", "for as long as it lives")])
def test_mn140_untracked(watched: Watched, backend: str, loose: str, fate: str) -> None:
    watched.abroad(listen=LISTENS)
    watched.proxy()
    app = watched.settle()
    assert app.dial(WORLD, 80) == ""
    watched.pod.run("sysctl", "-qw", f"net.netfilter.nf_conntrack_tcp_loose={loose}")
    watched.init(*BOTH, *ON, backend=backend)
    (said,) = older(watched)
    assert f"app (pid {app.pid})" in said and fate in said
    # And so it happens.
    assert app.speak() == ("Connection reset by peer" if loose == "1" else "")


@every_backend
def test_mn140_inbound(watched: Watched, backend: str) -> None:
    watched.settle(name="server", listen=[(6, "tcp", "::", 8080)])
    watched.proxy()
    client = watched.abroad()
    track(watched)
    assert client.dial(POD, 8080) == ""
    watched.init(*BOTH, *ON, backend=backend)
    (said,) = older(watched)
    assert f"{POD}:8080" in said


@every_backend
def test_mn140_silent(watched: Watched, backend: str) -> None:
    """Captured ones, the proxy's own, what stays here, and what the rules let go."""
    watched.abroad(listen=[*LISTENS, (6, "tcp", "::", 22)])
    app = watched.settle(listen=[(6, "tcp", "::", 8080)])
    proxy = watched.proxy()
    track(watched)
    assert proxy.dial(WORLD, 80) == ""
    assert app.dial(WORLD, 22) == ""
    assert app.dial("127.0.0.1", 8080) == "" and app.dial(POD, 8080) == ""
    watched.init(*BOTH, "-o", "22", *ON, backend=backend)
    assert app.dial(WORLD, 80) == ""
    assert proxy.dial(WORLD, 80) == ""
    assert older(watched) == []


TPROXY = (*BOTH, "-m", "TPROXY")


@pytest.fixture(params=[(), STRICT], ids=["istio", "strict"])
def profile(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The arguments of a profile, for both families."""
    return request.param or ON


@every_backend
def test_mn160_rule_and_route(watched: Watched, backend: str, profile: tuple[str, ...]) -> None:
    watched.proxy()
    watched.settle(listen=[(6, "tcp", "::", 8080)])
    again = (*TPROXY, *profile)
    watched.init(*again, backend=backend)
    assert watched.codes() == set()
    for version, name in (("-4", "IPv4"), ("-6", "IPv6")):
        watched.pod.run("ip", version, "rule", "del", "fwmark", "1337")
        said = watched.findings()["MN160"]
        assert f"no policy rule of {name}" in said.summary, said
        watched.init(*again, backend=backend)
        assert watched.codes() == set()
        watched.pod.run("ip", version, "route", "flush", "table", "133")
        said = watched.findings()["MN160"]
        assert f"no route `local default dev lo` of {name} in table 133" in said.summary, said
        watched.init(*again, backend=backend)
        assert watched.codes() == set()


@every_backend
def test_mn160_behind_main(watched4: Watched, backend: str) -> None:
    watched4.proxy()
    watched4.init(*TPROXY, *OFF, backend=backend)
    watched4.pod.run("ip", "rule", "del", "fwmark", "1337")
    late = ("pref", "40000", "fwmark", "1337", "lookup", "133")
    watched4.pod.run("ip", "rule", "add", *late)
    assert "behind the one for table main" in watched4.findings()["MN160"].summary


@every_backend
def test_mn160_src_valid_mark(watched4: Watched, backend: str) -> None:
    """What wg-quick sets: no connection comes in any more, and the finding says why."""
    watched4.proxy()
    client = watched4.abroad()
    watched4.init(*TPROXY, *OFF, backend=backend)
    assert client.dial(POD, 8080) == ""
    assert watched4.codes() == set()
    for link in ("all", "eth0"):
        name = f"net.ipv4.conf.{link}.src_valid_mark"
        watched4.pod.run("sysctl", "-qw", f"{name}=1")
        assert client.dial(POD, 8080) != ""
        assert name in watched4.findings()["MN160"].summary
        watched4.pod.run("sysctl", "-qw", f"{name}=0")
    assert client.dial(POD, 8080) == ""
    assert watched4.codes() == set()


@every_backend
def test_mn160_socket_that_cannot_take_it(watched4: Watched, backend: str) -> None:
    watched4.proxy(listen=[one[:4] for one in EVERYWHERE])
    client = watched4.abroad()
    watched4.init(*TPROXY, *OFF, backend=backend)
    assert client.dial(POD, 8080) != ""
    assert "not transparent" in watched4.findings()["MN160"].summary


def test_mn160_silent_for_redirect(watched4: Watched) -> None:
    watched4.proxy()
    watched4.init(*BOTH, *OFF, backend="nft")
    watched4.pod.run("sysctl", "-qw", "net.ipv4.conf.all.src_valid_mark=1")
    assert watched4.codes() == set()


FIRST = 100_000


@pytest.fixture
def unprivileged() -> Iterator[str]:
    """The pid of a process whose network namespace belongs to a user namespace: 0 is 100000."""
    argv = ["unshare", "-U", "-n", "sleep", "600"]
    process = subprocess.Popen(argv)
    here = Path(f"/proc/{process.pid}")
    try:
        own = Path("/proc/self/ns/user").readlink()
        deadline = time.monotonic() + 10
        while (here / "ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (here / "ns/user").readlink() != own
        for name in ("uid_map", "gid_map"):
            (here / name).write_text(f"0 {FIRST} 65536\n")
        subprocess.run(
            ["nsenter", "-n", "-t", str(process.pid), "ip", "link", "set", "lo", "up"], check=True
        )
        yield str(process.pid)
    finally:
        process.kill()
        process.wait()


def live_in(pid: str, uid: int, name: str, listen: list[tuple[object, ...]]) -> Inhabitant:
    """A process with ``uid`` of the user namespace."""
    return Inhabitant("", uid, name=name, listen=listen, wrap=("nsenter", "-U", "-n", "-t", pid))


def init_in(pid: str, namespaces: Namespaces, backend: str, folder: Path) -> None:
    """The default rules, written by the user namespace's own root.

    xt_owner takes a UID from nobody else (net/netfilter/xt_owner.c, owner_check).
    """
    other = namespaces.make()
    other.init(*BOTH, *OFF, "--backend", backend)
    if backend == "nft":
        argv, text = ["nft", "-f", "-"], other.run("nft", "list", "ruleset").stdout
    else:
        variant = {"legacy": "legacy", "nft-compat": "nft"}[backend]
        argv = [f"iptables-{variant}-restore"]
        text = other.run(f"iptables-{variant}-save", "-t", "nat").stdout
    folder.chmod(0o777)
    done = subprocess.run(
        ["nsenter", "-U", "-n", "-t", pid, *argv],
        input=text,
        capture_output=True,
        text=True,
        env={**os.environ, "XTABLES_LOCKFILE": str(folder / "lock")},
    )
    assert done.returncode == 0, done.stderr


@every_backend
def test_mn120_in_a_user_namespace(unprivileged: str, namespaces: Namespaces, backend: str) -> None:
    """The proxy's 1337 is 101337 outside; a process that has 1337 outside is nobody inside."""
    people = [live_in(unprivileged, 1337, "envoy", [(*one[:4],) for one in EVERYWHERE])]
    try:
        with tempfile.TemporaryDirectory() as folder:
            init_in(unprivileged, namespaces, backend, Path(folder))
        outside = ("nsenter", "-n", "-t", unprivileged)
        people.append(Inhabitant("", 1337, name="stranger", wrap=outside))
        people.append(live_in(unprivileged, 1000, "app", []))
        assert codes_of(unprivileged) == {}
        people.append(live_in(unprivileged, 1337, "sh", []))
        found = codes_of(unprivileged)
        assert set(found) == {"MN120"}
        assert f"pid {people[-1].pid} (sh): UID 1337, GID 1337" in found["MN120"]
    finally:
        for person in people:
            person.end()


def codes_of(pid: str) -> dict[str, tuple[str, ...]]:
    """The evidence of each finding, by code."""
    snapshot = collect(resolve(f"pid:{pid}"))
    return {f.code: f.evidence for f in find(snapshot, rulesets(snapshot))}
