"""Looking for what is wrong with the rules of a source."""

from __future__ import annotations

from meshnet.model.lint import SCHEMA, Lint
from meshnet.ops.sides import ipv6_up, is_whole, side_of
from meshnet.ops.sources import Source
from meshnet.reason.lint.check import lint


def look_over(source: Source) -> Lint:
    """Everything that is wrong with the rules of ``source`` as such.

    Raises ParseError for rules that no packet can walk through, KernelLacks where z3 is missing.
    """
    side = side_of(source)
    rules = sum(1 for held in side.rulesets.values() for _ in held.rules())
    found = lint(side, ipv6_up(source))
    notes = (*source.notes, *found.left_out)
    return Lint(
        SCHEMA, source.name, rules, found.findings, found.undecided, notes, is_whole(source)
    )
