"""A pod, the world and a virtual machine behind the pod, and who receives what is sent there.

    guest │ vm0 ── vm0 │ pod │ eth0 ── eth0 │ world
                             │ eth1 ── eth1 │

In the pod listen a proxy (15001, 15006, 15008, 15053) and an application; in the world
anybody. A probe is one connection, or one DNS question; its fate is one word:

=========== ====================================================================
outbound    the proxy's outbound port got it, and knows where it was meant to go
inbound     the proxy's inbound port got it, likewise
dns         the proxy's DNS port got it; an answer came from the address asked
direct      whoever it was addressed to got it
refused     a reset came at once
nobody      nothing came in time
=========== ====================================================================

Everything else is told as what was seen, and so equals none of these.
"""

from __future__ import annotations

import itertools
import json
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.namespaces import Namespace, Namespaces

APP, ROOT, PROXY = 1000, 0, 1337
POD, POD6 = "10.9.0.1", "fd09::1"
#: The pod's end of eth1.
POD_SIDE, POD_SIDE6 = "10.8.0.1", "fd08::1"
#: The world's end of eth0, and of eth1; then addresses that lie behind it.
NEAR, NEAR6 = "10.9.0.2", "fd09::2"
SIDE, SIDE6 = "10.8.0.2", "fd08::2"
WEB, WEB6 = "192.0.2.10", "2001:db8:2::10"
API, API6 = "192.0.2.20", "2001:db8:2::20"
FAR, FAR6 = "198.51.100.10", "2001:db8:51::10"
DNS, DNS6 = "203.0.113.53", "2001:db8:53::53"
WORLD = (NEAR, NEAR6, SIDE, SIDE6, WEB, WEB6, API, API6, FAR, FAR6, DNS, DNS6)
GUEST, GUEST6 = "10.7.0.2", "fd07::2"
CAPTURE_PORTS = {15001: "outbound", 15006: "inbound", 15053: "dns"}
WORLD_PORTS = (53, 80, 443, 8080, 8443, 9000, 9050, 9099, 15008)
APP_PORTS = (53, 80, 8080, 8081, 9000, 9050, 9099)
PATIENCE = 0.7
#: -i '*' and IPv6 on: what most pods run with.
PROFILES = {
    "istio": ["--profile", "istio", "--ipv6", "on", "-p", "15001", "-u", "1337", "-i", "*"],
    "strict": ["--profile", "strict", "-p", "15001", "-u", "1337", "-i", "*"],
}
BACKENDS = ("nft-compat", "nft", "legacy")

_POD = f"""
addr add {POD}/24 dev eth0
addr add {POD6}/64 dev eth0 nodad
addr add {POD_SIDE}/24 dev eth1
addr add {POD_SIDE6}/64 dev eth1 nodad
route add default via {NEAR}
route add ::/0 via {NEAR6}
"""
_WORLD = f"""
addr add {NEAR}/24 dev eth0
addr add {NEAR6}/64 dev eth0 nodad
addr add {SIDE}/24 dev eth1
addr add {SIDE6}/64 dev eth1 nodad
route add default via {POD}
route add ::/0 via {POD6}
""" + "".join(f"addr add {a} dev lo\n" for a in WORLD[4:])
_GUEST = f"""
addr add {GUEST}/24 dev vm0
addr add {GUEST6}/64 dev vm0 nodad
route add default via 10.7.0.1
route add ::/0 via fd07::1
"""
_tokens = itertools.count(1)


@dataclass(frozen=True)
class Probe:
    """One connection; ``start`` is where it begins: pod, world or guest.

    A ``mark`` makes it the proxy's that bears the client's ``source``; ``sport`` is for
    those that must have the tuple of another one.
    """

    to: str
    port: int = 80
    uid: int = APP
    gid: int = APP
    protocol: str = "tcp"
    source: str = ""
    start: str = "pod"
    mark: int = 0
    sport: int = 0

    def __str__(self) -> str:
        by = f" from {self.source}" if self.source else ""
        return f"{self.start} {self.uid}:{self.gid} {self.protocol} {self.to} {self.port}{by}"

    @property
    def direct(self) -> str:
        """Who is addressed, as listeners name themselves."""
        if self.to.startswith("127.") or self.to == "::1":
            return f"{self.start}:{self.port}"
        owner = "world" if self.to in WORLD else "guest" if self.to in (GUEST, GUEST6) else "pod"
        return f"{owner}:{self.port}"

    @property
    def target(self) -> str:
        return f"[{self.to}]:{self.port}" if ":" in self.to else f"{self.to}:{self.port}"

    def fate(self, seen: dict[str, str]) -> str:
        """One word of the module's table, or all that was seen."""
        who, udp = seen["who"], self.protocol == "udp"
        if ":" not in who:
            return who
        place, port = who.split(":")
        said = seen.get("answered_from") if udp else seen["original"]
        if place == "pod" and int(port) in CAPTURE_PORTS and said == self.target:
            return CAPTURE_PORTS[int(port)]
        if who == self.direct and (not udp or said == self.target):
            return "direct"
        return f"{who}, meant for {said}"


