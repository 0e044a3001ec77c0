"""``inspect all`` on a terminal: a line a namespace, the worst first."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from meshnet.model.node import NodeLine
from meshnet.render.console import safe, table
from meshnet.render.inspection import STYLES

#: What the columns between name and findings need, with room for three codes behind them.
_BETWEEN = 64
_LONGEST_NAME, _SHORTEST_NAME = 34, 14
_CAPTURING = {"full": "green", "partial": "yellow", "leaking": "bold red", "none": "bold red"}


def show_node(console: Console, lines: tuple[NodeLine, ...], limit: int) -> None:
    """Print at most ``limit`` of the lines, and how many the rest are."""
    rows = table("NAMESPACE", "CAPTURE", "IN/OUT", "BACKEND", "PROXY", "FINDINGS")
    longest = max(_SHORTEST_NAME, min(_LONGEST_NAME, console.width - _BETWEEN))
    for line in lines[:limit]:
        rows.add_row(
            safe(line.name, "bold" if line.findings or line.error else "", longest),
            _capturing(line),
            Text(_ports(line)),
            Text("+".join(line.backends) or "-"),
            safe(line.proxy or "-", limit=15),
            _findings(line),
        )
    # A line a namespace: what does not fit is cut, `meshnet inspect` has it whole.
    rows.columns[5].overflow = "ellipsis"
    rows.columns[5].ratio = 1
    rows.expand = True
    console.print(rows)
    if len(lines) > limit:
        console.print(Text(f"... and {len(lines) - limit:,} more (--limit)", style="dim"))
    bad = sum(line.worse_than_note for line in lines)
    unread = sum(bool(line.error) for line in lines)
    tail = f", {unread} could not be read" if unread else ""
    counted = f"{len(lines)} namespaces, {bad} with errors or warnings{tail}"
    console.print(Text(counted, style="dim"))


def _capturing(line: NodeLine) -> Text:
    if line.error:
        return Text("?", style="bold red")
    return Text(line.capturing, style=_CAPTURING.get(line.capturing, ""))


def _ports(line: NodeLine) -> str:
    if not line.inbound and not line.outbound:
        return "-"
    inbound = ",".join(str(port) for port in line.inbound) or "-"
    return f"{inbound}/{','.join(str(port) for port in line.outbound) or '-'}"


def _findings(line: NodeLine) -> Text:
    if line.error:
        return safe(line.error, "red")
    if not line.findings:
        seen = "-" if line.proxy else "no proxy seen"
        return Text("not in the mesh" if line.capturing == "-" else seen, style="dim")
    if len(line.findings) == 1:
        (one,) = line.findings
        # A line each: `meshnet inspect` has the whole sentence.
        parts = ((one.code, STYLES[one.severity.value]), " ", safe(one.summary))
        return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
    return Text(" ").join(Text(f.code, style=STYLES[f.severity.value]) for f in line.findings)
