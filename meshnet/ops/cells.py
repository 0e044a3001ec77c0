"""What a validation asks: for a capture spec, which probes, and what must become of each.

Pure: it is told what the namespace is like. Destinations are addresses that nobody has
(RFC 5737, RFC 3849) wherever the spec allows that.
"""

from __future__ import annotations

from enum import Enum

from meshnet.model.frozen import dataclass, replace
from meshnet.model.intervals import IntervalSet
from meshnet.model.packet import TCP, UDP, Family
from meshnet.model.spec import (
    DNS_PORT,
    DNS_PROXY_PORT,
    CaptureSpec,
    Cidr,
    IPv6,
    Profile,
)

FAMILIES = (Family.IP, Family.IP6)
NAMES = {Family.IP: "IPv4", Family.IP6: "IPv6"}
#: 192.0.2.2, 198.51.100.2 and 203.0.113.2; 2001:db8::2 and its neighbours.
NOBODY = {
    Family.IP: (0xC0000202, 0xC6336402, 0xCB007102),
    Family.IP6: tuple((0x20010DB8 << 96) + (net << 64) + 2 for net in range(3)),
}
PORT = 1404
#: No loopback, no multicast, nothing reserved: what a probe may be sent to.
UNICAST = {
    Family.IP: IntervalSet.of((1 << 24, (127 << 24) - 1), (128 << 24, (224 << 24) - 1)),
    Family.IP6: IntervalSet.of(
        (0x2000 << 112, (0x4000 << 112) - 1), (0xFC << 120, (0xFE << 120) - 1)
    ),
}
#: Of a list of exclusions so many are dialled; a last row says how many were not.
MOST = 16
PLAIN_IDS = (65534, 1000, 10001, 20001, 30001)
ALL_PORTS = IntervalSet.of((1, 65535))


class Expect(Enum):
    """What must become of a probe."""

    CAPTURED = "captured"
    LEFT = "left alone"
    REFUSED = "refused"


@dataclass(frozen=True)
class Cell:
    """One probe and what must become of it.

    ``by`` is the port that captures. ``uid`` and ``gid`` None are this process's own.
    ``obstacle`` says what it needs that is not there; then it is not probed.
    """

    family: Family
    direction: str
    who: str
    transport: int = TCP
    address: int = 0
    port: int = 0
    expect: Expect = Expect.CAPTURED
    by: int = 0
    uid: int | None = None
    gid: int | None = None
    why: str = ""
    obstacle: str = ""


@dataclass(frozen=True)
class Scene:
    """What the target's namespace, this process and its own namespace are like.

    ``addresses`` are the target's (family, number, interface). ``uids`` and ``gids`` are
    those that a child can become, ``own`` this process's, ``held`` its capabilities. ``peer``
    gives for a family the address from which this namespace reaches the target's, or says
    what is missing.
    """

    addresses: tuple[tuple[Family, int, str], ...]
    uids: IntervalSet
    gids: IntervalSet
    own: tuple[int, int]
    held: frozenset[str] = frozenset()
    peer: tuple[tuple[Family, int | str], ...] = ()

    def own_values(self, family: Family) -> IntervalSet:
        """The target's addresses of one family."""
        return IntervalSet.of(*(number for f, number, _ in self.addresses if f is family))

    def first(self, family: Family) -> tuple[int, str] | None:
        """The address that a peer dials, and its interface."""
        return next(((n, link) for f, n, link in self.addresses if f is family), None)

    def peer_of(self, family: Family) -> int | str:
        """The peer's address, or what is missing."""
        return dict(self.peer).get(family, "needs a peer")


@dataclass(frozen=True)
class Plain:
    """Who is neither the proxy nor exempt; ``obstacle`` where this process cannot be that."""

    uid: int
    gid: int
    obstacle: str = ""


def minus(values: IntervalSet, *others: IntervalSet) -> IntervalSet:
    """The members of ``values`` that none of ``others`` has."""
    return values.intersection(IntervalSet.union(others).complement((1 << 128) - 1))


def pick(values: IntervalSet, *preferred: int) -> int | None:
    """The first of ``preferred`` that is in ``values``, or one inside of its largest interval.

    Not at an end of it: that may be a router or a broadcast address. None of none.
    """
    for value in preferred:
        if value in values:
            return value
    if not values:
        return None
    first, last = max(values, key=lambda span: span[1] - span[0])
    return first + (last - first) // 2 - (1 if last - first >= 8 else 0)


