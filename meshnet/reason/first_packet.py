"""The first packet of a connection that exists, put together again, and what rules say of it."""

from __future__ import annotations

from meshnet.model.connection import Connection
from meshnet.model.frozen import replace
from meshnet.model.packet import Family, Field, Packet
from meshnet.model.snapshot import Flow, Snapshot, Socket
from meshnet.model.verdict import Verdict
from meshnet.reason.flow_index import NUMBERS, lack_of
from meshnet.reason.routing import Routing
from meshnet.reason.ruling import Ruling, Rulings

_FAMILIES = {"ip": Family.IP, "ip6": Family.IP6}
_NO_ADDRESSES = Ruling(None, "its addresses are none")


class FirstPackets:
    """Asks the rules of now about first packets: of what was dialled here, and from elsewhere."""

    def __init__(self, snapshot: Snapshot, rulings: Rulings, routing: Routing) -> None:
        self.rulings, self.routing = rulings, routing
        self.processes = {process.pid: process for process in snapshot.processes}
        self.no_rules = "" if rulings.rulesets else lack_of(snapshot, "rules")

    def of_client(self, client: Socket, flow: Flow | None) -> Ruling:
        """What they say of what ``client`` dialled.

        The addresses are those of ``flow`` where there is one: the socket may not be connected.
        """
        if not client.inode:
            return Ruling(None, f"nobody holds it any more ({client.state})")
        if flow is not None:
            ends = (flow.src, flow.sport, flow.dst, flow.dport)
        else:
            ends = (client.local, client.lport, client.remote, client.rport)
        packet = self._packet(flow.family if flow else client.family, client.proto, *ends)
        if packet is None:
            return _NO_ADDRESSES
        held = (self.processes.get(pid) for pid in client.pids)
        process = next((process for process in held if process is not None), None)
        leaving = replace(
            packet,
            oif=self.routing.leaves_by(ends[2]) or None,
            uid=client.uid,
            gid=process.gid if process else None,
            ctmark=flow.mark if flow else 0,
        )
        unknown = set() if process else {Field.GID}
        if self.routing.is_own(ends[0]):
            return self._ask(leaving, "output", frozenset(unknown))
        # Who speaks with another's address has marked it, or no answer would come back.
        ruling = self._ask(leaving, "output", frozenset({*unknown, Field.MARK}))
        if ruling.captures:
            return Ruling(
                None, "it bears another's address; its mark, which rules ask, is not seen"
            )
        return ruling

    def of_stranger(self, connection: Connection) -> Ruling:
        """What they say of what was dialled from elsewhere."""
        source, dialled = connection.source, connection.dialled
        packet = self._packet(
            connection.family,
            connection.proto,
            source.address,
            source.port,
            dialled.address,
            dialled.port,
        )
        if packet is None:
            return _NO_ADDRESSES
        link = self.routing.comes_by(source.address, dialled.address)
        return self._ask(replace(packet, iif=link or None), "prerouting", frozenset())

    def _packet(
        self, family: str, proto: str, src: str, sport: int, dst: str, dport: int
    ) -> Packet | None:
        number, near, far = NUMBERS.get(proto), self.routing.number(src), self.routing.number(dst)
        known = _FAMILIES.get(family)
        if known is None or number is None or near is None or far is None:
            return None
        if near[0] is not known or far[0] is not known:
            return None
        return Packet(known, number, near[1], far[1], sport, dport)

    def _ask(self, packet: Packet, hook: str, unknown: frozenset[Field]) -> Ruling:
        if self.no_rules:
            return Ruling(None, f"which rule let it is not known: {self.no_rules}")
        ruling = self.rulings.ask(packet, hook, unknown)
        if ruling.verdict is Verdict.DROPPED:
            return replace(ruling, words=f"would be dropped now: {ruling.words}")
        return ruling
