"""A pod, the world and a virtual machine behind the pod, and who receives what is sent there.

    guest │ vm0 ── vm0 │ pod │ eth0 ── eth0 │ world
                             │ eth1 ── eth1 │

In the pod listen a proxy (15001, 15006, 15008, 15053) and an application; in the world
anybody. What is sent to whom is a :class:`tests.support.probe.Probe`.
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
from pathlib import Path
from typing import Any

import pytest

from tests.support.namespaces import Namespace, Namespaces
from tests.support.probe import (
    APP,
    APP_PORTS,
    GUEST,
    GUEST6,
    NEAR,
    NEAR6,
    POD,
    POD6,
    POD_SIDE,
    POD_SIDE6,
    PROXY,
    ROOT,
    SIDE,
    SIDE6,
    WORLD,
    WORLD_PORTS,
    Probe,
)

#: In seconds. A busy machine may be slow to answer; who expects nobody need not wait as long.
PATIENCE, SHORT = 4.0, 0.7
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

    def look(self, *probes: Probe, patience: float = PATIENCE) -> list[dict[str, str]]:
        """What became of each probe, in their order; all of one place run at once."""
        places = list(dict.fromkeys(probe.start for probe in probes))
        told: dict[str, Any] = {}
        for place in places:
            mine = [_as_value(probe) for probe in probes if probe.start == place]
            told[place] = iter(self.agents[place].ask("probe", probes=mine, timeout=patience))
        return [next(told[probe.start]) for probe in probes]

    def fates(self, *probes: Probe, patience: float = PATIENCE) -> list[str]:
        """The fate of each probe."""
        looks = self.look(*probes, patience=patience)
        return [probe.fate(seen) for probe, seen in zip(probes, looks, strict=True)]

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
            self.agents[place].ask("load", probes=mine, timeout=PATIENCE)
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
        self.check(dict.fromkeys(expected, "direct"))
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
