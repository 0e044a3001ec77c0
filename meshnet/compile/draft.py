"""The draft of a ruleset: named chains being filled in, before they get a dialect's tables."""

from __future__ import annotations

from meshnet.model.match import Match
from meshnet.model.packet import Family
from meshnet.model.rule import Rule, Target

#: The tables in the order in which packets meet them.
TABLES = ("raw", "mangle", "nat", "filter")
#: hook name by built-in chain.
HOOKS = {"PREROUTING": "prerouting", "INPUT": "input", "FORWARD": "forward", "OUTPUT": "output"}


class Draft:
    """Chains by (table, name), in order of first use. A rule's family None is both."""

    def __init__(self) -> None:
        self.chains: dict[tuple[str, str], list[Rule]] = {}

    def add(
        self,
        table: str,
        chain: str,
        rule_id: str,
        matches: list[Match],
        target: Target,
        *,
        family: Family | None = None,
        why: str = "",
        setting: str = "",
        comment: str = "",
        at: int | None = None,
        head: bool = False,
    ) -> None:
        """Put a rule at the end of a chain, or before position ``at`` of what is there.

        ``head`` marks a rule of a built-in chain that goes before foreign rules.
        """
        rule = Rule(
            tuple(matches),
            target,
            family=family,
            comment=comment,
            id=rule_id,
            why=why,
            setting=setting,
            head=head,
        )
        rules = self.chains.setdefault((table, chain), [])
        rules.insert(len(rules) if at is None else at, rule)


def one_of(families: list[Family]) -> Family | None:
    """The family that rules without an address are narrowed to; None where there are both."""
    return families[0] if len(families) == 1 else None
