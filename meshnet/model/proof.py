"""What was proven about every packet, or the packet that speaks against it."""

from __future__ import annotations

from meshnet.model.difference import Treatment
from meshnet.model.explanation import ShownPacket
from meshnet.model.frozen import dataclass

SCHEMA = "meshnet/v1/proof"


@dataclass(frozen=True)
class Counterexample:
    """A packet for which a statement is wrong, and the class of those that are like it.

    All packets that begin at ``hook``, of ``families``, for which every phrase of ``conditions``
    holds, speak against it; fields that no phrase names may be anything. ``depends`` and
    ``confirmed`` are as in :class:`~meshnet.model.difference.Divergence`.
    """

    hook: str
    families: tuple[str, ...]
    conditions: tuple[str, ...]
    packet: ShownPacket
    fate: Treatment
    depends: tuple[str, ...] = ()
    confirmed: bool = True


@dataclass(frozen=True)
class Statement:
    """A statement about every packet. ``name`` is an invariant's, "" for one of the user's.

    It is proven where there is no counterexample; ``more``: there are further ones.
    """

    name: str
    text: str
    counterexamples: tuple[Counterexample, ...] = ()
    more: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is proven."""
        return not self.counterexamples


@dataclass(frozen=True)
class Proof:
    """What was asked of the rules of ``source``, statement by statement.

    ``left_out`` are invariants that cannot be asked there, and why. ``undecided`` names what no
    dump shows; the statements were proven for every answer to it.
    ``whole`` False: some rules could not be read; then nothing is proven.
    """

    schema: str
    source: str
    statements: tuple[Statement, ...]
    left_out: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    whole: bool = True

    @property
    def holds(self) -> bool:
        """Whether all of it is proven."""
        return all(statement.holds for statement in self.statements)
