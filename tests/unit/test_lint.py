"""Lint: what is known of Istio's rules is found, strict is clean, and foreign mistakes are seen."""

from __future__ import annotations

import random
import re

import pytest

from meshnet.dialects.iptables import parse_save
from meshnet.model.finding import Finding
from meshnet.model.packet import Family
from meshnet.model.rule import DROP, Rule, jump
from meshnet.model.ruleset import Chain, Ruleset, Table
from meshnet.reason.behaviour import Side
from meshnet.reason.lint import check
from meshnet.reason.lint.check import CHECKED, lint
from tests.support.cases import CASES, DEFAULT, DNS
from tests.support.symbolic import Crowd
from tests.support.walks import compiled

pytest.importorskip("z3", reason="cannot run here: z3 is not installed (the extra prove)")


def found(rulesets: dict[str, Ruleset], ipv6_up: bool = True) -> list[Finding]:
    """What lint says."""
    findings = lint(Side(rulesets), ipv6_up).findings
    assert all(finding.code in CHECKED and finding.evidence for finding in findings)
    return list(findings)


def dead(rulesets: dict[str, Ruleset]) -> dict[str, list[str]]:
    """The rules that can never match, by place, with the places of those that shadow them."""
    told = {}
    for finding in found(rulesets):
        if finding.code == "MN111" and (place := _place(finding.summary)):
            chain = place.rpartition(" ")[0]
            rules = [re.match(r"rule (\d+) takes", line) for line in finding.evidence]
            told[place] = [f"{chain} {rule[1]}" for rule in rules if rule]
    return told


def _place(text: str) -> str:
    """The place of a rule that can never match, changes nothing, or decides."""
    found = re.match(r"\S+ (\S+ \S+ \S+ \d+) (can|changes|decides)", text)
    return found[1] if found else ""


def dump(text: str) -> dict[str, Ruleset]:
    """Rules of legacy IPv4."""
    return {"legacy": parse_save(text, Family.IP)}


# Istio's rules.


def test_the_gid_rules_for_lo_can_never_match() -> None:
    assert dead(compiled(DEFAULT, "nft-compat")) == {
        "ip nat ISTIO_OUTPUT 5": ["ip nat ISTIO_OUTPUT 3", "ip nat ISTIO_OUTPUT 4"],
        "ip nat ISTIO_OUTPUT 6": ["ip nat ISTIO_OUTPUT 3", "ip nat ISTIO_OUTPUT 4"],
    }


def test_with_dns_only_the_second_of_them() -> None:
    # 5: gid 1337 on lo, redirected; 6: not gid 1337 on lo, returned.
    for family in ("ip", "ip6"):
        assert [
            place
            for place in dead(compiled((*DNS, "--ipv6", "on"), "legacy"))
            if place.startswith(f"{family} ")
        ] == [f"{family} nat ISTIO_OUTPUT 6"]


@pytest.mark.parametrize("backend", ["nft-compat", "nft"])
def test_the_second_proxy_users_self_calls_are_not_captured(backend: str) -> None:
    (finding,) = [f for f in found(compiled(CASES["two-proxies"], backend)) if f.code == "MN115"]
    assert finding.summary == f"{backend}: the proxy's UID 4 is not treated as its UID 3"
    assert finding.evidence[0].endswith("not captured")
    assert finding.evidence[1].endswith("captured by :15006")


def test_ipv6_off_leaks_in_iptables_form_and_is_captured_in_nfts() -> None:
    off = {b: found(compiled(DEFAULT, b)) for b in ("nft-compat", "nft")}
    assert [f.code for f in off["nft-compat"] if f.code == "MN130"] == ["MN130"]
    assert [f.code for f in off["nft"] if f.code == "MN130"] == []
    assert all(f.code != "MN130" for f in found(compiled(DEFAULT, "nft-compat"), ipv6_up=False))


NOTHING_TO_DO = {"strict-virtual-only", "strict-everything"}


@pytest.mark.parametrize("backend", ["nft-compat", "nft"])
@pytest.mark.parametrize("case", [n for n, words in CASES.items() if "strict" in words])
def test_strict_has_none_of_these(case: str, backend: str) -> None:
    codes = {finding.code for finding in found(compiled(CASES[case], backend))}
    # Where nothing is captured, what would be let go need not be.
    assert codes == ({"MN114"} if case in NOTHING_TO_DO else set())


def test_what_is_captured_by_a_word_is_no_leak() -> None:
    words = (*DEFAULT, "--profile", "strict", "--ipv6", "allow")
    assert found(compiled(words, "nft-compat")) == []


# Rules of anybody.

HEAD = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"


def test_a_union_of_rules_shadows_what_none_of_them_does() -> None:
    rules = dump(
        HEAD
        + "-A INPUT -s 10.0.0.0/9 -j DROP\n-A INPUT -i eth5 -j DROP\n"
        + "-A INPUT -s 10.128.0.0/9 -j DROP\n-A INPUT -s 10.0.0.0/8 -p tcp -j ACCEPT\nCOMMIT\n"
    )
    both = ["ip filter INPUT 1", "ip filter INPUT 3"]
    assert dead(rules) == {"ip filter INPUT 4": both}


def test_a_rule_that_contradicts_the_way_to_it_is_dead() -> None:
    rules = dump(
        HEAD.replace("COMMIT", "")
        + ":web - [0:0]\n-A INPUT -p tcp -j web\n-A web -p udp -j DROP\n"
        + "-A web -p tcp -m tcp --dport 80 -j DROP\nCOMMIT\n"
    )
    (finding,) = found(rules)
    assert finding.summary == "legacy ip filter web 1 can never match"
    assert finding.evidence == (
        "udp: drop",
        "no packet that it asks for comes by legacy ip filter INPUT 1: tcp: go through web",
    )


