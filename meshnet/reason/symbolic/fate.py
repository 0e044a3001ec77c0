"""What becomes of a packet, as a number that can be asked about.

DROPPED; CAPTURED and the port; or, of what is let go, where DNAT sends it instead, as
:meth:`~meshnet.reason.symbolic.world.World.aim` numbers it, and 0 where nothing does.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DROPPED, CAPTURED, OUTCOME_BITS = 1 << 17, 1 << 16, 18


def port_of(fate: int) -> int:
    """Who captures, 0 where nobody does."""
    return fate & 0xFFFF if CAPTURED <= fate < DROPPED else 0


def kind_of(fate: int) -> int:
    """The fate, wherever what is let go is sent to."""
    return fate if fate >= CAPTURED else 0


def aim_of(fate: int, aims: Sequence[str]) -> str:
    """Where what is let go is sent to, "" where it was aimed at."""
    return aims[fate - 1] if 0 < fate < CAPTURED else ""
