"""``meshnet snapshot``: one document with everything that the other commands need."""

from __future__ import annotations

import os
import sys

import click

from meshnet.cli.target_options import harmless_json, obtain, timeout_option
from meshnet.errors import MeshnetError, printable
from meshnet.model.snapshot import SECTIONS


@click.command()
@click.argument("target", required=False)
@click.option(
    "--from", "from_file", metavar="FILE", help="Take a snapshot that exists: to redact it."
)
@click.option("--to", "path", metavar="FILE", help="Write here instead of to standard output.")
@click.option(
    "--redact",
    "hide",
    is_flag=True,
    help="Replace addresses and names by others, alike everywhere.",
)
@timeout_option
def command(
    target: str | None, from_file: str | None, path: str | None, hide: bool, timeout: float
) -> None:
    """Write everything about TARGET's network namespace as one JSON document.

    `inspect` and `conns` read it with --from FILE, elsewhere and without privileges. Environment
    variables and command-line arguments of processes are never in it.
    """
    from meshnet.dialects.snapshot_json import write_snapshot

    snapshot = obtain(target, from_file, SECTIONS, timeout)
    if hide:
        from meshnet.reason.redact import redact

        snapshot = redact(snapshot)
    for gap in snapshot.gaps:
        print(f"meshnet: {gap.section}: {printable(gap.reason, 400)}", file=sys.stderr)
    data = write_snapshot(snapshot)
    if path is None:
        sys.stdout.buffer.write(harmless_json(data.decode()).encode())
    else:
        _write(path, data)


def _write(path: str, data: bytes) -> None:
    """Write ``data`` whole or not at all; readable by the owner alone: addresses are in it."""
    beside = f"{path}.{os.getpid()}.new"
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(handle, "wb") as f:
                f.write(data)
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
    except OSError as e:
        raise MeshnetError(f"cannot write {printable(path)}: {e.strerror}") from e
