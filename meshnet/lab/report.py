"""How a lab run speaks: steps, claims that were seen to hold or not, and tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from meshnet.lab.listing import ListedChain, format_rules

#: The widest that anything is printed, whatever the terminal.
COLUMNS_WIDE = 100


class Report:
    """Prints a run as it happens, and remembers which of its claims did not hold.

    Colour and emphasis only on a terminal, and never with NO_COLOR in the environment.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        stream = out or sys.stdout
        wide = COLUMNS_WIDE
        if stream.isatty():
            wide = min(wide, Console(file=stream).width)
        self.console = Console(file=stream, width=wide, highlight=False, markup=False, emoji=False)
        self.held = 0
        self.failed: list[str] = []
        self._steps = 0

    def title(self, text: str) -> None:
        """The first line."""
        self.console.print(Text(text, style="bold"))

    def step(self, text: str) -> None:
        """Begin a numbered part."""
        self._steps += 1
        self.console.print()
        self.console.print(Text(f"{self._steps}. {text}", style="bold"))

    def note(self, text: str, style: str = "") -> None:
        """A sentence that tells and does not claim."""
        self._indented(Text(text, style=style))

    def command(self, words: Sequence[str]) -> None:
        """A command as a person would type it."""
        quoted = (f"'{word}'" if word in ("", "*") else word for word in words)
        self._indented(Text("$ " + " ".join(quoted), style="cyan"))

    def claim(self, text: str, holds: bool) -> None:
        """Say ``text`` and whether it was seen to hold."""
        if holds:
            self.held += 1
            line = Text.assemble(("ok ", "bold green"), text)
        else:
            self.failed.append(text)
            line = Text.assemble(("NO ", "bold red"), text)
        self._indented(line)

    def counters(self, rows: Sequence[tuple[str, str, int, int]]) -> None:
        """A table of counters: where, what, before, after; those that moved stand out."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for heading in ("Envoy of", "counter", "before", "after"):
            table.add_column(heading, justify="right" if heading in ("before", "after") else "left")
        for where, what, before, after in rows:
            style = "bold" if before != after else ""
            table.add_row(where, what, str(before), Text(str(after), style=style))
        self._indented(table)

    def listing(self, chains: Sequence[ListedChain]) -> None:
        """An iptables listing: what iptables printed, its columns narrowed to fit."""
        for chain in chains:
            self.console.print(Text(chain.title, style="bold"))
            for number, line in enumerate(format_rules(chain, self.console.width)):
                style = "" if number else "dim"
                self.console.print(Text(line, style=style), soft_wrap=True)

    def error(self, text: str) -> None:
        """One line about what ended the run."""
        self.console.print(Text(f"meshnet demo: {text}", style="bold red"), soft_wrap=True)

    def _indented(self, what: Text | Table) -> None:
        self.console.print(Padding(what, (0, 0, 0, 3), expand=False))
