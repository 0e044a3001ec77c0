"""From the rules of profile strict back to a spec that compiles to them.

Its matches are sets, so the order of ports, owners and blocks in the spec is gone; the rules
are the same for each order.
"""

from __future__ import annotations

from meshnet.compile.decompile_istio import blocks_of, tunnel_port
from meshnet.compile.evidence import Clue, Evidence, merge, most_common, named_by, without_first
from meshnet.model.address import cidr_of_span
from meshnet.model.frozen import replace
from meshnet.model.intervals import IntervalSet
from meshnet.model.packet import Family, Field
from meshnet.model.spec import (
    LOOPBACK6,
    OUTBOUND_MARK,
    CaptureSpec,
    Cidr,
    Cidrs,
    Form,
    Inbound,
    IPv6,
    Ports,
    PortsForUids,
    Profile,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.compile.evidence import Span, Where

_OUT, _IN, _APP, _DNS = "MESHNET_OUTPUT", "MESHNET_INBOUND", "MESHNET_APPLICATION", "MESHNET_DNS"
_TO_PROXY, _TO_INBOUND, _VIRTUAL = "MESHNET_REDIRECT", "MESHNET_IN_REDIRECT", "MESHNET_VIRTUAL"
_DEFAULTS = CaptureSpec()
_ALL_PORTS = IntervalSet.of((0, 65535))
#: More groups than this nobody can have named (meshnet.model.intent.MOST_GROUPS).
_MOST_GROUPS = 64
#: Neighbouring servers are told one by one up to this many.
_SERVERS = 16
#: A server that no rule shows: it is IPv6's, and IPv6 is not captured.
_UNSEEN_SERVER = Cidr(Family.IP6, 0x20010DB8 << 96 | 0x53, 128)


def read_strict(e: Evidence) -> CaptureSpec:
    """The spec of profile strict that the rules come closest to."""
    refused = e.has("filter", _OUT, _IN, _APP, _TO_PROXY, _TO_INBOUND)
    outside = IPv6.CAPTURE if e.ip6 else IPv6.ALLOW
    spec = CaptureSpec(
        profile=Profile.STRICT,
        proxy_port=e.port(_DEFAULTS.proxy_port, ("nat", _TO_PROXY, "redirect")),
        inbound_port=e.port(
            _DEFAULTS.inbound_port,
            ("nat", _TO_INBOUND, "redirect"),
            ("mangle", "MESHNET_TPROXY", "tproxy"),
        ),
        tunnel_port=tunnel_port(
            e, *(("nat", _OUT, _TO_INBOUND, f"oif tcp !dst !dport {w}") for w in ("uid", "gid")),
            ("nat", _IN, "return", "tcp dport"),
        ),
        uids=_owners(e, Field.UID),
        gids=_owners(e, Field.GID),
        loopback=_loopback(e),
        drop_invalid=e.has("mangle", "MESHNET_DROP"),
        ipv6=IPv6.DROP if refused else outside,
    )  # fmt: skip
    spec = _read_inbound(e, spec)
    spec = _read_groups(e, _read_exemptions(e, spec))
    if e.has("raw", _DNS, "MESHNET_DNS_ANSWERS"):
        spec = replace(spec, dns=True, dns_servers=_servers(e, spec))
    spec = _read_destinations(e, _read_interfaces(e, spec))
    shown = any(e.find((t, _APP, "return", "oif")) for t in ("nat", "filter"))
    return spec if shown or not e.has("nat", _APP) else _with_loopback_in(spec)


def _table(spec: CaptureSpec, family: Family) -> str:
    """Where a family's decisions stand: refused ones are made in filter."""
    return "filter" if spec.ipv6 is IPv6.DROP and family is Family.IP6 else "nat"


def _owners(e: Evidence, who: Field) -> tuple[Span, ...]:
    name = who.label
    calls: list[Where] = [
        (table, _OUT, _TO_INBOUND, f"oif tcp !dst !dport {name}") for table in ("nat", "filter")
    ]
    leaves: list[Where] = [(table, _OUT, "return", name) for table in ("nat", "filter")]
    asks: list[Where] = [("raw", _DNS, "zone", f"udp dport {name}")]
    groups = [calls, leaves, asks] if e.has("raw", _DNS) else [calls, leaves]
    found = e.agreed(who, *groups)
    return found or e.any_of(who, *calls, *asks, *(leaves if who is Field.UID else []))


def _loopback(e: Evidence) -> Cidr:
    found: list[Cidr] = []
    for who in ("uid", "gid"):
        for clue in e.find(("nat", _OUT, _TO_INBOUND, f"oif tcp !dst !dport {who}"), Family.IP):
            for span in clue.spans(Field.DST):
                block = cidr_of_span(Family.IP, *span) if span[1] >> 32 == 0 else None
                found += [block] if block is not None and block.is_loopback() else []
    return most_common(found, _DEFAULTS.loopback)


def _read_inbound(e: Evidence, spec: CaptureSpec) -> CaptureSpec:
    tproxy = e.has("mangle", _IN, "MESHNET_TPROXY", "MESHNET_DIVERT")
    ways = [("nat", _IN, _TO_INBOUND, ""), ("filter", _IN, _TO_INBOUND, "")]
    if tproxy:
        chains = _IN, "MESHNET_DIVERT", "MESHNET_TPROXY", _OUT
        marks = [m for m in e.marks(*chains) if m != OUTBOUND_MARK]
        mark = most_common(marks, _DEFAULTS.tproxy_mark)
        spec = replace(spec, inbound=Inbound.TPROXY, tproxy_mark=mark)
        ways = [
            ("mangle", _IN, "MESHNET_TPROXY", ""),
            ("mangle", _IN, "MESHNET_DIVERT", "ctstate "),
        ]
    if any(e.find((t, c, to, f"tcp {more}")) for t, c, to, more in ways):
        ports = Ports(every=True)
    else:
        wheres = [(t, c, to, f"tcp dport {more}") for t, c, to, more in ways]
        ports = Ports(IntervalSet.of(*e.any_of(Field.DPORT, *wheres)).spans)
    sources: list[Cidr] = []
    excluded: list[Span] = []
    for family in e.families:
        table = "filter" if _table(spec, family) == "filter" else "mangle" if tproxy else "nat"
        clues = e.find((table, _IN, "return", "tcp dport"), family)
        tunnel = ((spec.tunnel_port, spec.tunnel_port),)
        left = without_first([clue.spans(Field.DPORT) for clue in clues], [tunnel])
        excluded += [span for spans in left for span in spans]
        values = IntervalSet.of(*e.sequence(Field.SRC, family, (table, _IN, "return", "src")))
        sources += blocks_of(family, values)
        if e.form is Form.IPTABLES and e.find((table, _IN, "return", ""), family):
            sources.append(Cidr(family, 0, 0))
    return replace(
        spec,
        in_ports=ports,
        in_ports_excluded=Ports(IntervalSet.of(*excluded).spans),
        in_sources_excluded=Cidrs(tuple(sources)),
    )


def _read_exemptions(e: Evidence, spec: CaptureSpec) -> CaptureSpec:
    skipped = [("nat", _OUT, "return", f"{name} dport") for name in ("tcp", "udp")]
    ports = IntervalSet.of(*e.agreed(Field.DPORT, *([where] for where in skipped)))
    return replace(spec, out_ports_excluded=Ports(ports.spans), ports_for_uids=_ports_for_uids(e))


def _ports_for_uids(e: Evidence) -> tuple[PortsForUids, ...]:
    """Each entry is a run of rules for TCP, followed by one for UDP."""
    clues: list[tuple[int, str, Clue]] = []
    for name in ("tcp", "udp"):
        for shape in (f"{name} dport uid", f"{name} uid"):
            found = e.find(("nat", _OUT, "return", shape), Family.IP)
            clues += [(clue.at, name, clue) for clue in found]
    clues.sort(key=lambda found: found[0])
    runs: list[list[Clue]] = []
    before = "udp"
    for _, name, clue in clues:
        if name == "tcp":
            if before == "udp":
                runs.append([])
            runs[-1].append(clue)
        before = name
    entries = []
    for run in runs:
        ports = [clue.spans(Field.DPORT) or _ALL_PORTS.spans for clue in run]
        uids = [clue.spans(Field.UID) for clue in run]
        entries.append(
            PortsForUids(
                IntervalSet.of(*(s for spans in ports for s in spans)),
                IntervalSet.of(*(s for spans in uids for s in spans)),
            )
        )
    return tuple(entries)


def _read_groups(e: Evidence, spec: CaptureSpec) -> CaptureSpec:
    everybody = e.find(("nat", _OUT, _APP, ""), Family.IP)
    spans = e.sequence(Field.GID, Family.IP, ("nat", _OUT, _APP, "gid"))
    groups: tuple[int, ...] | None = None
    if not everybody:
        few = [(a, b) for a, b in spans if b - a < _MOST_GROUPS]
        groups = tuple(gid for a, b in few for gid in range(a, b + 1))
    own = IntervalSet.of(*spec.gids).spans
    leave = [clue.spans(Field.GID) for clue in e.find(("nat", _OUT, "return", "gid"), Family.IP)]
    # nft asks for all of the proxy's at once, iptables for one interval after the other.
    left = without_first(leave, [own] if own in leave else [(span,) for span in own])
    excluded = [gid for spans in left for gid, last in spans if gid == last]
    return replace(spec, groups=groups, groups_excluded=tuple(excluded))


def _servers(e: Evidence, spec: CaptureSpec) -> tuple[Cidr, ...] | None:
    """The servers whose DNS is captured or refused; None is every server's."""
    everything, found = 0, []
    for family in e.families:
        table = _table(spec, family)
        done = {"tcp": "redirect", "udp": "redirect"}
        if table == "filter":
            done = {"tcp": "reset", "udp": "reject"}
        wheres: list[Where] = [(table, _APP, to, f"dst {name} dport") for name, to in done.items()]
        everything += sum(
            len(e.find((table, _APP, to, f"{name} dport"), family)) for name, to in done.items()
        )
        lists = [e.sequence(Field.DST, family, where) for where in wheres]
        if table == "nat":
            lists.append(e.sequence(Field.DST, family, ("raw", _DNS, "zone", "udp dport dst")))
        # No group is captured: then the zones alone tell.
        wanted = named_by(2 if e.has(table, _APP) else 1, lists)
        found += blocks_of(family, IntervalSet.of(*wanted), single=_SERVERS)
    if everything and everything > len(found):
        return None
    return tuple(found) or (_UNSEEN_SERVER,)


def _read_interfaces(e: Evidence, spec: CaptureSpec) -> CaptureSpec:
    excluded = _names(e, ("nat", _OUT, "return", "oif"), Field.OIF)
    if spec.tproxy:
        excluded = merge([excluded, _names(e, ("mangle", _OUT, "return", "oif"), Field.OIF)])
    jumps: list[Where] = [("nat", "PREROUTING", _VIRTUAL, "iif")]
    jumps += [("filter", hook, _VIRTUAL, "iif ctstate") for hook in ("INPUT", "FORWARD")]
    virtual = merge([_names(e, jump, Field.IIF) for jump in jumps])
    inbound = _names(e, ("mangle" if spec.tproxy else "nat", _IN, "return", "iif"), Field.IIF)
    more = tuple(name for name in inbound if name not in excluded)
    return replace(spec, interfaces_excluded=excluded, virtual_interfaces=merge([virtual, more]))


def _names(e: Evidence, where: Where, field: Field) -> tuple[str, ...]:
    return merge([[n for clue in e.find(where, f) for n in clue.names(field)] for f in e.families])


def _read_destinations(e: Evidence, spec: CaptureSpec) -> CaptureSpec:
    ports: list[Span] = []
    included: list[Cidr] = []
    excluded: list[Cidr] = []
    every = []
    for family in e.families:
        table = _table(spec, family)
        # Virtual machines have the same destinations, and where no group is captured they alone.
        chain = _APP if e.has(table, _APP) else _VIRTUAL
        ports += e.sequence(Field.DPORT, family, (table, chain, _TO_PROXY, "tcp dport"))
        bare = bool(e.find((table, chain, _TO_PROXY, ""), family))
        values = IntervalSet.of(*e.sequence(Field.DST, family, (table, chain, _TO_PROXY, "dst")))
        every.append(bare and not values.spans)
        included += [Cidr(family, 0, 0)] if bare else blocks_of(family, values)
        excluded += _excluded(e, spec, family)
    wanted = Cidrs(every=True) if all(every) else Cidrs(tuple(included))
    return replace(
        spec,
        out_ports=Ports(IntervalSet.of(*ports).spans),
        out_cidrs=wanted,
        out_cidrs_excluded=Cidrs(tuple(excluded)),
    )


def _excluded(e: Evidence, spec: CaptureSpec, family: Family) -> list[Cidr]:
    """The excluded blocks. Beside loopback they stand as one set, alone for virtual machines."""
    table = _table(spec, family)
    for chain in (_VIRTUAL, _APP):
        values = IntervalSet.of(*e.sequence(Field.DST, family, (table, chain, "return", "dst")))
        bare = e.form is Form.IPTABLES and bool(e.find((table, chain, "return", ""), family))
        if chain == _APP:
            loopback = spec.loopback_of(family).span()
            values = IntervalSet(tuple(span for span in values if span != loopback))
        if bare:
            return [Cidr(family, 0, 0)]
        if values.spans:
            return blocks_of(family, values)
    return []


def _with_loopback_in(spec: CaptureSpec) -> CaptureSpec:
    """``spec`` with loopback among the captured blocks, where no block that is seen is it.

    Sets have no seams: 126.0.0.0/8 and 127.0.0.0/8 look like 126.0.0.0/7.
    """
    if spec.keeps_loopback_in():
        return spec
    blocks = list(spec.out_cidrs.items)
    if spec.out_cidrs.every:
        blocks = [Cidr(family, 0, 0) for family in spec.families]
    for block in (Cidr(Family.IP, 0x7F000000, 8), spec.loopback, LOOPBACK6):
        first, last = block.span()
        inside = [b.span() for b in blocks if b.family is block.family]
        if any(a <= first and last <= b for a, b in inside):
            return replace(spec, out_cidrs=Cidrs((*blocks, block)))
    return replace(spec, out_cidrs=Cidrs((*blocks, LOOPBACK6)))
