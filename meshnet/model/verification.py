"""What a verification of a running pod found: a row for each kind of connection."""

from __future__ import annotations

from meshnet.model.frozen import dataclass

SCHEMA = "meshnet/v1/verify"
OK, FAILED, WARNING, NOT_TESTED = "ok", "failed", "warn", "not tested"


@dataclass(frozen=True)
class VerifiedCell:
    """One kind of connection: who dialled what how often, which rule decided, what became of it.

    ``rule`` is where the deciding rule stands, "" where none decides; ``words`` what it does.
    ``counted`` is by how much its counter grew, None where it has none or nothing was
    dialled. ``happened`` is what was seen, ``reason`` why it failed, or what the cell needs.
    ``verdict`` is "ok", "failed", "warn" or "not tested"; ``code`` a finding's, or "".
    """

    family: str
    direction: str
    who: str
    dialled: str
    count: int
    expected: str
    verdict: str
    happened: str = ""
    rule: str = ""
    words: str = ""
    counted: int | None = None
    code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Verification:
    """All rows, of the capture that ``profile`` and ``backend`` name."""

    name: str
    inode: int
    backend: str
    profile: str
    proxy: str
    cells: tuple[VerifiedCell, ...]

    def count(self, verdict: str) -> int:
        """How many rows have ``verdict``."""
        return sum(cell.verdict == verdict for cell in self.cells)
