"""A rule: matches, a target, and why it exists."""

from __future__ import annotations

from meshnet.model.choices import Enum
from meshnet.model.frozen import dataclass, field
from meshnet.model.match import Match
from meshnet.model.packet import Family, Packet

FULL_MASK = 0xFFFFFFFF


class Kind(Enum):
    """What a target does."""

    ACCEPT = "accept"
    DROP = "drop"
    RETURN = "return"
    JUMP = "jump"
    GOTO = "goto"
    REDIRECT = "redirect"
    TPROXY = "tproxy"
    MARK = "mark"
    SAVE_MARK = "save-mark"
    RESTORE_MARK = "restore-mark"
    ZONE = "zone"
    RESET = "reset"
    REJECT = "reject"


@dataclass(frozen=True)
class Target:
    """What happens to a packet that a rule matches.

    ``chain`` belongs to JUMP and GOTO, ``port`` (1..65535) to REDIRECT and TPROXY,
    ``mark`` and ``mask`` to MARK and TPROXY, ``zone`` (1..65535) to ZONE. RESET
    answers with a TCP reset, REJECT with an ICMP port-unreachable.
    """

    kind: Kind
    chain: str = ""
    port: int = 0
    mark: int = 0
    mask: int = FULL_MASK
    zone: int = 0


ACCEPT = Target(Kind.ACCEPT)
DROP = Target(Kind.DROP)
RETURN = Target(Kind.RETURN)
SAVE_MARK = Target(Kind.SAVE_MARK)
RESTORE_MARK = Target(Kind.RESTORE_MARK)
RESET = Target(Kind.RESET)
REJECT = Target(Kind.REJECT)


def jump(chain: str) -> Target:
    """Go through ``chain``, and come back unless it decides."""
    return Target(Kind.JUMP, chain=chain)


def redirect(port: int) -> Target:
    """Hand the connection to ``port`` of this namespace, original destination kept in conntrack."""
    return Target(Kind.REDIRECT, port=port)


@dataclass(frozen=True)
class Rule:
    """One rule of a chain.

    ``family`` narrows a rule of an inet table to one family; None is "as the table".
    ``opaque`` is the text (or JSON) of a rule that the model does not understand: it
    is kept in place and never evaluated; ``target`` may be known all the same.
    ``id``, ``why`` and ``setting`` say where the rule comes from; counters are what
    the kernel counted. None of those makes two rules different.
    """

    matches: tuple[Match, ...]
    target: Target | None
    family: Family | None = None
    opaque: str = ""
    comment: str = ""
    id: str = field(default="", compare=False)
    why: str = field(default="", compare=False)
    setting: str = field(default="", compare=False)
    head: bool = field(default=False, compare=False)
    packets: int = field(default=0, compare=False)
    bytes: int = field(default=0, compare=False)

    def holds(self, packet: Packet) -> bool:
        """Whether every match holds; a rule without matches holds for each packet.

        Raises ValueError for an opaque rule: it cannot be evaluated.
        """
        if self.opaque:
            raise ValueError(f"an opaque rule cannot be evaluated: {self.opaque}")
        if self.family is not None and not self.family.covers(packet.family):
            return False
        return all(match.holds(packet) for match in self.matches)

    def same(self, other: Rule) -> bool:
        """Whether both do the same: the order of matches in a conjunction is no difference."""
        return (
            self.target == other.target
            and self.opaque == other.opaque
            and self.comment == other.comment
            and self.family == other.family
            and len(self.matches) == len(other.matches)
            and all(match in other.matches for match in self.matches)
        )
