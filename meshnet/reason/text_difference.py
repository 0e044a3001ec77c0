"""Two rulesets as ordered text, chain by chain: what one has and the other has not."""

from __future__ import annotations

from meshnet.compile.comparison import longest_common
from meshnet.compile.holdings import key_of
from meshnet.model.difference import TextChange
from meshnet.reason.words import rule_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from meshnet.model.ruleset import Chain, Ruleset, Table

#: A line of a chain: what it is compared by, its position, how it is told.
Row = tuple["Any", int, str]


def compare_text(
    one: Mapping[str, Ruleset],
    other: Mapping[str, Ruleset],
    sets: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
) -> tuple[TextChange, ...]:
    """Every rule and chain head that is not on both sides at its place, in the order of the chains.

    The order of rules is meaning; that of matches inside a rule is none, nor are counters. The
    two variants of iptables write one language: where each side has one of them, they are
    compared with each other. ``sets`` is what named sets of nft hold on each side.
    """
    first, second = _chains(one, other), _chains(other, one)
    changes: list[TextChange] = []
    for place in dict.fromkeys([*first, *second]):
        changes += _of_chain(place, first.get(place, []), second.get(place, []))
    for name in dict.fromkeys([*sets[0], *sets[1]]):
        held = [each.get(name) for each in sets]
        if held[0] != held[1]:
            rows = [[] if each is None else [(each, 0, f"holds {each}")] for each in held]
            changes += _of_chain(f"nft set {name}", *rows)
    return tuple(changes)


def _chains(side: Mapping[str, Ruleset], beside: Mapping[str, Ruleset]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for backend, ruleset in side.items():
        name = _language(backend, side, beside)
        for table in ruleset.tables:
            for chain in table.chains:
                rows = list(_rows(table, chain, backend))
                if rows:
                    found[f"{name} {table.family.value} {table.name} {chain.name}"] = rows
    return found


def _language(backend: str, side: Mapping[str, Ruleset], beside: Mapping[str, Ruleset]) -> str:
    """What a backend's rules are compared as."""
    if backend == "nft":
        return "nft"
    alone = all(len({"legacy", "nft-compat"} & set(each)) <= 1 for each in (side, beside))
    return "iptables" if alone else backend


def _rows(table: Table, chain: Chain, backend: str) -> Iterator[Row]:
    """The chain's head where it says anything, then its rules."""
    if chain.hook and (backend == "nft" or chain.policy != "accept"):
        head = f"hook {chain.hook}, {chain.kind or table.name}, policy {chain.policy}"
        if backend == "nft":
            head = f"{head}, priority {chain.priority}"
        yield ("head", head), 0, head
    for position, rule in enumerate(chain.rules, 1):
        yield key_of(rule), position, rule_in_words(rule, table.family)


def _of_chain(place: str, one: list[Row], other: list[Row]) -> list[TextChange]:
    kept = longest_common([row[0] for row in one], [row[0] for row in other])
    here, there = {i for i, _ in kept}, {j for _, j in kept}
    gone = [row for i, row in enumerate(one) if i not in here]
    come = [row for j, row in enumerate(other) if j not in there]
    changes: list[TextChange] = []
    for row in gone:
        twin = next((each for each in come if each[0] == row[0]), None)
        if twin is None:
            changes.append(TextChange("-", place, row[1], row[2]))
        else:
            come.remove(twin)
            changes.append(TextChange("~", place, row[1], row[2], twin[1]))
    changes += [TextChange("+", place, row[1], row[2]) for row in come]
    return sorted(changes, key=lambda change: (change.moved or change.position, change.sign != "-"))
