"""``meshnet inspect``: what intercepts a pod's traffic, who listens, who escapes, what is wrong."""

from __future__ import annotations

import sys

import click

from meshnet.cli.target_options import (
    Seconds,
    from_option,
    obtain,
    output_option,
    print_json,
    target_argument,
    timeout_option,
)
from meshnet.errors import UsageError
from meshnet.model.snapshot import SECTIONS
from meshnet.render.inspection import SHOWN, USUAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.inspection import Inspection


@click.command()
@target_argument
@from_option
@click.option(
    "--section",
    metavar="NAME,...",
    help=f"Show only these: {', '.join(SHOWN)}.",
)
@click.option("--raw", is_flag=True, help="The tools' own dumps, as they print them.")
@click.option("--watch", is_flag=True, help="Counters live, with rates, until interrupted.")
@click.option(
    "--interval",
    type=Seconds(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often --watch looks.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="End --watch after N looks.")
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    metavar="N",
    help="The most rows that a list shows; 0: all.",
)
@output_option
@timeout_option
@click.pass_context
def command(
    ctx: click.Context,
    target: str | None,
    from_file: str | None,
    section: str | None,
    raw: bool,
    watch: bool,
    interval: float,
    count: int | None,
    limit: int,
    output: str,
    timeout: float,
) -> None:
    """Show what captures TARGET's traffic, by which rules, for which processes, and what is wrong.

    With `all` (or without a TARGET): every network namespace of this node, a line each, the
    worst first. Ends with 3 where something worse than a note was found.
    """
    sections = _sections(section)
    limit = limit or sys.maxsize
    if sum((raw, watch, output == "json")) > 1:
        raise UsageError("--raw, --watch and --output json exclude each other")
    if section and (raw or watch):
        raise UsageError("--section does not go with --raw or --watch, which show one thing only")
    given = ctx.get_parameter_source("interval") is click.core.ParameterSource.COMMANDLINE
    if not watch and (count is not None or given):
        raise UsageError("--interval and --count belong to --watch")
    if target is None and from_file is None:
        target = "all"
    if target == "all" and from_file is None:
        if raw or watch or section:
            raise UsageError("'all' has no sections, dumps or counters", "name one TARGET")
        from meshnet.cli.inspect_all import inspect_all

        ctx.exit(inspect_all(output, limit, timeout))
    if raw:
        _raw(target, from_file, timeout)
    elif watch:
        _watch(target, from_file, interval, count, limit, timeout)
    else:
        from meshnet.reason.inspection import examine

        inspection = examine(obtain(target, from_file, SECTIONS, timeout))
        _show(inspection, sections, limit, output)
        ctx.exit(exit_code(inspection))


def exit_code(inspection: Inspection) -> int:
    """3 where something worse than a note was found, else 0."""
    return 3 if any(f.severity.value != "note" for f in inspection.findings) else 0


def _sections(text: str | None) -> tuple[str, ...]:
    if text is None:
        return USUAL
    chosen = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in chosen:
        if name not in SHOWN:
            raise click.BadParameter(
                f"'{name}' is none of {', '.join(SHOWN)}", param_hint="'--section'"
            )
    if not chosen:
        raise click.BadParameter("names no section", param_hint="'--section'")
    return chosen


def _show(inspection: Inspection, sections: tuple[str, ...], limit: int, output: str) -> None:
    if output == "json":
        print_json(inspection)
        return
    from meshnet.render.console import console
    from meshnet.render.inspection import show_inspection

    show_inspection(console(), inspection, sections, limit)


def _raw(target: str | None, from_file: str | None, timeout: float) -> None:
    """The tools' own words. Control characters are escaped: comments may hold any."""
    from meshnet.ops.raw import raw_listings, stored_listings

    if from_file is not None:
        listings = stored_listings(obtain(None, from_file, SECTIONS))
    else:
        from meshnet.host.target import resolve

        listings = raw_listings(resolve(str(target)), timeout)
    for number, listing in enumerate(listings):
        print(f"{'' if number == 0 else chr(10)}$ {listing.command}")
        print(listing.text, end="" if listing.text.endswith("\n") else "\n")
    if not listings:
        print("no backend holds a table, and nothing listens", file=sys.stderr)


def _watch(
    target: str | None,
    from_file: str | None,
    interval: float,
    count: int | None,
    limit: int,
    timeout: float,
) -> None:
    if from_file is not None:
        raise UsageError("a file does not change: --watch needs a live TARGET")
    from meshnet.cli.watch import watch_counters

    watch_counters(str(target), interval, count, limit, timeout)
