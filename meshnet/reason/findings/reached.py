"""Which chains a packet can come to at all, by jumps from the hooks."""

from __future__ import annotations

import re

from meshnet.compile.lowering import nft_name
from meshnet.compile.ownership import OWN_CHAINS, OWN_TABLES, owned_rules
from meshnet.model.frozen import dataclass
from meshnet.model.packet import Family
from meshnet.model.rule import Kind, Rule
from meshnet.model.ruleset import Chain, Ruleset, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CAPTURING = frozenset({Kind.REDIRECT, Kind.TPROXY})
_GOING = frozenset({Kind.JUMP, Kind.GOTO})
#: Words of opaque rules that may hand a connection to a port of this namespace.
_MAY_CAPTURE = re.compile(r"\b(REDIRECT|TPROXY|redirect|tproxy)\b")
_MAP_TARGET = re.compile(r'"(?:jump|goto)":\s*\{\s*"target":\s*"([^"]*)"')
#: Chains of ours that only carry out what others decide: unused, they are no defect.
_HANDS = ("REDIRECT", "IN_REDIRECT", "TPROXY", "DIVERT", "DROP", "VIRTUAL", "DNS_ANSWERS")
HANDS = frozenset(f"{prefix}_{name}" for prefix in ("ISTIO", "MESHNET") for name in _HANDS)
HANDS |= frozenset(nft_name(name) for name in HANDS)


@dataclass(frozen=True)
class Standing:
    """A chain and how packets get to it.

    ``hooks`` are those that lead here, none where nothing does. ``leads`` says that it, or a
    chain that it goes to, redirects. ``ours`` says that all of the chain is;
    ``positions`` (from 0) are the rules of ours where it is not. ``root`` says that no other
    chain goes to it. ``names`` are the chains of its table.
    """

    backend: str
    table: Table
    chain: Chain
    hooks: frozenset[str]
    leads: bool
    ours: bool
    positions: frozenset[int]
    root: bool
    names: frozenset[str]

    @property
    def where(self) -> str:
        """How it is named in a sentence: "nft-compat ip nat OUTPUT"."""
        return f"{self.backend} {self.table.family.value} {self.table.name} {self.chain.name}"

    def owns(self, position: int) -> bool:
        """Whether the rule at ``position`` (from 0) is ours."""
        return self.ours or position in self.positions


def standings(rulesets: Mapping[str, Ruleset]) -> tuple[Standing, ...]:
    """Every chain of every backend, in the order of the dumps."""
    found: list[Standing] = []
    for backend, ruleset in rulesets.items():
        owned = {} if backend == "nft" else owned_rules(ruleset)
        for table in ruleset.tables:
            found += _of_table(backend, table, owned)
    return tuple(found)


def is_ours(backend: str, table: Table, chain: Chain) -> bool:
    """Whether all of ``chain`` is ours: by the table's name in nft, else by its own."""
    if backend == "nft":
        return table.family is Family.INET and table.name in OWN_TABLES
    return chain.name in OWN_CHAINS


def _of_table(
    backend: str, table: Table, owned: Mapping[tuple[Family, str, str], frozenset[int]]
) -> Iterator[Standing]:
    names = frozenset(chain.name for chain in table.chains)
    ways = {chain.name: _ways(chain, names) for chain in table.chains}
    hooks: dict[str, set[str]] = {name: set() for name in ways}
    for chain in table.chains:
        if chain.hook:
            for name in _closure(chain.name, ways):
                hooks[name].add(chain.hook)
    redirecting = [c.name for c in table.chains if any(captures(rule) for rule in c.rules)]
    back: dict[str, set[str]] = {name: set() for name in ways}
    for name, targets in ways.items():
        for target in targets & ways.keys():
            back[target].add(name)
    leading = {name for start in redirecting for name in _closure(start, back)}
    for chain in table.chains:
        yield Standing(
            backend,
            table,
            chain,
            frozenset(hooks[chain.name]),
            chain.name in leading,
            is_ours(backend, table, chain),
            owned.get((table.family, table.name, chain.name), frozenset()),
            not back[chain.name] - {chain.name},
            names,
        )


def captures(rule: Rule) -> bool:
    """Whether ``rule`` hands what it matches to a port of this namespace."""
    return rule.target is not None and rule.target.kind in CAPTURING


def may_capture(rule: Rule) -> bool:
    """Whether it does, or is one that we cannot read and that speaks of it."""
    return captures(rule) or bool(rule.opaque and _MAY_CAPTURE.search(rule.opaque))


def _ways(chain: Chain, names: frozenset[str]) -> frozenset[str]:
    """The chains that ``chain`` goes to; perhaps any of ``names`` where a named map says it."""
    found: set[str] = set()
    for rule in chain.rules:
        if rule.target is not None and rule.target.kind in _GOING:
            found.add(rule.target.chain)
        elif rule.opaque and rule.opaque[0] == "[":
            found.update(_MAP_TARGET.findall(rule.opaque))
            if '"vmap"' in rule.opaque and '"@' in rule.opaque:
                return names
    return frozenset(found)


def _closure(start: str, ways: Mapping[str, frozenset[str] | set[str]]) -> set[str]:
    """``start`` and all that can be got to from it; what is not there is left out."""
    seen, left = {start}, [start]
    while left:
        for name in ways[left.pop()]:
            if name in ways and name not in seen:
                seen.add(name)
                left.append(name)
    return seen
