"""What a verification dials in a running pod, and what the walk says of it beforehand."""

from __future__ import annotations

from meshnet.errors import MeshnetError, printable
from meshnet.host import probe
from meshnet.host.capabilities import held
from meshnet.host.netns import run_child
from meshnet.host.userns import IdMap, owner_of
from meshnet.model.address import read_address, show_address
from meshnet.model.frozen import dataclass, replace
from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.packet import TCP, Family, Packet
from meshnet.model.spec import PASSTHROUGH, CaptureSpec, Form, IPv6, Profile
from meshnet.model.verdict import Journey
from meshnet.ops.cells import FAMILIES, NAMES, PORT, Cell, Expect, Scene, plan_dns, plan_outbound
from meshnet.ops.inbound_cells import plan_inbound
from meshnet.reason.drift import drift
from meshnet.reason.findings.proxy import proxy_of
from meshnet.reason.trace_judge import Judge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.host.target import Target
    from meshnet.model.proxy import Proxy
    from meshnet.model.snapshot import Process, Snapshot

#: How often each kind of connection is dialled: numbers that are told apart in a counter.
OUTBOUND, PROXY, INBOUND, OTHER = 7, 5, 3, 2


@dataclass(frozen=True)
class PlannedCell:
    """A cell, how often it is dialled, and what the rules of now do with it.

    ``journey`` is None for one with an obstacle. ``warns``: left alone by a capture that takes
    no IPv6, which is worth a warning (MN130).
    """

    cell: Cell
    count: int
    journey: Journey | None = None
    warns: bool = False


@dataclass(frozen=True)
class Plan:
    """What is to be dialled, under which capture."""

    spec: CaptureSpec
    backend: str
    proxy: Proxy
    families: tuple[Family, ...]
    cells: tuple[PlannedCell, ...]


def plan_verification(target: Target, snapshot: Snapshot, judge: Judge) -> Plan:
    """The plan for ``target``, whose snapshot and rules are those of now.

    Raises MeshnetError where no rule of ours is there: there is nothing to verify.
    """
    rulesets = judge.book.rulesets
    found = [(name, drift(rules, _form(name))) for name, rules in rulesets.items()]
    ours = [(name, one.spec) for name, one in found if one is not None]
    if not ours:
        raise MeshnetError(
            f"no rules of ours in {printable(target.name)}: there is nothing to verify",
            "meshnet inspect TARGET says what is there",
        )
    backend, spec = ours[0]
    proxy = proxy_of(snapshot, rulesets)
    _, uids, gids = owner_of(target.path or "/proc/thread-self/ns/net", target.pids)
    scene = _scene(target, snapshot)
    planned: list[PlannedCell] = []
    families = []
    for family in FAMILIES:
        if scene.first(family) is None:
            need = f"needs an {NAMES[family]} address in this namespace"
            planned.append(PlannedCell(Cell(family, "outbound", "anybody", obstacle=need), 0))
            continue
        families.append(family)
        cells = _cells(spec, scene, family)
        cells = [_as_application(cell, snapshot, spec, proxy) for cell in cells]
        warns = family is Family.IP6 and spec.ipv6 is IPv6.OFF
        planned += [PlannedCell(_outside(c, uids, gids), _count(c), None, warns) for c in cells]
    walked = _walked(target, planned, spec, judge, (uids, gids), scene)
    return Plan(spec, backend, proxy, tuple(families), tuple(walked))


def _form(backend: str) -> Form:
    return Form.NFT if backend == "nft" else Form.IPTABLES


def _scene(target: Target, snapshot: Snapshot) -> Scene:
    """What the target and this process are like."""
    addresses = []
    for one in snapshot.addresses:
        family, number = read_address(one.address)
        if one.scope == "global" and one.link != "lo" and one.address != PASSTHROUGH[family]:
            addresses.append((family, number, one.link))
    uids, gids = probe.reachable_ids()
    scene = Scene(tuple(addresses), uids, gids, probe.own_ids(), held())
    peers = tuple((family, _peer(scene, family, target)) for family in FAMILIES)
    return replace(scene, peer=peers)


def _peer(scene: Scene, family: Family, target: Target) -> int | str:
    """Where this process can dial the target from, or what is missing for that."""
    first = scene.first(family)
    if first is None:
        return f"needs an {NAMES[family]} address that a peer can dial"
    if probe.same_namespace(target.path):
        return "needs a peer: run it from the node"
    source = probe.source_for(family, first[0])
    if source is None:
        return f"needs a peer: no route from here to {show_address(family, first[0])}"
    return source


