"""iptables-save text: what is printed is read back, and rules of others survive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.dialects.iptables import parse_save, print_save
from meshnet.dialects.iptables_rule import parse_rule, print_rule
from meshnet.dialects.tokens import quote_word, split_words
from meshnet.errors import ParseError
from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.match import Match, dport, iif, oif, proto
from meshnet.model.packet import Family, Field
from meshnet.model.rule import ACCEPT, RETURN, Kind, Rule, Target, jump
from meshnet.model.ruleset import Chain, Ruleset, Table
from tests.support.strategies import FOREIGN_TEXTS, comments, iptables_rules, iptables_rulesets

DATA = Path(__file__).parent / "data"
DUMPS = {
    "node.ip.save": Family.IP,
    "node.legacy.ip.save": Family.IP,
    "node.ip6.save": Family.IP6,
}
FAMILIES = (Family.IP, Family.IP6)
lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"))


def one_rule(rule: Rule, family: Family = Family.IP) -> Ruleset:
    """A ruleset that holds ``rule`` alone, with the chains that it may go to."""
    chains = [Chain("MINE", (rule,))]
    if rule.target and rule.target.chain:
        chains.append(Chain(rule.target.chain))
    return Ruleset((Table(family, "nat", tuple(chains)),))


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_a_rule_that_was_printed_is_read_back(family: Family, data: st.DataObject) -> None:
    rule = data.draw(iptables_rules(family, ("MY-a", "MY-b")))
    assert parse_rule(print_rule(rule, family), family) == rule


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12)
@given(data=st.data(), counters=st.booleans())
def test_a_ruleset_that_was_printed_is_read_back(
    family: Family, counters: bool, data: st.DataObject
) -> None:
    ruleset = data.draw(iptables_rulesets(family))
    text = print_save(ruleset, counters=counters)
    found = parse_save(text, family)
    assert found == ruleset
    assert print_save(found, counters=counters) == text
    counted = [(r.packets, r.bytes) for *_, r in found.rules() if not r.opaque]
    wanted = [(r.packets, r.bytes) for *_, r in ruleset.rules() if not r.opaque]
    assert counted == (wanted if counters else [(0, 0)] * len(wanted))


@given(lines)
def test_a_quoted_word_is_one_word(word: str) -> None:
    assert split_words(quote_word(word)) == [word]
    assert split_words(f"-m {quote_word(word)} -j") == ["-m", word, "-j"]


@given(comments)
def test_a_comment_is_kept_whatever_it_holds(comment: str) -> None:
    for family in FAMILIES:
        ruleset = one_rule(Rule((), ACCEPT, comment=comment), family)
        text = print_save(ruleset)
        assert text.count("\n") == 4
        assert parse_save(text, family) == ruleset


@given(lines, st.sampled_from("\n\r\0"), lines)
def test_a_line_break_never_reaches_restore_text(head: str, bad: str, tail: str) -> None:
    word = f"{head}{bad}{tail}"
    smugglers = (
        Rule((), ACCEPT, comment=word),
        Rule((iif(word),), RETURN),
        Rule((oif(word),), RETURN),
    )
    for rule in smugglers:
        with pytest.raises(ValueError):
            print_save(one_rule(rule))
        with pytest.raises(ValueError):
            print_rule(rule, Family.IP6)
    with pytest.raises(ValueError):
        quote_word(word)


def test_words_are_quoted_as_iptables_quotes_them() -> None:
    text = (
        r'-m comment --comment "it\'s \"quoted\", \\ and ünïcödé 中 → $(true) `id` ; #" -j ACCEPT'
    )
    wanted = 'it\'s "quoted", \\ and ünïcödé 中 → $(true) `id` ; #'
    rule = parse_rule(text, Family.IP)
    assert (rule.comment, rule.target, rule.opaque) == (wanted, ACCEPT, "")
    assert print_rule(rule, Family.IP) == text


def meaning(line: str) -> tuple[str, frozenset[tuple[str, ...]]]:
    """What a known rule's line says, without order, quotes, and the names of its modules."""
    words = split_words(line)
    counters = words.pop(0) if words[0].startswith("[") else ""
    parts: set[tuple[str, ...]] = set()
    no = ""
    part: list[str] = []
    for word in [*words, "-"]:
        if word == "!":
            no = "!"
            continue
        if word.startswith("-"):
            if part and part[1:2] != ["-m"]:
                parts.add(ports_of(part))
            part = [no]
            no = ""
        part.append(word)
    return counters, frozenset(parts)


