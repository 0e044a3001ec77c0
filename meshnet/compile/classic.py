"""Profile classic: the rules of Istio 0.2, one port for both directions.

Rule for rule what ``-p 15001 -u 1337`` programmed then, comments included.
"""

from __future__ import annotations

from meshnet.compile.draft import Draft
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match, oif, proto
from meshnet.model.packet import Field
from meshnet.model.rule import RETURN, jump, redirect
from meshnet.model.spec import CaptureSpec, Form


def draft(spec: CaptureSpec, form: Form) -> Draft:
    """ISTIO_REDIRECT and ISTIO_OUTPUT in nat, as the listing of that time shows them."""
    d = Draft()
    d.add(
        "nat",
        "PREROUTING",
        "in.jump",
        [],
        jump("ISTIO_REDIRECT"),
        why="every connection that comes in goes to the proxy",
        setting="proxy.port",
        comment="istio/install-istio-prerouting",
    )
    d.add(
        "nat",
        "OUTPUT",
        "out.jump",
        [proto("tcp")],
        jump("ISTIO_OUTPUT"),
        why="TCP that leaves is looked at",
        setting="proxy.port",
        comment="istio/install-istio-output",
    )
    _add_output(d, spec)
    d.add(
        "nat",
        "ISTIO_REDIRECT",
        "out.redirect",
        [proto("tcp")],
        redirect(spec.proxy_port),
        why="TCP that gets here goes to the proxy's one port",
        setting="proxy.port",
        comment="istio/redirect-to-envoy-port",
    )
    return d


def _add_output(d: Draft, spec: CaptureSpec) -> None:
    for family in spec.families:
        away = Match(Field.DST, spec.loopback_of(family).values(), negated=True)
        d.add(
            "nat",
            "ISTIO_OUTPUT",
            "out.self-call",
            [oif("lo"), away],
            jump("ISTIO_REDIRECT"),
            family=family,
            why="a call to one's own service address goes through the proxy too",
            setting="outbound.loopback_cidr",
            comment="istio/bypass-envoy",
        )
    for uid in spec.uids:
        d.add(
            "nat",
            "ISTIO_OUTPUT",
            "out.proxy-uid",
            [Match(Field.UID, IntervalSet.of(uid))],
            RETURN,
            why="the proxy's own connections are left alone, or they would loop",
            setting="proxy.uids",
            comment="istio/bypass-envoy",
        )
    for family in spec.families:
        d.add(
            "nat",
            "ISTIO_OUTPUT",
            "out.loopback",
            [Match(Field.DST, spec.loopback_of(family).values())],
            RETURN,
            family=family,
            why="what is addressed to loopback stays in the pod",
            setting="outbound.loopback_cidr",
            comment="istio/bypass-explicit-loopback",
        )
    d.add(
        "nat",
        "ISTIO_OUTPUT",
        "out.capture-all",
        [],
        jump("ISTIO_REDIRECT"),
        why="all other TCP goes to the proxy",
        setting="outbound.cidrs",
        comment="istio/redirect-default-outbound",
    )
