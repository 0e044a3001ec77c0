"""Profile strict: what the rules of istio should have been.

Every UID and GID of the proxy is asked before anything is said about others, so no
negated owner match is needed; exemptions hold in every table; ports, owners and
addresses are sets; and IPv6 is captured, allowed or refused because somebody said so.
docs/profiles.md has each difference with its reason.
"""

from __future__ import annotations

from meshnet.compile import strict_dns, strict_inbound
from meshnet.compile.draft import Draft, one_of
from meshnet.model.address import read_address
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match, ctstate, dport, iif, mark, oif, proto
from meshnet.model.packet import Family, Field
from meshnet.model.rule import DROP, RESET, RETURN, jump, redirect
from meshnet.model.spec import PASSTHROUGH, CaptureSpec, Form, IPv6

CAPTURED = "MESHNET_REDIRECT"
INBOUND_CAPTURED = "MESHNET_IN_REDIRECT"


def draft(spec: CaptureSpec, form: Form) -> Draft:
    """All chains of the profile, for each family the policy asks for."""
    d = Draft()
    refused = spec.ipv6 is IPv6.DROP
    captured = [Family.IP, Family.IP6] if spec.ipv6 is IPv6.CAPTURE else [Family.IP]
    if spec.drop_invalid:
        _drop_invalid(d, captured)
    if spec.captures_dns:
        strict_dns.add_zones(d, spec, captured)
    _add_captures(d, spec, captured)
    _add_outbound(d, spec, "nat", captured)
    if spec.virtual_interfaces:
        _add_virtual(d, spec, "nat", captured)
    strict_inbound.add_inbound(d, spec, captured)
    if refused:
        _add_refusals(d, spec)
    return d


def _drop_invalid(d: Draft, families: list[Family]) -> None:
    d.add(
        "mangle",
        "PREROUTING",
        "in.invalid-jump",
        [ctstate("invalid")],
        jump("MESHNET_DROP"),
        family=one_of(families),
        setting="drop_invalid",
        why="packets that conntrack cannot place are dropped",
    )
    d.add(
        "mangle",
        "MESHNET_DROP",
        "in.invalid",
        [],
        DROP,
        family=one_of(families),
        why="a reset for an out-of-window packet would end a healthy connection",
        setting="drop_invalid",
    )


def _add_captures(d: Draft, spec: CaptureSpec, families: list[Family]) -> None:
    for chain, rule_id, port, key in (
        (CAPTURED, "out.redirect", spec.proxy_port, "proxy.port"),
        (INBOUND_CAPTURED, "in.redirect", spec.inbound_port, "proxy.inbound_port"),
    ):
        d.add(
            "nat",
            chain,
            rule_id,
            [proto("tcp")],
            redirect(port),
            family=one_of(families),
            why="TCP that gets here goes to the proxy",
            setting=key,
        )


def _add_refusals(d: Draft, spec: CaptureSpec) -> None:
    """IPv6 refused: new connections that capture would take get a reset, nothing else does."""
    for chain in (CAPTURED, INBOUND_CAPTURED):
        d.add(
            "filter",
            chain,
            "ip6.reset",
            [proto("tcp")],
            RESET,
            family=Family.IP6,
            why="IPv6 that capture would take is refused, so that nothing leaks",
            setting="ipv6",
        )
    _add_outbound(d, spec, "filter", [Family.IP6])
    if spec.virtual_interfaces:
        _add_virtual(d, spec, "filter", [Family.IP6])
    strict_inbound.add_refusals(d, spec)


def _add_outbound(d: Draft, spec: CaptureSpec, table: str, families: list[Family]) -> None:
    new = [ctstate("new")] if table == "filter" else []
    d.add(
        table,
        "OUTPUT",
        "out.jump",
        new,
        jump("MESHNET_OUTPUT"),
        family=one_of(families),
        why="everything that leaves is looked at",
        setting="proxy.port",
    )
    _skip_outbound(d, spec, table, families)
    _bypass_proxy(d, spec, table, families)
    for gid in spec.groups_excluded:
        d.add(
            table,
            "MESHNET_OUTPUT",
            "out.exclude-group",
            [Match(Field.GID, IntervalSet.of(gid))],
            RETURN,
            family=one_of(families),
            why=f"group {gid} is left alone",
            setting="outbound.exclude_owner_groups",
        )
    who = [] if spec.groups is None else [Match(Field.GID, IntervalSet.of(*spec.groups))]
    if spec.groups is None or spec.groups:
        d.add(
            table,
            "MESHNET_OUTPUT",
            "out.application",
            who,
            jump("MESHNET_APPLICATION"),
            family=one_of(families),
            why="what is left is the application's",
            setting="outbound.owner_groups",
        )
        _capture_application(d, spec, table, families)


def _skip_outbound(d: Draft, spec: CaptureSpec, table: str, families: list[Family]) -> None:
    one = one_of(families)
    if spec.interfaces_excluded:
        d.add(
            table,
            "MESHNET_OUTPUT",
            "out.skip-interface",
            [oif(*spec.interfaces_excluded)],
            RETURN,
            family=one,
            why="what leaves by these is left alone",
            setting="interfaces.exclude",
        )
    if spec.out_ports_excluded:
        for name in ("tcp", "udp"):
            to = Match(Field.DPORT, spec.out_ports_excluded.values())
            d.add(
                table,
                "MESHNET_OUTPUT",
                f"out.exclude-port-{name}",
                [proto(name), to],
                RETURN,
                family=one,
                why="these ports are left alone",
                setting="outbound.exclude_ports",
            )
    for entry in spec.ports_for_uids:
        for name in ("tcp", "udp"):
            matches = [proto(name), Match(Field.DPORT, entry.ports), Match(Field.UID, entry.uids)]
            d.add(
                table,
                "MESHNET_OUTPUT",
                f"out.exclude-port-for-uid-{name}",
                matches,
                RETURN,
                family=one,
                why="these ports are left alone for these users",
                setting="outbound.exclude_ports_for_uids",
            )
    for family in families:
        _, source = read_address(PASSTHROUGH[family])
        d.add(
            table,
            "MESHNET_OUTPUT",
            "out.passthrough",
            [oif("lo"), Match(Field.SRC, IntervalSet.of(source))],
            RETURN,
            family=family,
            why="the proxy hands inbound connections to the application from this address",
            setting="profile",
        )


