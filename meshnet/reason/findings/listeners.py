"""MN150: redirected to a port that nobody listens on."""

from __future__ import annotations

from meshnet.model.finding import Finding
from meshnet.model.match import PROTO_NAMES
from meshnet.model.packet import Family
from meshnet.model.snapshot import Socket
from meshnet.reason.findings.report import packet_in_words, report, step_in_words
from meshnet.reason.findings.scene import OUTPUT, Captured, Scene

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

WILDCARD = {Family.IP: "0.0.0.0", Family.IP6: "::"}
#: Where a redirect sends what leaves (net/netfilter/nf_nat_redirect.c).
LOOPBACK = {Family.IP: "127.0.0.1", Family.IP6: "::1"}
_VERSION = {Family.IP: "IPv4", Family.IP6: "IPv6"}
_MAPPED = "::ffff:"


def deaf_ports(scene: Scene) -> Iterator[Finding]:
    """MN150, one for each port: captured connections arrive where no socket takes them."""
    deaf: dict[int, list[Captured]] = {}
    seen: set[tuple[object, ...]] = set()
    for captured in scene.captured:
        packet, port = captured.packet, captured.journey.port
        if not port:
            continue
        key = (port, packet.family, packet.proto, captured.hook)
        if key in seen:
            continue
        seen.add(key)
        if not any(_takes(scene, socket, captured) for socket in scene.listening):
            deaf.setdefault(port, []).append(captured)
    for port, found in sorted(deaf.items()):
        yield _deaf(scene, port, found)


def _takes(scene: Scene, socket: Socket, captured: Captured) -> bool:
    """Whether ``socket`` gets what was captured."""
    packet = captured.packet
    name = PROTO_NAMES.get(packet.proto, "")
    if (socket.proto, socket.lport) != (name, captured.journey.port):
        return False
    local = served_as(socket, packet.family)
    if local is None:
        return False
    if local == WILDCARD[packet.family]:
        return True
    if captured.hook == OUTPUT:
        return local == LOOPBACK[packet.family]
    # A redirect sends what comes in to the interface's own address.
    return local not in LOOPBACK.values()


def served_as(socket: Socket, family: Family) -> str | None:
    """The address that ``socket`` has in ``family``; None where it takes nothing of it."""
    local = socket.local or WILDCARD[family]
    if local == "*":
        local = "::" if socket.family == "ip6" else "0.0.0.0"
    if family is Family.IP and socket.family == "ip6":
        if local == "::" and not socket.only6:
            return WILDCARD[Family.IP]
        return local[len(_MAPPED) :] if local.startswith(_MAPPED) else None
    return local if socket.family == family.value else None


def _deaf(scene: Scene, port: int, found: list[Captured]) -> Finding:
    kinds = dict.fromkeys(_kind(captured) for captured in found)
    ways = dict.fromkeys(captured.way for captured in found)
    there = [s for s in scene.listening if s.lport == port]
    evidence = [
        f"{c.way} {packet_in_words(c.packet)}: {step_in_words(c.journey.decider)}" for c in found
    ]
    evidence += [f"a socket is there: {_shown(socket)}" for socket in there[:3]]
    evidence += [] if there else [f"no socket listens on port {port}"]
    return report(
        "MN150",
        f"nobody listens on :{port} for {', '.join(kinds)}, "
        f"where {' and '.join(ways)} connections are handed to",
        evidence,
        pids=[pid for socket in there for pid in socket.pids],
    )


def _kind(captured: Captured) -> str:
    name = PROTO_NAMES.get(captured.packet.proto, "").upper()
    return f"{name} over {_VERSION[captured.packet.family]}"


def _shown(socket: Socket) -> str:
    host = f"[{socket.local}]" if ":" in socket.local else socket.local
    only = ", IPv6 only" if socket.only6 else ""
    return f"{socket.proto} {host}:{socket.lport}{only}"
