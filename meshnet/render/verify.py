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
    from collections.abc import Sequence

    from rich.console import Console

    Json = dict[str, object]

_STYLES = {OK: "green", FAILED: "bold red", WARNING: "yellow", NOT_TESTED: "dim"}
#: Where what does not fit into a row goes on.
_INDENT = 10
_HEADINGS = ("WHO", "DIALLED", "RULE AND ITS COUNT")


def show_verification(console: Console, found: Verification) -> None:
    """Print what was verified: a row a kind of connection, by family, and a line of counts."""
    head = Text(printable(found.name), style="bold")
    proxy = printable(found.proxy) or "none seen"
    head.append(f"   profile {found.profile} on {found.backend}   proxy {proxy}", style="")
    console.print(head, soft_wrap=True)
    rows = [(cell, _columns(cell)) for cell in found.cells]
    tall = [_HEADINGS, *(row for _, row in rows)]
    widths = [max(cell_len(text) for text in column) for column in zip(*tall, strict=True)]
    for family in dict.fromkeys(cell.family for cell in found.cells):
        title = Text(f"{family:{_INDENT}}", style="bold")
        title.append(_row(_HEADINGS, widths).rstrip(), style="dim")
        console.print(title, soft_wrap=True)
        for cell, row in rows:
            if cell.family == family:
                _show(console, cell, row, widths)
    if any(cell.verdict == OK and (cell.counted or 0) > cell.count for cell in found.cells):
        said = "a rule that counted more than was dialled saw the pod's own traffic as well"
        console.print(Text(said, style="dim"), soft_wrap=True)
    console.print(Text(_counted(found), style="bold"))
    codes = sorted({cell.code for cell in found.cells if cell.code})
    if codes:
        console.print(Text(f"`meshnet codes {codes[0]}` explains one", style="dim"))


def _row(texts: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"{text:{width}}  " for text, width in zip(texts, widths, strict=False))


def _show(
    console: Console, cell: VerifiedCell, row: tuple[str, str, str], widths: list[int]
) -> None:
    """One row; below it what is wrong, and what does not fit."""
    # A row of which nothing was dialled has room for the reason.
    shown = row if cell.dialled else row[:1]
    line = Text(f"{cell.direction:{_INDENT}}{_row(shown, widths)}")
    (word, said), reason = _outcome(cell), _reason(cell)
    line.append(word, style=_STYLES[cell.verdict])
    if cell.verdict == NOT_TESTED:
        said, reason = reason, ""
    if cell_len(line.plain) + 2 + cell_len(said) <= console.width:
        line.append(f"  {said}" if said else "")
        said = ""
    console.print(line, soft_wrap=True)
    below = _below(said, reason)
    for more in textwrap.wrap(below, console.width - _INDENT, break_on_hyphens=False):
        console.print(Text(" " * _INDENT + more, style=_STYLES[cell.verdict]), soft_wrap=True)


def _below(said: str, reason: str) -> str:
    if not said or not reason:
        return said + reason.lstrip()
    return f"{said}{reason}" if reason.startswith(" ") else f"{said}: {reason}"


def _columns(cell: VerifiedCell) -> tuple[str, str, str]:
    times = f" x{cell.count}" if cell.count and cell.dialled else ""
    rule = printable(cell.rule, 40)
    asked = cell.dialled and cell.verdict != NOT_TESTED and cell.direction != "control"
    if not rule and asked:
        rule = "no rule"
    if cell.counted is not None:
        rule += f" +{cell.counted}"
    # Nearly everything is TCP.
    return printable(cell.who, 40), cell.dialled.removeprefix("tcp ") + times, rule


def _outcome(cell: VerifiedCell) -> tuple[str, str]:
    """The verdict, and in a few words what was seen."""
    word = cell.verdict.upper() if cell.verdict == FAILED else cell.verdict
    said = printable(cell.happened, 200)
    if cell.verdict == OK:
        # That all of them fared alike is what "ok" says.
        said = said.partition(",")[0]
    return word, said


def _reason(cell: VerifiedCell) -> str:
    """What is wrong, or missing; "" for nothing."""
    said = printable(cell.reason, 300)
    expected = printable(cell.expected, 100)
    if cell.verdict == FAILED and expected.replace("port ", ":") not in cell.happened:
        said = f"expected {expected}; {said}"
    return f"{said}   {cell.code}" if cell.code and cell.verdict != OK else said


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
