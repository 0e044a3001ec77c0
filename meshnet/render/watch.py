"""Counters of two looks beside each other: what moved, and how fast."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from meshnet.model.frozen import dataclass
from meshnet.model.inspection import ShownTable
from meshnet.render.console import safe, table


@dataclass(frozen=True)
class Look:
    """The tables of a namespace at a moment, ``at`` in seconds of a steady clock."""

    name: str
    at: float
    tables: tuple[ShownTable, ...]


def counters_table(now: Look, before: Look | None, limit: int) -> Group:
    """Every rule with its packets, bytes and packets a second; those that moved stand out.

    Without ``before`` there are no rates. At most ``limit`` rules are shown, those that
    moved first; a counter that went down was reset, and its rate is not told.
    """
    past = _counters(before) if before else {}
    seconds = now.at - before.at if before else 0.0
    rows = []
    for one in now.tables:
        for chain in one.chains:
            for rule in chain.rules:
                key = (one.backend, one.family, one.name, chain.name, rule.number, rule.source)
                moved = rule.packets - past[key] if key in past else 0
                rows.append((one, chain, rule, moved))
    shown = rows if len(rows) <= limit else sorted(rows, key=lambda row: -abs(row[3]))[:limit]
    made = table(
        "TABLE",
        "CHAIN",
        "#",
        "PKTS",
        "BYTES",
        "PKTS/S",
        "~RULE",
        right=("#", "PKTS", "BYTES", "PKTS/S"),
    )
    for one, chain, rule, moved in shown:
        rate = f"{moved / seconds:.1f}" if moved > 0 and seconds > 0 else ""
        style = "bold reverse" if moved else ""
        made.add_row(
            safe(f"{one.backend} {one.family} {one.name}", "dim", 40),
            safe(chain.name, limit=29),
            Text(str(rule.number)),
            Text(str(rule.packets), style=style),
            Text(str(rule.bytes), style="dim"),
            Text(rate, style="bold"),
            safe(rule.text),
        )
    head = safe(now.name, "bold")
    if len(rows) > len(shown):
        head.append(f"   {len(shown)} of {len(rows):,} rules", style="dim")
    return Group(head, made)


def _counters(look: Look) -> dict[tuple[str, str, str, str, int, str], int]:
    return {
        (one.backend, one.family, one.name, chain.name, rule.number, rule.source): rule.packets
        for one in look.tables
        for chain in one.chains
        for rule in chain.rules
    }
