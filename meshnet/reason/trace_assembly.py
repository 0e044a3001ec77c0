"""From the kernel's single events to packets: which rules each of them met, in their order.

nf_tables numbers a packet anew when it comes in again by lo, and tells its headers once a
chain; legacy tables tell whole packets and no number. What joins them is what no rule changes:
source port, TCP sequence number and the IP header's identification.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from ipaddress import IPv4Address, IPv6Address

from meshnet.model.frozen import replace
from meshnet.model.packet import TCP, UDP
from meshnet.model.trace import Logged, Met, Point, Sighting, Traced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: A packet that was heard nothing of for so long, in seconds, got no further.
IDLE = 0.1
#: So many are followed at once; the oldest one has to end for another.
MOST_OPEN = 20_000
#: Of so many packets it is remembered that they were seen.
REMEMBERED = 20_000
_HOOKS = {0: "prerouting", 1: "input", 2: "forward", 3: "output", 4: "postrouting"}
_OUTPUT = 3
_POLICY, _RULE = 1, 3
_DROP = 0
#: Extension headers of IPv6 that tell their own length, and fragments.
_EXTENSIONS = (0, 43, 60)
_LEGACY = "TRACE: "
Key = tuple[object, ...]


class Headers:
    """Addresses and ports of a packet, by its raw headers; ``key`` is what no rule changes."""

    __slots__ = ("dport", "dst", "flags", "key", "proto", "sport", "src", "version")

    def __init__(self, network: bytes, transport: bytes, proto: int) -> None:
        self.version = network[0] >> 4
        wide = self.version == 6
        self.src, self.dst = (
            (network[8:24], network[24:40]) if wide else (network[12:16], network[16:20])
        )
        self.proto = proto
        self.sport = self.dport = self.flags = 0
        if proto in (TCP, UDP) and len(transport) >= 8:
            self.sport, self.dport = struct.unpack_from("!HH", transport)
        if proto == TCP and len(transport) >= 14:
            self.flags = transport[13]
        apart = transport[4:8] if proto == TCP else transport[4:6]
        self.key: Key = (proto, self.sport, apart, b"" if wide else network[4:6])

    def text(self, address: bytes) -> str:
        """An address as people write it."""
        return str((IPv6Address if len(address) == 16 else IPv4Address)(address))


def headers_of(packet: bytes) -> Headers | None:
    """The headers of a whole packet; None where it is no packet of IP, or too short."""
    if len(packet) < 20:
        return None
    if packet[0] >> 4 == 4:
        size = (packet[0] & 15) * 4
        return Headers(packet[:size], packet[size : size + 20], packet[9])
    if packet[0] >> 4 != 6 or len(packet) < 40:
        return None
    proto, at = packet[6], 40
    while proto in _EXTENSIONS and len(packet) >= at + 2:
        proto, at = packet[at], at + 8 + 8 * packet[at + 1]
    return Headers(packet[:40], packet[at : at + 20], proto)


def headers_in(event: Traced) -> Headers | None:
    """The headers of an event that tells them, else None."""
    network = event.network
    if len(network) < 20 or (network[0] >> 4 == 6 and len(network) < 40):
        return None
    proto = network[9] if network[0] >> 4 == 4 else network[6]
    return Headers(network, event.transport, proto)


class _Open:
    """A packet under way."""

    __slots__ = ("heard", "ids", "key", "known", "lossy", "met", "points", "sighting")

    def __init__(self, sighting: Sighting, key: Key, lossy: bool) -> None:
        self.sighting = sighting
        self.key = key
        self.met: list[Met] = []
        self.points: list[Point] = []
        self.known: bool | None = None
        self.lossy = lossy
        self.heard = sighting.at
        self.ids: list[int] = []


class Assembly:
    """Packets under way. ``table`` is the trace's own, ``prefix`` what its log begins with;
    tables whose name begins with ``kin`` are those of other traces.

    ``link`` gives an interface's name by its index, ``opener`` the inode of the socket that a
    packet leaves by, 0 where it has none. ``done`` gets each packet that is over.
    """

    def __init__(
        self,
        table: str,
        prefix: str,
        kin: str,
        link: Callable[[int], str],
        opener: Callable[[Headers, int], int],
        done: Callable[[Sighting], None],
    ) -> None:
        self._table, self._prefix, self._kin = table, prefix, kin
        self._link, self._opener, self._done = link, opener, done
        self._open: OrderedDict[Key, _Open] = OrderedDict()
        self._ids: dict[int, _Open] = {}
        self._before: OrderedDict[Key, None] = OrderedDict()
        self._lossy = False
        self.orphans = 0
        self.begun = 0

    @property
    def open(self) -> int:
        """How many packets are under way."""
        return len(self._open)

    def begin(self, event: Logged, now: float, generation: int) -> None:
        """A packet that the trace's own rule logged; whatever else was logged is left out."""
        found = headers_of(event.packet)
        if found is None or event.prefix != self._prefix:
            return
        old = self._open.pop(found.key, None)
        if old is not None:
            self._finish(old)
        self.begun += 1
        seen = Sighting(
            self.begun,
            now,
            _HOOKS.get(event.hook, ""),
            "ip" if found.version == 4 else "ip6",
            found.proto,
            found.text(found.src),
            found.sport,
            found.text(found.dst),
            found.dport,
            found.flags,
            self._link(event.iif),
            self._link(event.oif),
            event.uid,
            event.gid,
            event.mark,
            self._opener(found, event.oif) if event.hook == _OUTPUT else 0,
            generation=generation,
            again=found.key in self._before,
        )
        self._before[found.key] = None
        if len(self._before) > REMEMBERED:
            self._before.popitem(last=False)
        self._open[found.key] = _Open(seen, found.key, self._lossy)
        if len(self._open) > MOST_OPEN:
            self._finish(self._open.popitem(last=False)[1])

    def legacy(self, event: Logged, now: float) -> None:
        """A line of a legacy table's trace: "TRACE: nat:ISTIO_OUTPUT:rule:2 "."""
        found = headers_of(event.packet)
        one = self._open.get(found.key) if found else None
        if found is None or one is None:
            self.orphans += 1
            return
        table, _, rest = event.prefix.removeprefix(_LEGACY).strip().partition(":")
        chain, _, number = rest.rsplit(":", 2)
        family = "ip" if found.version == 4 else "ip6"
        one.met.append(Met(True, family, table, chain, int(number)))
        one.heard = now

    def traced(self, event: Traced, now: float) -> None:
        """An event of nf_tables."""
        one = self._ids.get(event.id)
        found = headers_in(event)
        if found is not None and (one is None or one.key != found.key):
            # A packet that came in again has another number; a number is used again, too.
            one = self._open.get(found.key)
            if one is not None:
                self._ids[event.id] = one
                one.ids.append(event.id)
        if one is None:
            self.orphans += event.table != self._table and not event.table.startswith(self._kin)
            return
        one.heard = now
        if one.known is None:
            one.known = event.known
        if event.table == self._table:
            if found is not None and event.chain.startswith(("end-", "begin-")):
                self._reached(one, event, found)
            return
        if not event.family or event.table.startswith(self._kin):
            return
        # A rule without a number is the end of a chain: where there is a policy, it follows.
        if event.kind != _POLICY and not (event.kind == _RULE and event.handle):
            return
        number = event.handle if event.kind == _RULE else 0
        family, table, chain = event.family, event.table, event.chain
        one.met.append(Met(False, family, table, chain, number, event.verdict))
        if event.verdict == _DROP:
            self._close(one)

    def _reached(self, one: _Open, event: Traced, found: Headers) -> None:
        """The packet got to a chain of ours; where that is the last one, it is over."""
        oif = self._link(event.oif)
        point = Point(
            event.chain,
            found.text(found.src),
            found.sport,
            found.text(found.dst),
            found.dport,
            self._link(event.iif),
            oif,
            event.mark,
        )
        one.points.append(point)
        if event.chain == "end-of-input" or (event.chain == "end-of-postrouting" and oif != "lo"):
            self._close(one)

    def overrun(self) -> None:
        """Events were lost: those of all that are under way, and of what is in the queue."""
        self._lossy = True
        for one in self._open.values():
            one.lossy = True

    def drained(self, now: float) -> None:
        """Nothing is left to be read: what was heard nothing of for long is over."""
        self._lossy = False
        for one in [one for one in self._open.values() if now - one.heard > IDLE]:
            self._close(one)

    def close(self) -> None:
        """Every packet is over."""
        for one in list(self._open.values()):
            self._close(one)

    def changed(self) -> None:
        """The rules changed: which ones a packet under way met is not known."""
        for one in self._open.values():
            one.sighting = replace(one.sighting, generation=0)

    def _close(self, one: _Open) -> None:
        if self._open.get(one.key) is one:
            del self._open[one.key]
        self._finish(one)

    def _finish(self, one: _Open) -> None:
        for number in one.ids:
            if self._ids.get(number) is one:
                del self._ids[number]
        self._done(
            replace(
                one.sighting,
                met=tuple(one.met),
                points=tuple(one.points),
                known=one.known,
                lossy=one.lossy,
            )
        )
