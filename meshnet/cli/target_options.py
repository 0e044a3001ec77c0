"""What commands that look at a target have in common: argument, options, snapshot."""

from __future__ import annotations

import sys

import click

from meshnet.errors import MeshnetError, UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from meshnet.model.snapshot import Snapshot

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

#: A snapshot file larger than this is refused, in bytes.
LARGEST = 1 << 30


class Seconds(click.FloatRange):
    """A span of time within limits. NaN is in no range, though comparing does not say so."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r} is no number", param, ctx)
        return number


target_argument: Decorator = click.argument("target", required=False)
from_option: Decorator = click.option(
    "--from",
    "from_file",
    metavar="FILE",
    help="Read a snapshot (- for standard input) instead of a live target: no privileges needed.",
)
output_option: Decorator = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What to print.",
)
timeout_option: Decorator = click.option(
    "--timeout",
    type=Seconds(0.1, 600),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="How long one namespace may take.",
)


def obtain(
    target: str | None, from_file: str | None, sections: tuple[str, ...], timeout: float = 20.0
) -> Snapshot:
    """The snapshot that the user named: collected from ``target``, or read from a file.

    Raises UsageError where both or none are given, or ``all``, which is no single
    namespace; else what collecting or reading raises.
    """
    if (target is None) == (from_file is None):
        raise UsageError("name either a TARGET or --from FILE", "meshnet COMMAND --help")
    if from_file is not None:
        return read_file(from_file)
    if target == "all":
        raise UsageError(
            "'all' is no single namespace", "name one target; `meshnet inspect all` lists them"
        )
    from meshnet.host.target import resolve
    from meshnet.ops.collect import collect

    return collect(resolve(str(target)), sections, timeout=timeout)


def read_file(path: str) -> Snapshot:
    """The snapshot in the file ``path``, or on standard input for "-".

    Raises MeshnetError where there is no such file or it is absurdly large, ParseError
    where it is no snapshot.
    """
    from meshnet.dialects.snapshot_json import read_snapshot

    try:
        if path == "-":
            data = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with open(path, "rb") as f:
                data = f.read(LARGEST + 1)
    except OSError as e:
        raise MeshnetError(f"cannot read {printable(path)}: {e.strerror}") from e
    if len(data) > LARGEST:
        raise MeshnetError(f"{printable(path)} is larger than 1 GiB", "it is no snapshot of ours")
    return read_snapshot(data)


def print_json(value: object) -> None:
    """``value``, of dataclasses and plain data, as one indented JSON document."""
    import msgspec

    encoded = msgspec.json.encode(value, enc_hook=_plain)
    click.echo(harmless_json(msgspec.json.format(encoded, indent=2).decode()))


def harmless_json(text: str) -> str:
    """The same document for any terminal: what is not printable stands in it escaped.

    JSON itself escapes only the first control characters; all that is not printable can
    only be inside a string, where ``\\u`` means the same.
    """
    if text.isascii():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def _escaped(c: str) -> str:
    units = c.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _plain(value: object) -> object:
    """What JSON gets for an enumeration: its value."""
    from meshnet.model.choices import Enum

    if isinstance(value, Enum):
        plain: object = value.value
        return plain
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")
