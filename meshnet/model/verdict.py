"""What becomes of one packet, and the rules that it met on its way."""

from __future__ import annotations

from meshnet.model.choices import Enum
from meshnet.model.frozen import dataclass
from meshnet.model.packet import Family, Packet
from meshnet.model.rule import Rule


class Verdict(Enum):
    """The fate of a packet, as far as rules decide it.

    ``captured``: handed to a port of this namespace, by a rule of ours or of another's.
    ``bypassed``: a rule of ours let it go. ``direct``: no rule of ours decided. ``dropped``:
    thrown away or refused. ``maybe``: it hangs on something that no dump shows.
    """

    CAPTURED = "captured"
    BYPASSED = "bypassed"
    DIRECT = "direct"
    DROPPED = "dropped"
    MAYBE = "maybe"


@dataclass(frozen=True)
class Place:
    """Where a rule stands. ``family`` is the table's, ``position`` counts from 1.

    A chain's policy has the position behind its last rule.
    """

    backend: str
    family: Family
    table: str
    chain: str
    position: int

    def __str__(self) -> str:
        return f"{self.backend} {self.family.value} {self.table} {self.chain} {self.position}"


@dataclass(frozen=True)
class Step:
    """One rule that the packet met, at ``hook``.

    ``rule`` is None where the end of a base chain was met: its policy. ``held`` says whether
    all of its matches held; None where that cannot be said offline. ``action`` is what
    the rule does to a packet for which it holds, in words.
    """

    place: Place
    rule: Rule | None
    held: bool | None
    action: str
    hook: str = ""
    ours: bool = False


@dataclass(frozen=True)
class Journey:
    """The way of one packet.

    ``port`` is the one that it is captured by, 0 where it is not captured, or where
    no dump tells the port. ``decider`` is the step that decided: for ``bypassed`` our rule,
    for ``direct`` the foreign rule that ended a chain before our rules in it were asked
    (None where there is none), for ``maybe`` None. ``maybe`` names what was undecided and
    matters; ``fates`` are then the journeys that are possible, one for each fate, and
    ``steps`` those of the first of them. ``packet`` is the packet as it leaves the hooks that
    it began in (output and postrouting; or prerouting and input); what cannot be
    known offline keeps the value it had.
    """

    verdict: Verdict
    packet: Packet
    port: int = 0
    steps: tuple[Step, ...] = ()
    decider: Step | None = None
    maybe: tuple[str, ...] = ()
    fates: tuple[Journey, ...] = ()
