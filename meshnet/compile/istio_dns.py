"""Profile istio, DNS capture: redirects to the agent, and conntrack zones for its two legs.

The application's question and the agent's own may have the same tuple; in zones of
their own neither takes the other's translation.
"""

from __future__ import annotations

from meshnet.compile.draft import Draft
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match, dport, proto, sport
from meshnet.model.packet import Family, Field
from meshnet.model.rule import Kind, Target, jump, redirect
from meshnet.model.spec import DNS_PORT, DNS_PROXY_PORT, CaptureSpec, Cidr, Form

AGENT_ZONE = Target(Kind.ZONE, zone=1)
APPLICATION_ZONE = Target(Kind.ZONE, zone=2)
_CHAIN = "ISTIO_OUTPUT_DNS"


def add_dns(d: Draft, spec: CaptureSpec, form: Form) -> None:
    """The jumps, the redirects and the zones."""
    d.add(
        "raw",
        "OUTPUT",
        "dns.zone-jump",
        [],
        jump(_CHAIN),
        why="DNS gets conntrack zones before it is tracked",
        setting="dns.capture",
    )
    for family in _jump_families(spec, form):
        d.add(
            "nat",
            "ISTIO_OUTPUT",
            "dns.jump",
            [],
            jump(_CHAIN),
            family=family,
            why="DNS goes to the agent",
            setting="dns.capture",
        )
    for name in ("tcp", "udp"):
        for server in _servers(spec):
            d.add(
                "nat",
                _CHAIN,
                f"dns.redirect-{name}",
                [*_to(server), proto(name), dport(DNS_PORT)],
                redirect(DNS_PROXY_PORT),
                family=server.family if server else None,
                why=f"DNS over {name.upper()} goes to the agent",
                setting="dns.servers",
            )
    _add_zones(d, spec, form)


def _servers(spec: CaptureSpec) -> tuple[Cidr | None, ...]:
    """Each server, IPv4 first; a single None for all of them."""
    if spec.dns_servers is None:
        return (None,)
    return tuple(
        s for family in (Family.IP, Family.IP6) for s in spec.dns_servers if s.family is family
    )


def _jump_families(spec: CaptureSpec, form: Form) -> list[Family | None]:
    """iptables jumps in the families that have a server; nft jumps once, for both."""
    if spec.dns_servers is None or form is Form.NFT:
        return [None]
    return [f for f in (Family.IP, Family.IP6) if any(s.family is f for s in spec.dns_servers)]


def _to(server: Cidr | None, field: Field = Field.DST) -> list[Match]:
    return [Match(field, server.values())] if server else []


def _add_zones(d: Draft, spec: CaptureSpec, form: Form) -> None:
    owners = [(Field.UID, span) for span in spec.uids] + [(Field.GID, span) for span in spec.gids]
    for field, span in owners:
        who = Match(field, IntervalSet.of(span))
        d.add(
            "raw",
            _CHAIN,
            f"dns.agent-asks-{field.label}",
            [proto("udp"), dport(DNS_PORT), who],
            AGENT_ZONE,
            why="the agent's own questions",
            setting=f"proxy.{field.label}s",
        )
        d.add(
            "raw",
            _CHAIN,
            f"dns.agent-answers-{field.label}",
            [proto("udp"), sport(DNS_PROXY_PORT), who],
            APPLICATION_ZONE,
            why="the agent's answers to the application",
            setting=f"proxy.{field.label}s",
        )
    for family in _jump_families(spec, form):
        d.add(
            "raw",
            "PREROUTING",
            "dns.zone-jump-in",
            [],
            jump("ISTIO_INBOUND"),
            family=family,
            why="answers of the servers get their zone before they are tracked",
            setting="dns.capture",
        )
    for server in _servers(spec):
        family = server.family if server else None
        d.add(
            "raw",
            _CHAIN,
            "dns.application-asks",
            [proto("udp"), dport(DNS_PORT), *_to(server)],
            APPLICATION_ZONE,
            family=family,
            why="the application's questions",
            setting="dns.servers",
        )
        d.add(
            "raw",
            "ISTIO_INBOUND",
            "dns.server-answers",
            [proto("udp"), sport(DNS_PORT), *_to(server, Field.SRC)],
            AGENT_ZONE,
            family=family,
            why="the servers' answers to the agent",
            setting="dns.servers",
        )
