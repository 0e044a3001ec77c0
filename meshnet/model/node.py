"""What ``inspect all`` shows: a line a network namespace."""

from __future__ import annotations

from meshnet.model.finding import Finding
from meshnet.model.frozen import dataclass

SCHEMA = "meshnet/v1/node"

_RANKS = {"error": 1, "warning": 2, "note": 3}


@dataclass(frozen=True)
class NodeLine:
    """A namespace in short. ``error`` says why it could not be read; all else is empty then,
    and ``exit_code`` is what looking at it alone would end with.

    ``capturing`` is as in :class:`meshnet.model.inspection.Inspection`; ``inbound`` and
    ``outbound`` are the ports captured to, ``proxy`` a command name, or "".
    """

    name: str
    inode: int
    capturing: str = "-"
    inbound: tuple[int, ...] = ()
    outbound: tuple[int, ...] = ()
    backends: tuple[str, ...] = ()
    proxy: str = ""
    findings: tuple[Finding, ...] = ()
    error: str = ""
    exit_code: int = 0

    @property
    def rank(self) -> tuple[int, str]:
        """The worst first: unreadable, error, warning, note, clean, not in a mesh."""
        if self.error:
            return 0, self.name
        if self.findings:
            return min(_RANKS[f.severity.value] for f in self.findings), self.name
        return (4 if self.capturing != "-" else 5), self.name

    @property
    def worse_than_note(self) -> bool:
        """Whether a finding is more than a note."""
        return any(f.severity.value != "note" for f in self.findings)


@dataclass(frozen=True)
class Node:
    """All of them, the worst first."""

    schema: str
    namespaces: tuple[NodeLine, ...]