def ports_of(part: list[str]) -> tuple[str, ...]:
    """An option with its values; ports, however they were written, one by one."""
    no, option, *values = part
    if option not in ("--sport", "--sports", "--dport", "--dports"):
        return tuple(part)
    numbers: set[int] = set()
    for span in values[0].split(","):
        first, _, last = span.partition(":")
        numbers |= set(range(int(first), int(last or first) + 1))
    return (no, option[:7], *map(str, sorted(numbers)))


@pytest.mark.parametrize("name", DUMPS)
def test_a_dump_says_the_same_after_reading_and_printing(name: str) -> None:
    text = (DATA / name).read_text()
    found = parse_save(text, DUMPS[name])
    printed = print_save(found, counters=True)
    before = [line for line in text.splitlines() if line and line[0] != "#"]
    after = printed.splitlines()
    assert len(before) == len(after) > 25
    rules = iter(rule for *_, rule in found.rules())
    for old, new in zip(before, after, strict=True):
        if old[0] == ":":
            assert old.split()[:2] == new.split()[:2]
        elif old[0] == "[":
            assert meaning(old) == meaning(new)
            if next(rules).opaque:
                assert new == old
        else:
            assert new == old
    assert parse_save(printed, DUMPS[name]) == found


@pytest.mark.parametrize("name", DUMPS)
def test_counters_are_kept(name: str) -> None:
    text = (DATA / name).read_text()
    found = [(r.packets, r.bytes) for *_, r in parse_save(text, DUMPS[name]).rules()]
    shown = [line[1:].split("]")[0] for line in text.splitlines() if line[:1] == "["]
    assert [f"{p}:{b}" for p, b in found] == shown
    if "legacy" in name:
        assert any(p for p, _ in found)


#: Rules that others have and the model has no word for: kept to the letter.
OPAQUE = (
    *FOREIGN_TEXTS,
    "-p tcp -m tcp -m comment --comment x -m conntrack --ctstate INVALID -j SYNPROXY",
    "-m set --match-set a src ",
    '-i a"b -j RETURN',
    "-j TPROXY",
    "-j ACCEPT !",
    "-m comment --comment one -m comment --comment two -j RETURN",
    "-j ACCEPT -j DROP",
    "-j CT --notrack",
    "-j TPROXY --on-port 1 --on-ip 127.0.0.1 --tproxy-mark 0x1/0x1",
    "-m recent --set --name KUBE-SEP-B --mask 255.255.255.255 --rsource",
    "-m mark --mark 0x1/0x1 -m quota --quota 5 -j ACCEPT",
    "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
    "-j CONNMARK --save-mark --nfmask 0xf0 --ctmask 0xf0",
    "-m bpf --bytecode \"1,6 0 0 65535\" -j ACCEPT",
    "-m owner --uid-owner 1-2-3 -j ACCEPT",
    "-p udplite -j ACCEPT",
    "-m comment --comment \"a\u2028b\x85c\" -m quota --quota 5",
)  # fmt: skip


@pytest.mark.parametrize("text", OPAQUE)
@pytest.mark.parametrize("family", FAMILIES)
def test_rules_of_others_are_kept_to_the_letter(text: str, family: Family) -> None:
    dump = f"*nat\n:OUTPUT ACCEPT [0:0]\n:MINE - [0:0]\n-A MINE -j RETURN\n-A MINE {text}\nCOMMIT\n"
    found = parse_save(dump, family)
    (mine,) = (chain for chain in found.tables[0].chains if chain.name == "MINE")
    assert [rule.opaque for rule in mine.rules] == ["", text]
    assert print_save(found) == dump
    assert parse_save(print_save(found), family) == found


@pytest.mark.parametrize(
    "text",
    [
        "-p sctp -m multiport --dports 80 -j ACCEPT",
        "-p sctp -m multiport --dports 80,90 -j ACCEPT",
        "-p 136 -m multiport --dports 80 -j ACCEPT",
        "-p 136 -m multiport --sports 80:90,100 -j ACCEPT",
        "-p tcp -m multiport ! --dports 80,443 -j ACCEPT",
        "-p udp -m udp --sport 0:1023 ! --dport 53 -j DROP",
        '-m comment --comment "" -j ACCEPT',
        "-i + -j ACCEPT",
        "! -i veth+ -j ACCEPT",
        "-g MINE",
        "-m mark ! --mark 0x0/0x0 -j RETURN",
    ],
)
def test_a_printed_rule_loads_as_the_same_rule(text: str) -> None:
    first = parse_rule(text, Family.IP)
    again = print_rule(first, Family.IP)
    assert parse_rule(again, Family.IP) == first
    if first.opaque:
        assert again == text
    else:
        assert meaning(again) == meaning(text)
    if "-p sctp" in again or "-p 136" in again:
        assert "-m tcp" not in again