def plain_user(spec: CaptureSpec, scene: Scene) -> Plain:
    """Somebody whose connections the spec captures, wherever it captures at all."""
    proxies = IntervalSet.of(*spec.uids)
    exempt = [entry.uids for entry in spec.ports_for_uids]
    uid = pick(minus(scene.uids, proxies, *exempt), *PLAIN_IDS)
    gids = (
        scene.gids if spec.groups is None else scene.gids.intersection(IntervalSet.of(*spec.groups))
    )
    groups = [IntervalSet.of(*spec.groups_excluded)]
    if spec.profile is not Profile.CLASSIC:
        groups.append(IntervalSet.of(*spec.gids))
    gid = pick(minus(gids, *groups), *(spec.groups or ()), *PLAIN_IDS)
    if spec.groups == ():
        # Nobody is captured: then anybody will do.
        gid = scene.own[1]
    if uid is None:
        return Plain(*scene.own, "needs CAP_SETUID to be a plain user")
    if gid is None:
        return Plain(uid, scene.own[1], "needs CAP_SETGID to be in a group that is captured")
    return Plain(uid, gid)


def names_dns_server(spec: CaptureSpec) -> bool:
    """Whether DNS is captured at all: nothing is where no server is named."""
    return spec.dns and (spec.dns_servers is None or bool(spec.dns_servers))


def captured(spec: CaptureSpec, family: Family, by: int) -> tuple[Expect, int]:
    """What becomes of what the spec takes, in ``family``."""
    if family is Family.IP or spec.ipv6 is IPv6.CAPTURE:
        return Expect.CAPTURED, by
    return (Expect.REFUSED, 0) if spec.ipv6 is IPv6.DROP else (Expect.LEFT, 0)


def free_addresses(spec: CaptureSpec, scene: Scene, family: Family) -> IntervalSet:
    """What can be dialled and is neither excluded nor this pod's own."""
    kept = [cidr.values() for cidr in spec.out_cidrs_excluded.of(family)]
    return minus(UNICAST[family], *kept, scene.own_values(family))


def captured_destination(spec: CaptureSpec, scene: Scene, family: Family) -> tuple[int, int] | None:
    """An address and a port that a plain user cannot reach past the proxy; None where all can."""
    free = free_addresses(spec, scene, family)
    dns = IntervalSet.of(DNS_PORT) if names_dns_server(spec) else IntervalSet()
    ports = minus(ALL_PORTS, spec.out_ports_excluded.values(), dns)
    if spec.groups == ():
        return None
    included = free
    if spec.profile is not Profile.CLASSIC and not spec.out_cidrs.every:
        blocks = [cidr.values() for cidr in spec.out_cidrs.of(family)]
        included = free.intersection(IntervalSet.union(blocks))
    if not included:
        included, ports = free, ports.intersection(spec.out_ports.values())
    address, port = pick(included, *NOBODY[family]), pick(ports, PORT)
    return None if address is None or port is None else (address, port)


def plan_outbound(spec: CaptureSpec, scene: Scene, family: Family) -> list[Cell]:
    """A plain user, each proxy id, and each exclusion."""
    plain = plain_user(spec, scene)
    found = captured_destination(spec, scene, family)
    address, port = found or (pick(free_addresses(spec, scene, family), *NOBODY[family]) or 0, PORT)
    user = Cell(
        family, "outbound", f"user {plain.uid}", TCP, address, port,
        uid=plain.uid, gid=plain.gid, obstacle=plain.obstacle,
    )  # fmt: skip
    expect, by = captured(spec, family, spec.proxy_port) if found else (Expect.LEFT, 0)
    why = "" if found else "this spec captures nothing outbound"
    if expect is Expect.LEFT and found:
        why = f"{NAMES[family]} is allowed to pass"
    cells = [replace(user, expect=expect, by=by, why=why)]
    left = replace(user, expect=Expect.LEFT)
    cells += [_as_uid(left, first, "proxy uid", scene) for first, _ in spec.uids]
    if spec.profile is not Profile.CLASSIC:
        cells += [_as_gid(left, first, "proxy gid", scene) for first, _ in spec.gids]
    if found:
        cells += _exclusions(spec, scene, left)
    return cells


def _as_uid(cell: Cell, uid: int, what: str, scene: Scene) -> Cell:
    # Whoever is the proxy need not be able to be a plain user: no obstacle comes from there.
    need = "" if uid in scene.uids else _need(scene, "CAP_SETUID", f"uid {uid}")
    return replace(cell, who=f"{what} {uid}", uid=uid, obstacle=need)


