"""Statements that hold for every sound capture, ready-made, in the language of expressions."""

from __future__ import annotations

from meshnet.model.frozen import dataclass
from meshnet.model.packet import Family
from meshnet.model.spec import Profile
from meshnet.reason.claims import Formula
from meshnet.reason.expression import read_expression
from meshnet.reason.findings.listeners import LOOPBACK, WILDCARD, served_as
from meshnet.reason.findings.proxy import listens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meshnet.model.snapshot import Snapshot
    from meshnet.model.spec import CaptureSpec

NAMES = {
    "no-loop": "the proxy's own traffic is never redirected to itself on its way out",
    "no-leak": "everything that the spec captures is captured",
    "no-black-hole": "nothing is handed to a port that nobody listens on",
}


@dataclass(frozen=True)
class Invariant:
    """A ready-made statement, or why it cannot be asked (then there is no formula)."""

    name: str
    text: str
    formula: Formula | None = None


def no_loop(specs: Iterable[CaptureSpec]) -> Invariant:
    """What the proxy's user or group sends is let go, but for calls to its own pod over lo.

    Those go to the port for what comes in: never to the one for what leaves.
    """
    uids: list[tuple[int, int]] = []
    gids: list[tuple[int, int]] = []
    ports: set[int] = set()
    for spec in specs:
        uids += spec.uids
        if spec.profile is Profile.CLASSIC:
            # It knows the proxy by its UID alone, and has one port for both directions.
            ports.add(spec.proxy_port)
        else:
            gids += spec.gids
            ports.add(spec.inbound_port)
    if not uids:
        return Invariant("no-loop", "who the proxy is, is not known: none of these rules is ours")
    owners = f"uid in {_set(uids)}" + (f" or gid in {_set(gids)}" if gids else "")
    inside = _set((port, port) for port in sorted(ports))
    text = f"hook == output and ({owners}) and captured implies oif == lo and port in {inside}"
    return Invariant("no-loop", text, read_expression(text))


def no_leak(specs: Iterable[CaptureSpec]) -> Invariant:
    """What the rules of the spec alone capture, all rules together hand to the same port."""
    if not list(specs):
        return Invariant(
            "no-leak", "what is to be captured is not known: none of these rules is ours"
        )
    formula = Formula("implies", (Formula("intended"), Formula("kept")))
    return Invariant("no-leak", "intended implies captured by the port that is meant", formula)


def no_black_hole(snapshot: Snapshot | None, ipv6_up: bool) -> Invariant:
    """Who listens takes what is handed over: its protocol, family, port, and address."""
    name = "no-black-hole"
    if snapshot is None or "sockets" not in snapshot.sections:
        return Invariant(name, "who listens is not known: it takes a TARGET or its snapshot")
    families = (Family.IP, Family.IP6) if ipv6_up else (Family.IP,)
    clauses = [clause for proto in ("tcp", "udp") for clause in _taken(snapshot, proto, families)]
    only = "captured" if ipv6_up else "captured and family == ip"
    text = f"{only} implies {' or '.join(clauses)}" if clauses else f"not ({only})"
    return Invariant(name, text, read_expression(text))


def _taken(snapshot: Snapshot, proto: str, families: tuple[Family, ...]) -> Iterator[str]:
    """What listeners of ``proto`` take, as few clauses: alike hooks and families are one."""
    ports: dict[tuple[Family, str], set[int]] = {
        (family, hook): set() for family in families for hook in ("output", "prerouting")
    }
    for socket in snapshot.sockets:
        if not listens(socket) or socket.proto != proto:
            continue
        for family in families:
            local = served_as(socket, family)
            for hook in () if local is None else _hooks(local, family):
                ports[family, hook].add(socket.lport)
    if len({frozenset(each) for each in ports.values()}) == 1:
        yield from _clause(f"proto == {proto}", ports[Family.IP, "output"])
        return
    for family in families:
        leaving, coming = ports[family, "output"], ports[family, "prerouting"]
        said = f"family == {family.value} and proto == {proto}"
        if leaving == coming:
            yield from _clause(said, leaving)
        else:
            yield from _clause(f"{said} and hook == output", leaving)
            yield from _clause(f"{said} and hook == prerouting", coming)


def _clause(said: str, ports: set[int]) -> Iterator[str]:
    if ports:
        yield f"({said} and port in {_set([(port, port) for port in sorted(ports)])})"


def _hooks(local: str, family: Family) -> tuple[str, ...]:
    """From where what is redirected arrives at ``local``."""
    if local == WILDCARD[family]:
        return "output", "prerouting"
    return ("output",) if local == LOOPBACK[family] else ("prerouting",)


def _set(spans: Iterable[tuple[int, int]]) -> str:
    said = [
        str(first) if first == last else f"{first}-{last}" for first, last in dict.fromkeys(spans)
    ]
    return f"{{{', '.join(said)}}}"
