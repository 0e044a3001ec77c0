"""Which packets no rule can tell apart: they have one class, and are walked once."""

from __future__ import annotations

from bisect import bisect_right

from meshnet.model.intervals import IntervalSet
from meshnet.model.packet import Field, Packet
from meshnet.reason.action import LOOPBACK
from meshnet.reason.lines import TableCode

#: Compared by the interval they lie in; all other fields as they are.
_WIDE = (Field.SRC, Field.DST, Field.SPORT, Field.DPORT, Field.UID, Field.GID)


class Classes:
    """Knows every bound that some rule of ``tables`` asks about."""

    def __init__(self, tables: list[TableCode]) -> None:
        bounds: dict[Field, set[int]] = {field: set() for field in _WIDE}
        # 127/8 and ::1: where a packet goes after a translation hangs on them.
        loopback = (LOOPBACK.values(), (0x7F000000, 0x80000000, 2))
        bounds[Field.DST].update(value for values in loopback for value in values)
        masked = set()
        for table in tables:
            for code in table.codes.values():
                for line in code.lines:
                    for match in line.matches:
                        if match.mask is not None:
                            masked.add(match.field)
                        if match.field in bounds and isinstance(match.values, IntervalSet):
                            for first, last in match.values:
                                bounds[match.field].update((first, last + 1))
        self._bounds = [(f.label, sorted(bounds[f]), f in masked) for f in _WIDE]

    def of(self, packet: Packet) -> tuple[object, ...]:
        """Equal for two packets only where every rule answers the same for both."""
        values = packet.__dict__
        wide = [
            value if exact or value is None else bisect_right(cuts, value)
            for label, cuts, exact in self._bounds
            for value in (values[label],)
        ]
        return (
            packet.family.value,
            packet.proto,
            packet.iif,
            packet.oif,
            packet.mark,
            packet.ctmark,
            packet.ctstate,
            *wide,
        )
