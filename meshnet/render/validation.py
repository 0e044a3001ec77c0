"""The report of a validation: as rows for people, as JSON."""

from __future__ import annotations

import textwrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WIDTH = 100
_SHOWN = {"ok": "ok", "failed": "FAILED", "not tested": "not tested"}


def as_text(report: dict[str, Any]) -> str:
    """A line of counts, then a row a cell: direction, who, what was dialled, what became of it.

    At most 100 columns; what does not fit goes on below, in its own column.
    """
    counts = report["counts"]
    lines = [", ".join(f"{counts[name]} {name}" for name in _SHOWN)]
    rows = report["cells"]
    widths = [max((len(_start(row)[n]) for row in rows), default=0) for n in range(4)]
    for row in rows:
        start = "  ".join(t.ljust(w) for t, w in zip(_start(row), widths, strict=True)) + "  "
        space = max(WIDTH - len(start), 20)
        verdict = textwrap.wrap(_verdict(row), space, break_on_hyphens=False)
        lines.append(start + verdict[0])
        lines += [" " * len(start) + rest for rest in verdict[1:]]
    return "\n".join(line.rstrip() for line in lines)


def _start(row: dict[str, Any]) -> tuple[str, str, str, str]:
    return row["family"], row["direction"], row["who"], row["dialled"]


def _verdict(row: dict[str, Any]) -> str:
    said = row["reason"] or row["happened"]
    if row["verdict"] == "failed":
        said += f" (expected: {row['expected']})"
    return f"{_SHOWN[row['verdict']]}: {said}"


def as_document(report: dict[str, Any]) -> dict[str, Any]:
    """The report as a document of schema meshnet/v1/validation."""
    return {"schema": "meshnet/v1/validation", **report}
