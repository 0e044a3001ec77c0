"""The connections of a namespace: a table for people, plain data for JSON."""

from __future__ import annotations

import textwrap
from collections import Counter

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from meshnet.errors import printable
from meshnet.model.connection import Connection, Direction, Endpoint, Owner, Path
from meshnet.model.snapshot import Snapshot
from meshnet.render.console import safe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, object]

SCHEMA = "meshnet/v1/conns"
#: The widest that an address and an owner are, in columns, before they go on below.
ADDRESS_WIDE, OWNER_WIDE = 22, 16
#: The least that is left for the way, on however narrow a terminal.
NARROWEST = 24
_STYLES = {
    Path.OLDER: "bold red",
    Path.DIRECT: "yellow",
    Path.CAPTURED: "green",
    Path.UNKNOWN: "magenta",
}
_COUNTED = {Path.OLDER: "older than the rules", Path.LEG: "of the proxy's own"}
_WAYS = {Direction.INBOUND: " in", Direction.THROUGH: " passing through"}
_HEADINGS = ("FROM", "DIALLED", "OWNER", "UID", "PATH")
_UID = _HEADINGS.index("UID")


def show_connections(
    console: Console,
    snapshot: Snapshot,
    found: Sequence[Connection],
    shown: Sequence[Connection],
    limit: int,
) -> None:
    """Print counts of all that was ``found``, then at most ``limit`` of ``shown`` (0: all)."""
    console.print(safe(snapshot.namespace.name, "bold"))
    console.print(Text(_counted(found)))
    rows = list(shown[:limit] if limit else shown)
    if rows:
        console.print()
        _print_rows(console, rows)
    if len(shown) < len(found):
        hidden = f"... {len(found) - len(shown):,} others (left out as asked)"
        console.print(Text(hidden, style="dim"))
    if len(rows) < len(shown):
        cut = f"... and {len(shown) - len(rows):,} more (--limit)"
        console.print(Text(cut, style="dim"))
    for gap in snapshot.gaps:
        if gap.section in ("sockets", "connections", "rules", "processes"):
            text = f"{gap.section}: {printable(gap.reason, 400)}"
            console.print(Text(text, style="yellow"))


def _counted(found: Sequence[Connection]) -> str:
    counts = Counter(connection.path for connection in found)
    if not found:
        return "no connections"
    parts = [f"{counts[p]:,} {_COUNTED.get(p, p.value)}" for p in Path if counts[p]]
    total = "1 connection" if len(found) == 1 else f"{len(found):,} connections"
    return f"{total}: {', '.join(parts)}"


def _print_rows(console: Console, rows: Sequence[Connection]) -> None:
    """A table, a row at a time: rich's own measures each cell several times, 3 ms a row."""
    cells = [_cells(row) for row in rows]
    most = (ADDRESS_WIDE, ADDRESS_WIDE + 3, OWNER_WIDE, 10)
    needed = [max(cell_len(c[n]) for c in (*cells, _HEADINGS)) for n in range(4)]
    widths = [min(pair) for pair in zip(needed, most, strict=True)]
    left = sum(widths) + 2 * len(widths)
    widths.append(max(console.width - left, NARROWEST))
    _print_lines(console, widths, [[heading] for heading in _HEADINGS], ("dim", 0, console.width))
    for row, start in zip(rows, cells, strict=True):
        folded = [_fold(cell, width) for cell, width in zip(start, widths, strict=False)]
        path, tail = _path(row)
        folded.append(_wrap(f"{path}  {tail}" if tail else path, widths[-1]))
        _print_lines(console, widths, folded, (_STYLES.get(row.path, ""), left, left + len(path)))


def _print_lines(
    console: Console, widths: list[int], cells: list[list[str]], styled: tuple[str, int, int]
) -> None:
    """Print the lines of a row's cells side by side; ``styled`` is a style and where it holds."""
    lines = []
    for number in range(max(map(len, cells))):
        parts = []
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            part = cell[number] if number < len(cell) else ""
            gap = " " * (width - cell_len(part))
            parts.append(gap + part if column == _UID else part + gap)
        lines.append("  ".join(parts).rstrip())
    text = Text("\n".join(lines))
    if styled[0]:
        text.stylize(styled[0], *styled[1:])
    console.print(text, soft_wrap=True)


