"""Profile strict, inbound: the same exemptions whether the table is nat, mangle or filter."""

from __future__ import annotations

from meshnet.compile import istio_tproxy
from meshnet.compile.draft import Draft, one_of
from meshnet.model.address import read_address
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match, ctmark, ctstate, dport, iif, mark, oif, proto
from meshnet.model.packet import Family, Field
from meshnet.model.rule import RESTORE_MARK, RETURN, SAVE_MARK, Kind, Target, jump
from meshnet.model.spec import OUTBOUND_MARK, PASSTHROUGH, CaptureSpec

_CHAIN = "MESHNET_INBOUND"


def add_inbound(d: Draft, spec: CaptureSpec, families: list[Family]) -> None:
    """Inbound capture by REDIRECT or TPROXY; nothing where no port is asked for."""
    if not spec.in_ports:
        return
    if spec.tproxy:
        _add_tproxy(d, spec, families)
        return
    d.add(
        "nat",
        "PREROUTING",
        "in.jump",
        [proto("tcp")],
        jump(_CHAIN),
        family=one_of(families),
        why="TCP that comes in is looked at",
        setting="inbound.ports",
    )
    _exempt(d, spec, "nat", families)
    _capture(d, spec, "nat", families, jump("MESHNET_IN_REDIRECT"))


def add_refusals(d: Draft, spec: CaptureSpec) -> None:
    """IPv6 refused: inbound connections that capture would take are reset."""
    if not spec.in_ports:
        return
    six = [Family.IP6]
    d.add(
        "filter",
        "INPUT",
        "ip6.jump",
        [proto("tcp"), ctstate("new")],
        jump(_CHAIN),
        family=Family.IP6,
        why="new inbound TCP over IPv6 is looked at",
        setting="ipv6",
    )
    d.add(
        "filter",
        _CHAIN,
        "ip6.local",
        [iif("lo")],
        RETURN,
        family=Family.IP6,
        why="capture takes nothing that comes in by lo",
        setting="ipv6",
    )
    _exempt(d, spec, "filter", six)
    _capture(d, spec, "filter", six, jump("MESHNET_IN_REDIRECT"))


def _exempt(d: Draft, spec: CaptureSpec, table: str, families: list[Family]) -> None:
    one = one_of(families)
    skipped = (*spec.interfaces_excluded, *spec.virtual_interfaces)
    if skipped:
        d.add(
            table,
            _CHAIN,
            "in.skip-interface",
            [iif(*skipped)],
            RETURN,
            family=one,
            why="what comes in by these is left alone",
            setting="interfaces.exclude",
        )
    d.add(
        table,
        _CHAIN,
        "in.tunnel",
        [proto("tcp"), dport(spec.tunnel_port)],
        RETURN,
        family=one,
        why="the tunnel port is the proxy's own listener",
        setting="proxy.tunnel_port",
    )
    for family in families:
        sources = spec.in_sources_excluded.of(family)
        if sources:
            who = Match(Field.SRC, IntervalSet.union(c.values() for c in sources))
            d.add(
                table,
                _CHAIN,
                "in.exclude-source",
                [who],
                RETURN,
                family=family,
                why="connections from these addresses are left alone",
                setting="inbound.exclude_sources",
            )
    if spec.in_ports_excluded:
        to = Match(Field.DPORT, spec.in_ports_excluded.values())
        d.add(
            table,
            _CHAIN,
            "in.exclude-port",
            [proto("tcp"), to],
            RETURN,
            family=one,
            why="these ports are left alone",
            setting="inbound.exclude_ports",
        )


def _wanted(spec: CaptureSpec) -> list[Match]:
    return [] if spec.in_ports.every else [Match(Field.DPORT, spec.in_ports.values())]


