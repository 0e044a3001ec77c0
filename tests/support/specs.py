"""Specs: those of the cases that many tests go through, and random ones of each profile.

A random spec is one that the settings can describe: ranges in profile strict only, servers
that are addresses, no port both included and excluded.
"""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from meshnet.cli.arguments import read_arguments
from meshnet.cli.flags import FLAGS
from meshnet.cli.gather import gather
from meshnet.model.address import read_address, read_cidr
from meshnet.model.frozen import replace
from meshnet.model.intent import read_intent
from meshnet.model.intervals import IntervalSet
from meshnet.model.packet import Family
from meshnet.model.spec import (
    CaptureSpec,
    Cidr,
    Cidrs,
    Inbound,
    IPv6,
    Ports,
    PortsForUids,
    Profile,
)
from tests.support.cases import CASES

#: No traffic, so no part of an intent.
_OTHER = {flag.name for flag in FLAGS if not flag.traffic} - {"profile"}
BLOCKS = (
    "10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "192.0.2.7/32", "192.0.2.6/32", "0.0.0.0/0",
    "127.0.0.0/8", "127.0.0.1/32", "126.0.0.0/8", "172.16.0.0/12",
    "fd00::/8", "2001:db8::1/128", "::/0", "::1/128", "::/128", "2001:db8::/32",
)  # fmt: skip
SERVERS = ("10.1.0.9", "10.1.0.10", "192.0.2.53", "fd01::9", "fd01::a", "2001:db8::53")
LOOPBACKS = ("127.0.0.1/32", "127.0.0.0/8", "127.0.0.0/31")
LINKS = ("eth7", "eth8", "vm0", "tap+")


@cache
def spec_of(case: str) -> CaptureSpec:
    """The spec of one of CASES, as far as no namespace has to be seen."""
    given = read_arguments(CASES[case], "test")
    settings = {k: v for k, v in gather(given, {}).items() if k not in _OTHER}
    return read_intent(settings, lambda name: None).spec


def _some(values: st.SearchStrategy, most: int = 3, least: int = 0) -> st.SearchStrategy:
    return st.lists(values, unique=True, min_size=least, max_size=most).map(tuple)


def _spans(last: int, ranges: bool) -> st.SearchStrategy[tuple[int, int]]:
    near = st.one_of(st.integers(1, last), st.integers(50, 56), st.sampled_from((1337, 4000, 4001)))
    single = near.map(lambda n: (n, n))
    if not ranges:
        return single
    pairs = st.tuples(near, st.integers(0, 900)).map(lambda p: (p[0], min(p[0] + p[1], last)))
    return st.one_of(single, pairs)


def _cidrs(wildcard: bool = True) -> st.SearchStrategy[Cidrs]:
    some = _some(st.sampled_from(BLOCKS).map(lambda b: read_cidr(b)[0]), 4).map(Cidrs)
    return st.one_of(some, st.just(Cidrs(every=True))) if wildcard else some


def _servers(draw: st.DrawFn) -> tuple[Cidr, ...] | None:
    if draw(st.integers(0, 4)) == 0:
        return None
    found = []
    for text in draw(_some(st.sampled_from(SERVERS))):
        family, address = read_address(text)
        found.append(Cidr(family, address, 32 if family is Family.IP else 128))
    return tuple(found)


def _ports(draw: st.DrawFn, ranges: bool) -> tuple[Ports, Ports]:
    """Included ones and excluded ones, none both."""
    wanted = Ports(draw(_some(_spans(65535, ranges), 20 if ranges else 4)))
    left = Ports(draw(_some(_spans(65535, ranges), 20 if ranges else 3)))
    choice = draw(st.sampled_from(("every", "none", "some")))
    if choice == "some" and not wanted.values().intersection(left.values()).spans:
        return wanted, left
    return (Ports(every=True) if choice == "every" else Ports()), left


def _only_for_uids(draw: st.DrawFn) -> tuple[PortsForUids, ...]:
    entries = st.tuples(_some(_spans(65535, True), 18, 1), _some(_spans(5000, True), 2, 1))
    ported = st.tuples(st.just(((0, 65535),)), _some(_spans(5000, True), 2, 1))
    drawn = draw(st.lists(st.one_of(entries, ported), max_size=2))
    return tuple(PortsForUids(IntervalSet.of(*p), IntervalSet.of(*u)) for p, u in drawn)


@st.composite
def specs(draw: st.DrawFn, profile: Profile) -> CaptureSpec:
    """A spec of ``profile``."""
    strict = profile is Profile.STRICT
    ids = _some(_spans(65000, strict), 3, 1)
    port = st.one_of(st.sampled_from((15001, 15006)), st.integers(1, 65535))
    policies = (IPv6.CAPTURE, IPv6.ALLOW, IPv6.DROP) if strict else (IPv6.CAPTURE, IPv6.OFF)
    spec = CaptureSpec(
        profile=profile, proxy_port=draw(port), uids=draw(ids), ipv6=draw(st.sampled_from(policies))
    )
    if profile is Profile.CLASSIC:
        return spec
    in_ports, in_left = _ports(draw, strict)
    out_ports, out_left = _ports(draw, strict)
    numbers = _some(st.integers(1, 70000), 3)
    groups = draw(st.one_of(st.none(), numbers))
    return replace(
        spec,
        inbound_port=draw(port),
        tunnel_port=draw(st.one_of(st.just(15008), port, st.integers(52, 56))),
        gids=draw(ids),
        inbound=draw(st.sampled_from(tuple(Inbound))),
        in_ports=in_ports,
        in_ports_excluded=in_left,
        in_sources_excluded=draw(_cidrs(False)) if strict else Cidrs(),
        out_ports=Ports() if out_ports.every else out_ports,
        out_ports_excluded=out_left,
        out_cidrs=draw(_cidrs()),
        out_cidrs_excluded=draw(_cidrs(False)),
        ports_for_uids=_only_for_uids(draw) if strict else (),
        groups=groups,
        groups_excluded=draw(numbers) if groups is None else (),
        interfaces_excluded=draw(_some(st.sampled_from(LINKS))),
        virtual_interfaces=draw(_some(st.sampled_from(LINKS))),
        dns=draw(st.booleans()),
        dns_servers=_servers(draw),
        drop_invalid=draw(st.booleans()),
        tproxy_mark=draw(st.one_of(st.just(1337), st.integers(1, 1000))),
        loopback=read_cidr(draw(st.sampled_from(LOOPBACKS)))[0],
    )
