"""nft's own syntax: what a transaction looks like to a person, and to ``nft -f -``.

Printed from the JSON statements of :mod:`meshnet.dialects.nft_expr`, so that there is
one opinion of how a rule is said in nft.
"""

from __future__ import annotations

from meshnet.dialects.nft_expr import print_statements
from meshnet.model.packet import Family
from meshnet.model.rule import Rule
from meshnet.model.ruleset import Chain, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def print_table(table: Table) -> list[str]:
    """The lines that make ``table``, its chains and its rules, none of which exist."""
    where = f"{table.family.value} {table.name}"
    lines = [f"add table {where}"]
    lines += [f"add chain {where} {chain.name}{_chain_body(chain)}" for chain in table.chains]
    for chain in table.chains:
        for rule in chain.rules:
            lines.append(f"add rule {where} {chain.name} {print_rule(rule, table.family)}")
    return lines


def print_rule(rule: Rule, family: Family) -> str:
    """One rule of a table of ``family``; raises ValueError for what nft has no words for."""
    words = [_statement(s) for s in print_statements(rule, family)]
    if rule.comment:
        words.append(f"comment {_quoted(rule.comment)}")
    return " ".join(words)


def print_deletion(table: Table) -> list[str]:
    """The lines after which ``table`` is gone, whether or not it was there."""
    where = f"{table.family.value} {table.name}"
    return [f"add table {where}", f"delete table {where}"]


def _chain_body(chain: Chain) -> str:
    if not chain.hook:
        return ""
    kind = f"type {chain.kind} hook {chain.hook} priority {chain.priority}"
    return f" {{ {kind} ; policy {chain.policy} ; }}"


def _statement(statement: dict[str, Any]) -> str:
    ((name, body),) = statement.items()
    if name == "match":
        return _match(body)
    if name == "counter":
        return "counter"
    if name in ("jump", "goto"):
        return f"{name} {body['target']}"
    if name == "redirect":
        return f"redirect to :{body['port']}"
    if name == "tproxy":
        return f"tproxy {body['family']} to :{body['port']}"
    if name == "mangle":
        value = body["value"]
        return f"{_left(body['key'])} set {_left(value) if isinstance(value, dict) else value}"
    if name == "reject":
        with_code = "icmpx type port-unreachable" if "expr" in body else body["type"]
        return f"reject with {with_code}"
    return name


def _match(body: dict[str, Any]) -> str:
    op = "!= " if body["op"] == "!=" else ""
    left, right = body["left"], body["right"]
    if "&" in left:
        expression, mask = left["&"]
        return f"{_left(expression)} & {mask:#x} {'!=' if op else '=='} {_right(right)}"
    text = ",".join(right) if isinstance(right, list) else _right(right, _is_name(left))
    return f"{_left(left)} {op}{text}"


def _left(expression: dict[str, Any]) -> str:
    ((kind, what),) = expression.items()
    if kind == "payload":
        return f"{what['protocol']} {what['field']}"
    return f"{kind} {what['key']}"


def _is_name(left: dict[str, Any]) -> bool:
    """Whether an interface's name stands right: bare, "10" or "drop" would be another thing."""
    return left.get("meta", {}).get("key") in ("iifname", "oifname")


def _quoted(text: str) -> str:
    if '"' in text or not text.isprintable():
        raise ValueError("nft has no way to write a quote or a line break in a string")
    return f'"{text}"'


def _right(value: Any, name: bool = False) -> str:
    if name and isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        if "set" in value:
            return f"{{ {', '.join(_right(v, name) for v in value['set'])} }}"
        if "prefix" in value:
            return f"{value['prefix']['addr']}/{value['prefix']['len']}"
        first, last = value["range"]
        return f"{first}-{last}"
    return str(value)
