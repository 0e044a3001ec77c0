"""A match: one question about one field of a packet."""

from __future__ import annotations

from meshnet.model.frozen import dataclass
from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.packet import TCP, UDP, Field, Packet

PROTO_NUMBERS = {"tcp": TCP, "udp": UDP, "icmp": 1, "ipv6-icmp": 58, "sctp": 132}
PROTO_NAMES = {number: name for name, number in PROTO_NUMBERS.items()}


@dataclass(frozen=True)
class Match:
    """``field`` (masked by ``mask``) is in ``values``, or is not where ``negated``.

    ``absent`` is the answer for a packet that lacks the field. It is where the two
    dialects part: ``-m owner ! --uid-owner 5`` holds for a packet without a socket
    (``net/netfilter/xt_owner.c``), ``meta skuid != 5`` does not, because nft breaks
    off the rule (``net/netfilter/nft_meta.c``).

    The definition is data: :meth:`holds` evaluates it on one packet, and a prover
    can read the same ``values``, ``negated`` and ``absent`` for all packets.
    """

    field: Field
    values: IntervalSet | NameSet
    negated: bool = False
    mask: int | None = None
    absent: bool = False

    def holds(self, packet: Packet) -> bool:
        """Whether ``packet`` satisfies this match."""
        value = packet.value(self.field)
        if value is None:
            return self.absent
        if self.mask is not None and isinstance(value, int):
            value &= self.mask
        return (value in self.values) is not self.negated

    def inverted(self) -> Match:
        """The same question, asked the other way round (``absent`` stays)."""
        return Match(self.field, self.values, not self.negated, self.mask, self.absent)


def proto(*names: str) -> Match:
    """The transport protocol is one of ``names`` ("tcp", "udp")."""
    return Match(Field.PROTO, IntervalSet.of(*(PROTO_NUMBERS[n] for n in names)))


def iif(*names: str) -> Match:
    """The packet came in by one of these interfaces."""
    return Match(Field.IIF, NameSet.of(*names))


def oif(*names: str) -> Match:
    """The packet leaves by one of these interfaces."""
    return Match(Field.OIF, NameSet.of(*names))


def ports(field: Field, values: IntervalSet, negated: bool = False) -> Match:
    """The source or destination port is in ``values``."""
    return Match(field, values, negated)


def dport(*values: int, negated: bool = False) -> Match:
    """The destination port is one of ``values``."""
    return Match(Field.DPORT, IntervalSet.of(*values), negated)


def sport(*values: int) -> Match:
    """The source port is one of ``values``."""
    return Match(Field.SPORT, IntervalSet.of(*values))


def mark(value: int, negated: bool = False) -> Match:
    """The packet's mark is ``value``."""
    return Match(Field.MARK, IntervalSet.of(value), negated)


def ctmark(value: int) -> Match:
    """The connection's mark is ``value``."""
    return Match(Field.CTMARK, IntervalSet.of(value))


def ctstate(*states: str) -> Match:
    """The connection is in one of ``states`` (conntrack's names, lower case)."""
    return Match(Field.CTSTATE, NameSet.of(*states))
