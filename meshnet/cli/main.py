"""``meshnet``: the command line for people; each command is a file of this room."""

from __future__ import annotations

import click

from meshnet import __version__

_AS_IT_IS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="meshnet", message="%(prog)s %(version)s")
def main() -> None:
    """Hand a pod's traffic to its sidecar, and prove it.

    Exit codes: 0 clean, 1 error, 2 usage, 3 findings, 4 this kernel cannot, 5 not permitted.
    """


@main.command(context_settings=_AS_IT_IS, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def init(arguments: tuple[str, ...]) -> None:
    """Program the interception: the same as meshnet-init."""
    from meshnet.cli.init import main as init_main

    init_main(arguments, prog="meshnet init")
