"""nft's JSON: what ``nft -j list ruleset`` prints and ``nft -j -f -`` reads.

Compat rules (made by iptables-nft) come out of nft without their arguments; they stay
opaque here, and the iptables dialect reads them.
"""

from __future__ import annotations

from meshnet.dialects.nft_expr import print_statements, read_rule
from meshnet.errors import ParseError
from meshnet.model.packet import Family
from meshnet.model.rule import Rule
from meshnet.model.ruleset import Chain, Ruleset, Table

_FAMILIES = frozenset(family.value for family in Family)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T", str, int)


def parse_listing(text: str) -> Ruleset:
    """The ip, ip6 and inet tables of an ``nft -j list`` document, in its order.

    Other families (arp, bridge, netdev) and named sets, maps and flowtables are left
    out: rules that use them are opaque. Raises ParseError where it is not such a document.
    """
    try:
        return _read_items(_read_document(text)["nftables"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        where = f"line {getattr(e, 'lineno', 1)}, column {getattr(e, 'colno', 1)}"
        raise ParseError(f"{where}: not an nft JSON document: {type(e).__name__}") from e


def _read_document(text: str) -> Any:
    """The JSON value in ``text``, by the scanner that json itself uses.

    Importing json brings ``re`` and more along; it is done where the text is not plain.
    """
    try:
        from _json import make_scanner

        value, end = make_scanner(_ScannerContext)(text, 0)  # type: ignore[arg-type]
        if not text[end:].strip():
            return value
    except (ImportError, StopIteration, TypeError, ValueError):
        pass
    import json

    return json.loads(text)


class _ScannerContext:
    """What ``_json.make_scanner`` asks for: json's defaults."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int
    parse_constant = float


def _read_items(items: list[dict[str, Any]]) -> Ruleset:
    tables: dict[tuple[str, str], dict[str, tuple[dict[str, Any], list[Rule]]]] = {}
    for item in items:
        if "table" in item:
            tables[item["table"]["family"], item["table"]["name"]] = {}
        elif "chain" in item:
            chain = item["chain"]
            tables[chain["family"], chain["table"]][chain["name"]] = (chain, [])
        elif "rule" in item:
            rule = item["rule"]
            if rule["family"] in _FAMILIES:
                found = read_rule(rule["expr"], Family(rule["family"]), _typed(rule, "comment", ""))
                tables[rule["family"], rule["table"]][rule["chain"]][1].append(found)
    return Ruleset(
        tuple(
            Table(Family(family), name, tuple(_chain(c, rules) for c, rules in chains.values()))
            for (family, name), chains in tables.items()
            if family in _FAMILIES
        )
    )


def _chain(chain: dict[str, Any], rules: list[Rule]) -> Chain:
    return Chain(
        _typed(chain, "name", ""),
        tuple(rules),
        kind=_typed(chain, "type", ""),
        hook=_typed(chain, "hook", ""),
        priority=_typed(chain, "prio", 0),
        policy=_typed(chain, "policy", "accept"),
    )


def _typed(body: dict[str, Any], key: str, default: T) -> T:
    """What ``body`` has for ``key``; TypeError where it is of another type than ``default``."""
    value = body.get(key, default)
    if type(value) is not type(default):
        raise TypeError(f"{key} is {type(value).__name__}")
    return value


def print_listing(ruleset: Ruleset) -> str:
    """``ruleset`` as a JSON document that ``nft -j -f -`` adds to what there is."""
    items: list[dict[str, Any]] = []
    for table in ruleset.tables:
        where = {"family": table.family.value}
        items.append({"table": {**where, "name": table.name}})
        for chain in table.chains:
            items.append({"chain": {**where, "table": table.name, **_print_chain(chain)}})
        for chain in table.chains:
            for rule in chain.rules:
                body: dict[str, Any] = {**where, "table": table.name, "chain": chain.name}
                if rule.comment:
                    body["comment"] = rule.comment
                body["expr"] = print_statements(rule, table.family)
                items.append({"rule": body})
    import json

    return json.dumps({"nftables": items})


def _print_chain(chain: Chain) -> dict[str, Any]:
    body: dict[str, Any] = {"name": chain.name}
    if chain.hook:
        body |= {"type": chain.kind, "hook": chain.hook, "prio": chain.priority}
        body["policy"] = chain.policy
    return body
