"""Profile strict, DNS capture: one match for all servers of a family, zones for both legs."""

from __future__ import annotations

from meshnet.compile.draft import Draft, one_of
from meshnet.compile.istio_dns import AGENT_ZONE, APPLICATION_ZONE
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match, dport, proto, sport
from meshnet.model.packet import Family, Field
from meshnet.model.rule import REJECT, RESET, jump, redirect
from meshnet.model.spec import DNS_PORT, DNS_PROXY_PORT, CaptureSpec, Cidr


def capture_dns(d: Draft, spec: CaptureSpec, table: str, families: list[Family]) -> None:
    """DNS of the application to the agent; in table filter it is refused instead."""
    for name in ("tcp", "udp"):
        refusal = RESET if name == "tcp" else REJECT
        target = redirect(DNS_PROXY_PORT) if table == "nat" else refusal
        for family, to in _server_sets(spec, Field.DST, families):
            d.add(
                table,
                "MESHNET_APPLICATION",
                f"dns.redirect-{name}",
                [*to, proto(name), dport(DNS_PORT)],
                target,
                family=family,
                why=f"DNS over {name.upper()} goes to the agent",
                setting="dns.servers",
            )


def add_zones(d: Draft, spec: CaptureSpec, families: list[Family]) -> None:
    """The zones: the agent\'s own leg is zone 1, the application\'s is zone 2."""
    one = one_of(families)
    d.add(
        "raw",
        "OUTPUT",
        "dns.zone-jump",
        [proto("udp")],
        jump("MESHNET_DNS"),
        family=one,
        why="DNS gets conntrack zones before it is tracked",
        setting="dns.capture",
    )
    for field, spans in ((Field.UID, spec.uids), (Field.GID, spec.gids)):
        for port, zone, rule_id, why in (
            (dport(DNS_PORT), AGENT_ZONE, "asks", "the agent's own questions"),
            (sport(DNS_PROXY_PORT), APPLICATION_ZONE, "answers", "its answers to the application"),
        ):
            d.add(
                "raw",
                "MESHNET_DNS",
                f"dns.agent-{rule_id}-{field.label}",
                [proto("udp"), port, Match(field, IntervalSet.of(*spans))],
                zone,
                family=one,
                why=why,
                setting=f"proxy.{field.label}s",
            )
    d.add(
        "raw",
        "PREROUTING",
        "dns.zone-jump-in",
        [proto("udp"), sport(DNS_PORT)],
        jump("MESHNET_DNS_ANSWERS"),
        family=one,
        setting="dns.capture",
        why="answers of the servers get their zone before they are tracked",
    )
    for family, to in _server_sets(spec, Field.DST, families):
        d.add(
            "raw",
            "MESHNET_DNS",
            "dns.application-asks",
            [proto("udp"), dport(DNS_PORT), *to],
            APPLICATION_ZONE,
            family=family,
            why="the application's questions",
            setting="dns.servers",
        )
    for family, source in _server_sets(spec, Field.SRC, families):
        d.add(
            "raw",
            "MESHNET_DNS_ANSWERS",
            "dns.server-answers",
            [proto("udp"), sport(DNS_PORT), *source],
            AGENT_ZONE,
            family=family,
            why="the servers' answers to the agent",
            setting="dns.servers",
        )


def _server_sets(
    spec: CaptureSpec, field: Field, families: list[Family]
) -> list[tuple[Family | None, list[Match]]]:
    """For each family its servers as one match; one entry without a match for all servers."""
    if spec.dns_servers is None:
        return [(one_of(families), [])]
    sets: list[tuple[Family | None, list[Match]]] = []
    for family in families:
        servers: list[Cidr] = [s for s in spec.dns_servers if s.family is family]
        if servers:
            values = IntervalSet.union(s.values() for s in servers)
            sets.append((family, [Match(field, values)]))
    return sets
