"""Carrying cells out: listeners where capture leads, a dial for each cell, all at once."""

from __future__ import annotations

from meshnet.errors import MeshnetError, NotPermitted
from meshnet.host.dialling import Dial, find_receivers, run_dials
from meshnet.host.listener import Listener
from meshnet.host.probe import Socket, open_bare_sockets, open_sockets
from meshnet.model.address import show_address
from meshnet.model.frozen import dataclass, replace
from meshnet.model.packet import TCP, UDP, Family
from meshnet.model.spec import DNS_PROXY_PORT, CaptureSpec, Profile
from meshnet.ops.cells import FAMILIES, NOBODY, PORT, Cell, Expect, Scene
from meshnet.ops.verdicts import Outcome

#: How long, in seconds, something is given to reach a proxy that must not get it.
NEGATIVE = 1.0

Probed = list[tuple[Cell, Outcome | None]]
Watch = tuple[Family, int, int]


@dataclass(frozen=True)
class Posts:
    """The listeners of a validation.

    ``foreign`` are those ports that another process has; ``lacking`` says for a port what
    this process needs to listen there. ``answerable``: they answer as the proxy's uid.
    """

    listeners: tuple[Listener, ...]
    foreign: frozenset[Watch]
    lacking: dict[Watch, str]
    answerable: bool


def captor(direction: str, spec: CaptureSpec) -> int:
    """The port that captures in ``direction``, whatever it captures."""
    if direction == "dns":
        return DNS_PROXY_PORT
    if direction == "inbound" and spec.profile is not Profile.CLASSIC:
        return spec.inbound_port
    return spec.proxy_port


def probe_cells(
    cells: list[Cell],
    spec: CaptureSpec,
    scene: Scene,
    netns: str | None,
    timeout: float,
    *,
    again: bool = False,
) -> Probed:
    """Each cell with what became of it; None for those that could not be dialled.

    ``again``: from source ports that earlier connections will not have had.
    """
    posts = _post(cells, spec, scene, netns)
    dials: dict[Cell, Dial] = {}
    references: dict[Family, Dial] = {}
    try:
        cells = [_with_post(cell, spec, posts) for cell in cells]
        cells, sockets = _open(cells, netns)
        for cell, sock in sockets.items():
            dials[cell] = _dial(cell, sock, timeout)
            if again:
                dials[cell].leave_common_ports()
        references = _references(cells, posts, timeout)
        run_dials([*dials.values(), *references.values()], posts.listeners)
        find_receivers([d for c, d in dials.items() if c.transport == TCP], netns)
        cells = [_with_reference(cell, dials, references) for cell in cells]
        probed = [(cell, dials.get(replace(cell, obstacle=""))) for cell in cells]
        return [(c, _outcome(c, d, spec, posts) if d else None) for c, d in probed]
    finally:
        for listener in posts.listeners:
            listener.close()
        for dial in (*dials.values(), *references.values()):
            dial.socket.close()


def _post(cells: list[Cell], spec: CaptureSpec, scene: Scene, netns: str | None) -> Posts:
    """Listeners at every port that captures, and at what a peer dials."""
    wanted: dict[Watch, None] = {}
    live = [cell for cell in cells if not cell.obstacle]
    for cell in live:
        wanted[cell.family, cell.transport, captor(cell.direction, spec)] = None
        # Whatever must be left alone may come out at the other direction's port as well.
        wanted[cell.family, TCP, spec.proxy_port] = None
        wanted[cell.family, TCP, captor("inbound", spec)] = None
        if cell.direction == "inbound":
            wanted[cell.family, TCP, cell.port] = None
    references = [(f, UDP, 0) for f in FAMILIES if any(_is_inbound(c, f) for c in live)]
    watches = [*wanted, *references]
    if not watches:
        return Posts((), frozenset(), {}, False)
    uid = next((first for first, _ in spec.uids if first in scene.uids), None)
    sockets = open_sockets([(f, t) for f, t, _ in watches], netns=netns, uid=uid)
    listeners, foreign, lacking = [], set(), {}
    for watch, sock in zip(watches, sockets, strict=True):
        listener = Listener(sock, *watch)
        try:
            there = listener.open(
                transparent=spec.tproxy and watch[2] == spec.inbound_port,
                loopback=watch[2] == DNS_PROXY_PORT,
            )
        except NotPermitted as e:
            lacking[watch] = f"{e.message} to listen on port {watch[2]}"
            there = False
        if there:
            listeners.append(listener)
        else:
            listener.close()
            foreign.add(watch)
    return Posts(tuple(listeners), frozenset(foreign), lacking, uid is not None)


def _is_inbound(cell: Cell, family: Family) -> bool:
    return cell.direction == "inbound" and cell.family is family


