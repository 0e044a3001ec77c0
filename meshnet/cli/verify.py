"""``meshnet verify``: a running pod's capture proven by connections, beside a living proxy."""

from __future__ import annotations

import click

from meshnet.cli.target_options import Seconds, output_option, print_json, timeout_option
from meshnet.errors import UsageError
from meshnet.model.verification import FAILED


@click.command()
@click.argument("target")
@click.option(
    "--probe-timeout",
    type=Seconds(0.1, 60),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long one connection may take.",
)
@output_option
@timeout_option
@click.pass_context
def command(
    ctx: click.Context, target: str, probe_timeout: float, output: str, timeout: float
) -> None:
    """Prove by connections that TARGET's traffic goes where its rules mean it to go.

    A known number of connections as an application, as the proxy, and from this namespace into the
    pod; the rule that decides has to count them. Destinations are addresses that nobody has, and
    the proxy may be running. The same probe in a namespace without rules has to come out
    elsewhere. Ends with 3 where a row failed, else with 0.
    """
    from meshnet.host.target import resolve
    from meshnet.ops.verify import verify
    from meshnet.render.verify import as_document, show_verification

    if target == "all":
        raise UsageError("'all' is no single namespace", "name one target")
    found = verify(resolve(target), probe_timeout, timeout)
    if output == "json":
        print_json(as_document(found))
    else:
        from meshnet.render.console import console

        show_verification(console(), found)
    ctx.exit(3 if found.count(FAILED) else 0)