def _capture(
    d: Draft, spec: CaptureSpec, table: str, families: list[Family], target: Target
) -> None:
    d.add(
        table,
        _CHAIN,
        "in.capture",
        [proto("tcp"), *_wanted(spec)],
        target,
        family=one_of(families),
        why="inbound TCP goes to the proxy",
        setting="inbound.ports",
    )


def _add_tproxy(d: Draft, spec: CaptureSpec, families: list[Family]) -> None:
    one, setting = one_of(families), "inbound.mode"
    d.add(
        "mangle",
        "PREROUTING",
        "in.jump",
        [proto("tcp")],
        jump(_CHAIN),
        family=one,
        why="TCP that comes in is looked at",
        setting="inbound.ports",
    )
    seen = mark(spec.tproxy_mark)
    for rule_id, target, why in (
        ("in.save-mark", SAVE_MARK, "answers of the application must find back to the proxy"),
        ("in.marked", RETURN, "captured once already"),
    ):
        d.add("mangle", _CHAIN, rule_id, [seen], target, family=one, why=why, setting=setting)
    for family in families:
        _, source = read_address(PASSTHROUGH[family])
        d.add(
            "mangle",
            _CHAIN,
            "in.passthrough",
            [iif("lo"), Match(Field.SRC, IntervalSet.of(source))],
            RETURN,
            family=family,
            why="the proxy hands inbound connections to the application from this address",
            setting="profile",
        )
    d.add(
        "mangle",
        _CHAIN,
        "in.local",
        [iif("lo"), mark(OUTBOUND_MARK, negated=True)],
        RETURN,
        family=one,
        why="the application talking to its own pod",
        setting=setting,
    )
    _exempt(d, spec, "mangle", families)
    d.add(
        "mangle",
        _CHAIN,
        "in.known",
        [proto("tcp"), *_wanted(spec), ctstate("related", "established")],
        jump("MESHNET_DIVERT"),
        family=one,
        why="packets of a connection that exists",
        setting="inbound.ports",
    )
    _capture(d, spec, "mangle", families, jump("MESHNET_TPROXY"))
    istio_tproxy.add_targets(d, spec, "MESHNET", families)
    _add_output_marks(d, spec, families)


def _add_output_marks(d: Draft, spec: CaptureSpec, families: list[Family]) -> None:
    one, chain, setting = one_of(families), "MESHNET_OUTPUT", "inbound.mode"
    d.add(
        "mangle",
        "OUTPUT",
        "out.mark-jump",
        [proto("tcp")],
        jump(chain),
        family=one,
        why="TCP that leaves may belong to a captured connection",
        setting=setting,
    )
    if spec.interfaces_excluded:
        d.add(
            "mangle",
            chain,
            "out.skip-interface",
            [oif(*spec.interfaces_excluded)],
            RETURN,
            family=one,
            why="what leaves by these is left alone",
            setting="interfaces.exclude",
        )
    d.add(
        "mangle",
        chain,
        "out.marked",
        [oif("lo"), mark(spec.tproxy_mark)],
        RETURN,
        family=one,
        why="proxy to application: marked already",
        setting=setting,
    )
    # As the self-call rule of nat has it: these are not inbound connections.
    exempt = dport(*spec.not_self_calls(), negated=True)
    for field, spans in ((Field.UID, spec.uids), (Field.GID, spec.gids)):
        for family in families:
            away = Match(Field.DST, spec.loopback_of(family).values(), negated=True)
            d.add(
                "mangle",
                chain,
                f"out.mark-{field.label}",
                [oif("lo"), proto("tcp"), away, exempt, Match(field, IntervalSet.of(*spans))],
                Target(Kind.MARK, mark=OUTBOUND_MARK),
                family=family,
                why="the proxy calling its own pod is to be captured as inbound",
                setting=f"proxy.{field.label}s",
            )
    d.add(
        "mangle",
        chain,
        "out.restore-mark",
        [ctmark(spec.tproxy_mark)],
        RESTORE_MARK,
        family=one,
        why="answers of the application find back to the proxy",
        setting=setting,
    )
