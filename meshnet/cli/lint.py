"""``meshnet lint``: what is wrong with rules as such."""

from __future__ import annotations

import click

from meshnet.cli.source_options import ruleset_option, spec_option
from meshnet.cli.target_options import from_option, output_option, print_json, timeout_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.lint import Lint


@click.command()
@click.argument("target", required=False, metavar="[TARGET|FILE]")
@click.option(
    "--fail-on",
    metavar="CODE,...",
    help="End with 3 only where one of these is found; `none` for never.  [default: any]",
)
@from_option
@ruleset_option
@spec_option
@output_option
@timeout_option
@click.pass_context
def command(
    ctx: click.Context,
    target: str | None,
    fail_on: str | None,
    from_file: str | None,
    ruleset: str | None,
    spec: str | None,
    output: str,
    timeout: float,
) -> None:
    """Look over the rules of TARGET, or of a FILE: a snapshot, or a dump of rules.

    \b
    MN110   rules of others that decide before ours
    MN111   rules that can never match, with those that shadow them
    MN114   rules that change nothing
    MN115   users of the proxy that are not treated alike
    MN130   IPv6 that is not captured where IPv4 is

    All of it is proven for every packet, by z3 (pip install 'meshnet[prove]'). Ends with 3 where
    something was found.
    """
    from meshnet.cli.any_source import any_source
    from meshnet.ops.lint import look_over

    codes = None if fail_on is None else _codes(fail_on)
    found = look_over(any_source(target, from_file, ruleset, spec, timeout))
    _show(found, output)
    told = {finding.code for finding in found.findings}
    counts = told if codes is None else told & codes
    ctx.exit(3 if counts else int(not found.whole))


def _codes(text: str) -> set[str]:
    """The codes that ``text`` names; UsageError for one that there is not."""
    from meshnet.cli.codes import code_of

    if text.strip() == "none":
        return set()
    named = {code_of(part).code for part in text.split(",") if part.strip()}
    if not named:
        raise click.BadParameter("names no code", param_hint="'--fail-on'")
    return named


def _show(found: Lint, output: str) -> None:
    if output == "json":
        print_json(found)
        return
    from meshnet.render.console import console
    from meshnet.render.lint import show_lint

    show_lint(console(), found)
