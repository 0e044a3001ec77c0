"""Whether a rule holds for a packet: yes, no, or not to be said offline.

What a match means is :meth:`meshnet.model.match.Match.holds`, and nowhere else. Here is what a
hook shows of a packet: before connection tracking there is no state, at output no
interface that it came in by.
"""

from __future__ import annotations

from meshnet.model.frozen import replace
from meshnet.model.intervals import NameSet
from meshnet.model.match import Match
from meshnet.model.packet import Field, Packet
from meshnet.reason.lines import Line
from meshnet.reason.state import State

_PORTS = (Field.SPORT, Field.DPORT)
_OWNERS = frozenset((Field.UID, Field.GID))
#: Interfaces that a hook has no name for: there the name is "".
NAMELESS = {"output": ("iif",), "prerouting": ("oif",), "input": ("oif",)}
_WORDS = {
    Field.MARK: "the mark is not known",
    Field.CTMARK: "the connection's mark is not known",
    Field.CTSTATE: "the connection's state is not known",
}


class View:
    """A packet as a rule sees it at one moment; ``native``: a rule in nft's own language."""

    __slots__ = ("dnat", "known", "packet", "unknown")

    def __init__(self, state: State, native: bool = False) -> None:
        self.packet = _seen(state, native)
        self.unknown = state.unknown
        if not has_connection(state):
            # No entry: its mark is known not to be there, and the state is known.
            self.unknown -= {Field.CTMARK, Field.CTSTATE}
        if state.zoned and state.stained and not native:
            self.unknown |= {Field.CTMARK}
        if state.hook == "input" and state.packet.ctstate != "new" and state.packet.uid is None:
            # The socket may be known already (net/ipv4/tcp_ipv4.c, tcp_v4_early_demux).
            self.unknown |= _OWNERS
        #: The values that are there and known, by the fields' names.
        hidden = {field.label for field in self.unknown}
        values = self.packet.__dict__.items()
        self.known = {k: v for k, v in values if v is not None and k not in hidden}
        #: Whether the destination was translated; None where that was before our time.
        self.dnat: bool | None = state.dnat
        if not state.dnat and has_connection(state) and state.packet.ctstate != "new":
            self.dnat = None

    def test(self, line: Line) -> bool | None:
        """Whether ``line`` holds; None where that cannot be said.

        The quick look finds most of the rules that do not hold, and decides no other.
        """
        known = self.known
        for name, first, last, negated in line.quick:
            if name in known and (first <= known[name] <= last) is negated:
                return False
        if line.family is not None and line.family is not self.packet.family:
            return False
        answer: bool | None = not line.doubts or None
        for match in line.matches:
            held = self.ask(match)
            if held is False:
                return False
            if held is None:
                answer = None
        return answer

    def doubts(self, line: Line) -> list[str]:
        """What keeps ``line`` from being decided, in words."""
        asked = [m for m in line.matches if self.ask(m) is None]
        found = [_WORDS.get(m.field, f"{m.field.label} is not known") for m in asked]
        return [*line.doubts, *dict.fromkeys(found)]

    def ask(self, match: Match) -> bool | None:
        """Whether ``match`` holds; None where that cannot be said."""
        field = match.field
        if field in self.unknown:
            return None
        if field is Field.CTSTATE and isinstance(match.values, NameSet):
            return self._ask_state(match, match.values)
        if field in _PORTS and self.packet.value(field) is None:
            # nft's "th dport" reads these bytes of any protocol (net/netfilter/nft_payload.c).
            return None
        return match.holds(self.packet)

    def _ask_state(self, match: Match, values: NameSet) -> bool | None:
        """A translated connection is in the states "dnat" or "snat" too (xt_conntrack.c)."""
        if self.packet.ctstate in values:
            return not match.negated
        if "dnat" in values and self.dnat:
            return not match.negated
        if ("dnat" in values or "snat" in values) and self.dnat is None:
            return None
        return match.negated


def has_connection(state: State) -> bool:
    """Whether the packet has an entry in connection tracking."""
    if state.zoned or not state.tracked:
        return False
    return state.packet.ctstate not in ("invalid", "untracked")


def _seen(state: State, native: bool) -> Packet:
    packet = state.packet
    nameless = NAMELESS.get(state.hook, ())
    iif = "" if packet.iif is None or "iif" in nameless else packet.iif
    oif = "" if packet.oif is None or "oif" in nameless else packet.oif
    ctstate, ctmark = packet.ctstate, packet.ctmark
    entry = has_connection(state)
    if state.zoned:
        # A zone is given by a template, which counts as new (net/netfilter/xt_CT.c); nft
        # breaks off where a rule asks for its mark (net/netfilter/nft_ct_fast.c).
        ctstate, ctmark, entry = "new", 0, not native
    elif not state.tracked:
        ctstate, ctmark, entry = "invalid", 0, False
    seen = replace(packet, iif=iif, oif=oif, ctstate=ctstate, ctmark=ctmark)
    if not entry:
        seen.__dict__["ctmark"] = None
    return seen
