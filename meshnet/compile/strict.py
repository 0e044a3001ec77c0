"""Profile strict: what the rules of istio should have been.

Every UID and GID of the proxy is asked before anything is said about others, so no
negated owner match is needed; exemptions hold in every table; ports, owners and
addresses are sets; and IPv6 is captured, allowed or refused because somebody said so.
docs/profiles.md has each difference with its reason.
"""

from __future__ import annotations

from meshnet.compile import strict_inbound
from meshnet.compile.draft import Draft
from meshnet.model.address import read_address
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match, ctstate, dport, iif, oif, proto, sport
from meshnet.model.packet import Family, Field
from meshnet.model.rule import DROP, REJECT, RESET, RETURN, Target, jump, redirect
from meshnet.model.spec import DNS_PORT, DNS_PROXY_PORT, PASSTHROUGH, CaptureSpec, Cidr, Form, IPv6
from meshnet.compile.istio_dns import AGENT_ZONE, APPLICATION_ZONE

CAPTURED = "MESHNET_REDIRECT"
INBOUND_CAPTURED = "MESHNET_IN_REDIRECT"


def draft(spec: CaptureSpec, form: Form) -> Draft:
    """All chains of the profile, for each family the policy asks for."""
    d = Draft()
    refused = spec.ipv6 is IPv6.DROP
    captured = [Family.IP, Family.IP6] if spec.ipv6 is IPv6.CAPTURE else [Family.IP]
    if spec.drop_invalid:
        _drop_invalid(d, captured)
    if _dns(spec):
        _add_zones(d, spec, captured)
    _add_captures(d, spec, captured)
    _add_outbound(d, spec, "nat", captured)
    strict_inbound.add_inbound(d, spec, captured)
    if refused:
        _add_refusals(d, spec)
    return d


def _dns(spec: CaptureSpec) -> bool:
    return spec.dns and (spec.dns_servers is None or bool(spec.dns_servers))


def _one(families: list[Family]) -> Family | None:
    """The family that rules without an address are narrowed to; None where there are both."""
    return families[0] if len(families) == 1 else None


def _drop_invalid(d: Draft, families: list[Family]) -> None:
    d.add(
        "mangle", "PREROUTING", "in.invalid-jump", [ctstate("invalid")], jump("MESHNET_DROP"),
        family=_one(families), setting="drop_invalid",
        why="packets that conntrack cannot place are dropped",
    )
    d.add(
        "mangle", "MESHNET_DROP", "in.invalid", [], DROP, family=_one(families),
        why="a reset for an out-of-window packet would end a healthy connection",
        setting="drop_invalid",
    )


def _add_captures(d: Draft, spec: CaptureSpec, families: list[Family]) -> None:
    for chain, rule_id, port, key in (
        (CAPTURED, "out.redirect", spec.proxy_port, "proxy.port"),
        (INBOUND_CAPTURED, "in.redirect", spec.inbound_port, "proxy.inbound_port"),
    ):
        d.add(
            "nat", chain, rule_id, [proto("tcp")], redirect(port), family=_one(families),
            why="TCP that gets here goes to the proxy", setting=key,
        )


def _add_refusals(d: Draft, spec: CaptureSpec) -> None:
    """IPv6 refused: new connections that capture would take get a reset, nothing else does."""
    for chain in (CAPTURED, INBOUND_CAPTURED):
        d.add(
            "filter", chain, "ip6.reset", [proto("tcp")], RESET, family=Family.IP6,
            why="IPv6 that capture would take is refused, so that nothing leaks", setting="ipv6",
        )
    _add_outbound(d, spec, "filter", [Family.IP6])
    strict_inbound.add_refusals(d, spec)


def _add_outbound(d: Draft, spec: CaptureSpec, table: str, families: list[Family]) -> None:
    new = [ctstate("new")] if table == "filter" else []
    d.add(
        table, "OUTPUT", "out.jump", new, jump("MESHNET_OUTPUT"), family=_one(families),
        why="everything that leaves is looked at", setting="proxy.port",
    )
    _skip_outbound(d, spec, table, families)
    _bypass_proxy(d, spec, table, families)
    for gid in spec.groups_excluded:
        d.add(
            table, "MESHNET_OUTPUT", "out.exclude-group", [Match(Field.GID, IntervalSet.of(gid))],
            RETURN, family=_one(families), why=f"group {gid} is left alone",
            setting="outbound.exclude_owner_groups",
        )
    who = [] if spec.groups is None else [Match(Field.GID, IntervalSet.of(*spec.groups))]
    if spec.groups is None or spec.groups:
        d.add(
            table, "MESHNET_OUTPUT", "out.application", who, jump("MESHNET_APPLICATION"),
            family=_one(families), why="what is left is the application's",
            setting="outbound.owner_groups",
        )
        _capture_application(d, spec, table, families)


