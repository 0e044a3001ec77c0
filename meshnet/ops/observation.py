"""One look at the network namespace that this process is in: what makes a snapshot."""

from __future__ import annotations

import os
import time

from meshnet import __version__
from meshnet.backends.dumps import read_dormant, read_dumps
from meshnet.errors import MeshnetError, NotPermitted
from meshnet.host.conntrack import read_flows
from meshnet.host.sockdiag import lacking, read_sockets
from meshnet.host.surroundings import read_links, read_surroundings
from meshnet.host.sysctls import read_sysctls
from meshnet.host.userns import owner_of
from meshnet.model.frozen import dataclass
from meshnet.model.snapshot import SCHEMA, Gap, Namespace, Snapshot
from meshnet.ops.inhabitants import Inhabitants, describe, hidden, look_around, with_holders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from meshnet.host.target import Target


#: What changes fastest comes close together; processes last: sockets say who else matters.
_SEQUENCE = ("rules", "connections", "sockets", "processes", "routes", "sysctls")


@dataclass(frozen=True)
class Limits:
    """How much of one namespace is kept: entries each, and bytes of one dump."""

    sockets: int = 50_000
    flows: int = 50_000
    processes: int = 10_000
    routes: int = 10_000
    dump: int = 64 << 20


@dataclass(frozen=True)
class Order:
    """What is to be looked at, how far, and what the parent knew already.

    ``known`` are sysctls that only the parent's namespace shows; ``timeout`` is how long
    the tools may take together, in seconds.
    """

    sections: tuple[str, ...]
    limits: Limits
    timeout: float
    inhabitants: Inhabitants | None
    known: dict[str, str]


def observe(target: Target, order: Order) -> Snapshot:
    """The snapshot of this process's own network namespace, which is that of ``target``.

    What cannot be had is a gap. Raises NotPermitted where a section needs a capability.
    """
    look = _Look(target, order)
    for section in _SEQUENCE:
        if section in order.sections:
            look.at(section)
    parts = look.parts
    if parts.get("sysctls") is not None:
        parts["sysctls"] = {**order.known, **parts["sysctls"]}
    # A name of a file need not be UTF-8, a document has to be.
    path = os.fsencode(target.path or "").decode("utf-8", "backslashreplace")
    return Snapshot(
        SCHEMA,
        __version__,
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        os.uname().release,
        Namespace(target.inode, target.name, path, target.pod, target.containers, look.owner),
        order.sections,
        gaps=tuple(look.gaps),
        **parts,
    )


class _Look:
    """The parts of a snapshot as they come in."""

    def __init__(self, target: Target, order: Order) -> None:
        self.target = target
        self.limits = order.limits
        self.timeout = order.timeout
        self.parts: dict[str, Any] = {}
        self.gaps: list[Gap] = []
        self.inhabitants = order.inhabitants
        self.holders: set[int] = set()
        self.owner, self.uids, self.gids = owner_of(pids=target.pids)

    def at(self, section: str) -> None:
        """Look at one section; what fails for another reason than a capability is a gap."""
        read: Callable[[], None] = getattr(self, f"_read_{section}")
        try:
            read()
        except NotPermitted:
            raise
        except MeshnetError as e:
            self.gaps.append(Gap(section, str(e)))
        except OSError as e:
            self.gaps.append(Gap(section, f"it cannot be read: {e.strerror}"))

    def _who(self) -> Inhabitants:
        if self.inhabitants is None:
            self.inhabitants = look_around(sockets=False)
        return self.inhabitants

    def _read_rules(self) -> None:
        found, gaps = read_dumps(largest=self.limits.dump, timeout=self.timeout)
        self.parts |= {"dumps": found, "dormant": read_dormant()}
        self.gaps += gaps

    def _read_routes(self) -> None:
        found = read_surroundings(self.limits.routes)
        self.parts |= {
            "links": found.links,
            "addresses": found.addresses,
            "routes": found.routes,
            "policies": found.policies,
        }
        self.gaps += found.gaps

    def _read_sysctls(self) -> None:
        links = self.parts.get("links") or read_links()
        self.parts["sysctls"], gaps = read_sysctls(link.name for link in links)
        self.gaps += gaps

    def _read_processes(self) -> None:
        who = self._who()
        pids = {*who.of(self.target.inode), *self.holders}
        found, gaps = describe(sorted(pids), self.limits.processes, self.uids, self.gids)
        self.parts["processes"] = found
        self.gaps += gaps + hidden(who)

    def _read_sockets(self) -> None:
        found, cut = read_sockets(limit=self.limits.sockets, uids=self.uids)
        if cut:
            kept = f"{len(found):,} of {len(found) + cut:,} sockets kept"
            self.gaps.append(Gap("sockets", kept))
        if why := lacking():
            self.gaps.append(Gap("sockets", why))
        held, gaps = with_holders(found, self.target.inode, self._who())
        self.parts["sockets"] = held
        self.holders = {pid for socket in held for pid in socket.pids}
        self.gaps += gaps

    def _read_connections(self) -> None:
        answer = read_flows(limit=self.limits.flows)
        if isinstance(answer, str):
            self.gaps.append(Gap("connections", answer))
            return
        found, cut = answer
        self.parts["flows"] = tuple(found)
        if cut:
            kept = f"{len(found):,} of {len(found) + cut:,} tracked connections kept"
            self.gaps.append(Gap("connections", kept))