def _fold(cell: str, width: int) -> list[str]:
    """``cell`` cut into pieces of ``width`` columns, behind a colon or a slash if one is near."""
    pieces = []
    while cell_len(cell) > width:
        piece = chop_cells(cell, width)[0]
        end = max(piece.rfind(mark) for mark in ":/") + 1
        pieces.append(piece[:end] if end > width // 2 else piece)
        cell = cell[len(pieces[-1]) :]
    return [*pieces, cell]


def _wrap(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` columns, broken between words where there are any."""
    lines = textwrap.wrap(text, width, break_on_hyphens=False)
    return [piece for line in lines for piece in _fold(line, width)] or [""]


def _cells(row: Connection) -> tuple[str, str, str, str]:
    proto = "" if row.proto == "tcp" else f"/{printable(row.proto, 8)}"
    dialled = _end(row.dialled) + proto
    uid = "-" if row.owner is None or row.owner.uid is None else str(row.owner.uid)
    return _end(row.source), dialled, _who(row.owner), uid


def _end(end: Endpoint) -> str:
    return printable(str(end), 60)


def _who(owner: Owner | None) -> str:
    if owner is None or not owner.pid:
        return "-"
    more = f"+{len(owner.others)}" if owner.others else ""
    return f"{printable(owner.command or '?', 40)}/{owner.pid}{more}"


def _path(row: Connection) -> tuple[str, str]:
    """The way in a word or two, and what there is to say of it."""
    parts = []
    if row.path is Path.LEG and row.leg_of:
        parts.append("shared" if row.leg_of == "shared" else f"of {row.leg_of}")
    if row.reason:
        parts.append(row.reason)
    if row.peer is not None and row.peer.pid:
        parts.append(f"with {_who(row.peer)}")
    if row.state not in ("established", ""):
        parts.append(row.state)
    if row.code:
        parts.append(row.code)
    tail = "; ".join(printable(part, 300) for part in parts)
    return row.path.value + _WAYS.get(row.direction, ""), tail


def as_document(
    snapshot: Snapshot, found: Sequence[Connection], shown: Sequence[Connection], limit: int = 0
) -> Json:
    """What was shown, as a document of schema meshnet/v1/conns.

    ``counts`` are of all that was found, ``left_out`` how many of them are not in the list.
    """
    rows = list(shown[:limit] if limit else shown)
    counts = Counter(connection.path.value for connection in found)
    namespace = snapshot.namespace
    return {
        "schema": SCHEMA,
        "namespace": {"name": namespace.name, "inode": namespace.inode, "pod": namespace.pod},
        "taken": snapshot.taken,
        "counts": {path.value: counts[path.value] for path in Path},
        "left_out": len(found) - len(rows),
        "gaps": [{"section": gap.section, "reason": gap.reason} for gap in snapshot.gaps],
        "connections": [_as_value(row) for row in rows],
    }


def _as_value(row: Connection) -> Json:
    return {
        "family": row.family,
        "proto": row.proto,
        "direction": row.direction.value,
        "state": row.state,
        "source": _end_value(row.source),
        "dialled": _end_value(row.dialled),
        "taken": _end_value(row.taken),
        "path": row.path.value,
        "reason": row.reason,
        "rule": row.rule,
        "leg_of": row.leg_of,
        "fate": row.fate,
        "code": row.code,
        "owner": _owner_value(row.owner),
        "peer": _owner_value(row.peer),
        "tracked": row.flow is not None,
    }


def _end_value(end: Endpoint | None) -> Json | None:
    return None if end is None else {"address": end.address, "port": end.port}


def _owner_value(owner: Owner | None) -> Json | None:
    if owner is None:
        return None
    return {
        "pid": owner.pid or None,
        "command": owner.command,
        "uid": owner.uid,
        "others": list(owner.others),
        "proxy": owner.proxy,
    }
