"""Every live connection of a snapshot, joined: sockets, connection tracking, rules of now."""

from __future__ import annotations

from meshnet.model.connection import Connection, Direction, Path
from meshnet.model.frozen import replace
from meshnet.model.ruleset import Ruleset
from meshnet.model.snapshot import Snapshot
from meshnet.reason.findings.proxy import proxy_of
from meshnet.reason.first_packet import FirstPackets
from meshnet.reason.flow_index import FlowIndex
from meshnet.reason.pairing import Pairing
from meshnet.reason.routing import Routing
from meshnet.reason.ruling import Rulings
from meshnet.reason.way import Ways

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: States in which a TCP connection carries nothing more.
ENDING = frozenset({"time-wait", "close", "closing", "last-ack", "fin-wait-1", "fin-wait-2"})
_ORDER = {path: position for position, path in enumerate(Path)}


def join(snapshot: Snapshot, rulesets: Mapping[str, Ruleset]) -> tuple[Connection, ...]:
    """Every connection of ``snapshot`` once, with the way that it took; no connection, none.

    Each TCP socket that does not listen is an end of exactly one; where both ends are here,
    one row has both. Connected UDP sockets are shown likewise, and what conntrack knows of
    UDP besides. ``rulesets`` are those of the snapshot, by backend; where they are missing,
    what conntrack saw is told all the same. Order: living ones first; then older than the
    rules, direct, captured, legs, loopback, ... as :class:`Path` has them; then by owner.
    Never raises on any snapshot.
    """
    proxy = proxy_of(snapshot, rulesets)
    routing, flows = Routing(snapshot), FlowIndex(snapshot)
    pairing = Pairing(snapshot, flows, frozenset(proxy.ports), routing.is_own)
    rulings = Rulings(rulesets, routing.primaries(snapshot))
    first = FirstPackets(snapshot, rulings, routing)
    ways = Ways(snapshot, first, routing, flows, pairing, proxy)
    found = [ways.connection(line) for line in pairing.lines()]
    found += [ways.connection(line) for line in pairing.flows_alone(bool(ways.no_sockets))]
    return tuple(sorted(_with_legs(found, routing), key=_rank))


def _rank(connection: Connection) -> tuple[object, ...]:
    owner = connection.owner
    return (
        connection.state in ENDING,
        _ORDER[connection.path],
        connection.direction.value,
        owner.pid if owner else 0,
        connection.dialled.address,
        connection.dialled.port,
        connection.source.address,
        connection.source.port,
    )


def _with_legs(found: list[Connection], routing: Routing) -> Iterable[Connection]:
    """``found``, each leg with the connection that it continues, where only one can be meant."""
    heads: dict[object, list[Connection]] = {}
    legs: dict[object, int] = {}
    directions = set()
    for connection in found:
        if connection.path is Path.CAPTURED:
            inbound = connection.direction is Direction.INBOUND or _called_by_proxy(connection)
            directions.add(inbound)
            for key in _keys(connection, inbound, routing):
                heads.setdefault(key, []).append(connection)
        elif connection.path is Path.LEG:
            for key in _keys(connection, _to_application(connection), routing):
                legs[key] = legs.get(key, 0) + 1
    for connection in found:
        if connection.path is not Path.LEG:
            yield connection
            continue
        inbound = _to_application(connection)
        meant = "shared" if inbound in directions else ""
        for key in _keys(connection, inbound, routing):
            # The narrowest key that any captured connection has: alone on both sides, or shared.
            if key in heads:
                if len(heads[key]) == 1 and legs[key] == 1:
                    meant = str(heads[key][0].source)
                break
        yield replace(connection, leg_of=meant)


def _keys(connection: Connection, inbound: bool, routing: Routing) -> Iterable[object]:
    """What a leg has in common with its head, narrowest first: client, destination, port."""
    proto, source = connection.proto, connection.source.address
    address, port = connection.dialled.address, connection.dialled.port
    if inbound and not routing.is_own(source):
        yield (proto, source, address, port)
    yield (proto, inbound, address, port)
    if inbound:
        yield (proto, "any address", port)


def _to_application(connection: Connection) -> bool:
    return connection.direction is Direction.INSIDE


def _called_by_proxy(connection: Connection) -> bool:
    """Whether the proxy itself dialled what was captured: its call to its own pod."""
    return connection.owner is not None and connection.owner.proxy and bool(connection.taken)