def _bypass_proxy(d: Draft, spec: CaptureSpec, table: str, families: list[Family]) -> None:
    if table == "nat" and spec.tproxy:
        d.add(
            table,
            "MESHNET_OUTPUT",
            "out.marked",
            [oif("lo"), proto("tcp"), mark(spec.tproxy_mark)],
            RETURN,
            family=one_of(families),
            why="the proxy handing a connection to the application with the client's address",
            setting="inbound.mode",
        )
    owners = [
        Match(field, IntervalSet.of(*spans))
        for field, spans in ((Field.UID, spec.uids), (Field.GID, spec.gids))
        if spans
    ]
    for who in owners:
        for family in families:
            away = Match(Field.DST, spec.loopback_of(family).values(), negated=True)
            d.add(
                table,
                "MESHNET_OUTPUT",
                f"out.self-call-{who.field.label}",
                [oif("lo"), proto("tcp"), away, dport(*spec.not_self_calls(), negated=True), who],
                jump(INBOUND_CAPTURED),
                family=family,
                setting=f"proxy.{who.field.label}s",
                why="the proxy calling its own pod is an inbound connection",
            )
    for who in owners:
        d.add(
            table,
            "MESHNET_OUTPUT",
            f"out.proxy-{who.field.label}",
            [who],
            RETURN,
            family=one_of(families),
            setting=f"proxy.{who.field.label}s",
            why="the proxy's own connections are left alone, or they would loop",
        )


def _capture_application(d: Draft, spec: CaptureSpec, table: str, families: list[Family]) -> None:
    chain, one = "MESHNET_APPLICATION", one_of(families)
    if spec.captures_dns:
        strict_dns.capture_dns(d, spec, table, families)
    if not spec.keeps_loopback_in():
        d.add(
            table,
            chain,
            "out.local",
            [oif("lo")],
            RETURN,
            family=one,
            why="the application talking to itself is left alone",
            setting="outbound.loopback_cidr",
        )
    for family in families:
        kept = [spec.loopback_of(family), *spec.out_cidrs_excluded.of(family)]
        d.add(
            table,
            chain,
            "out.exclude-cidr",
            [Match(Field.DST, IntervalSet.union(c.values() for c in kept))],
            RETURN,
            family=family,
            why="loopback and excluded addresses are left alone",
            setting="outbound.exclude_cidrs",
        )
    _capture_destinations(d, spec, table, families, chain, [])


def _capture_destinations(
    d: Draft,
    spec: CaptureSpec,
    table: str,
    families: list[Family],
    chain: str,
    source: list[Match],
) -> None:
    """Included ports and included addresses are a union, as istio has it."""
    if spec.out_ports:
        d.add(
            table,
            chain,
            "out.capture-port",
            [*source, proto("tcp"), Match(Field.DPORT, spec.out_ports.values())],
            jump(CAPTURED),
            family=one_of(families),
            why="these ports go to the proxy",
            setting="outbound.ports",
        )
    if spec.out_cidrs.every:
        d.add(
            table,
            chain,
            "out.capture-all",
            source,
            jump(CAPTURED),
            family=one_of(families),
            why="all other TCP goes to the proxy",
            setting="outbound.cidrs",
        )
    for family in families:
        wanted = spec.out_cidrs.of(family)
        if wanted:
            to = Match(Field.DST, IntervalSet.union(c.values() for c in wanted))
            d.add(
                table,
                chain,
                "out.capture-cidr",
                [*source, to],
                jump(CAPTURED),
                family=family,
                why="these addresses go to the proxy",
                setting="outbound.cidrs",
            )


def _add_virtual(d: Draft, spec: CaptureSpec, table: str, families: list[Family]) -> None:
    """Traffic of virtual interfaces counts as outbound: same exclusions, same inclusions."""
    chain, one = "MESHNET_VIRTUAL", one_of(families)
    # What capture takes at PREROUTING goes on to the pod, or through it.
    hooks = ("PREROUTING",) if table == "nat" else ("INPUT", "FORWARD")
    new = [] if table == "nat" else [ctstate("new")]
    for hook in hooks:
        d.add(
            table,
            hook,
            "virt.jump",
            [iif(*spec.virtual_interfaces), *new],
            jump(chain),
            family=one,
            head=True,
            why="traffic of virtual machines counts as outbound",
            setting="interfaces.virtual",
        )
    if spec.out_ports_excluded:
        d.add(
            table,
            chain,
            "virt.exclude-port",
            [proto("tcp"), Match(Field.DPORT, spec.out_ports_excluded.values())],
            RETURN,
            family=one,
            why="these ports are left alone",
            setting="outbound.exclude_ports",
        )
    for family in families:
        kept = spec.out_cidrs_excluded.of(family)
        if kept:
            to = Match(Field.DST, IntervalSet.union(c.values() for c in kept))
            d.add(
                table,
                chain,
                "virt.exclude-cidr",
                [to],
                RETURN,
                family=family,
                why="these addresses are left alone",
                setting="outbound.exclude_cidrs",
            )
    _capture_destinations(d, spec, table, families, chain, [])
