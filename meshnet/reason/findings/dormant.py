"""Tables that are kept and not run: nf_tables' flag dormant."""

from __future__ import annotations

from meshnet.model.ruleset import Ruleset
from meshnet.model.snapshot import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: nf_tables knows such a flag, legacy tables have none.
_BACKENDS = frozenset({"nft", "nft-compat"})
Name = tuple[str, str]


def awake(
    snapshot: Snapshot, rulesets: Mapping[str, Ruleset]
) -> tuple[dict[str, Ruleset], tuple[tuple[str, Name], ...]]:
    """The rulesets without dormant tables, and which were: (backend, (family, table))."""
    asleep = dormant_tables(snapshot)
    kept: dict[str, Ruleset] = {}
    found: list[tuple[str, Name]] = []
    for backend, ruleset in rulesets.items():
        tables = []
        for table in ruleset.tables:
            name = (table.family.value, table.name)
            if backend in _BACKENDS and name in asleep:
                found.append((backend, name))
            else:
                tables.append(table)
        # The same value where nothing sleeps: what was worked out about it is kept beside it.
        whole = len(tables) == len(ruleset.tables)
        kept[backend] = ruleset if whole else Ruleset(tuple(tables))
    return kept, tuple(found)


def dormant_tables(snapshot: Snapshot) -> frozenset[Name]:
    """(family, table) of each dormant table.

    nft 1.0.6 prints what is in freed memory for a table's flags, so that the kernel's own
    answer, where the snapshot has it, comes before the listing's.
    """
    found: set[Name] = set(snapshot.dormant)
    for dump in snapshot.dumps:
        if not dump.family and '"dormant"' in dump.text:
            found |= _listed(dump.text)
    return frozenset(found)


def _listed(text: str) -> set[Name]:
    import json

    try:
        items = json.loads(text)["nftables"]
        tables = [item["table"] for item in items if "table" in item]
        return {(t["family"], t["name"]) for t in tables if "dormant" in t.get("flags", ())}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return set()
