"""Profile istio: what current Istio programs for the same settings, rule for rule.

Its iptables and its native nft program are not the same rules. Where they part,
the code asks for the :class:`Form` and says how; docs/profiles.md lists the places.
"""

from __future__ import annotations

from meshnet.compile import istio_dns, istio_tproxy
from meshnet.compile.draft import Draft
from meshnet.model.address import read_address
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match, ctstate, dport, iif, oif, proto
from meshnet.model.packet import Family, Field
from meshnet.model.rule import DROP, RETURN, jump, redirect
from meshnet.model.spec import DNS_PORT, PASSTHROUGH, CaptureSpec, Form


def draft(spec: CaptureSpec, form: Form) -> Draft:
    """All chains of the profile; the order of the calls is the order of the rules."""
    d = Draft()
    _skip_interfaces(d, spec)
    if spec.drop_invalid:
        _drop_invalid(d, form)
    d.add(
        "nat",
        "ISTIO_INBOUND",
        "in.tunnel",
        [proto("tcp"), dport(spec.tunnel_port)],
        RETURN,
        why="the tunnel port is the proxy's own listener",
        setting="proxy.tunnel_port",
    )
    d.add(
        "nat",
        "ISTIO_REDIRECT",
        "out.redirect",
        [proto("tcp")],
        redirect(spec.proxy_port),
        why="outbound TCP that gets here goes to the proxy",
        setting="proxy.port",
    )
    d.add(
        "nat",
        "ISTIO_IN_REDIRECT",
        "in.redirect",
        [proto("tcp")],
        redirect(spec.inbound_port),
        why="inbound TCP that gets here goes to the proxy",
        setting="proxy.inbound_port",
    )
    _capture_inbound(d, spec, form)
    d.add(
        "nat",
        "OUTPUT",
        "out.jump",
        [],
        jump("ISTIO_OUTPUT"),
        why="everything that leaves is looked at",
        setting="proxy.port",
    )
    _skip_outbound_ports(d, spec)
    _bypass_proxy(d, spec)
    _select_groups(d, spec)
    if spec.captures_dns:
        istio_dns.add_dns(d, spec, form)
    _capture_outbound(d, spec)
    if spec.inbound.value == "TPROXY":
        istio_tproxy.add_marks(d, spec, form)
    return d


def _skip_interfaces(d: Draft, spec: CaptureSpec) -> None:
    tables = ("nat", "mangle") if spec.inbound.value == "TPROXY" else ("nat",)
    for table in tables:
        for name in spec.interfaces_excluded:
            d.add(
                table,
                "PREROUTING",
                "in.skip-interface",
                [iif(name)],
                RETURN,
                why=f"what comes in by {name} is left alone",
                setting="interfaces.exclude",
            )
            d.add(
                table,
                "OUTPUT",
                "out.skip-interface",
                [oif(name)],
                RETURN,
                why=f"what leaves by {name} is left alone",
                setting="interfaces.exclude",
            )
    for name in spec.virtual_interfaces:
        d.add(
            "nat",
            "PREROUTING",
            "virt.return",
            [iif(name)],
            RETURN,
            at=0,
            head=True,
            why=f"traffic of {name} is not inbound traffic",
            setting="interfaces.virtual",
        )


def _drop_invalid(d: Draft, form: Form) -> None:
    # Istio's nft form drops invalid TCP only; its iptables form every protocol.
    only = [proto("tcp")] if form is Form.NFT else []
    d.add(
        "mangle",
        "PREROUTING",
        "in.invalid-jump",
        [*only, ctstate("invalid")],
        jump("ISTIO_DROP"),
        why="packets that conntrack cannot place are dropped",
        setting="drop_invalid",
    )
    d.add(
        "mangle",
        "ISTIO_DROP",
        "in.invalid",
        [],
        DROP,
        why="a reset for an out-of-window packet would end a healthy connection",
        setting="drop_invalid",
    )


def _capture_inbound(d: Draft, spec: CaptureSpec, form: Form) -> None:
    if not spec.in_ports:
        return
    if spec.tproxy:
        istio_tproxy.add_targets(d, spec, "ISTIO", [Family.IP, Family.IP6])
    table = "mangle" if spec.tproxy else "nat"
    d.add(
        table,
        "PREROUTING",
        "in.jump",
        [proto("tcp")],
        jump("ISTIO_INBOUND"),
        why="TCP that comes in is looked at",
        setting="inbound.ports",
    )
    if spec.in_ports.every:
        for port in spec.in_ports_excluded.items:
            d.add(
                table,
                "ISTIO_INBOUND",
                "in.exclude-port",
                [proto("tcp"), Match(Field.DPORT, IntervalSet.of(port))],
                RETURN,
                why=f"inbound port {port[0]} is left alone",
                setting="inbound.exclude_ports",
            )
    wanted = [None] if spec.in_ports.every else list(spec.in_ports.items)
    for chosen in wanted:
        to = [] if chosen is None else [Match(Field.DPORT, IntervalSet.of(chosen))]
        if spec.tproxy:
            istio_tproxy.add_inbound(d, to, form)
        else:
            d.add(
                "nat",
                "ISTIO_INBOUND",
                "in.capture",
                [proto("tcp"), *to],
                jump("ISTIO_IN_REDIRECT"),
                why="inbound TCP goes to the proxy",
                setting="inbound.ports",
            )


def _skip_outbound_ports(d: Draft, spec: CaptureSpec) -> None:
    for port in spec.out_ports_excluded.items:
        for name in ("tcp", "udp"):
            d.add(
                "nat",
                "ISTIO_OUTPUT",
                f"out.exclude-port-{name}",
                [proto(name), Match(Field.DPORT, IntervalSet.of(port))],
                RETURN,
                why=f"outbound {name.upper()} port {port[0]} is left alone",
                setting="outbound.exclude_ports",
            )


