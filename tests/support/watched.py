"""A pod and the world behind it, with processes in them, and the findings of the pod."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from meshnet.dialects.dumps import rulesets
from meshnet.host.target import resolve
from meshnet.model.finding import Finding
from meshnet.model.snapshot import Snapshot
from meshnet.ops.collect import collect
from meshnet.reason.findings import find
from tests.support.inhabitant import Inhabitant
from tests.support.namespaces import Namespaces

BACKENDS = ("nft-compat", "nft", "legacy")
POD, WORLD = "10.9.0.1", "10.9.0.2"
POD6, WORLD6 = "fd09::1", "fd09::2"
#: Both directions; IPv6 as well; and IPv4 alone.
BOTH = ("-p", "15001", "-z", "15006", "-u", "1337", "-g", "1337", "-i", "*", "-b", "*")
ON, OFF = ("--ipv6", "on"), ("--ipv6", "off")
STRICT = ("--profile", "strict")
PORTS = (15001, 15006, 15008, 15053)
#: All that a proxy listens on, for both families.
EVERYWHERE = [
    *((6, "tcp", "::", port, "transparent") for port in PORTS),
    (6, "udp", "::", 15053),
]
IPV4_ONLY = [
    *((4, "tcp", "0.0.0.0", port, "transparent") for port in PORTS),
    (4, "udp", "0.0.0.0", 15053),
]
#: True of nearly every sidecar, and said where anything can leave at all.
USUAL = {"MN131"}


class Watched:
    """See the module. ``version6`` False leaves the pod without IPv6 addresses."""

    def __init__(self, namespaces: Namespaces, version6: bool = True) -> None:
        self.pod, self.world = namespaces.make(), namespaces.make()
        for namespace in (self.pod, self.world):
            namespace.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        namespaces.connect(self.pod, self.world)
        for namespace, here, here6, there, there6 in (
            (self.pod, POD, POD6, WORLD, WORLD6),
            (self.world, WORLD, WORLD6, POD, POD6),
        ):
            lines = f"addr add {here}/24 dev eth0\nroute add default via {there}\n"
            if version6:
                lines += f"addr add {here6}/64 dev eth0 nodad\nroute add ::/0 via {there6}\n"
            namespace.run("ip", "-batch", "-", text=lines)
        self.people: list[Inhabitant] = []

    def settle(self, uid: int = 1000, name: str = "app", **more: Any) -> Inhabitant:
        """A process in the pod."""
        self.people.append(Inhabitant(self.pod.path, uid, name=name, **more))
        return self.people[-1]

    def proxy(self, uid: int = 1337, listen: Any = EVERYWHERE, **more: Any) -> Inhabitant:
        """A sidecar in the pod, sound unless told otherwise."""
        return self.settle(uid, more.pop("name", "envoy"), listen=listen, **more)

    def abroad(self, **more: Any) -> Inhabitant:
        """A process in the world."""
        self.people.append(Inhabitant(self.world.path, 0, name="abroad", **more))
        return self.people[-1]

    def init(self, *arguments: str, backend: str) -> None:
        """Program the pod."""
        self.pod.init(*arguments, "--backend", backend)

    def look(self) -> Snapshot:
        """A snapshot of the pod."""
        return collect(resolve(f"netns:{self.pod.path}"))

    def all_findings(self) -> tuple[Finding, ...]:
        """What is wrong in the pod now."""
        snapshot = self.look()
        return find(snapshot, rulesets(snapshot))

    def findings(self) -> dict[str, Finding]:
        """The findings by code; of several of one code the first."""
        found: dict[str, Finding] = {}
        for finding in self.all_findings():
            found.setdefault(finding.code, finding)
        return found

    def codes(self) -> set[str]:
        """The codes of the findings, without those that every sidecar has."""
        return set(self.findings()) - USUAL

    def end(self) -> None:
        for person in self.people:
            person.end()


@pytest.fixture
def watched(namespaces: Namespaces) -> Iterator[Watched]:
    """A pod with both families."""
    yield from _alive(Watched(namespaces))


@pytest.fixture
def watched4(namespaces: Namespaces) -> Iterator[Watched]:
    """A pod with IPv4 alone."""
    yield from _alive(Watched(namespaces, version6=False))


def _alive(watched: Watched) -> Iterator[Watched]:
    try:
        yield watched
    finally:
        watched.end()