def _skip_outbound(d: Draft, spec: CaptureSpec, table: str, families: list[Family]) -> None:
    one = _one(families)
    if spec.interfaces_excluded:
        d.add(
            table, "MESHNET_OUTPUT", "out.skip-interface", [oif(*spec.interfaces_excluded)],
            RETURN, family=one, why="what leaves by these is left alone",
            setting="interfaces.exclude",
        )
    if spec.out_ports_excluded:
        for name in ("tcp", "udp"):
            to = Match(Field.DPORT, spec.out_ports_excluded.values())
            d.add(
                table, "MESHNET_OUTPUT", f"out.exclude-port-{name}", [proto(name), to], RETURN,
                family=one, why="these ports are left alone", setting="outbound.exclude_ports",
            )
    for entry in spec.ports_for_uids:
        for name in ("tcp", "udp"):
            matches = [proto(name), Match(Field.DPORT, entry.ports), Match(Field.UID, entry.uids)]
            d.add(
                table, "MESHNET_OUTPUT", f"out.exclude-port-for-uid-{name}", matches, RETURN,
                family=one, why="these ports are left alone for these users",
                setting="outbound.exclude_ports_for_uids",
            )
    for family in families:
        _, source = read_address(PASSTHROUGH[family])
        d.add(
            table, "MESHNET_OUTPUT", "out.passthrough",
            [oif("lo"), Match(Field.SRC, IntervalSet.of(source))], RETURN, family=family,
            why="the proxy hands inbound connections to the application from this address",
        )


def _bypass_proxy(d: Draft, spec: CaptureSpec, table: str, families: list[Family]) -> None:
    owners = [
        Match(field, IntervalSet.of(*spans))
        for field, spans in ((Field.UID, spec.uids), (Field.GID, spec.gids))
        if spans
    ]
    ports = (DNS_PORT, spec.tunnel_port) if _dns(spec) else (spec.tunnel_port,)
    for who in owners:
        for family in families:
            away = Match(Field.DST, spec.loopback_of(family).values(), negated=True)
            d.add(
                table, "MESHNET_OUTPUT", f"out.self-call-{who.field.label}",
                [oif("lo"), proto("tcp"), away, dport(*ports, negated=True), who],
                jump(INBOUND_CAPTURED), family=family, setting=f"proxy.{who.field.label}s",
                why="the proxy calling its own pod is an inbound connection",
            )
    for who in owners:
        d.add(
            table, "MESHNET_OUTPUT", f"out.proxy-{who.field.label}", [who], RETURN,
            family=_one(families), setting=f"proxy.{who.field.label}s",
            why="the proxy's own connections are left alone, or they would loop",
        )


def _capture_application(
    d: Draft, spec: CaptureSpec, table: str, families: list[Family]
) -> None:
    chain, one = "MESHNET_APPLICATION", _one(families)
    if _dns(spec):
        _capture_dns(d, spec, table, families)
    if not spec.keeps_loopback_in():
        d.add(
            table, chain, "out.local", [oif("lo")], RETURN, family=one,
            why="the application talking to itself is left alone",
            setting="outbound.loopback_cidr",
        )
    for family in families:
        kept = [spec.loopback_of(family), *spec.out_cidrs_excluded.of(family)]
        d.add(
            table, chain, "out.exclude-cidr",
            [Match(Field.DST, IntervalSet.union(c.values() for c in kept))], RETURN,
            family=family, why="loopback and excluded addresses are left alone",
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
            table, chain, "out.capture-port",
            [*source, proto("tcp"), Match(Field.DPORT, spec.out_ports.values())], jump(CAPTURED),
            family=_one(families), why="these ports go to the proxy", setting="outbound.ports",
        )
    if spec.out_cidrs.every:
        d.add(
            table, chain, "out.capture-all", source, jump(CAPTURED), family=_one(families),
            why="all other TCP goes to the proxy", setting="outbound.cidrs",
        )
    for family in families:
        wanted = spec.out_cidrs.of(family)
        if wanted:
            to = Match(Field.DST, IntervalSet.union(c.values() for c in wanted))
            d.add(
                table, chain, "out.capture-cidr", [*source, to], jump(CAPTURED), family=family,
                why="these addresses go to the proxy", setting="outbound.cidrs",
            )


