"""The kernel as the referee of the dialects: what was read and printed loads as the same rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meshnet.dialects.iptables import parse_save, print_save
from meshnet.dialects.nft_json import parse_listing, print_listing
from meshnet.dialects.nft_text import print_table
from meshnet.model.packet import Family
from meshnet.model.ruleset import Chain, Ruleset, Table
from tests.support.namespaces import Namespace, Namespaces

DATA = Path(__file__).parents[1] / "unit" / "data"
SAVES = [
    ("node.ip.save", "iptables-nft", Family.IP),
    ("node.ip6.save", "ip6tables-nft", Family.IP6),
    ("node.legacy.ip.save", "iptables-legacy", Family.IP),
]


def loaded(netns: Namespace, tool: str, text: str) -> str:
    """What the kernel shows after ``text`` was loaded; a time's end is the tool's own fancy."""
    netns.run(f"{tool}-restore", text=text)
    return re.sub(r" --datestop \S+", "", netns.dump(f"{tool}-save"))


@pytest.mark.parametrize(("name", "tool", "family"), SAVES)
def test_a_dump_of_others_loads_as_it_was(
    namespaces: Namespaces, name: str, tool: str, family: Family
) -> None:
    text = (DATA / name).read_text()
    printed = print_save(parse_save(text, family))
    before = loaded(namespaces.make(), tool, text)
    after = loaded(namespaces.make(), tool, printed)
    assert meaning(after) == meaning(before)
    assert before.count("\n-A") > 10


def meaning(dump: str) -> list[str]:
    """The lines of a dump; the order of extensions in one rule is no difference."""
    same = dump.replace("-m udp --sport 67:68", "-m multiport --sports 67,68")
    return ["".join(sorted(re.sub(r"-m (tcp|udp) ", "", line))) for line in same.splitlines()]


def known_only(found: Ruleset) -> Ruleset:
    """The rules that the model has words for; opaque ones may need sets, maps and counters."""
    tables = []
    for table in found.tables:
        chains = []
        for chain in table.chains:
            rules = tuple(rule for rule in chain.rules if not rule.opaque)
            chains.append(
                Chain(chain.name, rules, chain.kind, chain.hook, chain.priority, chain.policy)
            )
        tables.append(Table(table.family, table.name, tuple(chains)))
    return Ruleset(tuple(tables))


def test_json_and_text_of_a_listing_load_as_the_same_rules(namespaces: Namespaces) -> None:
    wanted = known_only(parse_listing((DATA / "foreign.json").read_text()))
    assert sum(1 for _ in wanted.rules()) > 15
    by_json, by_text = namespaces.make(), namespaces.make()
    by_json.run("nft", "-j", "-f", "-", text=print_listing(wanted))
    lines = [line for table in wanted.tables for line in print_table(table)]
    by_text.run("nft", "-f", "-", text="\n".join(lines) + "\n")
    assert by_json.nft() == by_text.nft()
    again = parse_listing(by_json.run("nft", "-j", "list", "ruleset").stdout)
    assert again == wanted
