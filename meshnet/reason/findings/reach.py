"""MN130 and MN131: what gets out although its like is captured, over IPv6 and over UDP."""

from __future__ import annotations

from meshnet.model.address import show_address
from meshnet.model.finding import Finding
from meshnet.model.frozen import replace
from meshnet.model.packet import TCP, UDP, Family, Packet
from meshnet.model.verdict import Journey, Verdict
from meshnet.reason.findings.packets import incoming, outgoing
from meshnet.reason.findings.report import packet_in_words, report, step_in_words
from meshnet.reason.findings.scene import OUTPUT, PREROUTING, Captured, Scene

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_FREE = frozenset({Verdict.DIRECT, Verdict.BYPASSED})
HTTPS = 443


def ipv6(scene: Scene) -> Iterator[Finding]:
    """MN130: an IPv6 address, and what IPv4 captures goes free over IPv6."""
    addresses = scene.outward(Family.IP6)
    if not addresses:
        return
    free = [line for hook in (OUTPUT, PREROUTING) for line in _free_over_ipv6(scene, hook)]
    if not free:
        return
    named = [f"{a.link} has {a.address}/{a.length}" for a in addresses]
    yield report(
        "MN130",
        f"{addresses[0].link} has {addresses[0].address}, and IPv6 is not captured",
        [*named[:3], *free],
    )


def _free_over_ipv6(scene: Scene, hook: str) -> list[str]:
    """Evidence, where something that IPv4 captures at ``hook`` goes free over IPv6."""
    pairs = [c for c in scene.captured if c.hook == hook and c.packet.proto == TCP]
    four = [c for c in pairs if c.packet.family is Family.IP]
    six = [c for c in pairs if c.packet.family is Family.IP6]
    whole = [c for c in four if _is_anywhere(scene, c)]
    if not whole and (six or _knows_ipv6(scene)):
        # Only some addresses are captured: those of IPv6, or none of it, are as it was asked.
        return []
    for captured in whole or four[:1]:
        packet = _twin(scene, captured.packet, hook)
        journey = scene.walker.walk(packet, hook)
        if journey.verdict in _FREE:
            return [
                f"{captured.way}, captured by :{captured.journey.port}: "
                f"{packet_in_words(captured.packet)}",
                f"{captured.way}, not captured: {packet_in_words(packet)}",
                f"{captured.way}, IPv6: {_why(journey)}",
            ]
    return []


def _why(journey: Journey) -> str:
    return step_in_words(journey.decider)


def _is_anywhere(scene: Scene, captured: Captured) -> bool:
    """Whether the far end is one that no rule names."""
    on = scene.ground(captured.packet.family)
    far = captured.packet.dst if captured.hook == OUTPUT else captured.packet.src
    return far == on.far


def _knows_ipv6(scene: Scene) -> bool:
    """Whether any reached chain that leads to a redirect sees IPv6."""
    return any(s.leads and s.hooks and s.table.family.covers(Family.IP6) for s in scene.standings)


def _twin(scene: Scene, packet: Packet, hook: str) -> Packet:
    """The same packet over IPv6, to or from an address that no rule names."""
    on = scene.ground(Family.IP6)
    plain = outgoing(on) if hook == OUTPUT else incoming(on)
    return replace(plain, dport=packet.dport, uid=packet.uid, gid=packet.gid)


def quic(scene: Scene) -> Iterator[Finding]:
    """MN131: TCP 443 is captured, and UDP 443 to the same address leaves."""
    evidence: list[str] = []
    for family in (Family.IP, Family.IP6):
        evidence += _free_over_udp(scene, family)
    if evidence:
        yield report(
            "MN131", "UDP to port 443 (HTTP/3) leaves past the proxy that HTTPS goes to", evidence
        )


def _free_over_udp(scene: Scene, family: Family) -> list[str]:
    if not scene.outward(family):
        return []
    for captured in scene.captured:
        packet = captured.packet
        if (
            captured.hook == OUTPUT
            and packet.family is family
            and (packet.proto, packet.dport) == (TCP, HTTPS)
            and _has_route(scene, packet)
        ):
            datagram = replace(packet, proto=UDP)
            journey = scene.walker.walk(datagram, OUTPUT)
            if journey.verdict in _FREE:
                return [
                    f"captured by :{captured.journey.port}: {packet_in_words(packet)}",
                    f"not captured: {packet_in_words(datagram)}",
                ]
    return []


def _has_route(scene: Scene, packet: Packet) -> bool:
    return bool(scene.routing.leaves_by(show_address(packet.family, packet.dst)))
