"""Profile istio, TPROXY: inbound connections keep both of their addresses.

Packets get a mark, a policy rule sends the mark to lo (:mod:`meshnet.compile.plumbing`),
and the proxy's socket takes them there.
"""

from __future__ import annotations

from meshnet.compile.draft import Draft, one_of
from meshnet.model.address import read_address
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match, ctmark, ctstate, iif, mark, oif, proto
from meshnet.model.packet import Family, Field
from meshnet.model.rule import ACCEPT, RESTORE_MARK, RETURN, SAVE_MARK, Kind, Target, jump
from meshnet.model.spec import OUTBOUND_MARK, PASSTHROUGH, CaptureSpec, Form

_SETTING = "inbound.mode"


def add_targets(d: Draft, spec: CaptureSpec, prefix: str, families: list[Family]) -> None:
    """PREFIX_DIVERT for packets of connections that exist, PREFIX_TPROXY for new ones."""
    one = one_of(families)
    d.add(
        "mangle",
        f"{prefix}_DIVERT",
        "in.divert-mark",
        [],
        Target(Kind.MARK, mark=spec.tproxy_mark),
        family=one,
        why="the mark routes the packet to lo",
        setting="inbound.tproxy_mark",
    )
    d.add(
        "mangle",
        f"{prefix}_DIVERT",
        "in.divert",
        [],
        ACCEPT,
        family=one,
        why="its socket is known",
        setting=_SETTING,
    )
    target = Target(Kind.TPROXY, port=spec.inbound_port, mark=spec.tproxy_mark)
    for family in families:
        away = Match(Field.DST, spec.loopback_of(family).values(), negated=True)
        d.add(
            "mangle",
            f"{prefix}_TPROXY",
            "in.tproxy",
            [proto("tcp"), away],
            target,
            family=family,
            why="the proxy's socket takes the connection, addresses unchanged",
            setting=_SETTING,
        )


def add_inbound(d: Draft, to: list[Match], form: Form) -> None:
    """The two rules that decide over a packet to the ports in ``to`` (no match: all of them)."""
    known = ctstate("related", "established")
    # nft lists the matches as they were given; iptables has an order of its own.
    first = [known, *to] if form is Form.NFT else [*to, known]
    d.add(
        "mangle",
        "ISTIO_INBOUND",
        "in.known",
        [proto("tcp"), *first],
        jump("ISTIO_DIVERT"),
        why="packets of a connection that exists",
        setting="inbound.ports",
    )
    d.add(
        "mangle",
        "ISTIO_INBOUND",
        "in.capture",
        [proto("tcp"), *to],
        jump("ISTIO_TPROXY"),
        why="inbound TCP goes to the proxy",
        setting="inbound.ports",
    )


def add_marks(d: Draft, spec: CaptureSpec, form: Form) -> None:
    """Marks that tell the proxy's legs apart, and what must not be caught twice."""
    seen = mark(spec.tproxy_mark)
    d.add(
        "mangle",
        "PREROUTING",
        "in.save-mark",
        [proto("tcp"), seen],
        SAVE_MARK,
        why="answers of the application must find back to the proxy",
        setting=_SETTING,
    )
    d.add(
        "mangle",
        "OUTPUT",
        "out.marked",
        [oif("lo"), proto("tcp"), seen],
        RETURN,
        why="proxy to application: marked already",
        setting=_SETTING,
    )
    owners = [(Field.UID, span) for span in spec.uids] + [(Field.GID, span) for span in spec.gids]
    for field, span in owners:
        for family in (Family.IP, Family.IP6):
            away = Match(Field.DST, spec.loopback_of(family).values(), negated=True)
            d.add(
                "mangle",
                "OUTPUT",
                f"out.mark-{field.label}",
                [oif("lo"), proto("tcp"), away, Match(field, IntervalSet.of(span))],
                Target(Kind.MARK, mark=OUTBOUND_MARK),
                family=family,
                why="the proxy calling its own pod is to be captured as inbound",
                setting=f"proxy.{field.label}s",
            )
    d.add(
        "mangle",
        "OUTPUT",
        "out.restore-mark",
        [proto("tcp"), ctmark(spec.tproxy_mark)],
        RESTORE_MARK,
        why="answers of the application find back to the proxy",
        setting=_SETTING,
    )
    _add_exemptions(d, spec, form)


def _add_exemptions(d: Draft, spec: CaptureSpec, form: Form) -> None:
    d.add(
        "mangle",
        "ISTIO_INBOUND",
        "in.marked",
        [proto("tcp"), mark(spec.tproxy_mark)],
        RETURN,
        at=0,
        why="captured once already",
        setting=_SETTING,
    )
    for at, family in ((1, Family.IP), (2, Family.IP6)):
        _, source = read_address(PASSTHROUGH[family])
        d.add(
            "mangle",
            "ISTIO_INBOUND",
            "in.passthrough",
            [iif("lo"), proto("tcp"), Match(Field.SRC, IntervalSet.of(source))],
            RETURN,
            family=family,
            at=1 if form is Form.NFT else at,
            why="the proxy hands inbound connections to the application from this address",
            setting="profile",
        )
    d.add(
        "mangle",
        "ISTIO_INBOUND",
        "in.local",
        [iif("lo"), proto("tcp"), mark(OUTBOUND_MARK, negated=True)],
        RETURN,
        at=_local_position(spec, form),
        why="the application talking to its own pod",
        setting=_SETTING,
    )


def _local_position(spec: CaptureSpec, form: Form) -> int:
    # Istio's nft form inserts at index 2 in one list of both families, so that with IPv6
    # on the rule lands before IPv4's pass-through; iptables counts in each family.
    if form is Form.IPTABLES or Family.IP6 not in spec.families:
        return 3
    return 2
