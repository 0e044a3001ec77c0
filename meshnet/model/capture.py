"""What is captured, in sentences: one for each direction."""

from __future__ import annotations

from meshnet.model.frozen import dataclass

#: The order in which they are told.
DIRECTIONS = ("outbound", "inbound", "dns")


@dataclass(frozen=True)
class CaptureLine:
    """One sentence about one direction.

    ``direction`` is of DIRECTIONS, ``family`` "IPv4", "IPv6" or "IPv4+IPv6" where both are
    alike. ``ports`` are those that connections are handed to, ascending; none where
    nothing is captured. ``backend`` holds the rules, "" where no rules do. ``sentence`` is
    printable: names in it that came from outside are escaped.
    """

    direction: str
    family: str
    sentence: str
    ports: tuple[int, ...] = ()
    backend: str = ""

    @property
    def captured(self) -> bool:
        """Whether anything is handed to a port."""
        return bool(self.ports)
