"""``meshnet``: the command line for people; each command is a file of this room.

A command's file is loaded when the command runs: its name and one line of help stand
here, so that ``meshnet --help`` costs no more than click.
"""

from __future__ import annotations

import sys

import click

from meshnet import __version__
from meshnet.errors import MeshnetError

_AS_IT_IS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

#: Each command: the module that defines it as ``command``, and its line in the list.
COMMANDS = {
    "codes": ("meshnet.cli.codes", "What the codes of findings mean."),
    "conns": ("meshnet.cli.conns", "Live connections, who owns them, and the way each took."),
    "doctor": ("meshnet.cli.doctor", "What this machine and this user can do."),
    "inspect": ("meshnet.cli.inspect", "What intercepts a pod's traffic, and what is wrong."),
    "snapshot": ("meshnet.cli.snapshot", "Everything that the other commands need, as a file."),
}


class _Commands(click.Group):
    """A group whose commands are loaded when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*COMMANDS, *super().list_commands(ctx)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        if ctx.meta.get("meshnet.listing"):
            return click.Command(cmd_name, help=COMMANDS[cmd_name][1])
        return _load(COMMANDS[cmd_name][0])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        ctx.meta["meshnet.listing"] = True
        super().format_commands(ctx, formatter)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except MeshnetError as e:
            print(f"meshnet: {e}", file=sys.stderr)
            ctx.exit(e.exit_code)


def _load(module: str) -> click.Command:
    from importlib import import_module

    command: click.Command = import_module(module).command
    return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="meshnet", message="%(prog)s %(version)s")
def main() -> None:
    """Hand a pod's traffic to its sidecar, prove that it happens, and explain it.

    TARGET is a pid, a path of a network namespace, a unique prefix of a pod or container, or one
    of pid:4140, netns:blue, container:3f2a, pod:shop/cart, cgroup:/sys/fs/cgroup/..., self, all.

    Exit codes: 0 clean, 1 error, 2 usage, 3 findings, 4 this kernel cannot, 5 not permitted.
    """


@main.command(context_settings=_AS_IT_IS, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def init(arguments: tuple[str, ...]) -> None:
    """Program the interception: the same as meshnet-init."""
    from meshnet.cli.init import main as init_main

    init_main(arguments, prog="meshnet init")
