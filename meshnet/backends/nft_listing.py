"""nft's JSON where nft breaks off: put together from its listings of single chains.

nft 1.0.6 prints the flags of a table (dormant, owner) from memory that it has freed: mostly
rubbish in quotes, but the document may also end there, or not be UTF-8.
"""

from __future__ import annotations

import json
import re

from meshnet.host import nfnetlink
from meshnet.model.packet import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

LIST = ("nft", "-j", "list")
#: nft reads its arguments as a script: a name with anything else in it is not given to it.
_HARMLESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,63}")
_FAMILIES = {family.value: family for family in Family}


def is_document(text: str) -> bool:
    """Whether ``text`` is whole JSON."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def list_by_chain(
    tables: Iterable[tuple[str, str]], run: Callable[[list[str]], str]
) -> tuple[str, int]:
    """A document of ``tables`` (family, name), and how many had to be left out.

    ``run`` gives the output of a program. Left out are families other than ip, ip6 and inet,
    and tables with names that cannot be given to nft.
    """
    items: list[dict[str, Any]] = []
    left_out = 0
    for family, table in sorted(tables):
        chains = _chains(family, table)
        if chains is None:
            left_out += 1
            continue
        items.append({"table": {"family": family, "name": table}})
        for chain in chains:
            listing = json.loads(run([*LIST, "chain", family, table, chain]))
            items += [item for item in listing["nftables"] if {"chain", "rule"} & set(item)]
    return json.dumps({"nftables": items}), left_out


def _chains(family: str, table: str) -> list[str] | None:
    """The chains of a table; None where it cannot be listed chain by chain."""
    if family not in _FAMILIES:
        return None
    names = sorted(c for t, c in nfnetlink.chain_names(_FAMILIES[family]) if t == table)
    return names if all(map(_HARMLESS.fullmatch, (table, *names))) else None
