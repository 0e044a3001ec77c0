"""A finding: a defect with a stable code, and what shows that it is there."""

from __future__ import annotations

from meshnet.model.choices import Enum
from meshnet.model.frozen import dataclass


class Severity(Enum):
    """How bad: ``error`` breaks the interception, ``warning`` may, ``note`` is worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """A defect that was seen.

    ``summary`` is one sentence that names the object; ``evidence`` are the facts it rests
    on, a line each, at least one; ``mend`` is what to do here. All of it may hold text
    from outside: whoever prints it escapes it. ``pids`` are the processes concerned.
    """

    code: str
    severity: Severity
    summary: str
    evidence: tuple[str, ...]
    mend: str = ""
    pids: tuple[int, ...] = ()
