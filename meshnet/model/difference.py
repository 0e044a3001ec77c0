"""What two rulesets do differently: their rules as text, and classes of packets."""

from __future__ import annotations

from meshnet.model.explanation import ShownPacket
from meshnet.model.frozen import dataclass

SCHEMA = "meshnet/v1/difference"


@dataclass(frozen=True)
class TextChange:
    """A rule or a policy that one side has and the other has not.

    ``sign`` is "-" for the first side alone, "+" for the second, "~" for a rule that both have,
    in another place. ``place`` names the chain, ``position`` counts from 1 on the side that has
    it (of "~": on the first, and ``moved`` on the second); ``text`` is the rule in words.
    """

    sign: str
    place: str
    position: int
    text: str
    moved: int = 0


@dataclass(frozen=True)
class Treatment:
    """What one side does with a packet: its verdict, who captures it (0: nobody), and why.

    ``rule`` is the one that decides, "" where none does; ``because`` may be "". ``to`` is where
    DNAT sends a packet that nobody captures, "" where it stays aimed at what it was.
    """

    verdict: str
    port: int
    rule: str
    because: str = ""
    to: str = ""


@dataclass(frozen=True)
class Divergence:
    """A class of packets that the two sides treat differently, and one packet of it.

    ``hook`` is where they begin: "output" or "prerouting". All packets of ``families`` for which
    every phrase of ``conditions`` holds are treated as ``one`` and ``other`` say; fields that
    no phrase names may be anything. ``depends`` names what no dump shows and the fates hang
    on. ``confirmed``: the walk, asked about ``packet``, says the same.
    """

    hook: str
    families: tuple[str, ...]
    conditions: tuple[str, ...]
    packet: ShownPacket
    one: Treatment
    other: Treatment
    depends: tuple[str, ...] = ()
    confirmed: bool = True


@dataclass(frozen=True)
class Difference:
    """Two sides, by name, and what is different.

    ``classes`` are disjoint in no particular way: together they are all packets that are
    treated differently, unless ``more``. No class and not ``more`` is a proof: the same for
    every packet. ``undecided`` says that answers to what no dump shows were taken to be the
    same on both sides.
    ``whole`` False: rules of a side could not be read; then nothing is proven.
    """

    schema: str
    one: str
    other: str
    text: tuple[TextChange, ...]
    classes: tuple[Divergence, ...]
    more: bool = False
    undecided: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    whole: bool = True

    @property
    def same(self) -> bool:
        """Whether every packet is treated alike."""
        return not self.classes and not self.more
