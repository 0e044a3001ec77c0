"""What became of a probe, held against what had to: ok, failed, or not tested. Pure."""

from __future__ import annotations

from meshnet.model.address import show_address
from meshnet.model.frozen import dataclass
from meshnet.model.packet import TCP, Family
from meshnet.ops.cells import NAMES, Cell, Expect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OK, FAILED, NOT_TESTED = "ok", "failed", "not tested"


@dataclass(frozen=True)
class Outcome:
    """What was seen of a probe; ``end`` as in :class:`meshnet.host.dialling.Dial`.

    ``port`` is where in the target's namespace it came out, 0 where it did not. ``original``
    is the destination that was to be read there, None where it could not be. ``answered``
    matters for datagrams. ``foreign``: another process has the port that captures.
    ``answerable``: the listener answers as the proxy would, so an answer has to come back.
    """

    end: str
    port: int = 0
    original: tuple[str, int] | None = None
    answered: bool = False
    why: str = ""
    foreign: bool = False
    answerable: bool = True


def judge(cell: Cell, seen: Outcome | None) -> tuple[str, str]:
    """The verdict, and in a few words what happened or what the cell needs.

    ``seen`` is None for a cell that was not probed.
    """
    if seen is None or cell.obstacle:
        return NOT_TESTED, cell.obstacle or "was not dialled"
    if cell.expect is Expect.CAPTURED:
        return _judge_captured(cell, seen)
    if cell.expect is Expect.REFUSED:
        return (OK if seen.end == "refused" else FAILED), describe(cell, seen)
    if cell.direction in ("inbound", "control"):
        # The destination listens: nothing but an arrival there means "left alone".
        return (OK if seen.port == cell.port else FAILED), describe(cell, seen)
    # Out there nobody answers, or somebody does: what counts is that no port here got it.
    return (FAILED if seen.port else OK), describe(cell, seen)


def _judge_captured(cell: Cell, seen: Outcome) -> tuple[str, str]:
    said = describe(cell, seen)
    if seen.port == 0 and seen.foreign and seen.end == "elsewhere":
        return NOT_TESTED, f"needs port {cell.by} free (a proxy listens)"
    if seen.port != cell.by:
        return FAILED, said
    if cell.transport != TCP:
        lost = seen.answerable and not seen.answered
        return (FAILED, f"{said}, its answer did not come back") if lost else (OK, said)
    # What another process was told is between it and the kernel; where it came out is seen.
    intact = seen.original == _target(cell) or (seen.foreign and seen.original is None)
    return (OK if intact else FAILED), said


def describe(cell: Cell, seen: Outcome) -> str:
    """What happened, in a few words."""
    if seen.port:
        said = f"reached port {seen.port}"
        if seen.end == "elsewhere":
            said += ", where another process listens"
        if seen.port == cell.port and cell.expect is not Expect.CAPTURED:
            return said
        if cell.transport != TCP:
            return f"{said}, and answered" if seen.answered else said
        if seen.original == _target(cell):
            return f"{said}, destination intact"
        if seen.original is None:
            return said
        return f"{said}, destination {_endpoint(seen.original)}"
    if seen.end == "elsewhere":
        return "somebody outside answered"
    if seen.end == "refused":
        return "was refused"
    if seen.end == "failed":
        return f"went out: {seen.why}"
    return "no answer, reached no proxy port"


def _endpoint(target: tuple[str, int]) -> str:
    address, port = target
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _target(cell: Cell) -> tuple[str, int]:
    return show_address(cell.family, cell.address), cell.port


def expected(cell: Cell) -> str:
    """What had to become of the probe, in a few words."""
    if cell.expect is Expect.CAPTURED:
        return f"captured by port {cell.by}"
    return f"{cell.expect.value}: {cell.why}" if cell.why else cell.expect.value


def as_row(cell: Cell, seen: Outcome | None) -> dict[str, Any]:
    """The cell, what became of it and the verdict, as plain data."""
    verdict, said = judge(cell, seen)
    dialled = ""
    if cell.address and cell.port:
        dialled = f"{'tcp' if cell.transport == TCP else 'udp'} {_endpoint(_target(cell))}"
    return {
        "family": NAMES[cell.family],
        "direction": cell.direction,
        "who": cell.who,
        "dialled": dialled,
        "expected": expected(cell) if cell.address else "",
        "verdict": verdict,
        "happened": "" if verdict == NOT_TESTED else said,
        "reason": said if verdict == NOT_TESTED else "",
    }


def sentence(row: dict[str, Any], likely: str) -> str:
    """A failed row in one sentence, with the likely reason."""
    return (
        f"{row['family']} {row['direction']} as {row['who']} to {row['dialled']}: expected"
        f" {row['expected']}, but: {row['happened']}; {likely}"
    )


def family_of(row: dict[str, Any]) -> Family:
    """The family of a row."""
    return next(family for family, name in NAMES.items() if name == row["family"])
