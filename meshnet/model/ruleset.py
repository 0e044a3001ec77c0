"""Chains, tables and rulesets: what a kernel holds, or should hold."""

from __future__ import annotations

from meshnet.model.frozen import dataclass, field
from meshnet.model.packet import Family
from meshnet.model.rule import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Chain:
    """A chain. ``hook`` is "" for one that is only jumped to.

    ``kind`` ("nat", "filter", "route") and ``priority`` belong to a hook; ``policy``
    is what happens to a packet that no rule decided ("accept", "drop"); ``packets`` and
    ``bytes`` are how often that happened, as far as the dump tells: no difference either.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    kind: str = ""
    hook: str = ""
    priority: int = 0
    policy: str = "accept"
    packets: int = field(default=0, compare=False)
    bytes: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Table:
    """A table of one family with its chains, in the order of the dump."""

    family: Family
    name: str
    chains: tuple[Chain, ...] = ()

    def chain(self, name: str) -> Chain | None:
        """The chain called ``name``, or None."""
        return next((c for c in self.chains if c.name == name), None)


@dataclass(frozen=True)
class Ruleset:
    """Tables in the order of the dump; the empty ruleset has none."""

    tables: tuple[Table, ...] = ()

    def table(self, family: Family, name: str) -> Table | None:
        """The table of ``family`` called ``name``, or None."""
        return next((t for t in self.tables if t.family is family and t.name == name), None)

    def of(self, family: Family) -> Ruleset:
        """Only the tables of ``family`` (not inet's for ip)."""
        return Ruleset(tuple(t for t in self.tables if t.family is family))

    def rules(self) -> Iterator[tuple[Table, Chain, Rule]]:
        """Every rule with where it stands."""
        for table in self.tables:
            for chain in table.chains:
                for rule in chain.rules:
                    yield table, chain, rule


def same_chain(one: Chain, other: Chain) -> bool:
    """Whether two chains hold the same rules in the same order, at the same hook."""
    return (
        (one.kind, one.hook, one.priority, one.policy)
        == (other.kind, other.hook, other.priority, other.policy)
        and len(one.rules) == len(other.rules)
        and all(a.same(b) for a, b in zip(one.rules, other.rules, strict=True))
    )
