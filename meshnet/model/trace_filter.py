"""Which packets are traced: a conjunction of a few terms, as the kernel and a test can ask it."""

from __future__ import annotations

from meshnet.model.address import show_address
from meshnet.model.frozen import dataclass
from meshnet.model.packet import TCP, Family


@dataclass(frozen=True)
class PortTerm:
    """A port, 0..65535, at one side: "src", "dst", or "" for either."""

    port: int
    side: str = ""


@dataclass(frozen=True)
class HostTerm:
    """An address, at one side: "src", "dst", or "" for either."""

    family: Family
    address: int
    side: str = ""


@dataclass(frozen=True)
class TraceFilter:
    """All terms together. ``protocol`` is TCP or UDP of :mod:`meshnet.model.packet`.

    ``uid`` is one of the user namespace that owns the network namespace, None for anybody.
    The empty filter is every TCP packet.
    """

    protocol: int = TCP
    ports: tuple[PortTerm, ...] = ()
    hosts: tuple[HostTerm, ...] = ()
    uid: int | None = None

    @property
    def family(self) -> Family | None:
        """The family that the hosts are of; None where none is named."""
        return self.hosts[0].family if self.hosts else None

    def in_words(self, every: bool) -> str:
        """Which packets it asks for; of TCP only those that begin a connection unless ``every``."""
        tcp = "TCP packets" if every else "new TCP connections"
        said = [tcp if self.protocol == TCP else "UDP packets"]
        terms = [f"{term.side} port {term.port}".strip() for term in self.ports]
        terms += [f"{t.side} host {show_address(t.family, t.address)}".strip() for t in self.hosts]
        if self.uid is not None:
            terms.append(f"uid {self.uid}")
        return " with ".join([*said, *([" and ".join(terms)] if terms else [])])