def _cells(spec: CaptureSpec, scene: Scene, family: Family) -> list[Cell]:
    if family is Family.IP6 and spec.ipv6 is IPv6.OFF:
        # No promise is made; what becomes of it is told all the same.
        user = plan_outbound(spec.with_ipv6(IPv6.ALLOW), scene, family)[0]
        return [replace(user, why="this capture takes no IPv6")]
    cells = plan_outbound(spec, scene, family) + plan_dns(spec, scene, family)
    return cells + plan_inbound(spec, scene, family, PORT)


def _count(cell: Cell) -> int:
    if cell.direction == "inbound":
        return INBOUND
    if cell.who.startswith("proxy"):
        return PROXY
    return OUTBOUND if cell.expect is not Expect.LEFT or not cell.why else OTHER


def _as_application(cell: Cell, snapshot: Snapshot, spec: CaptureSpec, proxy: Proxy) -> Cell:
    """The cell as an application of the pod dials it, where there is one that is captured."""
    if not cell.who.startswith("user ") or cell.obstacle or spec.ports_for_uids:
        return cell
    one = next((p for p in snapshot.processes if _is_application(p, spec, proxy)), None)
    if one is None:
        return cell
    return replace(cell, uid=one.uid, gid=one.gid, who=f"user {one.uid} ({printable(one.command)})")


def _is_application(process: Process, spec: CaptureSpec, proxy: Proxy) -> bool:
    groups = spec.groups is None or process.gid in spec.groups
    return (
        process.pid not in proxy.pids
        and bool(process.container)
        and process.uid not in IntervalSet.of(*spec.uids)
        and (spec.profile is Profile.CLASSIC or process.gid not in IntervalSet.of(*spec.gids))
        and process.gid not in spec.groups_excluded
        and groups
    )


def _outside(cell: Cell, uids: IdMap, gids: IdMap) -> Cell:
    """The cell with the ids that a child has to become for rules to see those of the cell."""
    return replace(cell, uid=_reader(uids, cell.uid), gid=_reader(gids, cell.gid))


def _reader(ids: IdMap, inside: int | None) -> int | None:
    for first, outside, count in ids.extents:
        if inside is not None and first <= inside < first + count:
            return outside + inside - first
    return inside


def _walked(
    target: Target,
    planned: list[PlannedCell],
    spec: CaptureSpec,
    judge: Judge,
    ids: tuple[IdMap, IdMap],
    scene: Scene,
) -> list[PlannedCell]:
    """The cells with the way that the rules send them; an obstacle where no route leads there."""
    asked = [p.cell for p in planned if p.cell.direction != "inbound" and not p.cell.obstacle]

    def look() -> list[tuple[str | None, int | None]]:
        return [
            (probe.route_to(c.family, c.address, c.uid), probe.source_for(c.family, c.address))
            for c in asked
        ]

    seen = iter(run_child(look, netns=target.path) if asked else [])
    found = []
    for one in planned:
        cell = one.cell
        if cell.obstacle:
            found.append(one)
            continue
        if cell.direction == "inbound":
            journey = judge.walker.walk(_coming(cell, scene), "prerouting")
            found.append(replace(one, journey=journey))
            continue
        link, source = next(seen)
        cell = _by_link(cell, spec, link)
        if cell.obstacle or source is None:
            need = cell.obstacle or "needs an address to send from"
            found.append(replace(one, cell=replace(cell, obstacle=need)))
            continue
        packet = _leaving(cell, source, str(link), ids)
        found.append(replace(one, cell=cell, journey=judge.walker.walk(packet, "output")))
    return found


def _by_link(cell: Cell, spec: CaptureSpec, link: str | None) -> Cell:
    where = show_address(cell.family, cell.address)
    if link is None:
        return replace(cell, obstacle=f"no route to {where}")
    if link == "lo" and cell.direction == "outbound":
        return replace(cell, obstacle=f"{where} is routed over lo")
    if link in NameSet.of(*spec.interfaces_excluded):
        return replace(cell, expect=Expect.LEFT, by=0, why=f"interface {link} is excluded")
    return cell


def _leaving(cell: Cell, source: int, link: str, ids: tuple[IdMap, IdMap]) -> Packet:
    uid, gid = (
        own if wanted is None else wanted
        for own, wanted in zip(probe.own_ids(), (cell.uid, cell.gid), strict=True)
    )
    return Packet(
        cell.family, cell.transport, source, cell.address, 40000, cell.port, None, link,
        ids[0].shown(uid), ids[1].shown(gid),
    )  # fmt: skip


def _coming(cell: Cell, scene: Scene) -> Packet:
    peer, first = scene.peer_of(cell.family), scene.first(cell.family)
    assert isinstance(peer, int) and first is not None
    return Packet(cell.family, TCP, peer, cell.address, 40000, cell.port, first[1])
