"""The text of ``iptables -t nat -L -n -v``, read into rows that fit on a screen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from meshnet.lab.processes import run_in
from meshnet.lab.topology import Pod

#: iptables' own headings, "destination" shortened: 100 columns are just enough.
COLUMNS = ("pkts", "bytes", "target", "prot", "opt", "in", "out", "source", "dest")

#: What a line is not broken inside of: a comment, an owner, a port to redirect to.
PHRASE = re.compile(r"/\*.*?\*/|(?:! )?owner [UG]ID match \S+|redir ports \S+|\S+")

#: iptables from 1.8.9 on prints numbers where older ones, and the documents, have names.
PROTOCOLS = {"0": "all", "6": "tcp", "17": "udp"}


@dataclass(frozen=True)
class ListedRule:
    """One line: its words under COLUMNS, and in ``rest`` what stands behind the destination."""

    words: tuple[str, ...]
    rest: str

    @property
    def target(self) -> str:
        """Where the rule sends a packet."""
        return self.words[2]


@dataclass(frozen=True)
class ListedChain:
    """A chain's headline as iptables prints it, and its rules in order."""

    title: str
    rules: tuple[ListedRule, ...]

    @property
    def name(self) -> str:
        """The chain's name."""
        return self.title.split()[1]


def parse_listing(text: str) -> list[ListedChain]:
    """Read the output of ``iptables -L -n -v``; protocol numbers become names."""
    chains: list[ListedChain] = []
    for block in text.strip().split("\n\n"):
        lines = [line for line in block.splitlines() if line.strip()]
        if lines and lines[0].startswith("Chain "):
            chains.append(ListedChain(lines[0], tuple(_parse_rule(line) for line in lines[2:])))
    return chains


def read_listing(pod: Pod) -> list[ListedChain]:
    """The nat table of ``pod``; empty when iptables cannot list it."""
    return parse_listing(run_in(pod, ["iptables", "-t", "nat", "-L", "-n", "-v"]).stdout)


def format_rules(chain: ListedChain, width: int) -> list[str]:
    """The headings and rules of ``chain`` in aligned columns, at most ``width`` where that goes.

    What stands behind the destination continues below itself when the line is full. A chain
    without rules gives nothing.
    """
    if not chain.rules:
        return []
    rows = [COLUMNS, *(rule.words for rule in chain.rules)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    room = width - sum(widths) - len(widths)
    lines = [_align(COLUMNS, widths).rstrip()]
    for rule in chain.rules:
        first, *more = _fill(PHRASE.findall(rule.rest), room) or [""]
        lines.append(f"{_align(rule.words, widths)} {first}".rstrip())
        lines += [" " * (width - room) + line for line in more]
    return lines


def _align(words: Sequence[str], widths: Sequence[int]) -> str:
    numbers = [word.rjust(size) for word, size in zip(words[:2], widths, strict=False)]
    names = [word.ljust(size) for word, size in zip(words[2:], widths[2:], strict=True)]
    return " ".join(numbers + names)


def _fill(phrases: Sequence[str], room: int) -> list[str]:
    """Lines of whole phrases; one that is too long for a line gets one of its own."""
    lines: list[str] = []
    for phrase in phrases:
        if lines and len(lines[-1]) + 1 + len(phrase) <= room:
            lines[-1] += " " + phrase
        else:
            lines.append(phrase)
    return lines


def _parse_rule(line: str) -> ListedRule:
    words = line.split(None, 9)
    words[3] = PROTOCOLS.get(words[3], words[3])
    return ListedRule(tuple(words[:9]), words[9].strip() if len(words) > 9 else "")
