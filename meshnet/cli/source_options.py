"""Where rules come from, as options: a target, a snapshot, a dump, a configuration."""

from __future__ import annotations

import click

from meshnet.model.frozen import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from meshnet.ops.sources import Source

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

ruleset_option: Decorator = click.option(
    "--ruleset",
    metavar="FILE",
    help="Read rules as iptables-save or `nft -j list ruleset` print them (- for standard input).",
)
spec_option: Decorator = click.option(
    "--spec",
    metavar="SPEC",
    help="Take the rules of a configuration: meshnet-init's flags as one text, or a file of it.",
)


def named_source(
    target: str | None,
    from_file: str | None,
    ruleset: str | None,
    spec: str | None,
    timeout: float = 20.0,
) -> Source:
    """The one source that the user named; raises as :func:`meshnet.ops.sources.source_of`."""
    from meshnet.ops.sources import from_spec, source_of

    if spec is None or target or from_file or ruleset:
        kept = None if spec is None else _spec(spec)
        return source_of(target, from_file, ruleset, kept, timeout=timeout)
    from meshnet.cli.spec_text import read_spec

    found = read_spec(spec)
    source = from_spec(found.spec, found.backend)
    return replace(source, notes=(*source.notes, *found.notes))


def _spec(text: str) -> Any:
    from meshnet.cli.spec_text import read_spec

    return read_spec(text).spec
