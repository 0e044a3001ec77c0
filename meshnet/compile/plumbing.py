"""What a capture needs beside rules: a policy rule, a local route, an address on lo."""

from __future__ import annotations

from meshnet.model.address import read_address
from meshnet.model.packet import Family
from meshnet.model.plumbing import LocalRoute, LoopbackAddress, Part, PolicyRule
from meshnet.model.spec import PASSTHROUGH, CaptureSpec, IPv6, Profile


def plumbing_of(spec: CaptureSpec) -> tuple[Part, ...]:
    """In the order in which it must be made; empty where rules alone do."""
    parts: list[Part] = []
    captured = tuple(f for f in spec.families if f is Family.IP or spec.ipv6 is IPv6.CAPTURE)
    if Family.IP6 in captured and spec.profile is not Profile.CLASSIC:
        parts.append(LoopbackAddress(*read_address(PASSTHROUGH[Family.IP6])))
    if spec.tproxy:
        for family in captured:
            parts.append(LocalRoute(family, spec.tproxy_table))
            parts.append(PolicyRule(family, spec.tproxy_mark, spec.tproxy_table))
    return tuple(parts)