def _bypass_proxy(d: Draft, spec: CaptureSpec) -> None:
    for family in (Family.IP, Family.IP6):
        _, source = read_address(PASSTHROUGH[family])
        d.add(
            "nat",
            "ISTIO_OUTPUT",
            "out.passthrough",
            [oif("lo"), Match(Field.SRC, IntervalSet.of(source))],
            RETURN,
            family=family,
            why="the proxy hands inbound connections to the application from this address",
            setting="profile",
        )
    for uid in spec.uids:
        _bypass_owner(d, spec, Field.UID, uid)
    for gid in spec.gids:
        _bypass_owner(d, spec, Field.GID, gid)


def _bypass_owner(d: Draft, spec: CaptureSpec, owner: Field, span: tuple[int, int]) -> None:
    who = Match(owner, IntervalSet.of(span))
    name, dns = owner.label, spec.captures_dns
    # Port 53 is exempt here for the UID and not for the GID: Istio's, in both forms.
    ports = spec.not_self_calls() if owner is Field.UID else (spec.tunnel_port,)
    for family in (Family.IP, Family.IP6):
        away = Match(Field.DST, spec.loopback_of(family).values(), negated=True)
        d.add(
            "nat",
            "ISTIO_OUTPUT",
            f"out.self-call-{name}",
            [oif("lo"), proto("tcp"), away, dport(*ports, negated=True), who],
            jump("ISTIO_IN_REDIRECT"),
            family=family,
            setting=f"proxy.{name}s",
            why="the proxy calling its own pod is an inbound connection",
        )
    if not spec.keeps_loopback_in():
        tcp_but_dns = [proto("tcp"), dport(DNS_PORT, negated=True)] if dns else []
        d.add(
            "nat",
            "ISTIO_OUTPUT",
            f"out.local-{name}",
            [oif("lo"), *tcp_but_dns, who.inverted()],
            RETURN,
            why="the application talking to itself is left alone",
            setting=f"proxy.{name}s",
        )
    d.add(
        "nat",
        "ISTIO_OUTPUT",
        f"out.proxy-{name}",
        [who],
        RETURN,
        setting=f"proxy.{name}s",
        why="the proxy's own connections are left alone, or they would loop",
    )


def _select_groups(d: Draft, spec: CaptureSpec) -> None:
    if spec.groups is None:
        for gid in spec.groups_excluded:
            d.add(
                "nat",
                "ISTIO_OUTPUT",
                "out.exclude-group",
                [Match(Field.GID, IntervalSet.of(gid))],
                RETURN,
                why=f"group {gid} is left alone",
                setting="outbound.exclude_owner_groups",
            )
        return
    others = [Match(Field.GID, IntervalSet.of(gid), negated=True) for gid in spec.groups]
    d.add(
        "nat",
        "ISTIO_OUTPUT",
        "out.only-groups",
        others,
        RETURN,
        why="only some groups are captured",
        setting="outbound.owner_groups",
    )


def _capture_outbound(d: Draft, spec: CaptureSpec) -> None:
    for family in (Family.IP, Family.IP6):
        d.add(
            "nat",
            "ISTIO_OUTPUT",
            "out.loopback",
            [Match(Field.DST, spec.loopback_of(family).values())],
            RETURN,
            family=family,
            why="what is addressed to loopback stays in the pod",
            setting="outbound.loopback_cidr",
        )
    for cidr in (*spec.out_cidrs_excluded.of(Family.IP), *spec.out_cidrs_excluded.of(Family.IP6)):
        d.add(
            "nat",
            "ISTIO_OUTPUT",
            "out.exclude-cidr",
            [Match(Field.DST, cidr.values())],
            RETURN,
            family=cidr.family,
            why=f"{cidr} is left alone",
            setting="outbound.exclude_cidrs",
        )
    for port in spec.out_ports.items:
        d.add(
            "nat",
            "ISTIO_OUTPUT",
            "out.capture-port",
            [proto("tcp"), Match(Field.DPORT, IntervalSet.of(port))],
            jump("ISTIO_REDIRECT"),
            why=f"port {port[0]} goes to the proxy",
            setting="outbound.ports",
        )
    _capture_addresses(d, spec)


def _capture_addresses(d: Draft, spec: CaptureSpec) -> None:
    if spec.out_cidrs.every:
        d.add(
            "nat",
            "ISTIO_OUTPUT",
            "out.capture-all",
            [],
            jump("ISTIO_REDIRECT"),
            why="all other TCP goes to the proxy",
            setting="outbound.cidrs",
        )
        for name in spec.virtual_interfaces:
            d.add(
                "nat",
                "PREROUTING",
                "virt.capture-all",
                [iif(name)],
                jump("ISTIO_REDIRECT"),
                at=0,
                head=True,
                why=f"TCP of {name} counts as outbound",
                setting="interfaces.virtual",
            )
    for cidr in (*spec.out_cidrs.of(Family.IP), *spec.out_cidrs.of(Family.IP6)):
        to = Match(Field.DST, cidr.values())
        for name in spec.virtual_interfaces:
            d.add(
                "nat",
                "PREROUTING",
                "virt.capture-cidr",
                [iif(name), to],
                jump("ISTIO_REDIRECT"),
                family=cidr.family,
                at=0,
                head=True,
                why=f"TCP of {name} counts as outbound",
                setting="interfaces.virtual",
            )
        d.add(
            "nat",
            "ISTIO_OUTPUT",
            "out.capture-cidr",
            [to],
            jump("ISTIO_REDIRECT"),
            family=cidr.family,
            why=f"{cidr} goes to the proxy",
            setting="outbound.cidrs",
        )
