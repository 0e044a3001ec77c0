"""How commands write to a terminal: width, colour, and text that came from outside."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshnet.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

#: The widest that anything is printed, whatever the terminal; where there is none, the width.
COLUMNS_WIDE = 100


def console(stream: IO[str] | None = None) -> Console:
    """A console on ``stream`` (standard output): at most 100 columns, no markup, no emoji.

    Colour only on a terminal (rich honours NO_COLOR, FORCE_COLOR and TERM=dumb).
    """
    out = stream or sys.stdout
    wide = COLUMNS_WIDE
    if out.isatty():
        wide = min(wide, Console(file=out).width)
    colour = out.isatty() or bool(os.environ.get("FORCE_COLOR"))
    return Console(
        file=out,
        width=wide,
        highlight=False,
        markup=False,
        emoji=False,
        no_color=None if colour else True,
    )


def safe(text: str, style: str = "", limit: int = 200) -> Text:
    """Text from outside, escaped: no control characters, no terminal sequences, no markup."""
    return Text(printable(text, limit), style=style)


def table(*headings: str, right: tuple[str, ...] = ()) -> Table:
    """A table without lines, as narrow as its cells; the columns ``right`` are numbers.

    Where the width is short, columns whose headings begin with "~" are wrapped, no others.
    """
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading in headings:
        name = heading.removeprefix("~")
        made.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="fold",
            no_wrap=not heading.startswith("~"),
        )
    return made
