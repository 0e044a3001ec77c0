"""nft's JSON and nft's text: what is printed is read back, and rules of others survive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.dialects.nft_expr import print_statements, read_rule
from meshnet.dialects.nft_json import parse_listing, print_listing
from meshnet.dialects.nft_text import print_deletion, print_table
from meshnet.errors import ParseError
from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.match import Match, dport, iif, proto
from meshnet.model.packet import Family, Field
from meshnet.model.rule import ACCEPT, Kind, Rule, Target, jump
from meshnet.model.ruleset import Chain, Ruleset, Table
from tests.support.strategies import nft_rules, nft_rulesets

DATA = Path(__file__).parent / "data"
LISTINGS = ("compat.json", "foreign.json")


def table_of(rule: Rule, family: Family = Family.INET) -> Table:
    """A table that holds ``rule`` alone."""
    return Table(family, "t", (Chain("c", (rule,)),))


def meta(key: str, right: Any, op: str = "==") -> dict[str, Any]:
    """A match over a meta key."""
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}


def payload(protocol: str, field: str, right: Any, op: str = "==") -> dict[str, Any]:
    """A match over a header field."""
    left = {"payload": {"protocol": protocol, "field": field}}
    return {"match": {"op": op, "left": left, "right": right}}


def without_counters(rule: dict[str, Any]) -> list[Any]:
    """The statements of a rule of a listing, but for its anonymous counter."""
    return [s for s in rule["expr"] if not isinstance(s.get("counter"), dict | None)]


@pytest.mark.parametrize("family", Family)
@given(data=st.data())
def test_a_rule_that_was_printed_is_read_back(family: Family, data: st.DataObject) -> None:
    rule = data.draw(nft_rules(family, ("MY-a", "MY-b")))
    found = read_rule(print_statements(rule, family), family, rule.comment)
    assert found == rule
    assert (found.packets, found.bytes) == (rule.packets, rule.bytes)


@settings(max_examples=12)
@given(nft_rulesets())
def test_a_ruleset_that_was_printed_is_read_back(ruleset: Ruleset) -> None:
    text = print_listing(ruleset)
    assert parse_listing(text) == ruleset
    assert print_listing(parse_listing(text)) == text


@given(nft_rules(Family.INET, ("MY-a",)))
def test_the_text_is_one_line_a_rule_and_names_no_other_table(rule: Rule) -> None:
    table = table_of(rule)
    try:
        lines = print_table(table)
    except ValueError:
        assert rule.opaque or any(c in rule.comment for c in '"\n\r\\') or not_plain(rule.comment)
        return
    except KeyError:
        assert rule.opaque
        return
    assert lines[:2] == ["add table inet t", "add chain inet t c"]
    assert len(lines) == 3 and lines[2].startswith("add rule inet t c ")
    assert not any(c in line for line in lines for c in "\n\r\0")


def not_plain(text: str) -> bool:
    """Whether a text has more than what one can see."""
    return not text.isprintable()


@pytest.mark.parametrize(
    "comment", ['a" accept', "a\nadd table x", "a\radd table x", "a\0b", 'x" ; flush ruleset ; "']
)
def test_nothing_is_smuggled_by_a_comment(comment: str) -> None:
    with pytest.raises(ValueError):
        print_table(table_of(Rule((), ACCEPT, comment=comment)))
    (item,) = json.loads(print_listing(Ruleset((table_of(Rule((), ACCEPT, comment=comment)),))))[
        "nftables"
    ][2:]
    assert item["rule"]["comment"] == comment


@pytest.mark.parametrize(
    "name",
    ["drop", "counter", "tcp", "1234", "0x10", "010", "1.2", "ip", "eth0.100", "veth-1", "a+"],
)
def test_a_name_is_a_name_even_where_it_is_a_word_of_nft(name: str) -> None:
    (line,) = print_table(table_of(Rule((iif(name),), ACCEPT)))[2:]
    shown = name[:-1] + "*" if name.endswith("+") else name
    assert f'iifname "{shown}"' in line


@pytest.mark.parametrize("name", ['a"b', "a\nb", 'eth0" drop ; "'])
def test_a_name_that_would_end_its_quotation_is_not_printed(name: str) -> None:
    with pytest.raises(ValueError):
        print_table(table_of(Rule((iif(name),), ACCEPT)))


def rules_of(document: str) -> list[dict[str, Any]]:
    """The rules of a listing, of the families that the model has, in its order."""
    items = json.loads(document)["nftables"]
    rules = [item["rule"] for item in items if "rule" in item]
    return [rule for rule in rules if rule["family"] in ("ip", "ip6", "inet")]


@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_is_the_same_after_reading_and_printing(name: str) -> None:
    text = (DATA / name).read_text()
    found = parse_listing(text)
    printed = print_listing(found)
    assert parse_listing(printed) == found
    before = {(r["family"], r["table"], r["chain"]): [] for r in rules_of(text)}
    after: dict[tuple[str, str, str], list[Any]] = {key: [] for key in before}
    for rules, into in ((rules_of(text), before), (rules_of(printed), after)):
        for rule in rules:
            into[rule["family"], rule["table"], rule["chain"]].append(rule)
    for key, rules in before.items():
        assert len(after[key]) == len(rules)
        for old, new in zip(rules, after[key], strict=True):
            assert new.get("comment", "") == old.get("comment", "")
            opaque = read_rule(old["expr"], Family(old["family"])).opaque
            if opaque:
                assert new["expr"] == old["expr"] == json.loads(opaque)
            else:
                again = read_rule(new["expr"], Family(old["family"]))
                assert again == read_rule(old["expr"], Family(old["family"]))


def test_chains_of_a_listing_keep_hook_priority_and_policy() -> None:
    found = parse_listing((DATA / "foreign.json").read_text())
    assert [(t.family, t.name) for t in found.tables] == [
        (Family.IP, "cilium"), (Family.INET, "firewalld"),
    ]  # fmt: skip
    firewalld = found.table(Family.INET, "firewalld")
    assert firewalld is not None
    shapes = {c.name: (c.kind, c.hook, c.priority, c.policy) for c in firewalld.chains}
    assert shapes["in"] == ("filter", "input", 10, "drop")
    assert shapes["out"] == ("route", "output", -150, "accept")
    assert shapes["zone"] == ("", "", 0, "accept")
    assert list(shapes) == ["in", "out", "nat", "zone", "todnat"]


def test_counters_are_read() -> None:
    found = parse_listing((DATA / "foreign.json").read_text())
    counted = {r.comment: r.packets for *_, r in found.rules() if r.comment}
    assert counted == {"no: such connection": 0, "it's $(fine) ; #": 0}
    assert any(rule.packets for *_, rule in found.rules()) is any(
        s.get("counter", {}).get("packets")
        for rule in rules_of((DATA / "foreign.json").read_text())
        for s in rule["expr"]
        if isinstance(s.get("counter", {}), dict)
    )


TCP = meta("l4proto", "tcp")
#: What the model cannot say, or would say otherwise: kept as it is.
OPAQUE = (
    [{"counter": "seen"}],
    [meta("l4proto", {"set": ["tcp", "udp"]}), payload("tcp", "dport", 53), {"accept": None}],
    [meta("l4proto", "tcp", "!="), payload("udp", "dport", 53)],
    [meta("iifname", "eth+")],
    [{"mangle": {"key": {"meta": {"key": "mark"}}, "value": 5}}, meta("mark", 5)],
    [{"accept": None}, TCP],
    [{"accept": None}, {"drop": None}],
    [meta("mark", 5, ">")],
    [meta("nfproto", "ipv4"), payload("ip6", "daddr", "::1")],
    [meta("nfproto", "ipv4", "!=")],
    [payload("ip", "saddr", "@pods")],
    [payload("sctp", "dport", 80)],
    [{"xt": None}],
    [{"log": {"prefix": "a\nb"}}, {"drop": None}],
    [{"redirect": {"port": 80, "flags": "random"}}],
    [{"tproxy": {"addr": "127.0.0.1", "port": 80}}],
    [payload("tcp", "flags", "syn", "in")],
    [{"jump": {"target": 5}}],
    [TCP, {"reject": None}],
)  # fmt: skip


@pytest.mark.parametrize("statements", OPAQUE, ids=json.dumps)
def test_statements_of_others_are_kept_as_they_are(statements: list[Any]) -> None:
    rule = read_rule(statements, Family.INET, "theirs")
    assert json.loads(rule.opaque) == statements
    assert print_statements(rule, Family.INET) == statements
    assert rule.comment == "theirs"


@pytest.mark.parametrize(
    ("statements", "matches"),
    [
        ([payload("tcp", "dport", 53)], (proto("tcp"), dport(53))),
        ([TCP, payload("th", "dport", 53)], (proto("tcp"), dport(53))),
        ([meta("l4proto", {"set": [16, "udp"]})], (Match(Field.PROTO, IntervalSet.of(16, 17)),)),
        ([meta("iifname", {"set": ["lo", "eth*"]})], (iif("eth+", "lo"),)),
        ([meta("skuid", {"range": [5, 9]}, "!=")],
         (Match(Field.UID, IntervalSet.of((5, 9)), negated=True),)),
        ([payload("tcp", "dport", {"set": [80, 81, {"range": [90, 99]}]})],
         (proto("tcp"), Match(Field.DPORT, IntervalSet.of((80, 81), (90, 99))))),
    ],
)  # fmt: skip
def test_what_nft_says_is_what_the_model_says(
    statements: list[Any], matches: tuple[Match, ...]
) -> None:
    rule = read_rule(statements, Family.INET)
    assert rule == Rule(matches, None)
    again = print_statements(rule, Family.INET)
    assert read_rule(again, Family.INET) == rule
    shown = " ".join(print_table(table_of(rule))[2:])
    for match in matches:
        if isinstance(match.values, IntervalSet) and match.field is not Field.PROTO:
            assert all(str(first) in shown for first, _ in match.values)


def test_neighbouring_protocols_are_all_printed() -> None:
    rule = Rule((Match(Field.PROTO, IntervalSet.of(16, 17)),), ACCEPT)
    (match, *_) = print_statements(rule, Family.INET)
    shown = json.dumps(match)
    assert ("16" in shown and ("udp" in shown or "17" in shown)) or '"range": [16, 17]' in shown


def test_an_address_narrows_the_family_and_a_family_alone_is_said() -> None:
    narrowed = read_rule([payload("ip6", "daddr", "::1"), {"accept": None}], Family.INET)
    assert narrowed == Rule((Match(Field.DST, IntervalSet.of(1)),), ACCEPT, family=Family.IP6)
    assert read_rule([payload("ip6", "daddr", "::1")], Family.IP6).family is None
    alone = print_statements(Rule((), ACCEPT, family=Family.IP), Family.INET)
    assert alone[0] == meta("nfproto", "ipv4")
    assert print_statements(Rule((), ACCEPT, family=Family.IP), Family.IP)[0] != alone[0]


def test_a_jump_of_an_opaque_rule_is_known() -> None:
    rule = read_rule([{"log": None}, {"jump": {"target": "zone"}}], Family.INET)
    assert rule.opaque and rule.target == jump("zone")


@pytest.mark.parametrize(
    "rule",
    [
        Rule((Match(Field.UID, IntervalSet.of(5), absent=True),), ACCEPT),
        Rule((), Target(Kind.MARK, mark=1, mask=1)),
        Rule((), Target(Kind.TPROXY, port=1, mark=1, mask=1)),
    ],
)
def test_what_nft_has_no_words_for_is_never_printed_otherwise(rule: Rule) -> None:
    with pytest.raises(ValueError):
        print_statements(rule, Family.INET)
    with pytest.raises(ValueError):
        print_table(table_of(rule))


def test_the_lines_of_a_table() -> None:
    rules = (
        Rule((proto("tcp"), dport(80, 443)), Target(Kind.REDIRECT, port=15001), comment="a b"),
        Rule((Match(Field.MARK, IntervalSet.of(5), mask=0xFF),), jump("other")),
        Rule((iif("eth+"),), Target(Kind.TPROXY, port=15006, mark=1337), family=Family.IP),
    )
    chains = (Chain("c", rules, "nat", "output", -100, "accept"), Chain("other"))
    assert print_table(Table(Family.INET, "t", chains)) == [
        "add table inet t",
        "add chain inet t c { type nat hook output priority -100 ; policy accept ; }",
        "add chain inet t other",
        "add rule inet t c meta l4proto tcp tcp dport { 80, 443 } counter redirect to :15001"
        ' comment "a b"',
        "add rule inet t c meta mark & 0xff == 5 counter jump other",
        'add rule inet t c meta nfproto ipv4 meta iifname "eth*" tproxy ip to :15006'
        " meta mark set 1337 counter accept",
    ]
    assert print_deletion(Table(Family.INET, "t")) == ["add table inet t", "delete table inet t"]


CHAIN = """{"nftables": [
    {"table": {"family": "inet", "name": "t"}}, {"chain": {"family": "inet", "table": "t", %s}}]}"""
IN_A_CHAIN = (
    CHAIN
    % """"name": "c"}},
    {"rule": {"expr": [], "family": "inet", "table": "t", "chain": "c", %s"""
)


@pytest.mark.parametrize(
    "text",
    ["", "[1]", '"x"', "{}", '{"nftables": null}', '{"nftables": [1]}', "[" * 100_000,
     '{"nftables": [{"table": 1}]}', '{"nftables": [{"rule": {}}]}',
     '{"nftables": [{"chain": {}}]}',
     '{"nftables": [{"table": {"family": [], "name": {}}}]}', "nft: command not found",
     '{"nftables": [{"rule": {"family": "inet", "table": "t", "chain": "c", "expr": []}}]}',
     IN_A_CHAIN % '"comment": 5', IN_A_CHAIN % '"comment": null', IN_A_CHAIN % '"expr": 5',
     CHAIN % '"name": 5', CHAIN % '"name": "c", "prio": "x", "hook": "input", "type": "nat"',
     CHAIN % '"name": "c", "prio": 0, "hook": 5, "type": "nat", "policy": "accept"',
     CHAIN % '"name": "c", "prio": 0, "hook": "input", "type": "nat", "policy": []'],
)  # fmt: skip
def test_what_is_no_listing_is_refused(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_listing(text)
    assert "\n" not in str(caught.value)


def test_an_empty_listing_is_the_empty_ruleset() -> None:
    assert parse_listing('{"nftables": [{"metainfo": {"version": "1.0.6"}}]}') == Ruleset()
    assert parse_listing('{"nftables": []}') == Ruleset()
    assert NameSet.of() == NameSet()
