"""A snapshot in other words: to be shown to somebody who shall not learn whose it is.

Addresses, names of pods, containers, processes and interfaces, comments and foreign chains
are replaced, each thing by the same word everywhere, dumps included. What decides stays:
an address is in a block of the rules exactly if it was before. Numbers stay: ports, ids,
pids, inodes, marks, counters.
"""

from __future__ import annotations

import os
import re

from meshnet.model.frozen import replace
from meshnet.model.snapshot import ContainerName, Dump, Gap, Namespace, Process, Snapshot
from meshnet.reason.pseudonyms import Pseudonyms
from meshnet.reason.redact_iptables import patterns_in, redact_save, replace_addresses, rule_name
from meshnet.reason.redact_nft import link_patterns, redact_listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")

#: Proxies that everybody runs: which one it is says nothing, and much is told by it.
_PROXIES = {"envoy", "pilot-agent", "istio-proxy", "linkerd2-proxy", "linkerd-proxy", "ztunnel"}
_PROXIES |= {"nginx", "haproxy", "traefik", "consul-dataplane", "cilium-envoy"}
_ADDRESSES = ("address", "local", "remote", "src", "dst", "reply_src", "reply_dst")
_BLOCKS = ("destination", "source", "gateway")
_LINKS = ("link", "iif", "oif")
_OF_LINK = re.compile(r"(net\.ipv[46]\.conf)\.(.+)\.([a-z_0-9]+)")
_SYSCTL = re.compile(r"net\.[a-z0-9_.]+")
_EVERY_LINK = ("all", "default")
_VALUE = re.compile(r"[-\w\t ]*", re.ASCII)
_ATTEMPTS = 16


def redact(snapshot: Snapshot, key: bytes = b"") -> Snapshot:
    """``snapshot`` with every address and name replaced, under a key that nobody keeps.

    ``key`` is for tests: with the same key the same thing has the same replacement. Loopback
    and unspecified addresses stay, and what kind of address link-local and multicast ones are.
    """
    patterns = set[str]()
    for dump in snapshot.dumps:
        patterns |= link_patterns(dump.text) if dump.backend == "nft" else patterns_in(dump.text)
    names = Pseudonyms(key or os.urandom(32), patterns)
    redacted = _Redaction(names).snapshot(snapshot)
    if key or not names.clashes():
        return redacted
    # By chance an address became one that is here too. Few bits are free in a short block.
    for _ in range(_ATTEMPTS):
        names = names.again(os.urandom(32))
        if not names.clashes():
            break
    return _Redaction(Pseudonyms(names.key, patterns)).snapshot(snapshot)


class _Redaction:
    """One pass over a snapshot."""

    def __init__(self, names: Pseudonyms) -> None:
        self.names = names

    def snapshot(self, old: Snapshot) -> Snapshot:
        links = tuple(replace(link, name=self.names.interface(link.name)) for link in old.links)
        namespace = self.namespace(old.namespace)
        processes = tuple(self.process(process) for process in old.processes)
        return replace(
            old,
            namespace=namespace,
            links=links,
            addresses=tuple(map(self.part, old.addresses)),
            routes=tuple(map(self.part, old.routes)),
            policies=tuple(map(self.part, old.policies)),
            sysctls=None if old.sysctls is None else self.sysctls(old.sysctls),
            processes=processes,
            sockets=tuple(map(self.part, old.sockets)),
            flows=tuple(map(self.part, old.flows)),
            dumps=tuple(map(self.dump, old.dumps)),
            dormant=tuple((family, rule_name(t, self.names)) for family, t in old.dormant),
            gaps=tuple(Gap(gap.section, self.text(gap.reason)) for gap in old.gaps),
            redacted=True,
        )

    def namespace(self, old: Namespace) -> Namespace:
        pod = self.pod(old.pod)
        pid = re.match(r"pid \d+\b", old.name)
        if old.name == old.pod or old.name == "host":
            name = pod or old.name
        else:
            name = pid[0] if pid else self.names.name("namespace", old.name)
        of_process = re.fullmatch(r"/proc/\d+/ns/net", old.path)
        path = old.path if of_process else self.names.name("path", old.path)
        containers = tuple(map(self.container, old.containers))
        return replace(old, name=name, path=path, pod=pod, containers=containers)

    def pod(self, old: str) -> str:
        space, slash, pod = old.partition("/")
        if not slash:
            return self.names.name("pod", old)
        return f"{self.names.name('space', space)}/{self.names.name('pod', pod)}"

    def container(self, old: ContainerName) -> ContainerName:
        name = self.names.name("container", old.name)
        return replace(old, id=self.names.name("id", old.id), name=name, pod=self.pod(old.pod))

    def process(self, old: Process) -> Process:
        command = old.command
        if command not in _PROXIES:
            command = self.names.name("process", command)
        return replace(old, command=command, container=self.names.name("id", old.container))

    def part(self, old: T) -> T:
        """An address, route, policy rule, socket or flow: their fields are called alike."""
        changes: dict[str, Any] = {}
        for field, value in old.__dict__.items():
            if field in _ADDRESSES and value:
                changes[field] = self.names.address(value)
            elif field in _BLOCKS and value:
                changes[field] = self.names.block(value)
            elif field in _LINKS:
                changes[field] = self.names.interface(value)
        return replace(old, **changes)  # type: ignore[type-var]

    def sysctls(self, old: dict[str, str]) -> dict[str, str]:
        found = {}
        for name, value in old.items():
            parts = _OF_LINK.fullmatch(name)
            if parts and parts[2] not in _EVERY_LINK:
                link = self.names.interface(parts[2].replace("/", "."))
                name = f"{parts[1]}.{link}.{parts[3]}"
            elif not _SYSCTL.fullmatch(name):
                name = self.names.name("sysctl", name)
            found[name] = value if _VALUE.fullmatch(value) else self.names.name("value", value)
        return found

    def dump(self, old: Dump) -> Dump:
        if old.backend == "nft":
            return replace(old, text=redact_listing(old.text, self.names))
        return replace(old, text=redact_save(old.text, self.names))

    def text(self, old: str) -> str:
        """A sentence of ours without what a tool or the kernel said behind its colon.

        Names and addresses that are known are replaced in what is left.
        """
        old = old.partition(": ")[0]
        for name in sorted(self.names.names, key=len, reverse=True):
            if name in old:
                edge = rf"(?<![\w-]){re.escape(name)}(?![\w-])"
                old = re.sub(edge, self.names.names[name].replace("\\", r"\\"), old)
        return replace_addresses(old, self.names)
