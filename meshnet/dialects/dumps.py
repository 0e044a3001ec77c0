"""The dumps of a snapshot as rulesets: a dialect for each backend."""

from __future__ import annotations

from meshnet.dialects.iptables import parse_save
from meshnet.dialects.nft_json import parse_listing
from meshnet.errors import ParseError, printable
from meshnet.model.packet import Family
from meshnet.model.ruleset import Ruleset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.ruleset import Table
    from meshnet.model.snapshot import Dump, Snapshot

BACKENDS = ("legacy", "nft-compat", "nft")


def rulesets(snapshot: Snapshot) -> dict[str, Ruleset]:
    """What each backend holds, by its name; a backend without a dump is not in it.

    nft lists the tables of nft-compat as well, without their arguments: those that a dump
    of nft-compat shows are left out of nft's. Raises ParseError that names the dump.
    """
    found: dict[str, list[Table]] = {}
    for name in BACKENDS:
        for dump in snapshot.dumps:
            if dump.backend == name:
                found.setdefault(name, []).extend(_parse(dump).tables)
    shown = {(table.family, table.name) for table in found.get("nft-compat", ())}
    if "nft" in found:
        found["nft"] = [t for t in found["nft"] if (t.family, t.name) not in shown]
    return {name: Ruleset(tuple(tables)) for name, tables in found.items()}


def _parse(dump: Dump) -> Ruleset:
    try:
        if dump.backend == "nft":
            return parse_listing(dump.text)
        return parse_save(dump.text, Family(dump.family))
    except (ParseError, ValueError) as e:
        raise ParseError(f"the dump of {printable(dump.tool)}: {e}") from e
