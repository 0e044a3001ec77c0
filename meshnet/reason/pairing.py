"""The two ends of each connection, brought together: who dialled, who accepted, which flow."""

from __future__ import annotations

from meshnet.model.frozen import dataclass
from meshnet.model.packet import UDP
from meshnet.model.snapshot import Flow, Snapshot, Socket
from meshnet.reason.flow_index import FlowIndex, Pair, answers_from, begins_at, pair_of, turned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Addresses of a socket that is bound to no one address.
ANY = frozenset({"0.0.0.0", "::", "*", ""})


@dataclass(frozen=True)
class Line:
    """One connection: the socket that dialled, the one that accepted, where they are here.

    At least one of both is there, unless it is known by its ``flow`` alone.
    """

    client: Socket | None
    server: Socket | None
    flow: Flow | None


class Pairing:
    """Brings the ends together. ``ports`` are those that connections are captured to.

    ``is_own`` says whether an address is the namespace's.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        flows: FlowIndex,
        ports: frozenset[int],
        is_own: Callable[[str], bool],
    ) -> None:
        self.flows, self.ports, self.is_own = flows, ports, is_own
        self.sockets = [socket for socket in snapshot.sockets if is_connected(socket)]
        self.pairs = [pair_of(socket) for socket in self.sockets]
        self._listens: dict[tuple[str, int], set[str]] = {}
        for socket in snapshot.sockets:
            if socket.proto == "tcp" and socket.state == "listen":
                self._listens.setdefault((socket.proto, socket.lport), set()).add(socket.local)
        self._unconnected: dict[tuple[str, int], list[Socket]] = {}
        for socket in snapshot.sockets:
            if socket.proto == "udp" and not is_connected(socket):
                self._unconnected.setdefault((socket.proto, socket.lport), []).append(socket)
        self._at: dict[Pair, list[int]] = {}
        self._from: dict[tuple[int, str, int], list[int]] = {}
        for index, pair in enumerate(self.pairs):
            self._at.setdefault(pair, []).append(index)
            if pair[2] in ports:
                self._from.setdefault((pair[0], pair[3], pair[4]), []).append(index)

    def lines(self) -> Iterator[Line]:
        """Each connection once; every connected socket is an end of exactly one."""
        dialled = [self._dialled(index) for index in range(len(self.sockets))]
        seen = bytearray(len(self.sockets))
        for index, socket in enumerate(self.sockets):
            if not dialled[index] or seen[index]:
                continue
            seen[index] = True
            flow = self.flows.begun(self.pairs[index])
            other = self._other(index, flow, seen, dialled)
            if other is not None:
                seen[other] = True
            yield Line(socket, None if other is None else self.sockets[other], flow)
        for index, socket in enumerate(self.sockets):
            if not seen[index]:
                yield Line(None, socket, self._answered(index))

    def flows_alone(self, every: bool) -> Iterator[Line]:
        """The flows of no connected socket: UDP's, and TCP's where neither end is here.

        ``every`` takes the rest of TCP's, too, for where not all sockets were read.
        """
        held = set(self.pairs)
        for flow in self.flows.flows:
            begins, answers = begins_at(flow), answers_from(flow)
            if not held.isdisjoint((begins, answers, turned(begins), turned(answers))):
                continue
            here = self.is_own(flow.src) or self.is_own(flow.reply_src)
            alive = flow.state in ("", "established")
            if flow.proto == UDP or (alive and (every or not here)):
                yield Line(None, None, flow)

    def unconnected(self, proto: str, address: str, port: int) -> Socket | None:
        """The socket that sends from ``address`` and ``port`` without being connected."""
        found = self._unconnected.get((proto, port), ())
        exact = [socket for socket in found if socket.local == address]
        family = "ip6" if ":" in address else "ip"
        for socket in found:
            if socket.local in ANY and (socket.family == family or not socket.only6):
                exact.append(socket)
        return exact[0] if exact else None

    def _answered(self, index: int) -> Flow | None:
        pair = self.pairs[index]
        # Picked up midway by a packet of the one who accepted, a flow has the ends swapped.
        return self.flows.answered(pair) or self.flows.begun(pair)

    def listens(self, proto: str, address: str, port: int) -> bool:
        """Whether somebody listens on ``port`` for ``address``."""
        held = self._listens.get((proto, port), set())
        return address in held or not held.isdisjoint(ANY)

    def _dialled(self, index: int) -> bool:
        """Whether the holder of this socket is the one who dialled."""
        socket, pair = self.sockets[index], self.pairs[index]
        listens = self.listens(socket.proto, socket.local, socket.lport)
        if self.flows.answered(pair) is not None:
            return False
        if self.flows.begun(pair) is not None:
            return not listens
        if socket.transparent and not self.is_own(socket.local):
            return True
        if socket.lport in self.ports and listens:
            return False
        if turned(pair) in self._at:
            # Both ends are here. If both or neither listens, the lower port is the server's.
            if listens is not self.listens(socket.proto, socket.remote, socket.rport):
                return not listens
            return (socket.lport, socket.local) >= (socket.rport, socket.remote)
        return not listens

    def _other(
        self, index: int, flow: Flow | None, seen: bytearray, dialled: list[bool]
    ) -> int | None:
        """The socket here that accepted what ``index`` dialled; None where there is none."""
        pair = self.pairs[index]
        key = turned(pair) if flow is None else answers_from(flow)
        exact = [other for other in self._at.get(key, ()) if not seen[other]]
        if exact:
            return next((other for other in exact if not dialled[other]), exact[0])
        if flow is not None:
            return None
        # No entry to ask: the proxy's end has the one who dialled as its peer.
        near = (pair[0], pair[1], pair[2])
        found = [o for o in self._from.get(near, ()) if not seen[o] and not dialled[o]]
        return found[0] if len(found) == 1 else None


def is_connected(socket: Socket) -> bool:
    """Whether a socket is an end of a connection: every TCP socket that does not listen."""
    if socket.proto == "tcp":
        return socket.state != "listen"
    return socket.proto == "udp" and socket.rport != 0 and socket.remote not in ANY