class AgentProcess:
    """The agent of one namespace."""

    def __init__(self, namespace: Namespace, place: str) -> None:
        program = str(Path(__file__).parent / "agent.py")
        self.process = subprocess.Popen(
            ["nsenter", f"--net={namespace.path}", sys.executable, "-I", "-S", program, place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def send(self, do: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 20)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            raise AssertionError("the agent does not answer")
        return json.loads(line)

    def ask(self, do: str, **arguments: Any) -> Any:
        self.send(do, **arguments)
        return self.answer()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Pod:
    """See the module. ``guest`` says whether there is a virtual machine.

    ``proxy_on`` are the IP versions that the proxy listens on.
    """

    def __init__(
        self,
        namespaces: Namespaces,
        guest: bool = False,
        proxy_on: tuple[int, ...] = (4, 6),
    ) -> None:
        self.namespace, self.world = _namespace(namespaces), _namespace(namespaces)
        for link in ("eth0", "eth1"):
            namespaces.connect(self.namespace, self.world, link)
        self.guest: Namespace | None = None
        self.namespace.run("ip", "-batch", "-", text=_POD)
        self.world.run("ip", "-batch", "-", text=_WORLD)
        if guest:
            self.guest = self._add_guest(namespaces)
        self.agents = {"pod": AgentProcess(self.namespace, "pod")}
        self.agents["world"] = AgentProcess(self.world, "world")
        if self.guest is not None:
            self.agents["guest"] = AgentProcess(self.guest, "guest")
        self.agents["world"].ask("listen", listeners=_everybody())
        self.agents["pod"].ask("listen", listeners=_application())
        self.agents["pod"].ask("listen", listeners=_proxy(), versions=proxy_on)

    def _add_guest(self, namespaces: Namespaces) -> Namespace:
        guest = _namespace(namespaces)
        namespaces.connect(self.namespace, guest, "vm0")
        lines = "addr add 10.7.0.1/24 dev vm0\naddr add fd07::1/64 dev vm0 nodad\n"
        self.namespace.run("ip", "-batch", "-", text=lines)
        guest.run("ip", "-batch", "-", text=_GUEST)
        forwarding = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self.namespace.run("sysctl", "-qw", *forwarding)
        return guest

    def end(self) -> None:
        for agent in self.agents.values():
            agent.end()

    def look(self, *probes: Probe) -> list[dict[str, str]]:
        """What became of each probe, in their order; all of one place run at once."""
        places = list(dict.fromkeys(probe.start for probe in probes))
        told: dict[str, Any] = {}
        for place in places:
            mine = [_as_value(probe) for probe in probes if probe.start == place]
            told[place] = iter(self.agents[place].ask("probe", probes=mine, timeout=PATIENCE))
        return [next(told[probe.start]) for probe in probes]

    def fates(self, *probes: Probe) -> list[str]:
        """The fate of each probe."""
        return [p.fate(seen) for p, seen in zip(probes, self.look(*probes), strict=True)]

    def check(self, expected: dict[Probe, str]) -> None:
        """Assert the fate of each probe."""
        seen = zip(expected.items(), self.fates(*expected), strict=True)
        wrong = [f"{probe}: {fate}, not {want}" for (probe, want), fate in seen if fate != want]
        if wrong:
            raise AssertionError("\n".join(wrong))

    @contextmanager
    def load(self, *probes: Probe) -> Iterator[Counter[tuple[Probe, str]]]:
        """Repeat the probes while the block runs; how many met which fate, filled in after it."""
        seen: Counter[tuple[Probe, str]] = Counter()
        loaded = dict.fromkeys(probe.start for probe in probes)
        for place in loaded:
            mine = [_as_value(p, f"{n}") for n, p in enumerate(probes) if p.start == place]
            self.agents[place].ask("load", probes=mine, timeout=3)
        yield seen
        for place in loaded:
            for told, count in self.agents[place].ask("rest"):
                probe = probes[int(told["asked"])]
                seen[probe, probe.fate(told)] += count

    def init(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        """Program the pod."""
        self.namespace.init(*arguments, env=env)

    def decide(
        self, arguments: list[str], expected: dict[Probe, str], env: dict[str, str] | None = None
    ) -> None:
        """Assert the fate of each probe under the rules that ``arguments`` make.

        Without the rules every one of them goes direct: that is the proof that capture
        is what is seen afterwards.
        """
        self.check({probe: "direct" for probe in expected})
        self.init(*arguments, env=env)
        self.check(expected)


@pytest.fixture
def pod(namespaces: Namespaces) -> Iterator[Pod]:
    """A pod and the world."""
    yield from _alive(Pod(namespaces))


@pytest.fixture
def pod_with_guest(namespaces: Namespaces) -> Iterator[Pod]:
    """A pod, the world, and a virtual machine behind the pod."""
    yield from _alive(Pod(namespaces, guest=True))


def _alive(pod: Pod) -> Iterator[Pod]:
    try:
        yield pod
    finally:
        pod.end()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each netfilter backend."""
    return str(request.param)


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> list[str]:
    """The arguments of istio and of strict, for both families."""
    return PROFILES[request.param]


def _namespace(namespaces: Namespaces) -> Namespace:
    """A namespace whose link-local addresses are there at once: DAD takes a second."""
    made = namespaces.make()
    made.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
    return made


def _everybody() -> list[dict[str, Any]]:
    return [_listener(port) for port in WORLD_PORTS] + [_listener(53, "udp")]


def _application() -> list[dict[str, Any]]:
    return [_listener(port, uid=APP) for port in APP_PORTS] + [_listener(53, "udp", APP)]


def _proxy() -> list[dict[str, Any]]:
    tcp = [_listener(port, uid=PROXY, transparent=True) for port in (15001, 15006, 15008)]
    return tcp + [_listener(15053, protocol, PROXY) for protocol in ("tcp", "udp")]


def _listener(
    port: int, protocol: str = "tcp", uid: int = ROOT, transparent: bool = False
) -> dict[str, Any]:
    return {"port": port, "protocol": protocol, "uid": uid, "gid": uid, "transparent": transparent}


def _as_value(probe: Probe, token: str = "") -> dict[str, Any]:
    names = ("to", "port", "uid", "gid", "protocol", "source", "mark", "sport")
    value = {name: getattr(probe, name) for name in names}
    return {**value, "token": token or f"t{next(_tokens)}"}
