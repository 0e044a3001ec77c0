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

    The exit code: 3 where something was found; else, where some could not be read, what the
    reason of all of them is (5: a capability is missing), or 1; else 0.
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
    codes = {line.exit_code for line in lines if line.error}
    return codes.pop() if len(codes) == 1 else int(bool(codes))


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
