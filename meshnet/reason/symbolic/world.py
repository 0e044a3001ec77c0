"""All packets of one family at one hook, as variables; what no dump shows is one as well.

What is undecided bears a name: rulesets that are compared in one world are given the same
answer to the same doubt.
"""

from __future__ import annotations

from meshnet.model.frozen import dataclass
from meshnet.model.match import PROTO_NUMBERS
from meshnet.model.packet import TCP, UDP, Family, Packet
from meshnet.reason.symbolic.names import BITS as NAME_BITS
from meshnet.reason.symbolic.names import Names
from meshnet.reason.symbolic.terms import (
    Bit,
    Number,
    both,
    either,
    engine,
    equal,
    every,
    no,
    pick,
    some,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STATES = ("new", "established", "related", "invalid", "untracked")
STATE_BITS = 3
NEW, RELATED, INVALID, UNTRACKED = 0, 2, 3, 4
#: Protocols that have ports in the places where rules look for them: dccp, sctp, udplite too.
PORTED = (TCP, UDP, 33, 132, 136)
OUTPUT, PREROUTING = "output", "prerouting"


@dataclass(frozen=True)
class Start:
    """A packet, the hook where it begins, and whether it is for this namespace.

    ``doubts`` are the answers that were given to what is undecided offline and was asked.
    """

    packet: Packet
    hook: str
    local: bool
    doubts: tuple[str, ...] = ()


class World:
    """The packets of ``family`` that begin at ``hook`` ("output" or "prerouting").

    What comes in by lo left by lo before: those packets begin at output. ``routed``: what is for
    a loopback address leaves by lo, as where nobody has changed the table of local routes.
    """

    def __init__(self, hook: str, family: Family, names: Names, routed: bool = False) -> None:
        z3 = engine()
        self.hook, self.family, self.names = hook, family, names
        self.bits = 32 if family is Family.IP else 128
        leaving = hook == OUTPUT
        self.proto = z3.BitVec("proto", 8)
        self.src, self.dst = z3.BitVec("src", self.bits), z3.BitVec("dst", self.bits)
        self.sport, self.dport = z3.BitVec("sport", 16), z3.BitVec("dport", 16)
        self.socket: Bit = z3.Bool("socket") if leaving else False
        self.uid: Number = z3.BitVec("uid", 32) if leaving else 0
        self.gid: Number = z3.BitVec("gid", 32) if leaving else 0
        self.mark, self.ctmark = z3.BitVec("mark", 32), z3.BitVec("ctmark", 32)
        self.ctstate = z3.BitVec("ctstate", STATE_BITS)
        self.iif: Number = 0 if leaving else z3.BitVec("iif", NAME_BITS)
        self.oif: Number = z3.BitVec("oif", NAME_BITS)
        self.local: Bit = True if leaving else z3.Bool("local")
        self.unknowns: dict[str, Any] = {}
        self.laws: list[Bit] = self._sense()
        if routed and leaving:
            self.laws.append(either(no(self.is_loopback(self.dst)), equal(self.oif, 1)))
        #: Where rules send packets to by DNAT, in words.
        self.aims: list[str] = []
        self._routes: list[tuple[Number, Number, Any]] = []

    def only_what_is(self) -> None:
        """Leave out what begins untracked though no rule has said so.

        Of its own accord conntrack does that to some ICMPv6 alone
        (net/netfilter/nf_conntrack_proto_icmpv6.c); what rules say comes later.
        """
        tracked = no(equal(self.ctstate, UNTRACKED))
        if self.family is Family.IP6:
            tracked = either(tracked, equal(self.proto, PROTO_NUMBERS["ipv6-icmp"]))
        self.laws.append(tracked)

    def _sense(self) -> list[Bit]:
        """What holds for every packet that there is."""
        z3, count = engine(), len(self.names.members)
        laws = [
            z3.ULT(self.ctstate, len(STATES)),
            z3.ULT(self.oif, count),
            # A new connection has no mark yet.
            either(no(equal(self.ctstate, NEW)), equal(self.ctmark, 0)),
        ]
        if self.hook == OUTPUT:
            laws += [
                self.oif != 0,
                # The last number means "no id".
                self.uid != 0xFFFFFFFF,
                self.gid != 0xFFFFFFFF,
            ]
        else:
            laws += [
                z3.ULT(self.iif, count),
                self.iif != 0,
                self.iif != 1,
                self.local == (self.oif == 0),
                self.oif != 1,
            ]
        return laws

    def is_loopback(self, address: Number) -> Bit:
        """Whether ``address`` is of 127/8, or ::1."""
        if isinstance(address, int):
            return address >> 24 == 127 if self.family is Family.IP else address == 1
        if self.family is Family.IP:
            return engine().Extract(31, 24, address) == 127
        return address == 1

    def doubt(self, name: str) -> Any:
        """A condition that nothing here decides; the same one for the same name."""
        found = self.unknowns.get(name)
        if found is None:
            found = self.unknowns[name] = engine().Bool(f"? {name}")
        return found

    def unknown(self, name: str, bits: int) -> Any:
        """A number that nothing here tells; the same one for the same name."""
        found = self.unknowns.get(name)
        if found is None:
            found = self.unknowns[name] = engine().BitVec(f"? {name}", bits)
        return found

    def any_state(self) -> Any:
        """The state of a connection that nobody asked about; it has one."""
        answer = self.unknown("the state of a connection that is looked at again", STATE_BITS)
        self.laws.append(engine().ULT(answer, INVALID))
        return answer

    def aim(self, words: str) -> int:
        """The number, from 1, of a place where packets are sent to."""
        if words not in self.aims:
            self.aims.append(words)
        return self.aims.index(words) + 1

    def route(self, dst: Number, mark: Number) -> Any:
        """The interface that a second look for a route finds: equal questions, equal answers."""
        for known_dst, known_mark, answer in self._routes:
            if _same(known_dst, dst) and _same(known_mark, mark):
                return answer
        name = "by which interface the packet leaves, now that its route was looked for again"
        answer = self.unknown(f"{name} ({len(self._routes) + 1})", NAME_BITS)
        self.laws += [engine().ULT(answer, len(self.names.members)), answer != 0]
        # No law about packets: an answer that was given must not leave any of them out.
        for known_dst, known_mark, known in self._routes:
            alike = both(equal(known_dst, dst), equal(known_mark, mark))
            answer = pick(alike, known, answer, NAME_BITS)
        self._routes.append((dst, mark, answer))
        return answer

    def law(self) -> Bit:
        """What holds for every packet, and for the answers to what is undecided."""
        return every(self.laws)

    def start(self, model: Any) -> Start:
        """The packet of ``model``."""

        def value(term: Number) -> int:
            if isinstance(term, int):
                return term
            return int(model.eval(term, model_completion=True).as_long())

        def truth(term: Bit) -> bool:
            return term if isinstance(term, bool) else self.truth(model, term)

        owned = truth(self.socket)
        proto = value(self.proto)
        ported = proto in PORTED
        iif, oif = self.names.members[value(self.iif)], self.names.members[value(self.oif)]
        packet = Packet(
            self.family,
            proto,
            value(self.src),
            value(self.dst),
            value(self.sport) if ported else None,
            value(self.dport) if ported else None,
            iif or None,
            oif or None,
            value(self.uid) if owned else None,
            value(self.gid) if owned else None,
            value(self.mark),
            value(self.ctmark),
            STATES[value(self.ctstate)],
        )
        return Start(packet, self.hook, truth(self.local))

    def truth(self, model: Any, condition: Bit) -> bool:
        """Whether ``condition`` holds in ``model``."""
        if isinstance(condition, bool):
            return condition
        return bool(engine().is_true(model.eval(condition, model_completion=True)))

    def is_packet(self, packet: Packet, local: bool = True) -> Bit:
        """That the packet is ``packet``; its names have to be among those that are told apart."""
        wanted = [
            equal(self.proto, packet.proto),
            equal(self.src, packet.src),
            equal(self.dst, packet.dst),
            equal(self.mark, packet.mark),
            equal(self.ctmark, packet.ctmark),
            equal(self.ctstate, STATES.index(packet.ctstate)),
            equal(self.iif, self.names.numbers[packet.iif or ""]),
            equal(self.oif, self.names.numbers[packet.oif or ""]),
            equal(self.local, local),
        ]
        for term, number in ((self.sport, packet.sport), (self.dport, packet.dport)):
            wanted += [] if number is None else [equal(term, number)]
        if self.hook == OUTPUT:
            wanted.append(equal(self.socket, packet.uid is not None))
            for term, number in ((self.uid, packet.uid), (self.gid, packet.gid)):
                wanted += [] if number is None else [equal(term, number)]
        return every(wanted)


def _same(one: Number, other: Number) -> bool:
    if isinstance(one, int) or isinstance(other, int):
        return isinstance(one, int) and isinstance(other, int) and one == other
    return bool(one.eq(other))


def has_ports(world: World) -> Bit:
    """Whether the packet's protocol has ports."""
    return some(equal(world.proto, number) for number in PORTED)
