"""Packets made from the constants of rules: one for each thing that a rule asks about."""

from __future__ import annotations

from meshnet.model.address import read_address
from meshnet.model.frozen import dataclass, replace
from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.match import Match
from meshnet.model.packet import TCP, UDP, Family, Field, Packet
from meshnet.model.rule import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

#: Addresses of documentation and benchmark blocks: whoever they belong to, it is not this pod.
_FAR = {
    Family.IP: ("203.0.113.77", "198.51.100.77", "192.0.2.77", "198.18.77.77", "100.64.77.77"),
    Family.IP6: ("2001:db8:77::77", "2001:db8:ffff::77", "2400:cb00::77", "fd77:77::77"),
}
_HERE = {Family.IP: "10.255.255.254", Family.IP6: "fd00:77::1"}
#: HTTPS first: most of what is captured is.
_PORTS = (443, 80)
_SPORT = 40123


@dataclass(frozen=True)
class Ground:
    """What packets of a namespace have in common, for one family.

    ``here`` is an address of the namespace, ``link`` the interface that leads outside,
    ``far`` an address elsewhere that no rule names, ``stranger`` an owner likewise.
    """

    family: Family
    here: int
    link: str
    far: int
    stranger: int


def ground(family: Family, here: str, link: str, rules: Sequence[Rule]) -> Ground:
    """The ground for ``rules``; ``here`` and ``link`` may be "" where nothing is known."""
    named = [m.values for r in rules for m in r.matches if m.field is Field.DST]
    numbers = [read_address(text)[1] for text in _FAR[family]]
    free = [n for n in numbers if not any(n in values and _narrow(values) for values in named)]
    owners = [m.values for r in rules for m in r.matches if m.field in (Field.UID, Field.GID)]
    uids = (1000, 1001, 12345, 54321, 65533)
    strange = [uid for uid in uids if not any(uid in values for values in owners)]
    return Ground(
        family,
        read_address(here or _HERE[family])[1],
        link or "eth0",
        (free or numbers)[0],
        (strange or list(uids))[0],
    )


def _narrow(values: IntervalSet | NameSet) -> bool:
    """Whether an address set names anything: 0.0.0.0/0 does not."""
    return not (isinstance(values, IntervalSet) and values.spans[:1] and values.spans[0][0] == 0)


def outgoing(on: Ground) -> Packet:
    """The first packet of a stranger's TCP connection to somewhere far."""
    return Packet(
        on.family, TCP, on.here, on.far, _SPORT, _PORTS[0], None, on.link, on.stranger, on.stranger
    )


def incoming(on: Ground) -> Packet:
    """The first packet of a TCP connection from somewhere far to this namespace."""
    return Packet(on.family, TCP, on.far, on.here, _SPORT, 8080, on.link, None)


def witnesses(plain: Packet, rules: Iterable[Rule], most: int) -> tuple[Packet, ...]:
    """``plain``, then packets that the rules can tell from it, each once, ``most`` at the most.

    For each rule one that all of its matches hold for, as far as that is possible, and
    one that has what its negated matches name.
    """
    found: dict[Packet, None] = dict.fromkeys(_with_ports(plain))
    for rule in rules:
        if rule.opaque or (rule.family and not rule.family.covers(plain.family)):
            continue
        for packet in _of_rule(plain, rule):
            found[packet] = None
        if len(found) >= most:
            break
    return tuple(found)[:most]


def _with_ports(packet: Packet) -> Iterator[Packet]:
    yield packet
    if packet.dport == _PORTS[0]:
        yield replace(packet, dport=_PORTS[1])


def _of_rule(plain: Packet, rule: Rule) -> Iterator[Packet]:
    held = witness(plain, (rule,))
    yield held
    for match in rule.matches:
        if match.negated:
            yield _satisfy(held, match.inverted())


def witness(plain: Packet, path: Iterable[Rule]) -> Packet:
    """``plain``, changed so that every rule of ``path`` holds, as far as that is possible."""
    for rule in path:
        for match in rule.matches:
            plain = _satisfy(plain, match)
    return plain


def _satisfy(packet: Packet, match: Match) -> Packet:
    """``packet``, changed so that ``match`` holds; as it is where that is hard."""
    if match.holds(packet) or match.mask is not None:
        return packet
    value = _member(packet, match)
    if value is None or not _makes_sense(packet, match.field, value):
        return packet
    fields: dict[str, Any] = {match.field.label: value}
    changed = replace(packet, **fields)
    if match.field is Field.PROTO and value not in (TCP, UDP):
        return replace(changed, sport=None, dport=None)
    return changed


def _makes_sense(packet: Packet, field: Field, value: int | str) -> bool:
    """Whether a first packet can have it: an interface only on its own side, addresses by size."""
    if field is Field.CTSTATE:
        return value in ("new", "established", "related", "invalid", "untracked")
    if field in (Field.SRC, Field.DST) and isinstance(value, int):
        return value < 1 << (32 if packet.family is Family.IP else 128)
    return packet.value(field) is not None


def _member(packet: Packet, match: Match) -> int | str | None:
    """A value for which ``match`` holds, near the beginning of what it names."""
    values = match.values
    if isinstance(values, NameSet):
        names = [name[:-1] + "0" if name.endswith("+") else name for name in values]
        if match.negated:
            return next((n for n in ("eth0", "eth1", "new") if n not in values), None)
        return names[0] if names else None
    if not match.negated:
        return _usual(values)
    last = (1 << match.field.bits) - 1
    if match.field in (Field.SRC, Field.DST) and packet.family is Family.IP:
        last = (1 << 32) - 1
    rest = values.complement(last)
    return _usual(rest)


def _usual(values: IntervalSet) -> int | None:
    """The second number of the first interval that has two, as a block's first is its name."""
    for first, last in values:
        return first + 1 if last > first else first
    return None
