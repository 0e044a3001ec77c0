"""``meshnet``: the command line for people; each command is a file of this room.

A command's file is loaded when the command runs: its name and one line of help stand
here, so that ``meshnet --help`` costs no more than click.
"""

from __future__ import annotations

import os
import sys
from errno import EPIPE
from io import TextIOWrapper
from typing import Any, TextIO

import click

from meshnet import __version__
from meshnet.errors import MeshnetError, printable

_AS_IT_IS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

#: Each command: the module that defines it as ``command``, and its line in the list.
COMMANDS = {
    "codes": ("meshnet.cli.codes", "What the codes of findings mean."),
    "conns": ("meshnet.cli.conns", "Live connections, who owns them, and the way each took."),
    "diff": ("meshnet.cli.diff", "What two configurations treat differently, or that nothing is."),
    "doctor": ("meshnet.cli.doctor", "What this machine and this user can do."),
    "explain": ("meshnet.cli.explain", "Why a connection goes through the sidecar, or does not."),
    "inspect": ("meshnet.cli.inspect", "What intercepts a pod's traffic, and what is wrong."),
    "lint": ("meshnet.cli.lint", "Rules that never match, change nothing, or let something slip."),
    "prove": ("meshnet.cli.prove", "Whether a sentence holds for every packet there is."),
    "snapshot": ("meshnet.cli.snapshot", "Everything that the other commands need, as a file."),
    "trace": ("meshnet.cli.trace", "The kernel's own trace of connections, rule by rule, live."),
    "verify": ("meshnet.cli.verify", "Whether capture works in a running pod: real connections."),
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

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click's own, but that an error of usage is one line, as every other error is."""
        alone = extra.pop("standalone_mode", True)
        # Any: click's overloads do not see through the arguments that are passed on.
        above: Any = super().main
        if not alone:
            return above(*args, standalone_mode=False, **extra)
        try:
            code = above(*args, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as e:
            print(e.format_message(), file=sys.stderr)
            sys.exit(e.exit_code)
        except click.UsageError as e:
            where = e.ctx.command_path if e.ctx else "meshnet"
            words = printable(e.format_message().rstrip("."), 400)
            print(f"{where}: {words} (see `{where} --help`)", file=sys.stderr)
            sys.exit(e.exit_code)
        except click.ClickException as e:
            print(f"meshnet: {printable(e.format_message(), 400)}", file=sys.stderr)
            sys.exit(e.exit_code)
        except click.Abort:
            sys.exit(130)
        except OSError as e:
            # Help that could not be written; a command's own errors do not get here.
            sys.stdout = _nowhere()
            print(f"meshnet: {printable(str(e))}", file=sys.stderr)
            sys.exit(MeshnetError.exit_code)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> object:
        _prepare_streams()
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except MeshnetError as e:
            print(f"meshnet: {e}", file=sys.stderr)
            ctx.exit(e.exit_code)
        except OSError as e:
            if e.errno == EPIPE:
                # Nobody reads any more: click ends quietly.
                raise
            print(f"meshnet: {printable(str(e))}", file=sys.stderr)
            # What could not be written shall not be tried again at the end.
            sys.stdout = _nowhere()
            ctx.exit(MeshnetError.exit_code)


def _nowhere() -> TextIO:
    """A stream that takes everything; it stays open as long as the process."""
    return open(os.devnull, "w", encoding="utf-8")


def _prepare_streams() -> None:
    """Streams that are there, and take any text: names need not fit the terminal's encoding."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _nowhere())
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
