"""CaptureSpec: what somebody wants captured, before any rule is thought of."""

from __future__ import annotations

from meshnet.model.choices import Enum
from meshnet.model.frozen import dataclass, replace
from meshnet.model.intervals import IntervalSet
from meshnet.model.packet import Family

DNS_PORT = 53
DNS_PROXY_PORT = 15053
#: Envoy binds its pass-through connections to the application to these.
PASSTHROUGH = {Family.IP: "127.0.0.6", Family.IP6: "::6"}
OUTBOUND_MARK = 1338


class Profile(Enum):
    """Which generation of rules an intent compiles to."""

    CLASSIC = "classic"
    ISTIO = "istio"
    STRICT = "strict"


class Form(Enum):
    """Which rule language the ruleset is for; istio programs the two differently."""

    IPTABLES = "iptables"
    NFT = "nft"


class Inbound(Enum):
    """How inbound connections reach the proxy."""

    REDIRECT = "REDIRECT"
    TPROXY = "TPROXY"


class IPv6(Enum):
    """What happens to IPv6. OFF is istio's: no rules are made for it."""

    CAPTURE = "capture"
    ALLOW = "allow"
    DROP = "drop"
    OFF = "off"


@dataclass(frozen=True)
class Cidr:
    """An address block: ``network`` is its first address as an integer, ``length`` its prefix."""

    family: Family
    network: int
    length: int

    @property
    def bits(self) -> int:
        """32 or 128."""
        return 32 if self.family is Family.IP else 128

    def span(self) -> tuple[int, int]:
        """The first and the last address."""
        return self.network, self.network | ((1 << (self.bits - self.length)) - 1)

    def values(self) -> IntervalSet:
        """The addresses as a set."""
        return IntervalSet.of(self.span())

    def is_loopback(self) -> bool:
        """Whether the block begins in 127.0.0.0/8, or at ::1."""
        if self.family is Family.IP:
            return self.network >> 24 == 127
        return self.network == 1

    def __str__(self) -> str:
        from meshnet.model.address import show_address

        return f"{show_address(self.family, self.network)}/{self.length}"


LOOPBACK6 = Cidr(Family.IP6, 1, 128)


@dataclass(frozen=True)
class Ports:
    """Ports in the order they were given. ``every`` is "*", and then ``items`` is empty."""

    items: tuple[tuple[int, int], ...] = ()
    every: bool = False

    def values(self) -> IntervalSet:
        """The ports as a set; all of 0..65535 where ``every``."""
        return IntervalSet.of((0, 65535)) if self.every else IntervalSet.of(*self.items)

    def __bool__(self) -> bool:
        return self.every or bool(self.items)


@dataclass(frozen=True)
class Cidrs:
    """Address blocks in the order they were given. ``every`` is "*"."""

    items: tuple[Cidr, ...] = ()
    every: bool = False

    def of(self, family: Family) -> tuple[Cidr, ...]:
        """The blocks of one family; none where ``every``."""
        return tuple(c for c in self.items if c.family is family)

    def __bool__(self) -> bool:
        return self.every or bool(self.items)


@dataclass(frozen=True)
class PortsForUids:
    """Strict: outbound connections of ``uids`` to ``ports`` are left alone."""

    ports: IntervalSet
    uids: IntervalSet


@dataclass(frozen=True)
class CaptureSpec:
    """What to capture, and for whom.

    Ports are 1..65535. UIDs and GIDs are pairs (first, last), inclusive; profiles
    other than strict take single ones only. ``groups`` None is every group.
    ``dns_servers`` None with ``dns`` on captures DNS to every server.
    """

    profile: Profile = Profile.ISTIO
    proxy_port: int = 15001
    inbound_port: int = 15006
    tunnel_port: int = 15008
    uids: tuple[tuple[int, int], ...] = ((1337, 1337),)
    gids: tuple[tuple[int, int], ...] = ((1337, 1337),)
    inbound: Inbound = Inbound.REDIRECT
    in_ports: Ports = Ports()
    in_ports_excluded: Ports = Ports()
    in_sources_excluded: Cidrs = Cidrs()
    out_ports: Ports = Ports()
    out_ports_excluded: Ports = Ports()
    out_cidrs: Cidrs = Cidrs()
    out_cidrs_excluded: Cidrs = Cidrs()
    ports_for_uids: tuple[PortsForUids, ...] = ()
    groups: tuple[int, ...] | None = None
    groups_excluded: tuple[int, ...] = ()
    interfaces_excluded: tuple[str, ...] = ()
    virtual_interfaces: tuple[str, ...] = ()
    dns: bool = False
    dns_servers: tuple[Cidr, ...] | None = ()
    drop_invalid: bool = False
    tproxy_mark: int = 1337
    tproxy_table: int = 133
    loopback: Cidr = Cidr(Family.IP, 0x7F000001, 32)
    ipv6: IPv6 = IPv6.OFF

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that rules are made for."""
        return (Family.IP, Family.IP6) if self.ipv6 in (IPv6.CAPTURE, IPv6.DROP) else (Family.IP,)

    @property
    def tproxy(self) -> bool:
        """Whether inbound connections are captured by TPROXY."""
        return self.inbound is Inbound.TPROXY and bool(self.in_ports)

    @property
    def captures_dns(self) -> bool:
        """Whether DNS is captured: it takes servers by name, or all of them."""
        return self.dns and (self.dns_servers is None or bool(self.dns_servers))

    def not_self_calls(self) -> tuple[int, ...]:
        """Ports that the proxy may call in its own pod without being captured: DNS, the tunnel."""
        return (DNS_PORT, self.tunnel_port) if self.captures_dns else (self.tunnel_port,)

    def loopback_of(self, family: Family) -> Cidr:
        """The block that means "this pod itself" in ``family``."""
        return self.loopback if family is Family.IP else LOOPBACK6

    def keeps_loopback_in(self) -> bool:
        """Whether loopback itself was asked to be captured (by ``out_cidrs``)."""
        return any(c.is_loopback() for c in self.out_cidrs.items)

    def with_ipv6(self, policy: IPv6) -> CaptureSpec:
        """The same intent with another answer for IPv6."""
        return replace(self, ipv6=policy)
