"""A set of packets, as conditions that all of its members satisfy."""

from __future__ import annotations

from meshnet.model.frozen import dataclass
from meshnet.model.match import Match
from meshnet.model.packet import Family, Field, Packet


@dataclass(frozen=True)
class PacketClass:
    """The packets of ``family`` that begin at ``hook`` and for which every match holds.

    There is at most one match without a mask for a field, but for interfaces, which may
    have several. A packet that lacks a field is in the class where the match's ``absent``
    says so; fields without a match may be anything, or lacking.
    """

    family: Family
    hook: str
    matches: tuple[Match, ...] = ()

    def __contains__(self, packet: object) -> bool:
        """Whether ``packet``, which begins at this class's hook, is one of it."""
        return (
            isinstance(packet, Packet)
            and packet.family is self.family
            and all(match.holds(packet) for match in self.matches)
        )

    def free(self) -> tuple[Field, ...]:
        """The fields that may be anything."""
        asked = {match.field for match in self.matches}
        return tuple(field for field in Field if field not in asked)
