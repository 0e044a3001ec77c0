"""A verification: a table for people, plain data for JSON."""

from __future__ import annotations

import textwrap

from rich.cells import cell_len
from rich.text import Text

from meshnet.errors import printable
from meshnet.model.verification import (
    FAILED,
    NOT_TESTED,
    OK,
    SCHEMA,
    WARNING,
    Verification,
    VerifiedCell,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rich.console import Console

    Json = dict[str, object]

_STYLES = {OK: "green", FAILED: "bold red", WARNING: "yellow", NOT_TESTED: "dim"}
_HEADINGS = ("", "WHO", "DIALLED", "RULE", "")


def show_verification(console: Console, found: Verification) -> None:
    """Print what was verified, a row a kind of connection, and a line of counts."""
    head = Text(printable(found.name), style="bold")
    proxy = printable(found.proxy) or "no proxy seen"
    head.append(f"   profile {found.profile} on {found.backend}   {proxy}", style="")
    console.print(head, soft_wrap=True)
    rows = [_columns(cell) for cell in found.cells]
    widths = [max((cell_len(row[n]) for row in rows), default=0) for n in range(4)]
    for cell, row in zip(found.cells, rows, strict=True):
        start = "  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)) + "  "
        lines = textwrap.wrap(_outcome(cell), max(console.width - len(start), 24))
        first = Text(start)
        first.append(lines[0], style=_STYLES[cell.verdict])
        console.print(first, soft_wrap=True)
        for line in lines[1:]:
            console.print(Text(" " * len(start) + line), soft_wrap=True)
    console.print(Text(_counted(found), style="bold"))


def _columns(cell: VerifiedCell) -> tuple[str, str, str, str]:
    family = "6" if cell.family == "IPv6" else ""
    times = f" x{cell.count}" if cell.count and cell.dialled else ""
    rule = printable(cell.rule, 40)
    if cell.counted is not None:
        rule += f" +{cell.counted}"
    if (
        not cell.rule
        and cell.dialled
        and cell.verdict != NOT_TESTED
        and cell.direction != "control"
    ):
        rule = "no rule"
    return cell.direction + family, printable(cell.who, 40), cell.dialled + times, rule


def _outcome(cell: VerifiedCell) -> str:
    said = printable(cell.happened, 200)
    if cell.verdict == FAILED:
        said += f" (expected: {printable(cell.expected, 100)}): {printable(cell.reason, 300)}"
    elif cell.verdict == NOT_TESTED:
        said = printable(cell.reason, 200)
    word = cell.verdict.upper() if cell.verdict == FAILED else cell.verdict
    return f"{word}: {said}" + (f"  {cell.code}" if cell.code else "")


def _counted(found: Verification) -> str:
    verdicts = (OK, FAILED, WARNING, NOT_TESTED)
    return ", ".join(f"{found.count(verdict)} {verdict}" for verdict in verdicts)


def as_document(found: Verification) -> Json:
    """What was verified, as a document of schema meshnet/v1/verify."""
    return {
        "schema": SCHEMA,
        "namespace": {"name": found.name, "inode": found.inode},
        "backend": found.backend,
        "profile": found.profile,
        "proxy": found.proxy,
        "failed": found.count(FAILED) > 0,
        "counts": {verdict: found.count(verdict) for verdict in (OK, FAILED, WARNING, NOT_TESTED)},
        "cells": [{n: getattr(c, n) for n in VerifiedCell.__match_args__} for c in found.cells],
    }