def _capture_dns(d: Draft, spec: CaptureSpec, table: str, families: list[Family]) -> None:
    for name in ("tcp", "udp"):
        refusal = RESET if name == "tcp" else REJECT
        target = redirect(DNS_PROXY_PORT) if table == "nat" else refusal
        for family, to in _server_sets(spec, Field.DST, families):
            d.add(
                table, "MESHNET_APPLICATION", f"dns.redirect-{name}",
                [*to, proto(name), dport(DNS_PORT)], target, family=family,
                why=f"DNS over {name.upper()} goes to the agent", setting="dns.servers",
            )


def _server_sets(
    spec: CaptureSpec, field: Field, families: list[Family]
) -> list[tuple[Family | None, list[Match]]]:
    """For each family its servers as one match; one entry without a match for all servers."""
    if spec.dns_servers is None:
        return [(_one(families), [])]
    sets: list[tuple[Family | None, list[Match]]] = []
    for family in families:
        servers: list[Cidr] = [s for s in spec.dns_servers if s.family is family]
        if servers:
            values = IntervalSet.union(s.values() for s in servers)
            sets.append((family, [Match(field, values)]))
    return sets


def _add_zones(d: Draft, spec: CaptureSpec, families: list[Family]) -> None:
    one = _one(families)
    d.add(
        "raw", "OUTPUT", "dns.zone-jump", [proto("udp")], jump("MESHNET_DNS"), family=one,
        why="DNS gets conntrack zones before it is tracked", setting="dns.capture",
    )
    for field, spans in ((Field.UID, spec.uids), (Field.GID, spec.gids)):
        for port, zone, rule_id, why in (
            (dport(DNS_PORT), AGENT_ZONE, "asks", "the agent's own questions"),
            (sport(DNS_PROXY_PORT), APPLICATION_ZONE, "answers", "its answers to the application"),
        ):
            d.add(
                "raw", "MESHNET_DNS", f"dns.agent-{rule_id}-{field.label}",
                [proto("udp"), port, Match(field, IntervalSet.of(*spans))], zone, family=one,
                why=why, setting=f"proxy.{field.label}s",
            )
    d.add(
        "raw", "PREROUTING", "dns.zone-jump-in", [proto("udp"), sport(DNS_PORT)],
        jump("MESHNET_DNS_ANSWERS"), family=one, setting="dns.capture",
        why="answers of the servers get their zone before they are tracked",
    )
    for family, to in _server_sets(spec, Field.DST, families):
        d.add(
            "raw", "MESHNET_DNS", "dns.application-asks", [proto("udp"), dport(DNS_PORT), *to],
            APPLICATION_ZONE, family=family, why="the application's questions",
            setting="dns.servers",
        )
    for family, source in _server_sets(spec, Field.SRC, families):
        d.add(
            "raw", "MESHNET_DNS_ANSWERS", "dns.server-answers",
            [proto("udp"), sport(DNS_PORT), *source], AGENT_ZONE, family=family,
            why="the servers' answers to the agent", setting="dns.servers",
        )


def add_virtual(d: Draft, spec: CaptureSpec, families: list[Family]) -> None:
    """Traffic of virtual interfaces counts as outbound: same exclusions, same inclusions."""
    chain, one = "MESHNET_VIRTUAL", _one(families)
    d.add(
        "nat", "PREROUTING", "virt.jump", [iif(*spec.virtual_interfaces)], jump(chain),
        family=one, head=True, why="traffic of virtual machines counts as outbound",
        setting="interfaces.virtual",
    )
    if spec.out_ports_excluded:
        d.add(
            "nat", chain, "virt.exclude-port",
            [proto("tcp"), Match(Field.DPORT, spec.out_ports_excluded.values())], RETURN,
            family=one, why="these ports are left alone", setting="outbound.exclude_ports",
        )
    for family in families:
        kept = spec.out_cidrs_excluded.of(family)
        if kept:
            to = Match(Field.DST, IntervalSet.union(c.values() for c in kept))
            d.add(
                "nat", chain, "virt.exclude-cidr", [to], RETURN, family=family,
                why="these addresses are left alone", setting="outbound.exclude_cidrs",
            )
    _capture_destinations(d, spec, "nat", families, chain, [])
