"""Rulesets with one thing wrong: a rule lost, put in, moved, or turned round."""

from __future__ import annotations

from meshnet.model.frozen import replace
from meshnet.model.packet import Family, Field
from meshnet.model.rule import Rule
from meshnet.model.ruleset import Ruleset

Place = tuple[Family, str, str, int]


def places(ruleset: Ruleset) -> list[Place]:
    """Every rule, as table's family and name, chain, and position from 0."""
    return [
        (table.family, table.name, chain.name, at)
        for table in ruleset.tables
        for chain in table.chains
        for at in range(len(chain.rules))
    ]


def rule_at(ruleset: Ruleset, place: Place) -> Rule:
    """The rule that stands there."""
    return rules_at(ruleset, place)[place[3]]


def rules_at(ruleset: Ruleset, place: Place) -> tuple[Rule, ...]:
    """The rules of the chain of ``place``."""
    table = ruleset.table(place[0], place[1])
    chain = table.chain(place[2]) if table else None
    assert chain is not None
    return chain.rules


def with_rules(ruleset: Ruleset, place: Place, rules: tuple[Rule, ...]) -> Ruleset:
    """``ruleset`` with other rules in the chain of ``place``."""
    tables = []
    for table in ruleset.tables:
        if (table.family, table.name) == place[:2]:
            chains = [replace(c, rules=rules) if c.name == place[2] else c for c in table.chains]
            table = replace(table, chains=tuple(chains))
        tables.append(table)
    return Ruleset(tuple(tables))


def dropped(ruleset: Ruleset, place: Place) -> Ruleset:
    """Without the rule at ``place``."""
    rules = rules_at(ruleset, place)
    return with_rules(ruleset, place, (*rules[: place[3]], *rules[place[3] + 1 :]))


def inserted(ruleset: Ruleset, place: Place, rule: Rule) -> Ruleset:
    """With ``rule`` before the one at ``place``."""
    rules = rules_at(ruleset, place)
    return with_rules(ruleset, place, (*rules[: place[3]], rule, *rules[place[3] :]))


def swapped(ruleset: Ruleset, place: Place) -> Ruleset | None:
    """With the rule at ``place`` behind the next one; None where there is none."""
    rules, at = rules_at(ruleset, place), place[3]
    if at + 1 >= len(rules):
        return None
    return with_rules(ruleset, place, (*rules[:at], rules[at + 1], rules[at], *rules[at + 2 :]))


def flipped(ruleset: Ruleset, place: Place, which: int) -> Ruleset | None:
    """With the ``which``-th match of the rule asked the other way round; None without it."""
    rule = rule_at(ruleset, place)
    if which >= len(rule.matches):
        return None
    matches = list(rule.matches)
    turned = matches[which].inverted()
    if turned.field in (Field.UID, Field.GID) and place[0] is not Family.INET:
        # As iptables means it (net/netfilter/xt_owner.c).
        turned = replace(turned, absent=turned.negated)
    matches[which] = turned
    rules = list(rules_at(ruleset, place))
    rules[place[3]] = replace(rule, matches=tuple(matches))
    return with_rules(ruleset, place, tuple(rules))
