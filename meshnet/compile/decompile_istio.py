"""From the rules of profiles classic and istio back to a spec that compiles to them.

Each setting is read from the rules that it alone makes. Where several rules show the same
thing, most of them decide, so that one lost or added rule does not change the answer.
"""

from __future__ import annotations

from meshnet.compile.evidence import (
    Clue,
    Evidence,
    merge,
    most_common,
    named_by,
    without_first,
)
from meshnet.model.address import cidr_of_span, cidrs_of_span
from meshnet.model.frozen import replace
from meshnet.model.intervals import IntervalSet
from meshnet.model.packet import Family, Field
from meshnet.model.spec import (
    DNS_PORT,
    LOOPBACK6,
    OUTBOUND_MARK,
    CaptureSpec,
    Cidr,
    Cidrs,
    Form,
    Inbound,
    IPv6,
    Ports,
    Profile,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.compile.evidence import Span, Where

_OUT, _IN, _DNS = "ISTIO_OUTPUT", "ISTIO_INBOUND", "ISTIO_OUTPUT_DNS"
_TO_PROXY, _TO_INBOUND = "ISTIO_REDIRECT", "ISTIO_IN_REDIRECT"
#: A server that no rule of IPv4 shows: DNS is captured for IPv6 only, and that is off.
_UNSEEN_SERVER = Cidr(Family.IP6, 0x20010DB8 << 96 | 0x53, 128)
_DEFAULTS = CaptureSpec()


def read_classic(e: Evidence) -> CaptureSpec:
    """The spec of profile classic that the rules come closest to."""
    wheres = ("nat", _OUT, _TO_PROXY, "oif !dst"), ("nat", _OUT, "return", "dst")
    return CaptureSpec(
        profile=Profile.CLASSIC,
        proxy_port=e.port(_DEFAULTS.proxy_port, ("nat", _TO_PROXY, "redirect")),
        uids=e.any_of(Field.UID, ("nat", _OUT, "return", "uid")),
        loopback=_loopback(e, *wheres),
        ipv6=IPv6.CAPTURE if e.ip6 else IPv6.OFF,
    )


def read_istio(e: Evidence) -> CaptureSpec:
    """The spec of profile istio that the rules come closest to."""
    spec = CaptureSpec(
        proxy_port=e.port(_DEFAULTS.proxy_port, ("nat", _TO_PROXY, "redirect")),
        inbound_port=e.port(
            _DEFAULTS.inbound_port,
            ("nat", _TO_INBOUND, "redirect"),
            ("mangle", "ISTIO_TPROXY", "tproxy"),
        ),
        tunnel_port=tunnel_port(
            e, _calls("uid"), _calls("gid"), ("nat", _IN, "return", "tcp dport")
        ),
        loopback=_loopback(e, _calls("uid"), _calls("gid"), ("nat", _OUT, "return", "dst")),
        uids=_proxy_ids(e, Field.UID),
        gids=_proxy_ids(e, Field.GID),
        drop_invalid=e.has("mangle", "ISTIO_DROP"),
        ipv6=IPv6.CAPTURE if e.ip6 else IPv6.OFF,
    )
    spec = _read_inbound(e, spec)
    spec = _read_outbound(e, spec)
    if e.has("nat", _DNS) or e.has("raw", _DNS):
        spec = replace(spec, dns=True, dns_servers=_servers(e))
    spec = _read_interfaces(e, spec)
    local = [("nat", _OUT, "return", f"oif {dns}!{who}") for dns in ("", "tcp !dport ")
             for who in ("uid", "gid")]  # fmt: skip
    shown = any(e.find(where) for where in local) or not (spec.uids or spec.gids)
    return spec if shown or e.ip6 else _with_unseen_loopback(spec)


def _calls(who: str) -> Where:
    return "nat", _OUT, _TO_INBOUND, f"oif tcp !dst !dport {who}"


def _proxy_ids(e: Evidence, who: Field) -> tuple[Span, ...]:
    """The proxy's: a lone RETURN is an excluded group's, or was put in by somebody."""
    name = who.label
    local = tuple(("nat", _OUT, "return", f"oif {dns}!{name}") for dns in ("", "tcp !dport "))
    leaves = "nat", _OUT, "return", name
    found = e.agreed(who, [_calls(name)], local, [leaves])
    return found or e.any_of(who, _calls(name), *local, *([leaves] if who is Field.UID else []))


def _loopback(e: Evidence, *wheres: Where) -> Cidr:
    """IPv4's loopback block, by most rules of the first shape that has any."""
    for where in wheres:
        spans = [s for clue in e.find(where, Family.IP) for s in clue.spans(Field.DST)]
        blocks = [cidr_of_span(Family.IP, *span) for span in spans if span[1] >> 32 == 0]
        loops = [block for block in blocks if block is not None and block.is_loopback()]
        if loops:
            return most_common(loops, _DEFAULTS.loopback)
    return _DEFAULTS.loopback


def tunnel_port(e: Evidence, *wheres: Where) -> int:
    """The port that is no self-call beside DNS, or else the first that comes in untouched."""
    *calls, inbound = wheres
    found: list[int] = []
    for where in calls:
        for clue in e.find(where):
            ports = {p for a, b in clue.spans(Field.DPORT) for p in range(a, min(b, a + 1) + 1)}
            found += sorted(ports - {DNS_PORT} or ports)
    first = [s[0] for clue in e.find(inbound)[:1] for s in clue.spans(Field.DPORT)]
    return most_common(found, first[0] if first else _DEFAULTS.tunnel_port)


def _read_inbound(e: Evidence, spec: CaptureSpec) -> CaptureSpec:
    tproxy = e.has("mangle", _IN, "ISTIO_TPROXY", "ISTIO_DIVERT")
    table = "mangle" if tproxy else "nat"
    ways: list[tuple[str, str]] = [(_TO_INBOUND, "")]
    if tproxy:
        ways = [("ISTIO_TPROXY", ""), ("ISTIO_DIVERT", " ctstate")]
        chains = _IN, "ISTIO_DIVERT", "ISTIO_TPROXY", "PREROUTING", "OUTPUT"
        marks = [m for m in e.marks(*chains) if m != OUTBOUND_MARK]
        mark = most_common(marks, _DEFAULTS.tproxy_mark)
        spec = replace(spec, inbound=Inbound.TPROXY, tproxy_mark=mark)
    tunnel = [] if tproxy else [(spec.tunnel_port, spec.tunnel_port)]
    leaves = table, _IN, "return", "tcp dport"
    left = merge([without_first(e.sequence(Field.DPORT, f, leaves), tunnel) for f in e.families])
    ports = e.any_of(Field.DPORT, *((table, _IN, to, f"tcp dport{more}") for to, more in ways))
    every = any(e.find((table, _IN, to, f"tcp{more}")) for to, more in ways)
    # Nobody goes there, or leaves anything out, where no port is wanted: the rule got lost.
    every = every or (not ports and bool(left or e.find((table, "PREROUTING", _IN, "tcp"))))
    if every:
        return replace(spec, in_ports=Ports(every=True), in_ports_excluded=Ports(left))
    return replace(spec, in_ports=Ports(ports))


def _read_outbound(e: Evidence, spec: CaptureSpec) -> CaptureSpec:
    skipped = [("nat", _OUT, "return", f"{name} dport") for name in ("tcp", "udp")]
    included: list[list[Cidr]] = []
    excluded: list[Cidr] = []
    for family in e.families:
        included.append(_blocks(e, family, _TO_PROXY))
        left = _blocks(e, family, "return")
        loopback = spec.loopback_of(family)
        excluded += without_first(left, [loopback])
    every = all(blocks == [_whole(f)] for f, blocks in zip(e.families, included, strict=True))
    if e.form is Form.NFT:
        every = bool(e.find(("nat", _OUT, _TO_PROXY, "")))
    spec = replace(
        spec,
        out_ports=Ports(e.any_of(Field.DPORT, ("nat", _OUT, _TO_PROXY, "tcp dport"))),
        out_ports_excluded=Ports(e.agreed(Field.DPORT, *([where] for where in skipped))),
        out_cidrs=Cidrs(every=True) if every else Cidrs(tuple(b for f in included for b in f)),
        out_cidrs_excluded=Cidrs(tuple(excluded)),
    )
    return _read_groups(e, spec)


def _whole(family: Family) -> Cidr:
    return Cidr(family, 0, 0)


def _blocks(e: Evidence, family: Family, to: str) -> list[Cidr]:
    """The blocks that rules of our output chain ask for, in order; no address is all of them."""
    asked = e.find(("nat", _OUT, to, "dst"), family)
    bare = e.find(("nat", _OUT, to, ""), family) if e.form is Form.IPTABLES else []
    if to == "return" and asked:
        # Before the loopback rule it is another setting's: no group is captured.
        bare = [clue for clue in bare if clue.at > asked[0].at]
    elif to == "return":
        bare = []
    clues = sorted([*asked, *bare], key=lambda clue: clue.at)
    return [block for clue in clues for block in _block_of(clue, family)]


def _block_of(clue: Clue, family: Family) -> list[Cidr]:
    spans = clue.spans(Field.DST)
    if not clue.rule.matches:
        return [_whole(family)]
    return blocks_of(family, IntervalSet(spans))


def blocks_of(family: Family, values: IntervalSet, single: int = 0) -> list[Cidr]:
    """The addresses as blocks; up to ``single`` neighbours as addresses of their own."""
    found: list[Cidr] = []
    bits = 32 if family is Family.IP else 128
    for first, last in values:
        if last >> bits:
            continue
        if last - first < single:
            found += [Cidr(family, address, bits) for address in range(first, last + 1)]
        else:
            found += cidrs_of_span(family, first, last)
    return found


def _read_groups(e: Evidence, spec: CaptureSpec) -> CaptureSpec:
    only = e.find(("nat", _OUT, "return", "!gid"))
    if only:
        values = [m.values.only() for m in only[0].rule.matches]
        return replace(spec, groups=tuple(v for v in values if isinstance(v, int)))
    for family in e.families:
        addressed = e.find(("nat", _OUT, "return", "dst"), family)
        for clue in e.find(("nat", _OUT, "return", ""), family):
            if not addressed or clue.at < addressed[0].at:
                return replace(spec, groups=())
    leave = [
        without_first(e.sequence(Field.GID, f, ("nat", _OUT, "return", "gid")), spec.gids)
        for f in e.families
    ]
    return replace(spec, groups_excluded=tuple(a for a, b in merge(leave) if a == b))


def _servers(e: Evidence) -> tuple[Cidr, ...] | None:
    """The servers whose DNS is captured; None is every server's."""
    everything = e.find(("nat", _DNS, "redirect", "tcp dport")) + e.find(
        ("nat", _DNS, "redirect", "udp dport")
    )
    named = [("nat", _DNS, "redirect", f"dst {name} dport") for name in ("tcp", "udp")]
    asks = "raw", _DNS, "zone", "udp dport dst"
    found: list[Cidr] = []
    for family in e.families:
        lists = [e.sequence(Field.DST, family, where) for where in (*named, asks)]
        wanted = named_by(2, lists)
        found += [b for s in wanted for b in blocks_of(family, IntervalSet.of(s))]
    if everything and len(everything) > len(found):
        return None
    return tuple(found) or (_UNSEEN_SERVER,)


def _read_interfaces(e: Evidence, spec: CaptureSpec) -> CaptureSpec:
    """Excluded ones have rules in both directions, virtual ones in PREROUTING of nat only."""
    tables = ("nat", "mangle") if spec.inbound is Inbound.TPROXY else ("nat",)
    out = [_names(e, (t, "OUTPUT", "return", "oif"), Field.OIF) for t in tables]
    into = _names(e, ("nat", "PREROUTING", "return", "iif"), Field.IIF)
    excluded = merge(out)
    if not excluded and len(tables) > 1:
        excluded = tuple(_names(e, ("mangle", "PREROUTING", "return", "iif"), Field.IIF))
    caught = [
        *_names(e, ("nat", "PREROUTING", _TO_PROXY, "iif"), Field.IIF),
        *_names(e, ("nat", "PREROUTING", _TO_PROXY, "iif dst"), Field.IIF),
    ]
    # The last ones of equal names are the excluded ones': virtual ones go in front.
    caught = list(dict.fromkeys(reversed(caught)))
    virtual = merge([without_first(into[::-1], excluded), caught])
    if not (spec.out_cidrs or virtual or e.form is Form.NFT):
        virtual = _in_front(e)
    return replace(spec, interfaces_excluded=excluded, virtual_interfaces=virtual)


def _names(e: Evidence, where: Where, field: Field) -> list[str]:
    """The names in rules of that shape, in either family; twice what one has twice."""
    names = [[n for clue in e.find(where, f) for n in clue.names(field)] for f in e.families]
    longest = max(names, key=len)
    return longest if len(set(longest)) < len(longest) else list(merge(names))


def _in_front(e: Evidence) -> tuple[str, ...]:
    """Interfaces that return before all else: where nothing outbound is captured, no jump tells."""
    runs = []
    for family in e.families:
        held = e.holdings.get((family, "nat", "PREROUTING"))
        run: list[str] = []
        for at, rule in enumerate(held.chain.rules if held else ()):
            name = rule.matches[0].values.only() if len(rule.matches) == 1 else None
            if not held or at not in held.similar or not isinstance(name, str):
                break
            if rule.matches[0].field is not Field.IIF or rule.matches[0].negated:
                break
            run.append(name)
        runs.append(tuple(reversed(run)))
    return runs[0] if len(set(runs)) == 1 else ()


def _with_unseen_loopback(spec: CaptureSpec) -> CaptureSpec:
    """``spec`` with IPv6's loopback among the captured blocks: it makes no rule while IPv6 is off.

    But nothing is said of the application's own calls any more then.
    """
    blocks = spec.out_cidrs.items
    if spec.out_cidrs.every:
        blocks = tuple(_whole(family) for family in spec.families)
    return replace(spec, out_cidrs=Cidrs((*blocks, LOOPBACK6)))
