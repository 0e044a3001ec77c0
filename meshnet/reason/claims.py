"""What can be said of a packet and its fate: fields, values, and formulas of them."""

from __future__ import annotations

from meshnet.model.address import read_address, read_cidr
from meshnet.model.frozen import dataclass
from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.match import PROTO_NUMBERS, Match
from meshnet.model.packet import Family, Field, Packet
from meshnet.model.verdict import Verdict

#: Each field, and what its values are.
FIELDS = {
    "uid": "a number, a range 0-999, a set {0, 1337}, or none: no socket",
    "gid": "a number, a range 0-999, a set {0, 1337}, or none: no socket",
    "proto": "tcp, udp, icmp, ipv6-icmp, sctp, or a number of 0 to 255",
    "src": "an address, a block 10.0.0.0/8, a range 10.0.0.1-10.0.0.9, or a set of these",
    "dst": "an address, a block 10.0.0.0/8, a range 10.0.0.1-10.0.0.9, or a set of these",
    "sport": "a port, a range 8000-8999, a set of these, or none",
    "dport": "a port, a range 8000-8999, a set of these, or none",
    "iif": "an interface, a beginning eth+, a set of these, or none",
    "oif": "an interface, a beginning eth+, a set of these, or none",
    "mark": "a number, a range or a set of these; hexadecimal as 0x539",
    "ctmark": "a number, a range or a set of these; hexadecimal as 0x539",
    "ctstate": "new, established, related, invalid, untracked",
    "family": "ip or ip6",
    "hook": "output (it leaves from here) or prerouting (it came in)",
    "port": "the port that captures it, a range, a set, or none: not captured",
}
#: What holds of a packet, or not.
VERDICTS = ("captured", "bypassed", "direct", "dropped")
FLAGS = (*VERDICTS, "socket", "local")
_CHOICES = {
    "ctstate": ("new", "established", "related", "invalid", "untracked"),
    "family": ("ip", "ip6"),
    "hook": ("output", "prerouting"),
}
_LAST = {"sport": 65535, "dport": 65535, "port": 65535, "proto": 255}
_PACKET_FIELDS = {field.label: field for field in Field}
_OPTIONAL = frozenset(("uid", "gid", "sport", "dport", "iif", "oif", "port"))


@dataclass(frozen=True)
class Values:
    """What one word of an expression names: numbers, for addresses by family, or names."""

    numbers: tuple[tuple[int, int], ...] = ()
    family: Family | None = None
    name: str = ""
    none: bool = False


@dataclass(frozen=True)
class Claim:
    """``field`` is one of the values, or is none of them where ``negated``.

    Of a packet that lacks the field nothing is true but ``none``. ``numbers`` belong to fields of
    numbers, ``four`` and ``six`` to addresses, ``names`` to the others.
    """

    field: str
    negated: bool
    numbers: IntervalSet = IntervalSet()
    four: IntervalSet = IntervalSet()
    six: IntervalSet = IntervalSet()
    names: NameSet = NameSet()
    none: bool = False

    @staticmethod
    def of(field: str, read: list[Values], negated: bool) -> Claim:
        """The claim that names all of ``read``."""
        spans: dict[Family | None, list[tuple[int, int]]] = {}
        for values in read:
            spans.setdefault(values.family, []).extend(values.numbers)
        return Claim(
            field,
            negated,
            IntervalSet.of(*spans.get(None, ())),
            IntervalSet.of(*spans.get(Family.IP, ())),
            IntervalSet.of(*spans.get(Family.IP6, ())),
            NameSet.of(*(values.name for values in read if values.name)),
            any(values.none for values in read),
        )

    @property
    def absent(self) -> bool:
        """The answer for a packet that lacks the field."""
        return self.none and not self.negated

    def match(self, family: Family) -> Match | None:
        """The claim as a question about a packet of ``family``; None where it is about its fate."""
        field = _PACKET_FIELDS.get(self.field)
        if field is None:
            return None
        values: IntervalSet | NameSet = self.numbers
        if field in (Field.SRC, Field.DST):
            values = self.four if family is Family.IP else self.six
        elif not field.bits:
            values = self.names
        return Match(field, values, self.negated, absent=self.absent)

    def holds(self, packet: Packet, hook: str, verdict: Verdict, port: int) -> bool:
        """Whether it is so for ``packet``, whose fate is ``verdict`` by ``port``."""
        match = self.match(packet.family)
        if match is not None:
            return match.holds(packet)
        if self.field == "port":
            if verdict is not Verdict.CAPTURED:
                return self.absent
            return (port in self.numbers) is not self.negated
        said = packet.family.value if self.field == "family" else hook
        return (said in self.names) is not self.negated


