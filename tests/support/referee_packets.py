"""Random packets for given rules: at the bounds of what their matches ask for, all of them firsts.

A packet is a dictionary, as the referee's agent takes it; with ``wire`` it comes in.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import Any

from meshnet.model.address import read_address
from meshnet.model.intervals import IntervalSet
from meshnet.model.packet import TCP, UDP, Family, Field, Packet
from meshnet.model.ruleset import Ruleset
from tests.support.lottery import ELSEWHERE, ICMP, IDS, LOCAL, MARKS, OWN, PORTS, REMOTE
from tests.support.referee_bench import WIRES, is_own, way_out

#: More addresses of this namespace, and of those behind its other interfaces.
OWN_TOO = {Family.IP: ("10.7.0.1", "127.0.0.1"), Family.IP6: ("fd07::1", "::1")}
BEHIND = {
    Family.IP: ("198.51.100.7", "10.128.0.9", "10.1.0.9"),
    Family.IP6: ("2001:db8:51::7", "2001:db8:80::9", "fd01::9"),
}
_SYN, _ACK = 2, 16
_LAST_ID = 0xFFFFFFFE


class Pools:
    """The values that the rules tell apart, by field."""

    def __init__(self, rulesets: dict[str, Ruleset]) -> None:
        self.values: dict[Field, list[int]] = {}
        rules = [rule for ruleset in rulesets.values() for _, _, rule in ruleset.rules()]
        for rule in rules:
            for match in rule.matches:
                if isinstance(match.values, IntervalSet):
                    pool = self.values.setdefault(match.field, [])
                    for first, last in match.values:
                        pool += [first, last, max(0, first - 1), last + 1]

    def near(self, field: Field, last: int) -> list[int]:
        """Values of ``field`` up to ``last``."""
        return [value for value in self.values.get(field, ()) if value <= last]


class Packets:
    """Draws packets; none belongs to a connection of another one that this has drawn."""

    def __init__(self, rng: Random, rulesets: dict[str, Ruleset]) -> None:
        self.rng = rng
        self.pools = Pools(rulesets)
        self._tuples: set[tuple[object, ...]] = set()
        self._sources: set[tuple[object, ...]] = set()

    def draw(self) -> dict[str, Any]:
        """A packet; ``sport`` is None for one of its own."""
        rng = self.rng
        family = rng.choice((Family.IP, Family.IP6))
        proto = rng.choice((TCP, TCP, TCP, TCP, UDP, UDP, ICMP[family]))
        packet: dict[str, Any] = {
            "version": 4 if family is Family.IP else 6,
            "proto": proto,
            # A SYN begins a connection; an ACK belongs to none, and is invalid.
            "flags": rng.choice((_SYN, _SYN, _SYN, _SYN, _ACK)),
            "sport": None,
            "dport": max(1, self._one(Field.DPORT, PORTS, 65535)),
        }
        packet |= self._incoming(family) if rng.random() < 0.45 else self._outgoing(family)
        if rng.random() < 0.4:
            packet["sport"] = max(1, self._one(Field.SPORT, PORTS, 65535))
        return self._first(packet)

    def _one(self, field: Field, usual: tuple[int, ...], last: int) -> int:
        near = self.pools.near(field, last)
        return self.rng.choice(near if near and self.rng.random() < 0.6 else usual)

    def _address(self, field: Field, family: Family) -> str | None:
        """One at a bound of the rules that a packet may have; None where there is none."""
        bits = 32 if family is Family.IP else 128
        near = [n for n in self.pools.near(field, (1 << bits) - 1) if _is_usual(family, n)]
        if not near or self.rng.random() < 0.5:
            return None
        number = self.rng.choice(near)
        return str(IPv4Address(number) if family is Family.IP else IPv6Address(number))

    def _incoming(self, family: Family) -> dict[str, Any]:
        rng = self.rng
        link = rng.choice(("v0", "v0", *WIRES))
        src = self._address(Field.SRC, family)
        if src is None or is_own(family, read_address(src)[1]):
            src = rng.choice(REMOTE[family])
        dst = self._address(Field.DST, family)
        if dst is None or _is_loopback(family, dst) or rng.random() < 0.6:
            dst = OWN[family] if rng.random() < 0.8 else ELSEWHERE[family]
        return {"src": src, "dst": dst, "link": link, "wire": WIRES[link]}

    def _outgoing(self, family: Family) -> dict[str, Any]:
        rng = self.rng
        near = self._address(Field.DST, family)
        places = (*LOCAL[family], *OWN_TOO[family], *REMOTE[family], *BEHIND[family])
        dst = near if near is not None else rng.choice(places)
        src = OWN[family]
        if _is_loopback(family, dst) and rng.random() < 0.5:
            src = dst
        uid, gid = (self._one(field, IDS, _LAST_ID) for field in (Field.UID, Field.GID))
        if rng.random() < 0.3:
            gid = uid
        return {"src": src, "dst": dst, "uid": uid, "gid": gid, "mark": self._mark()}

    def _mark(self) -> int:
        return 0 if self.rng.random() < 0.4 else self._one(Field.MARK, MARKS, 0xFFFFFFFF)

    def _first(self, packet: dict[str, Any]) -> dict[str, Any]:
        """``packet``, with a port of its own where it would not be the first of its connection."""
        sport = packet["sport"]
        near = (packet["proto"], packet["src"], sport)
        there = (packet["dst"], packet["dport"])
        if sport is not None and near not in self._sources and (*near, *there) not in self._tuples:
            self._sources.add(near)
            self._tuples.add((packet["proto"], *there, packet["src"], sport))
            return packet
        return {**packet, "sport": None}


def _is_loopback(family: Family, address: str) -> bool:
    return address.startswith("127.") if family is Family.IP else address == "::1"


def _is_usual(family: Family, number: int) -> bool:
    """Whether packets with this address are routed, and not thrown away for it."""
    if family is Family.IP6:
        return number == 1 or number >> 125 == 1 or (number >> 120 == 0xFD and number & 0xFF > 0)
    first = number >> 24
    return 0 < first < 224 and number & 0xFF not in (0, 255)


def as_packet(sent: dict[str, Any]) -> tuple[Packet, str, bool]:
    """What was sent as the model has it, the hook where it begins, and whether it is for us."""
    family, src = read_address(sent["src"])
    dst = read_address(sent["dst"])[1]
    ported = sent["proto"] in (TCP, UDP)
    ports = (sent["sport"], sent["dport"]) if ported else (None, None)
    state = "invalid" if sent["proto"] == TCP and sent["flags"] == _ACK else "new"
    out = way_out(family, dst)
    if "wire" in sent:
        local = out == "lo"
        oif = None if local else out
        packet = Packet(family, sent["proto"], src, dst, *ports, sent["link"], oif, ctstate=state)
        return packet, "prerouting", local
    packet = Packet(
        family, sent["proto"], src, dst, *ports, None, out,
        sent["uid"], sent["gid"], sent["mark"], ctstate=state,
    )  # fmt: skip
    return packet, "output", True