def test_a_chain_that_nobody_comes_to_is_told_once() -> None:
    rules = dump(HEAD + ":idle - [0:0]\n-A idle -j DROP\n-A idle -p tcp -j DROP\nCOMMIT\n")
    (finding,) = found(rules)
    assert (
        finding.summary == "no packet comes to legacy ip filter idle: its 2 rules can never match"
    )
    assert finding.evidence == ("no rule goes to idle",)


def test_rules_that_change_nothing() -> None:
    rules = dump(
        HEAD
        + "-A INPUT -s 10.0.0.0/8 -j ACCEPT\n-A INPUT -s 192.0.2.0/24 -j ACCEPT\n"
        + "-A INPUT -d 192.0.2.9/32 -j DROP\n-A INPUT -s 192.0.2.0/25 -m mark --mark 0x1 -j DROP\n"
        + "-A OUTPUT -p udp -j MARK --set-xmark 0x1/0xffffffff\n-A OUTPUT -p icmp\nCOMMIT\n"
    )
    told = [f"{f.code} {_place(f.summary)}" for f in found(rules)]
    # 1 and 2 keep packets from 3; who only marks or counts is let be.
    assert told == ["MN111 ip filter INPUT 4"]
    less = dump(HEAD + "-A INPUT -s 10.0.0.0/8 -j ACCEPT\n-A INPUT -p 6 -j RETURN\nCOMMIT\n")
    assert [f.code for f in found(less)] == ["MN114", "MN114"]


def test_a_rule_with_a_doubt_is_neither_dead_nor_idle() -> None:
    rules = dump(
        HEAD
        + "-A INPUT -m statistic --mode random --probability 0.5 -j DROP\n"
        + "-A INPUT -p tcp -j DROP\nCOMMIT\n"
    )
    told = lint(Side(rules))
    assert told.findings == ()
    shadowed = dump(
        HEAD + "-A INPUT -j DROP\n-A INPUT -m statistic --mode random --probability 0.5 -j ACCEPT\n"
        "COMMIT\n"
    )
    # Whatever it answers, nobody asks it.
    assert dead(shadowed) == {"ip filter INPUT 2": ["ip filter INPUT 1"]}
    assert any("statistic" in name for name in told.undecided)


def test_foreign_rules_that_decide_before_ours() -> None:
    text = (
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
        ":POSTROUTING ACCEPT [0:0]\n:ISTIO_OUTPUT - [0:0]\n:ISTIO_REDIRECT - [0:0]\n"
        "-A OUTPUT -m owner --uid-owner 0 -j RETURN\n"
        "-A OUTPUT -d 10.96.0.0/12 -p udp -j ACCEPT\n"
        "-A OUTPUT -p tcp -j ISTIO_OUTPUT\n"
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n"
        "-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN\n"
        "-A ISTIO_OUTPUT -j ISTIO_REDIRECT\nCOMMIT\n"
    )
    told = [f for f in found(dump(text), ipv6_up=False) if f.code == "MN110"]
    assert [f.summary for f in told] == [
        "legacy ip nat OUTPUT 1 decides before our rules are asked"
    ]
    assert told[0].evidence[0] == "uid 0: return"
    assert told[0].evidence[-1] == "by all rules not captured"


def test_many_foreign_rules_are_told_up_to_a_number() -> None:
    theirs = "".join(f"-A OUTPUT -d 198.51.100.{n}/32 -j ACCEPT\n" for n in range(1, 41))
    text = (
        f"*nat\n:OUTPUT ACCEPT [0:0]\n:ISTIO_OUTPUT - [0:0]\n:ISTIO_REDIRECT - [0:0]\n{theirs}"
        "-A OUTPUT -p tcp -j ISTIO_OUTPUT\n-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n"
        "-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN\n-A ISTIO_OUTPUT -j ISTIO_REDIRECT\n"
        "COMMIT\n"
    )
    told = [f.summary for f in found(dump(text), ipv6_up=False) if f.code == "MN110"]
    assert told[0] == "legacy ip nat OUTPUT 1 decides before our rules are asked"
    assert len(told) == 33 and told[-1] == "further rules decide before our rules are asked"


@pytest.mark.parametrize("backend", ["nft-compat", "nft"])
@pytest.mark.parametrize("case", ["default", "dns", "tproxy-both-families", "strict-everything"])
def test_no_packet_matches_a_rule_that_never_matches(case: str, backend: str) -> None:
    rulesets = compiled(CASES[case], backend)
    never = {_place(f.summary) for f in found(rulesets) if f.code == "MN111"}
    side = Side(rulesets)
    walker, held = side.walker(), set()
    for packet, hook, local in Crowd(random.Random(3), side).packets(1000):
        journey = walker.walk(packet, hook, local=local)
        places = (step.place for step in journey.steps if step.held)
        held |= {str(place).partition(" ")[2] for place in places}
    assert not never & held
    assert held


def test_what_hooks_run_that_the_walk_does_not_know_is_let_be() -> None:
    early = (
        Chain("deeper", (Rule((), DROP),)),
        Chain("early", (Rule((), jump("deeper")),), "filter", "ingress"),
    )
    idle = Chain("idle", (Rule((), DROP),))
    assert found({"nft": Ruleset((Table(Family.INET, "t", early),))}) == []
    told = found({"nft": Ruleset((Table(Family.INET, "t", (*early, idle)),))})
    assert [finding.evidence for finding in told] == [("no rule goes to idle",)]


def test_what_is_too_much_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "MOST_RULES", 3)
    told = lint(Side(compiled(DEFAULT, "nft-compat")))
    assert {finding.code for finding in told.findings} == {"MN130"}
    assert told.left_out == ("more than 3 rules: MN111 and MN114 were not looked for",)
