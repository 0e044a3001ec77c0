"""Backend nft-compat: iptables' language, kept in nf_tables by the iptables-nft programs.

One restore call a family; the kernel commits each table at once. A second writer in the
same namespace can make a commit fail (a rule to be deleted is gone); nothing of that
table is changed then, and the caller reads and plans again.
"""

from __future__ import annotations

from meshnet.backends import iptables
from meshnet.backends.base import Plan
from meshnet.compile.ownership import OWN_CHAINS
from meshnet.errors import ToolFailed
from meshnet.host.nfnetlink import (
    base_chains,
    chain_names,
    delete_empty,
    missing,
    rule_handles,
    table_names,
)
from meshnet.host.process import run_tool
from meshnet.model.packet import Family
from meshnet.model.ruleset import Ruleset
from meshnet.model.spec import Form

ATTEMPTS = 5


class NftCompat:
    """See the module."""

    name = "nft-compat"
    form = Form.IPTABLES

    def probe(self) -> str:
        """Why it cannot work here; "" where it can."""
        return iptables.missing_tools("nft") or missing()

    def read(self) -> Ruleset:
        """Both families' dumps; a family without tables costs no process."""
        present = table_names()
        tables = [
            table
            for family in iptables.PREFIX
            if any((family, name) in present for name in iptables.TABLES)
            for table in iptables.save("nft", family).tables
        ]
        return Ruleset(tuple(tables))

    def holds_own(self, held: Ruleset) -> bool:
        """Whether something of ours is there."""
        return iptables.holds_own(held)

    def may_hold_own(self) -> bool:
        """Whether a chain of ours is in a built-in table, by netlink alone."""
        return any(
            table in iptables.TABLES and name in OWN_CHAINS
            for family in iptables.PREFIX
            for table, name in chain_names(family)
        )

    def plan(self, held: Ruleset, wanted: Ruleset) -> Plan:
        """One step a family that changes."""
        return iptables.plan(self.name, "nft", held, wanted)

    def remove(self, held: Ruleset) -> Plan:
        """Everything of ours away."""
        return self.plan(held, Ruleset())

    def apply(self, plan: Plan) -> None:
        """IPv4, then IPv6. Read, planned and tried again where another writer got between."""
        made = _chains_of_ours()
        for attempt in range(ATTEMPTS):
            try:
                _send(plan)
                break
            except ToolFailed:
                again = self.plan(self.read(), plan.wanted)
                if attempt == ATTEMPTS - 1 or again == plan:
                    raise
                plan = again
        _tidy(made)


def _send(plan: Plan) -> None:
    for step in plan.steps:
        done = run_tool([step.tool, "--noflush"], step.text)
        iptables.check(done, step.tool)


def _chains_of_ours() -> frozenset[tuple[Family, str, int]]:
    """Base chains that came to be with a rule that we are about to take away, or keep.

    iptables-nft makes a base chain right before the first rule in it, in one commit: the
    two have handles in sequence. One that was there before us has none like that.
    """
    found = []
    for family in {
        f for f, name in table_names() if f in iptables.PREFIX and name in iptables.TABLES
    }:
        rules = rule_handles(family)
        found += [
            (family, chain.table, chain.handle)
            for chain in base_chains(family)
            if (chain.table, chain.handle + 1) in rules
        ]
    return frozenset(found)


def _tidy(made: frozenset[tuple[Family, str, int]]) -> None:
    """Take the base chains ``made`` away again where they are empty now."""
    for family in {family for family, _, _ in made}:
        empty = [
            chain
            for chain in base_chains(family)
            if not chain.use and (family, chain.table, chain.handle) in made
        ]
        delete_empty(empty)
