"""``meshnet conns``: every live connection, who owns it, and the way it took."""

from __future__ import annotations

import click

from meshnet.cli.target_options import (
    from_option,
    obtain,
    output_option,
    print_json,
    target_argument,
    timeout_option,
)
from meshnet.model.connection import Connection, Path
from meshnet.model.snapshot import SECTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshnet.model.ruleset import Ruleset
    from meshnet.model.snapshot import Snapshot

#: How many rows are text where nobody says; a JSON document has them all.
USUAL_ROWS = 1000


@click.command()
@target_argument
@from_option
@click.option(
    "--path",
    "paths",
    multiple=True,
    type=click.Choice([path.value for path in Path]),
    help="Only those that went this way; may be given several times.",
)
@click.option(
    "--pid",
    type=click.IntRange(1),
    metavar="PID",
    help="Only those that this process holds an end of.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Only those with this port at an end.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    metavar="N",
    help=f"The most rows that are shown; 0 for all.  [default: {USUAL_ROWS}; all of them in JSON]",
)
@output_option
@timeout_option
@click.pass_context
def command(
    ctx: click.Context,
    target: str | None,
    from_file: str | None,
    paths: tuple[str, ...],
    pid: int | None,
    port: int | None,
    limit: int | None,
    output: str,
    timeout: float,
) -> None:
    """Show each live connection of TARGET: who owns it, what it dialled, and the way it took.

    \b
    captured   the proxy has it: conntrack's replies come from its port, or TPROXY gave it
    leg        the proxy's own, of which connection where only one can be meant, else shared
    direct     past the proxy; the rule that lets it, as the rules are now
    older      direct, though a rule would capture it now: it is older than the rule
    loopback   both ends are here, without the proxy; forwarded: neither end is here

    What needs a look stands first. A connection whose both ends are here is one row. Ends with
    3 where a TCP connection that is shown is older than the rules (MN140), else with 0.
    """
    from meshnet.reason.connections import join

    snapshot = obtain(target, from_file, SECTIONS, timeout)
    found = join(snapshot, _rulesets(snapshot))
    shown = [row for row in found if _wanted(row, paths, pid, port)]
    _show(snapshot, found, shown, limit, output)
    ctx.exit(3 if any(row.code for row in shown) else 0)


def _rulesets(snapshot: Snapshot) -> dict[str, Ruleset]:
    """The rules that are run: those of dormant tables decide nothing."""
    from meshnet.dialects.dumps import rulesets
    from meshnet.reason.findings.dormant import awake

    return awake(snapshot, rulesets(snapshot))[0]


def _wanted(row: Connection, paths: tuple[str, ...], pid: int | None, port: int | None) -> bool:
    ends = (row.source, row.dialled, row.taken)
    return (
        (not paths or row.path.value in paths)
        and (pid is None or pid in row.pids)
        and (port is None or any(end is not None and end.port == port for end in ends))
    )


def _show(
    snapshot: Snapshot,
    found: Sequence[Connection],
    shown: Sequence[Connection],
    limit: int | None,
    output: str,
) -> None:
    from meshnet.render.connections import as_document, show_connections

    if output == "json":
        print_json(as_document(snapshot, found, shown, limit or 0))
        return
    from meshnet.render.console import console

    show_connections(console(), snapshot, found, shown, USUAL_ROWS if limit is None else limit)