def _as_gid(cell: Cell, gid: int, what: str, scene: Scene) -> Cell:
    need = "" if gid in scene.gids else _need(scene, "CAP_SETGID", f"gid {gid}")
    return replace(cell, who=f"{what} {gid}", gid=gid, obstacle=need or cell.obstacle)


def _need(scene: Scene, capability: str, who: str) -> str:
    if capability in scene.held:
        return f"needs a user namespace that has {who}"
    return f"needs {capability} to be {who}"


def _exclusions(spec: CaptureSpec, scene: Scene, left: Cell) -> list[Cell]:
    cells = []
    ports = [first for first, _ in spec.out_ports_excluded.items]
    cells += limited(left, [replace(left, port=p, why=f"port {p} is excluded") for p in ports])
    cells += limited(left, [_to_block(left, c, scene) for c in _blocks(spec, left.family)])
    cells += [_as_gid(left, gid, "excluded group", scene) for gid in spec.groups_excluded[:MOST]]
    if spec.groups:
        members = IntervalSet.of(*spec.groups)
        other = pick(minus(scene.gids, members, IntervalSet.of(*spec.gids)), *PLAIN_IDS)
        outside = replace(left, who="a group not asked for", obstacle="needs CAP_SETGID")
        cells.append(outside if other is None else _as_gid(left, other, "group", scene))
    for entry in spec.ports_for_uids[:MOST]:
        uid = entry.uids.spans[0][0]
        wanted = spec.out_ports.values() if _by_port(spec, left.family) else ALL_PORTS
        port = pick(entry.ports.intersection(wanted), PORT) or entry.ports.spans[0][0]
        cell = _as_uid(replace(left, port=max(port, 1)), uid, "user", scene)
        cells.append(replace(cell, why=f"port {port} is excluded for uid {uid}"))
    return cells


def _by_port(spec: CaptureSpec, family: Family) -> bool:
    return not spec.out_cidrs.every and not spec.out_cidrs.of(family)


def _blocks(spec: CaptureSpec, family: Family) -> list[Cidr]:
    return [c for c in spec.out_cidrs_excluded.of(family) if not c.is_loopback()]


def _to_block(left: Cell, cidr: Cidr, scene: Scene) -> Cell:
    inside = cidr.values().intersection(UNICAST[left.family])
    address = pick(minus(inside, scene.own_values(left.family)), *NOBODY[left.family])
    need = "" if address is not None else "needs an address in it that is not the pod's own"
    return replace(
        left, address=address or cidr.network, why=f"{cidr} is excluded",
        obstacle=left.obstacle or need,
    )  # fmt: skip


def limited(like: Cell, cells: list[Cell]) -> list[Cell]:
    """At most MOST of ``cells``, and a row that says how many are left out."""
    if len(cells) <= MOST:
        return cells
    rest = replace(like, obstacle=f"{len(cells) - MOST} more of this kind, {MOST} are dialled")
    return [*cells[:MOST], rest]


def plan_dns(spec: CaptureSpec, scene: Scene, family: Family) -> list[Cell]:
    """A user's and the proxy's questions to each server, over UDP and TCP."""
    if not names_dns_server(spec) or spec.groups == ():
        return []
    plain = plain_user(spec, scene)
    servers = [NOBODY[family][0]]
    if spec.dns_servers is not None:
        servers = [s.network for s in spec.dns_servers if s.family is family]
    expect, by = captured(spec, family, DNS_PROXY_PORT)
    why = ""
    if DNS_PORT in spec.out_ports_excluded.values():
        expect, by, why = Expect.LEFT, 0, f"port {DNS_PORT} is excluded"
    cells = []
    for server in servers[:3]:
        for transport in (UDP, TCP):
            user = Cell(
                family, "dns", f"user {plain.uid}", transport, server, DNS_PORT, expect, by,
                plain.uid, plain.gid, why, plain.obstacle,
            )  # fmt: skip
            cells.append(user)
            if not _asks_its_own_pod(spec, family, server):
                left = replace(user, expect=Expect.LEFT, by=0, why="")
                cells.append(_as_uid(left, spec.uids[0][0], "proxy uid", scene))
    return cells


def _asks_its_own_pod(spec: CaptureSpec, family: Family, server: int) -> bool:
    """Whether Istio's TPROXY marks take the agent's question to a resolver on lo for inbound.

    They do not exempt port 53, as its nat rules do; that is how it is, and no failure.
    """
    on_lo = server not in UNICAST[family] and server not in spec.loopback_of(family).values()
    return spec.profile is Profile.ISTIO and spec.tproxy and on_lo
