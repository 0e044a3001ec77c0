"""The entries of connection tracking, found by either of their tuples."""

from __future__ import annotations

from meshnet.model.packet import TCP, UDP
from meshnet.model.snapshot import Flow, Snapshot, Socket

NUMBERS = {"tcp": TCP, "udp": UDP}
NAMES = {TCP: "tcp", UDP: "udp"}

#: Protocol, the near end, the far end.
Pair = tuple[int, str, int, str, int]


def pair_of(socket: Socket) -> Pair:
    """A socket's two ends, its own first."""
    number = NUMBERS.get(socket.proto, 0)
    return (number, socket.local, socket.lport, socket.remote, socket.rport)


def turned(pair: Pair) -> Pair:
    """The same two ends, seen from the other one."""
    proto, near, nport, far, fport = pair
    return (proto, far, fport, near, nport)


def answers_from(flow: Flow) -> Pair:
    """The ends as the one who answers has them: a redirected connection ends at the proxy's."""
    return (flow.proto, flow.reply_src, flow.reply_sport, flow.reply_dst, flow.reply_dport)


def begins_at(flow: Flow) -> Pair:
    """The ends as the one who dialled has them, before any translation."""
    return (flow.proto, flow.src, flow.sport, flow.dst, flow.dport)


def translated(flow: Flow) -> bool:
    """Whether the packets of ``flow`` go elsewhere than they were addressed to."""
    return (flow.reply_src, flow.reply_sport) != (flow.dst, flow.dport)


class FlowIndex:
    """The flows of a snapshot that are TCP or UDP.

    ``whole`` says that all there are were read: only then a missing one means anything.
    ``lacking`` is why not.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.flows = [flow for flow in snapshot.flows if flow.proto in NAMES]
        self.lacking = lack_of(snapshot, "connections")
        self.whole = not self.lacking
        self._begun: dict[Pair, Flow] = {}
        self._answered: dict[Pair, Flow] = {}
        for flow in self.flows:
            # Of two zones the translated one: it says more.
            for index, key in (
                (self._begun, begins_at(flow)),
                (self._answered, answers_from(flow)),
            ):
                if key not in index or translated(flow):
                    index[key] = flow

    def begun(self, pair: Pair) -> Flow | None:
        """The flow whose first packet went from the near end of ``pair`` to its far end."""
        return self._begun.get(pair)

    def answered(self, pair: Pair) -> Flow | None:
        """The flow that is answered from the near end of ``pair``."""
        return self._answered.get(pair)


def lack_of(snapshot: Snapshot, section: str) -> str:
    """Why ``section`` is not whole in ``snapshot``; "" where it is."""
    for gap in snapshot.gaps:
        if gap.section == section:
            return gap.reason or "not read"
    return "" if section in snapshot.sections else "not read"
