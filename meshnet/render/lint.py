"""What is wrong with rules as such, on a terminal."""

from __future__ import annotations

from rich.console import Console

from meshnet.model.lint import Lint
from meshnet.render.console import safe
from meshnet.render.difference import hanging, show_notes

_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold"}


def show_lint(console: Console, lint: Lint) -> None:
    """Print the findings, each with what it rests on, then their number."""
    for finding in lint.findings:
        severity = finding.severity.value
        hanging(console, f"{finding.code} {severity:<7}  ", finding.summary, _STYLES[severity])
        for fact in finding.evidence:
            hanging(console, " " * 15, fact, "dim")
    if lint.findings:
        console.print()
    rules = "1 rule" if lint.rules == 1 else f"{lint.rules} rules"
    rest = "" if lint.whole else " in what could be read"
    if not lint.findings:
        console.print(safe(f"{lint.source}: {rules}, nothing found{rest}", "bold green"))
    else:
        codes = sorted({finding.code for finding in lint.findings})
        count = len(lint.findings)
        found = "1 finding" if count == 1 else f"{count} findings"
        said = f"{lint.source}: {rules}, {found}; `meshnet codes {' '.join(codes)}`"
        hanging(console, "", said, "bold")
    show_notes(console, lint.notes, lint.undecided)
