"""Rulesets of configurations, and probes as packets, for whoever walks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshnet.cli.arguments import read_arguments
from meshnet.cli.flags import FLAGS
from meshnet.cli.gather import gather
from meshnet.compile import compile_spec
from meshnet.model.address import read_address
from meshnet.model.intent import read_intent
from meshnet.model.packet import TCP, UDP, Family, Packet
from meshnet.model.ruleset import Ruleset
from meshnet.model.spec import Form, IPv6
from meshnet.model.verdict import Journey, Verdict
from tests.support.probe import CAPTURE_PORTS, GUEST, NEAR, NEAR6, POD, POD6, SIDE, SIDE6, Probe

FORMS = {"nft-compat": Form.IPTABLES, "legacy": Form.IPTABLES, "nft": Form.NFT}
_HERE = {POD, POD6, "10.8.0.1", "fd08::1", "::1"}
_OTHER = {flag.name for flag in FLAGS if not flag.traffic} - {"profile"}


def compiled(
    arguments: Sequence[str], backend: str, environment: Mapping[str, str] | None = None
) -> dict[str, Ruleset]:
    """What meshnet-init would put into a namespace without addresses, by backend."""
    found = gather(read_arguments(arguments, "test"), dict(environment or {}))
    settings = {name: value for name, value in found.items() if name not in _OTHER}
    intent = read_intent(settings, lambda name: None)
    spec = intent.spec.with_ipv6(IPv6.OFF) if intent.ipv6_auto else intent.spec
    return {backend: compile_spec(spec, FORMS[backend])}


def packet_of(probe: Probe) -> tuple[Packet, str]:
    """The first packet of ``probe`` as the pod sees it, and the hook where it begins."""
    family, to = read_address(probe.to)
    proto = TCP if probe.protocol == "tcp" else UDP
    inside = probe.to in _HERE or probe.to.startswith("127.")
    if probe.start == "pod":
        oif = "lo" if inside else "eth1" if probe.to in (SIDE, SIDE6) else "eth0"
        own = (
            (POD if family is Family.IP else POD6) if not probe.to.startswith("127.") else probe.to
        )
        source = probe.source or ("::1" if probe.to == "::1" else own)
        packet = Packet(
            family, proto, read_address(source)[1], to, 20001, probe.port, None, oif,
            probe.uid, probe.gid, probe.mark,
        )  # fmt: skip
        return packet, "output"
    source = probe.source or (NEAR if family is Family.IP else NEAR6)
    iif, oif = "eth0", None
    if probe.start == "guest":
        source, iif, oif = GUEST, "vm0", "eth0"
    number = read_address(source)[1]
    return Packet(family, proto, number, to, 20001, probe.port, iif, oif), "prerouting"


def is_local(probe: Probe) -> bool:
    """Whether the pod is addressed."""
    return probe.start == "pod" or probe.to in _HERE


def fate(journey: Journey) -> str:
    """A journey as a probe's fate is told."""
    if journey.verdict is Verdict.CAPTURED:
        return CAPTURE_PORTS.get(journey.port, f"port {journey.port}")
    if journey.verdict is Verdict.DROPPED:
        return "refused"
    return "direct" if journey.verdict in (Verdict.BYPASSED, Verdict.DIRECT) else "maybe"
