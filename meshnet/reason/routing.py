"""Which addresses are a namespace's own, and by which interface a packet leaves or came."""

from __future__ import annotations

from meshnet.model.address import read_address, read_cidr
from meshnet.model.packet import Family
from meshnet.model.snapshot import Route, Snapshot

#: The tables that every lookup ends in (include/uapi/linux/rtnetlink.h).
MAIN, LOCAL = 254, 255
_BITS = {Family.IP: 32, Family.IP6: 128}


class Routing:
    """The addresses and the main routing table of a snapshot.

    Routes of other tables are left out: they need a mark, a user or a source that is not
    known here. Text that is no address is nobody's, and leaves by no interface.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._own: dict[str, str] = {}
        self._numbers: dict[str, tuple[Family, int] | None] = {}
        for link in snapshot.links:
            if link.loopback:
                self.loopback = link.name
                break
        else:
            self.loopback = "lo"
        for address in snapshot.addresses:
            self._own.setdefault(address.address, address.link)
        if not snapshot.addresses:
            # Not collected: then whatever a socket is bound to, unless it may be anybody's.
            for socket in snapshot.sockets:
                if not socket.transparent and socket.local not in ("0.0.0.0", "::", "*"):
                    self._own.setdefault(socket.local, "")
        self._spans: dict[Family, dict[int, dict[int, str]]] = {Family.IP: {}, Family.IP6: {}}
        for route in sorted(snapshot.routes, key=lambda r: -r.metric):
            self._add(route)
        self._found: dict[str, str] = {}

    def _add(self, route: Route) -> None:
        if route.table != MAIN or not route.link:
            return
        try:
            cidr, _ = read_cidr(route.destination)
        except ValueError:
            return
        # Sorted by metric, worst first: the better one takes the place.
        self._spans[cidr.family].setdefault(cidr.length, {})[cidr.network] = route.link

    def number(self, address: str) -> tuple[Family, int] | None:
        """The family and number of an address; None for text that is none."""
        if address not in self._numbers:
            try:
                self._numbers[address] = read_address(address)
            except ValueError:
                self._numbers[address] = None
        return self._numbers[address]

    def primaries(self, snapshot: Snapshot) -> dict[tuple[str, Family], int]:
        """The first address of each interface and family."""
        found: dict[tuple[str, Family], int] = {}
        for address in snapshot.addresses:
            if (number := self.number(address.address)) is not None:
                found.setdefault((address.link, number[0]), number[1])
        return found

    def is_own(self, address: str) -> bool:
        """Whether packets to ``address`` stay in the namespace."""
        if address in self._own or address == "::1":
            return True
        found = self.number(address)
        return found is not None and found[0] is Family.IP and found[1] >> 24 == 127

    def link_of(self, address: str) -> str:
        """The interface that has ``address`` of the namespace; "" where none is known to."""
        return self._own.get(address, "")

    def leaves_by(self, address: str) -> str:
        """The interface by which a packet to ``address`` leaves; "" where no route is known."""
        if address not in self._found:
            self._found[address] = self._look_up(address)
        return self._found[address]

    def comes_by(self, source: str, destination: str) -> str:
        """The interface by which a packet from ``source`` to ``destination`` comes in.

        The way back to its source, as where routing is symmetric; else the interface that
        has the destination; "" where neither is known.
        """
        if self.is_own(source):
            return self.loopback
        return self.leaves_by(source) or self.link_of(destination)

    def _look_up(self, address: str) -> str:
        if self.is_own(address):
            return self.loopback
        found = self.number(address)
        if found is None:
            return ""
        family, number = found
        for length in sorted(self._spans[family], reverse=True):
            shift = _BITS[family] - length
            link = self._spans[family][length].get(number >> shift << shift)
            if link is not None:
                return link
        return ""
