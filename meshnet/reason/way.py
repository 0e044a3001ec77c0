"""Which way one connection took: the evidence first, the rules of now for the why.

Conntrack's entry of a redirected connection is answered from the proxy's port; an entry
without translation says that the connection was let go. Rules decide about first packets
only, so what they say now may differ from what happened: that is a connection older than
they are. What happens to it next: with an entry nothing; without one its next packet is
taken for a first one (net/netfilter/nf_conntrack_proto_tcp.c, ``nf_conntrack_tcp_loose``),
redirected to a proxy that does not know it, and answered with a reset.
"""

from __future__ import annotations

from meshnet.model.connection import Connection, Direction, Endpoint, Owner, Path
from meshnet.model.frozen import replace
from meshnet.model.proxy import Proxy
from meshnet.model.snapshot import Flow, Snapshot, Socket
from meshnet.reason.findings.proxy import USUAL_PORTS
from meshnet.reason.first_packet import FirstPackets
from meshnet.reason.flow_index import NAMES, FlowIndex, lack_of, translated
from meshnet.reason.pairing import Line, Pairing
from meshnet.reason.routing import Routing
from meshnet.reason.ruling import Ruling

OLDER_CODE = "MN140"
LOOSE = "net.netfilter.nf_conntrack_tcp_loose"