def _with_post(cell: Cell, spec: CaptureSpec, posts: Posts) -> Cell:
    """The cell with the obstacle that no listener of ours is where it could come out."""
    watch = (cell.family, cell.transport, captor(cell.direction, spec))
    need = posts.lacking.get(watch, "")
    if watch in posts.foreign and cell.transport == UDP:
        # A datagram leaves no trace of who got it, a connection does.
        need = need or f"needs port {watch[2]} free (a proxy listens)"
    return replace(cell, obstacle=cell.obstacle or need)


def _open(cells: list[Cell], netns: str | None) -> tuple[list[Cell], dict[Cell, Socket]]:
    """A socket for each cell without an obstacle, made by its user; a child for each user."""
    sockets: dict[Cell, Socket] = {}
    refused: dict[Cell, str] = {}
    live = list(dict.fromkeys(cell for cell in cells if not cell.obstacle))
    for inbound, uid, gid in dict.fromkeys((c.direction == "inbound", c.uid, c.gid) for c in live):
        mine = [c for c in live if (c.direction == "inbound", c.uid, c.gid) == (inbound, uid, gid)]
        shapes = [(cell.family, cell.transport) for cell in mine]
        try:
            made = open_sockets(shapes, netns=None if inbound else netns, uid=uid, gid=gid)
        except NotPermitted as e:
            refused |= dict.fromkeys(mine, e.message)
            continue
        sockets |= zip(mine, made, strict=True)
    return [replace(c, obstacle=refused[c]) if c in refused else c for c in cells], sockets


def _dial(cell: Cell, sock: Socket, timeout: float) -> Dial:
    quick = cell.expect is Expect.LEFT and cell.direction != "inbound"
    patience = min(timeout, NEGATIVE) if quick else timeout
    to = (show_address(cell.family, cell.address), cell.port)
    return Dial(sock, cell.family, cell.transport, to, patience)


def _references(cells: list[Cell], posts: Posts, timeout: float) -> dict[Family, Dial]:
    """A datagram from the peer, for each family: nothing captures it, so it shows an open way."""
    found = {}
    for family in FAMILIES:
        cell = next((c for c in cells if _is_inbound(c, family) and not c.obstacle), None)
        if cell is None:
            continue
        port = next(
            (p.port for p in posts.listeners if p.family is family and _is_reference(p)), None
        )
        if port is not None:
            (sock,) = open_sockets([(family, UDP)])
            to = (show_address(family, cell.address), port)
            found[family] = Dial(sock, family, UDP, to, timeout)
    return found


def _is_reference(listener: Listener) -> bool:
    return listener.transport == UDP and listener.port != DNS_PROXY_PORT


def _with_reference(cell: Cell, dials: dict[Cell, Dial], references: dict[Family, Dial]) -> Cell:
    """The cell, not tested where the peer turned out not to reach the target at all."""
    if cell.direction != "inbound" or cell.obstacle:
        return cell
    dial, reference = dials.get(cell), references.get(cell.family)
    arrived = dial is not None and (dial.arrival is not None or dial.port)
    if arrived or (reference is not None and reference.arrival is not None):
        return cell
    where = show_address(cell.family, cell.address)
    return replace(cell, obstacle=f"needs a peer that reaches {where}: datagrams do not either")


def _outcome(cell: Cell, dial: Dial, spec: CaptureSpec, posts: Posts) -> Outcome:
    arrival = dial.arrival
    watch = (cell.family, cell.transport, captor(cell.direction, spec))
    original = arrival.original if arrival else dial.original
    return Outcome(
        dial.end,
        arrival.port if arrival else dial.port,
        original,
        dial.answered,
        dial.why,
        watch in posts.foreign,
        posts.answerable,
    )


def probe_bare(spec: CaptureSpec, families: list[Family], timeout: float) -> Probed:
    """The same probe where no rule is: it has to come out at its own destination."""
    probed: Probed = []
    port = PORT if spec.proxy_port != PORT else PORT + 1
    for family in families:
        address = NOBODY[family][0]
        cell = Cell(family, "control", "bare namespace", TCP, address, port, Expect.LEFT)
        try:
            sockets = open_bare_sockets([(family, TCP)] * 3, [(family, address)])
        except MeshnetError as e:
            need = (
                e.message if e.message.startswith("needs ") else f"needs a namespace: {e.message}"
            )
            probed.append((replace(cell, obstacle=need), None))
            continue
        proxy = Listener(sockets[0], family, TCP, spec.proxy_port)
        direct = Listener(sockets[1], family, TCP, port)
        dial = Dial(sockets[2], family, TCP, (show_address(family, address), port), timeout)
        try:
            proxy.open()
            direct.open()
            run_dials([dial], [proxy, direct])
            seen = dial.arrival
            probed.append((cell, Outcome(dial.end, seen.port if seen else 0, why=dial.why)))
        finally:
            proxy.close()
            direct.close()
            dial.socket.close()
    return probed
