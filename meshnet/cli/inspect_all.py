"""``meshnet inspect all``: every network namespace of the node, a line each."""

from __future__ import annotations

import sys

from meshnet.cli.target_options import print_json
from meshnet.model.node import SCHEMA, Node, NodeLine
from meshnet.render.console import console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.host.target import Target


def inspect_all(output: str, limit: int, timeout: float) -> int:
    """Look at all of them and print.

    The exit code: 3 where something was found, 1 where some could not be read, else 0.
    """
    from meshnet.host.target import resolve_all

    lines = sorted(_lines(resolve_all(), timeout), key=lambda line: line.rank)
    if output == "json":
        print_json(Node(SCHEMA, tuple(lines)))
    else:
        from meshnet.render.node import show_node

        show_node(console(), tuple(lines), limit)
    if any(line.worse_than_note for line in lines):
        return 3
    return 1 if any(line.error for line in lines) else 0


def _lines(targets: tuple[Target, ...], timeout: float) -> list[NodeLine]:
    """The lines, with a progress bar on standard error where that is a terminal."""
    from meshnet.ops.node import inspect_each

    found = inspect_each(targets, timeout)
    if not sys.stderr.isatty():
        return list(found)
    from rich.progress import track

    bar = track(
        found, "namespaces", total=len(targets), console=console(sys.stderr), transient=True
    )
    return list(bar)