def test_a_rule_into_an_unknown_extension_is_told_from_a_jump() -> None:
    rules = "-A A -j B\n-A A -m quota --quota 5 -j B\n-A A -j SET\n"
    dump = f"*nat\n:A - [0:0]\n:B - [0:0]\n{rules}COMMIT\n"
    known, opaque, extension = (rule for *_, rule in parse_save(dump, Family.IP).rules())
    assert (known.target, known.opaque) == (jump("B"), "")
    assert (opaque.target, opaque.opaque) == (jump("B"), "-m quota --quota 5 -j B")
    assert (extension.target, extension.opaque) == (None, "-j SET")


def test_hooks_and_policies_are_read() -> None:
    dump = (
        "# a comment\n\n*filter\n:INPUT DROP [1:2]\n:MINE - [0:0]\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
    )
    (table,) = parse_save(dump, Family.IP6).tables
    assert (table.family, table.name) == (Family.IP6, "filter")
    assert [(c.name, c.hook, c.policy) for c in table.chains] == [
        ("INPUT", "input", "drop"), ("MINE", "", "accept"), ("FORWARD", "forward", "accept"),
    ]  # fmt: skip
    assert print_save(replace_counters(dump)) == print_save(Ruleset((table,)))


def replace_counters(dump: str) -> Ruleset:
    """The same dump, with other counters of its policies."""
    return parse_save(dump.replace("[1:2]", "[7:9]"), Family.IP6)


def test_the_empty_text_is_the_empty_ruleset() -> None:
    assert parse_save("", Family.IP) == Ruleset()
    assert print_save(Ruleset()) == ""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("*nat\n:A - [0:0]\n", None), ("-A X -j Y\n", 1), ("*nat\n-A X -j Y\nCOMMIT\n", 2),
        ("*nat\n:A\nCOMMIT\n", 2), ("*nat\n:A - [0:0]\nhello\nCOMMIT\n", 3),
        ("*nat\n:A - [0:0]\n[x:y] -A A\nCOMMIT\n", 3), ("*nat\n[1:2]\nCOMMIT\n", 2),
        ("COMMIT\n", 1), ("<html>", 1),
    ],
)  # fmt: skip
def test_what_is_no_dump_is_named_with_its_line(text: str, line: int | None) -> None:
    with pytest.raises(ParseError) as caught:
        parse_save(text, Family.IP)
    assert "\n" not in str(caught.value)
    assert line is None or f"line {line}: " in str(caught.value)


@pytest.mark.parametrize(
    "rule",
    [
        Rule((Match(Field.UID, IntervalSet.of(1, 5)),), ACCEPT),
        Rule((Match(Field.SRC, IntervalSet.of((1, 6))),), ACCEPT),
        Rule((Match(Field.UID, IntervalSet.of(5), negated=True),), ACCEPT),
        Rule((Match(Field.UID, IntervalSet.of(5), absent=True),), ACCEPT),
        Rule((iif("a", "b"),), ACCEPT),
        Rule((proto("tcp", "udp"),), ACCEPT),
        Rule((Match(Field.MARK, IntervalSet.of((1, 2))),), ACCEPT),
    ],
)
def test_what_iptables_has_no_words_for_is_never_printed_otherwise(rule: Rule) -> None:
    with pytest.raises(ValueError):
        print_rule(rule, Family.IP)


def test_one_rule_of_each_kind_reads_as_iptables_writes_it() -> None:
    web = (proto("tcp"), dport(80))
    cases = {
        "-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 15001": Target(Kind.REDIRECT, port=15001),
        "-p tcp -m tcp --dport 80 -j MARK --set-xmark 0x539/0xffffffff": Target(
            Kind.MARK, mark=1337
        ),
        "-p tcp -m tcp --dport 80 -j CT --zone 1": Target(Kind.ZONE, zone=1),
        "-p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset": Target(Kind.RESET),
        "-p tcp -m tcp --dport 80 -j CONNMARK --save-mark --nfmask 0xffffffff"
        " --ctmask 0xffffffff": Target(Kind.SAVE_MARK),
        "-p tcp -m tcp --dport 80 -g OTHER": Target(Kind.GOTO, chain="OTHER"),
        "-p tcp -m tcp --dport 80": None,
    }
    for text, target in cases.items():
        assert parse_rule(text, Family.IP) == Rule(web, target)
        assert print_rule(Rule(web, target), Family.IP) == text
    assert replace(Rule(web, ACCEPT), id="x") == Rule(web, ACCEPT)
    assert NameSet.of("b", "a") == NameSet.of("a", "b")
