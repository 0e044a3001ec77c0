"""One packet, as far as rules can ask about it, and the fields that they ask for."""

from __future__ import annotations

from meshnet.model.choices import Enum
from meshnet.model.frozen import dataclass

TCP, UDP = 6, 17


class Family(Enum):
    """An address family, by the name that nft gives it."""

    IP = "ip"
    IP6 = "ip6"
    INET = "inet"

    def covers(self, other: Family) -> bool:
        """Whether rules of this family see packets of ``other``."""
        return self is Family.INET or self is other


class Field(Enum):
    """What a match can look at. ``bits`` is the width of an integer field, 0 for names."""

    IIF = ("iif", 0)
    OIF = ("oif", 0)
    PROTO = ("proto", 8)
    SRC = ("src", 128)
    DST = ("dst", 128)
    SPORT = ("sport", 16)
    DPORT = ("dport", 16)
    UID = ("uid", 32)
    GID = ("gid", 32)
    MARK = ("mark", 32)
    CTMARK = ("ctmark", 32)
    CTSTATE = ("ctstate", 0)

    def __init__(self, label: str, bits: int) -> None:
        self.label = label
        self.bits = bits


@dataclass(frozen=True)
class Packet:
    """A packet at a hook. None is a field that it does not have.

    Addresses are integers (32 or 128 bits by ``family``), ports are 0..65535 and
    None unless ``proto`` has ports. ``uid`` and ``gid`` are the file-system ids
    that the socket was created with (``net/netfilter/xt_owner.c`` reads
    ``sk->sk_socket->file->f_cred``); None for a packet without a socket.
    """

    family: Family
    proto: int
    src: int
    dst: int
    sport: int | None = None
    dport: int | None = None
    iif: str | None = None
    oif: str | None = None
    uid: int | None = None
    gid: int | None = None
    mark: int = 0
    ctmark: int = 0
    ctstate: str = "new"

    def value(self, field: Field) -> int | str | None:
        """What this packet has for ``field``; None where it lacks it."""
        found: int | str | None = getattr(self, field.label)
        return found
