"""A class of packets in words: its conditions, and what may be anything."""

from __future__ import annotations

from meshnet.model.explanation import Condition, SameFate
from meshnet.model.frozen import replace
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match
from meshnet.model.packet import TCP, UDP, Family, Field
from meshnet.model.packet_class import PacketClass
from meshnet.reason.words import NAMED, match_in_words

_OWNERS = (Field.UID, Field.GID)
_PORTS = (Field.SPORT, Field.DPORT)
#: Protocols that have ports, as the model has it.
_PORTED = frozenset((TCP, UDP, 132))
FAMILIES = {Family.IP: "IPv4", Family.IP6: "IPv6"}
NAMES = {
    Field.PROTO: "protocol",
    Field.SPORT: "source port",
    Field.DPORT: "port",
    Field.SRC: "source",
    Field.DST: "destination",
    Field.CTMARK: "connection's mark",
    Field.CTSTATE: "state",
    Field.IIF: "interface it came by",
    Field.OIF: "interface it leaves by",
}


def class_in_words(
    found: PacketClass | None, family: Family, open_fields: frozenset[Field]
) -> SameFate:
    """What is to be said of ``found``; ``open_fields`` are those that a MAYBE may hang on."""
    if found is None:
        return SameFate(FAMILIES[family], (), (), whole=False)
    beside = {Field.IIF} if found.hook == "output" else {Field.OIF, *_OWNERS}
    conditions = tuple(
        Condition(match.field.label, words)
        for match in found.matches
        if match.field not in beside and (words := _words(match, found))
    )
    free = tuple(
        NAMES.get(field, field.label)
        for field in found.free()
        if field not in beside and field not in open_fields and field is not Field.CTMARK
    )
    return SameFate(FAMILIES[family], conditions, free)


def _words(match: Match, within: PacketClass) -> str:
    field = match.field
    if field is Field.CTSTATE:
        state = match.values.only()
        return "first of its connection" if state == "new" else f"connection {state}"
    if not isinstance(match.values, IntervalSet):
        return match_in_words(replace(match, absent=False), within.family)
    if not match.values and not match.negated:
        return "no ports" if field in _PORTS else "no socket" if field in _OWNERS else ""
    shown = _shorter(match, within.family)
    has = _has(match, within)
    if not shown.values:
        return has
    return f"{has}, {_listed(shown, within.family)}" if has else _listed(shown, within.family)


def _listed(match: Match, family: Family) -> str:
    """``match`` in words, of many values a few: nobody reads five thousand."""
    values = match.values
    if not isinstance(values, IntervalSet) or len(values) <= NAMED:
        return match_in_words(match, family)
    first = replace(match, values=IntervalSet(values.spans[:3]))
    return f"{match_in_words(first, family)} and {len(values) - 3:,} more"


def _shorter(match: Match, family: Family) -> Match:
    """``match`` or the negation of what it leaves out, whichever has fewer parts."""
    values = match.values
    if match.mask is not None or match.negated or not isinstance(values, IntervalSet):
        return match
    wide = match.field in (Field.SRC, Field.DST)
    bits = match.field.bits if not wide or family is Family.IP6 else 32
    rest = values.complement((1 << bits) - 1)
    if _size(rest) < _size(values) and len(rest) <= len(values):
        return replace(match, values=rest, negated=True)
    return match


def _size(values: IntervalSet) -> int:
    return sum(last - first + 1 for first, last in values)


def _has(match: Match, within: PacketClass) -> str:
    """That a packet must have the field, where that is more than its value says."""
    if match.absent or not match.negated:
        return ""
    if match.field in _OWNERS:
        return "has a socket"
    if match.field in _PORTS:
        protocols = next((m for m in within.matches if m.field is Field.PROTO), None)
        known = protocols is not None and not protocols.negated
        if known and protocols is not None and isinstance(protocols.values, IntervalSet):
            single = protocols.values.only()
            return "" if single in _PORTED else "has ports"
        return "has ports"
    return ""
