"""Which setting to change so that a packet is captured: each is tried, by compiling and walking."""

from __future__ import annotations

from meshnet.compile import compile_spec
from meshnet.model.address import show_address
from meshnet.model.frozen import dataclass, replace
from meshnet.model.packet import UDP, Family, Packet
from meshnet.model.spec import (
    DNS_PORT,
    CaptureSpec,
    Cidr,
    Cidrs,
    Form,
    IPv6,
    Ports,
    Profile,
)
from meshnet.model.verdict import Verdict
from meshnet.reason.walk import Walker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshnet.model.packet import Field


@dataclass(frozen=True)
class Advice:
    """A setting's key in the configuration file, and what to do with it."""

    setting: str
    words: str


def advise(
    spec: CaptureSpec,
    form: Form,
    packet: Packet,
    hook: str,
    unknown: frozenset[Field],
) -> Advice | None:
    """The first single setting of ``spec`` whose change has ``packet`` captured; None: none does.

    What others' rules do is not looked at: it is about the rules that ``spec`` compiles to.
    """
    for key, words, changed in _edits(spec, packet, hook):
        if changed == spec:
            continue
        walker = Walker({_BACKENDS[form]: compile_spec(changed, form)})
        if walker.walk(packet, hook, unknown).verdict is Verdict.CAPTURED:
            return Advice(key, words)
    return None


_BACKENDS = {Form.IPTABLES: "nft-compat", Form.NFT: "nft"}
Edit = tuple[str, str, CaptureSpec]


def _edits(spec: CaptureSpec, packet: Packet, hook: str) -> Iterator[Edit]:
    if packet.family is Family.IP6 and spec.ipv6 is not IPv6.CAPTURE:
        word = "capture" if spec.profile is Profile.STRICT else "on"
        yield "ipv6", f"set ipv6 to {word}", spec.with_ipv6(IPv6.CAPTURE)
    if spec.profile is Profile.CLASSIC:
        return
    yield from _of_dns(spec, packet) if hook == "output" else ()
    yield from _of_links(spec, packet, hook)
    if hook == "output":
        yield from _outbound(spec, packet)
    else:
        yield from _inbound(spec, packet)


def _outbound(spec: CaptureSpec, packet: Packet) -> Iterator[Edit]:
    port, to = packet.dport, _block(packet.family, packet.dst)
    if port is not None:
        rest = _without(spec.out_ports_excluded, port)
        words = f"take {port} out of outbound.exclude_ports"
        yield "outbound.exclude_ports", words, replace(spec, out_ports_excluded=rest)
    kept, gone = _without_blocks(spec.out_cidrs_excluded, to)
    if gone:
        words = f"take {', '.join(map(str, gone))} out of outbound.exclude_cidrs"
        yield "outbound.exclude_cidrs", words, replace(spec, out_cidrs_excluded=kept)
    if not spec.out_cidrs.every:
        more = replace(spec.out_cidrs, items=(*spec.out_cidrs.items, to))
        words = f"add {to} (or *) to outbound.cidrs"
        yield "outbound.cidrs", words, replace(spec, out_cidrs=more)
    yield from _of_owners(spec, packet)


def _of_owners(spec: CaptureSpec, packet: Packet) -> Iterator[Edit]:
    gid = packet.gid
    if gid in spec.groups_excluded:
        rest = tuple(group for group in spec.groups_excluded if group != gid)
        words = f"take {gid} out of outbound.exclude_owner_groups"
        yield "outbound.exclude_owner_groups", words, replace(spec, groups_excluded=rest)
    if spec.groups is not None and gid is not None:
        words = f"add {gid} to outbound.owner_groups"
        yield "outbound.owner_groups", words, replace(spec, groups=(*spec.groups, gid))
    if spec.ports_for_uids:
        key = "outbound.exclude_ports_for_uids"
        yield key, f"make {key} narrower", replace(spec, ports_for_uids=())


def _inbound(spec: CaptureSpec, packet: Packet) -> Iterator[Edit]:
    port = packet.dport
    if port is not None:
        rest = _without(spec.in_ports_excluded, port)
        words = f"take {port} out of inbound.exclude_ports"
        yield "inbound.exclude_ports", words, replace(spec, in_ports_excluded=rest)
        if not spec.in_ports.every:
            more = replace(spec.in_ports, items=(*spec.in_ports.items, (port, port)))
            words = f"add {port} (or *) to inbound.ports"
            yield "inbound.ports", words, replace(spec, in_ports=more)
    source = _block(packet.family, packet.src)
    kept, gone = _without_blocks(spec.in_sources_excluded, source)
    if gone:
        words = f"take {', '.join(map(str, gone))} out of inbound.exclude_sources"
        yield "inbound.exclude_sources", words, replace(spec, in_sources_excluded=kept)


def _of_links(spec: CaptureSpec, packet: Packet, hook: str) -> Iterator[Edit]:
    link = packet.oif if hook == "output" else packet.iif
    rest = tuple(name for name in spec.interfaces_excluded if not _names(name, link or ""))
    words = f"take {link} out of interfaces.exclude"
    yield "interfaces.exclude", words, replace(spec, interfaces_excluded=rest)


def _names(name: str, link: str) -> bool:
    return link.startswith(name[:-1]) if name.endswith("+") else link == name


def _of_dns(spec: CaptureSpec, packet: Packet) -> Iterator[Edit]:
    if packet.dport != DNS_PORT:
        return
    server = show_address(packet.family, packet.dst)
    if packet.proto != UDP and not spec.dns:
        return
    if not spec.captures_dns:
        yield "dns.capture", "set dns.capture to all", replace(spec, dns=True, dns_servers=None)
    elif spec.dns_servers is not None:
        more = (*spec.dns_servers, _block(packet.family, packet.dst))
        words = f"add {server} to dns.servers"
        yield "dns.servers", words, replace(spec, dns_servers=more)


def _block(family: Family, number: int) -> Cidr:
    return Cidr(family, number, 32 if family is Family.IP else 128)


def _without(ports: Ports, port: int) -> Ports:
    """``ports`` without ``port``; a range becomes what is left of it."""
    kept = []
    for first, last in ports.items:
        if not first <= port <= last:
            kept.append((first, last))
            continue
        kept += [(first, port - 1)] if first < port else []
        kept += [(port + 1, last)] if port < last else []
    return replace(ports, items=tuple(kept))


def _without_blocks(blocks: Cidrs, to: Cidr) -> tuple[Cidrs, tuple[Cidr, ...]]:
    """``blocks`` without those that ``to`` is in, and these."""
    same = [block for block in blocks.items if block.family is to.family]
    gone = tuple(block for block in same if to.network in block.values())
    return replace(blocks, items=tuple(b for b in blocks.items if b not in gone)), gone