@dataclass(frozen=True)
class Formula:
    """``kind`` is claim, one of FLAGS, a word that joins ``parts``, intended, or kept.

    ``intended`` is what the spec captures; ``kept`` what is captured by the port that it means.
    """

    kind: str
    parts: tuple[Formula, ...] = ()
    claim: Claim | None = None

    def claims(self) -> tuple[Claim, ...]:
        """Every claim in it."""
        own = (self.claim,) if self.claim is not None else ()
        return (*own, *(claim for part in self.parts for claim in part.claims()))

    def holds(
        self,
        packet: Packet,
        hook: str,
        local: bool,
        verdict: Verdict,
        port: int,
        intended: frozenset[int] = frozenset(),
    ) -> bool:
        """Whether it is so for a packet of this fate; the spec means it for ports ``intended``."""
        if self.claim is not None:
            return self.claim.holds(packet, hook, verdict, port)
        parts = [part.holds(packet, hook, local, verdict, port, intended) for part in self.parts]
        if self.kind in ("and", "or"):
            return all(parts) if self.kind == "and" else any(parts)
        if self.kind == "not":
            return not parts[0]
        if self.kind == "implies":
            return not parts[0] or parts[1]
        kept = verdict is Verdict.CAPTURED and port in intended
        flags = {"socket": packet.uid is not None, "local": local}
        flags |= {"intended": bool(intended), "kept": kept}
        return flags.get(self.kind, self.kind == verdict.value)


def read_values(field: str, text: str) -> Values:
    """The values of ``field`` that ``text`` names; ValueError where it names none."""
    if text == "none":
        if field not in _OPTIONAL:
            raise ValueError(f"every packet has {field}: none is none of its values")
        return Values(none=True)
    if field in _CHOICES:
        if text not in _CHOICES[field]:
            raise ValueError(f"'{text}' is none of {', '.join(_CHOICES[field])}")
        return Values(name=text)
    if field in ("iif", "oif"):
        if len(text.rstrip("+")) > 15:
            raise ValueError(f"'{text}' is too long for an interface")
        return Values(name=text)
    if field in ("src", "dst"):
        return _addresses(text)
    if field == "proto" and text in PROTO_NUMBERS:
        return Values(((PROTO_NUMBERS[text],) * 2,))
    return Values((_span(field, text),))


def _span(field: str, text: str) -> tuple[int, int]:
    last_of_all = _LAST.get(field, 0xFFFFFFFF)
    first, dash, last = text.partition("-")
    span = _number(first), _number(last if dash else first)
    if None in span:
        raise ValueError(f"'{text}' is no value of {field}")
    low, high = int(span[0] or 0), int(span[1] or 0)
    if high > last_of_all:
        raise ValueError(f"'{text}' is beyond {last_of_all}, the last {field}")
    if low > high:
        raise ValueError(f"'{text}' runs backwards")
    return low, high


def _number(text: str) -> int | None:
    if not text.isascii() or len(text) > 12:
        return None
    try:
        return (
            int(text[2:], 16) if text[:2] in ("0x", "0X") else int(text) if text.isdigit() else None
        )
    except ValueError:
        return None


def _addresses(text: str) -> Values:
    first, dash, last = text.partition("-")
    try:
        if not dash:
            cidr, masked = read_cidr(text)
            if masked:
                raise ValueError("host bits")
            return Values((cidr.span(),), cidr.family)
        (family, low), (other, high) = read_address(first), read_address(last)
    except ValueError as e:
        why = "has bits behind its prefix" if str(e) == "host bits" else "is no address or block"
        raise ValueError(f"'{text}' {why}") from e
    if family is not other or low > high:
        raise ValueError(f"'{text}' is no range of addresses")
    return Values(((low, high),), family)