class Ways:
    """Judges connections of one snapshot."""

    def __init__(
        self,
        snapshot: Snapshot,
        first: FirstPackets,
        routing: Routing,
        flows: FlowIndex,
        pairing: Pairing,
        proxy: Proxy,
    ) -> None:
        self.first, self.routing, self.flows = first, routing, flows
        self.pairing, self.proxy = pairing, proxy
        self.ports = frozenset(proxy.ports)
        self.proxy_pids = frozenset(proxy.pids)
        self.processes = {process.pid: process for process in snapshot.processes}
        self.proxy_uids = {p.uid for pid in proxy.pids if (p := self.processes.get(pid))}
        for socket in snapshot.sockets:
            if socket.state == "listen" and socket.lport in self.ports:
                self.proxy_uids.add(socket.uid)
        if proxy.uid >= 0:
            self.proxy_uids.add(proxy.uid)
        self.no_sockets = lack_of(snapshot, "sockets")
        self.loose = (snapshot.sysctls or {}).get(LOOSE, "1").strip() != "0"

    def connection(self, line: Line) -> Connection:
        """The connection that ``line`` is, without what other connections say of it."""
        if line.client is not None:
            return self._dialled_here(line, line.client)
        if line.server is not None:
            return self._accepted_here(line, line.server)
        if line.flow is None:
            raise ValueError("a line without an end")
        return self._flow_alone(line.flow)

    def owner(self, socket: Socket | None) -> Owner | None:
        """Who holds ``socket``; of several the proxy, else the first."""
        if socket is None:
            return None
        pids = sorted(socket.pids, key=lambda pid: (pid not in self.proxy_pids, pid))
        pid = pids[0] if pids else 0
        process = self.processes.get(pid)
        uid = socket.uid if socket.inode else None
        command = process.command if process else ""
        return Owner(pid, command, uid, tuple(pids[1:]), self.is_proxy(socket))

    def is_proxy(self, socket: Socket | None) -> bool:
        """Whether the proxy holds ``socket``; its port tells where nobody holds it any more."""
        if socket is None:
            return False
        if not socket.inode:
            return socket.lport in self.ports and not socket.pids
        if socket.uid not in self.proxy_uids:
            return False
        return not socket.pids or not self.proxy_pids.isdisjoint(socket.pids)

    # -- a connection that was dialled here -------------------------------------------------

    def _dialled_here(self, line: Line, client: Socket) -> Connection:
        server, flow = line.server, line.flow
        dialled = Endpoint(client.remote, client.rport)
        inside = self.routing.is_own(client.remote)
        base = Connection(
            family=client.family,
            proto=client.proto,
            direction=Direction.INSIDE if inside else Direction.OUTBOUND,
            state=client.state,
            source=Endpoint(client.local, client.lport),
            dialled=dialled,
            path=Path.UNKNOWN,
            reason="",
            owner=self.owner(client),
            peer=self.owner(server),
            taken=_taken(dialled, server, flow),
            sockets=(client,) if server is None else (client, server),
            flow=flow,
        )
        if (captured := self._captured(base, server, flow)) is not None:
            return captured
        return self._let_go(base, self.first.of_client(client, flow))

    def _captured(
        self, base: Connection, server: Socket | None, flow: Flow | None
    ) -> Connection | None:
        """``base`` as a captured one, or None where nothing shows that it is."""
        taken = base.taken
        if taken is None:
            return self._handed_over(base, server)
        inside = base.direction is Direction.INSIDE
        proxys = taken.port in self.ports or self.is_proxy(server)
        if flow is None:
            if not proxys:
                return None
            reason = f"the proxy's socket {taken} has it as its peer; no entry in conntrack"
            return replace(base, path=Path.CAPTURED, reason=reason)
        if not self.routing.is_own(taken.address) or (inside and not proxys):
            return None
        return replace(base, path=Path.CAPTURED, reason=f"conntrack replies from {taken}")

    def _handed_over(self, base: Connection, server: Socket | None) -> Connection | None:
        """``base`` as one that TPROXY gave to the proxy, or one whose entry cannot be read."""
        if server is None or not self.is_proxy(server):
            return None
        if server.lport in self.ports:
            if base.sockets[0] is not server or base.flow is not None or self.flows.whole:
                return None
            reason = f"it came to the proxy's :{server.lport}; what it dialled is in conntrack"
            return replace(base, path=Path.CAPTURED, reason=f"{reason}: {self.flows.lacking}")
        by_itself = any(own.lport == server.lport for own in self.proxy.listens)
        if server.transparent is False or (by_itself and not server.transparent):
            return None
        reason = f"TPROXY: the proxy's own socket is the end at {base.dialled}"
        return replace(base, path=Path.CAPTURED, reason=reason)

    def _let_go(self, base: Connection, ruling: Ruling) -> Connection:
        """``base``, which nothing captured, with the rule that let it or the one that came late."""
        owner = base.owner
        by_proxy = owner is not None and owner.proxy
        to_proxy = base.peer is not None and base.peer.proxy
        if base.direction is Direction.INSIDE:
            path = Path.LEG if by_proxy and not to_proxy else Path.LOOPBACK
        else:
            path = Path.LEG if by_proxy else Path.DIRECT
        if ruling.captures:
            return self._older(base, ruling)
        if base.direction is not Direction.INSIDE and (doubt := self._doubt(base)):
            return replace(base, path=Path.UNKNOWN if path is Path.DIRECT else path, reason=doubt)
        where = ""
        if base.taken is not None and base.flow is not None and translated(base.flow):
            where = f"translated to {base.taken}; "
        return replace(base, path=path, reason=where + ruling.words, rule=ruling.rule)

    def _doubt(self, base: Connection) -> str:
        """Why the lack of a sign of capture is no sign here; "" where it is one."""
        if base.flow is not None or self.flows.whole:
            if base.flow is None and base.state in ("syn-sent", "syn-recv"):
                return "it is not answered yet, and conntrack has no entry"
            return ""
        if self.no_sockets:
            return f"neither conntrack ({self.flows.lacking}) nor all sockets ({self.no_sockets})"
        if not self.proxy and self.ports:
            return f"conntrack: {self.flows.lacking}; and no proxy to look for its end at"
        return ""

    def _older(self, base: Connection, ruling: Ruling) -> Connection:
        """``base``, which ``ruling`` would capture: why it is not, and what becomes of it."""
        now = f"{ruling.words} would capture it"
        if doubt := self._doubt(base):
            return replace(base, path=Path.UNKNOWN, reason=f"{now}; {doubt}", rule=ruling.rule)
        if base.proto == "udp" and base.flow is None:
            reason = f"no entry in conntrack; {ruling.words} will capture its next packet"
            return replace(base, path=Path.UNKNOWN, reason=reason, rule=ruling.rule)
        if base.flow is not None or ruling.tproxy:
            fate, then = "direct", "goes direct until it ends"
        elif not self.flows.whole:
            fate, then = "", f"what becomes of it is in conntrack: {self.flows.lacking}"
        elif self.loose:
            fate, then = (
                "reset",
                "no entry in conntrack: its next packet is taken for new, and it is reset",
            )
        else:
            fate, then = (
                "direct",
                "no entry in conntrack, and it gets none: goes direct until it ends",
            )
        return replace(
            base,
            path=Path.OLDER,
            reason=f"{now}; {then}",
            rule=ruling.rule,
            fate=fate,
            code=OLDER_CODE if base.proto == "tcp" else "",
        )

    # -- a connection that was accepted here ------------------------------------------------

    def _accepted_here(self, line: Line, server: Socket) -> Connection:
        flow = line.flow
        # Picked up midway, an entry begins with the one who accepted; then it says nothing.
        dialled = Endpoint(server.local, server.lport)
        if flow is not None and (flow.reply_src, flow.reply_sport) == (server.local, server.lport):
            dialled = Endpoint(flow.dst, flow.dport)
        base = Connection(
            family=server.family,
            proto=server.proto,
            direction=self._direction(server.remote, dialled.address),
            state=server.state,
            source=Endpoint(server.remote, server.rport),
            dialled=dialled,
            path=Path.UNKNOWN,
            reason="",
            owner=self.owner(server),
            taken=_taken(dialled, server, flow),
            sockets=(server,),
            flow=flow,
        )
        if (captured := self._captured(base, server, flow)) is not None:
            return captured
        return self._let_in(base, server)

    def _direction(self, source: str, dialled: str) -> Direction:
        if self.routing.is_own(source):
            return Direction.INSIDE
        return Direction.INBOUND if self.routing.is_own(dialled) else Direction.THROUGH

    def _let_in(self, base: Connection, server: Socket) -> Connection:
        ruling = self.first.of_stranger(base)
        if base.direction is Direction.INSIDE:
            # The other end is not in the snapshot; who accepted does not tell who dialled.
            reason = "its other end is here, too, and was not seen"
            return replace(base, path=Path.LOOPBACK, reason=reason)
        if ruling.captures and server.lport not in self.ports:
            if ruling.tproxy and not server.inode and server.transparent is not False:
                # In the queue of whoever listens; TPROXY's is the proxy, by a transparent socket.
                path = Path.CAPTURED if server.transparent else Path.UNKNOWN
                return replace(base, path=path, reason="TPROXY; not accepted yet")
            return self._older(base, ruling)
        if doubt := self._doubt(base):
            return replace(base, path=Path.UNKNOWN, reason=doubt)
        where = f"translated from {base.dialled}; " if base.taken is not None else ""
        if self.is_proxy(server):
            if base.flow is None and server.lport in self.ports | USUAL_PORTS:
                reason = "the proxy accepted it; no conntrack entry tells what was dialled"
                return replace(base, path=Path.UNKNOWN, reason=reason)
            where += "the proxy's own port; "
        return replace(base, path=Path.DIRECT, reason=where + ruling.words, rule=ruling.rule)

    # -- a flow that no connected socket belongs to -----------------------------------------

    def _flow_alone(self, flow: Flow) -> Connection:
        proto = NAMES.get(flow.proto, "")
        here = self.routing.is_own(flow.src)
        client = self.pairing.unconnected(proto, flow.src, flow.sport) if here else None
        server = None
        if self.routing.is_own(flow.reply_src):
            server = self.pairing.unconnected(proto, flow.reply_src, flow.reply_sport)
        dialled = Endpoint(flow.dst, flow.dport)
        near = client or (None if here else server)
        direction = self._direction(flow.src, flow.dst)
        if here and not self.routing.is_own(flow.dst):
            direction = Direction.OUTBOUND
        ends = [end for end in (client, server) if end is not None]
        base = Connection(
            family=flow.family,
            proto=proto,
            direction=direction,
            state=flow.state,
            source=Endpoint(flow.src, flow.sport),
            dialled=dialled,
            path=Path.UNKNOWN,
            reason="",
            owner=self.owner(near),
            peer=self.owner(server) if here else None,
            taken=_taken(dialled, None, flow),
            sockets=tuple(ends[: 1 if client is server else 2]),
            flow=flow,
        )
        if (captured := self._captured(base, server, flow)) is not None:
            return captured
        if direction is Direction.THROUGH and server is None:
            reason = "neither end is here: it passes through"
            return replace(base, path=Path.FORWARDED, reason=reason)
        if not here:
            return self._let_in(base, server) if server else self._gone(base)
        if client is None:
            return self._gone(base)
        return self._let_go(base, self.first.of_client(client, flow))

    def _gone(self, base: Connection) -> Connection:
        """A flow that was let go, and of whose socket nothing is known."""
        path = Path.LOOPBACK if base.direction is Direction.INSIDE else Path.DIRECT
        why = f"not read: {self.no_sockets}" if self.no_sockets else "gone"
        return replace(base, path=path, reason=f"not translated; its socket is {why}")


def _taken(dialled: Endpoint, server: Socket | None, flow: Flow | None) -> Endpoint | None:
    """Where a connection arrived, where that is not what was dialled."""
    if flow is not None and (flow.dst, flow.dport) == (dialled.address, dialled.port):
        end = Endpoint(flow.reply_src, flow.reply_sport)
    elif server is not None:
        end = Endpoint(server.local, server.lport)
    else:
        return None
    return None if end == dialled else end
