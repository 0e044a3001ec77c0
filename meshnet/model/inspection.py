"""What ``inspect`` shows: a snapshot joined into one view, as plain data."""

from __future__ import annotations

from meshnet.model.capture import CaptureLine
from meshnet.model.finding import Finding
from meshnet.model.frozen import dataclass
from meshnet.model.proxy import Proxy
from meshnet.model.snapshot import (
    Gap,
    InterfaceAddress,
    Link,
    Namespace,
    PolicyRoute,
    Process,
    Route,
    Socket,
)

SCHEMA = "meshnet/v1/inspection"


@dataclass(frozen=True)
class ShownRule:
    """A rule of a chain, ``number`` from 1 as iptables counts.

    ``text`` is the rule in words, ``source`` in its own language; ``meaning`` why it is
    there, "" where nobody knows; ``ours`` whether it is part of a capture, ``id`` and
    ``setting`` then say which. ``comment`` is what its maker wrote beside it.
    """

    number: int
    text: str
    source: str
    packets: int
    bytes: int
    meaning: str = ""
    ours: bool = False
    id: str = ""
    setting: str = ""
    comment: str = ""


@dataclass(frozen=True)
class ShownChain:
    """A chain; ``hook`` is "" for one that is only jumped to."""

    name: str
    hook: str
    priority: int
    policy: str
    packets: int
    bytes: int
    ours: bool
    rules: tuple[ShownRule, ...]


@dataclass(frozen=True)
class ShownTable:
    """A table of one backend; of a ``dormant`` one no rule is run."""

    backend: str
    family: str
    name: str
    chains: tuple[ShownChain, ...]
    dormant: bool = False


@dataclass(frozen=True)
class ShownProcess:
    """A process with what it listens on ("*:15001", "127.0.0.1:15000/udp") and its codes."""

    process: Process
    listens: tuple[str, ...] = ()
    proxy: bool = False
    codes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """See the module. ``tables`` keep the order of the dumps; ``findings`` are most severe first.

    ``profiles`` are (backend, the profile that its rules come closest to). ``capturing`` is
    "full", "partial" (something of the capture is broken), "leaking" (something passes the
    proxy by), "none" (a proxy runs and nothing is redirected) or "-" (no rules of a capture);
    notes do not count. ``taken`` is RFC 3339 in UTC.
    """

    schema: str
    namespace: Namespace
    kernel: str
    taken: str
    capturing: str
    capture: tuple[CaptureLine, ...]
    backends: tuple[str, ...]
    profiles: tuple[tuple[str, str], ...]
    proxy: Proxy
    findings: tuple[Finding, ...]
    processes: tuple[ShownProcess, ...]
    tables: tuple[ShownTable, ...]
    sockets: tuple[Socket, ...]
    links: tuple[Link, ...]
    addresses: tuple[InterfaceAddress, ...]
    routes: tuple[Route, ...]
    policies: tuple[PolicyRoute, ...]
    sysctls: dict[str, str]
    gaps: tuple[Gap, ...]
