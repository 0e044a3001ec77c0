"""Rules in words: readable, short, and the same for both rule languages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.dialects.iptables_rule import parse_rule
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import dport
from meshnet.model.packet import Family
from meshnet.model.rule import ACCEPT, RETURN, Rule
from meshnet.reason.words import rule_in_words
from tests.support.strategies import iptables_rules, nft_rules

CASES = {
    "-j ISTIO_OUTPUT": "all: go through ISTIO_OUTPUT",
    "-s 127.0.0.6/32 -o lo -j RETURN": "src 127.0.0.6, oif lo: return",
    "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 "
    "-j ISTIO_IN_REDIRECT": (
        "dst not 127.0.0.1, oif lo, tcp, dport not 15008, uid 1337: go through ISTIO_IN_REDIRECT"
    ),
    "-p tcp -j REDIRECT --to-ports 15001": "tcp: redirect to :15001",
    "-d 10.0.0.0/8 -j RETURN": "dst 10.0.0.0/8: return",
    "-m mark --mark 0x539 -j RETURN": "mark 1337: return",
    "-m owner --uid-owner 1000-2000 -j RETURN": "uid 1000-2000: return",
    "-p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT": (
        "tcp, ct established,related: accept"
    ),
}


@pytest.mark.parametrize("spec", CASES)
def test_rules_of_istio_in_words(spec: str) -> None:
    declared = "ISTIO" in spec
    rule = parse_rule(spec, Family.IP)
    assert declared or rule.target is not None
    assert rule_in_words(rule, Family.IP) == CASES[spec]


def test_a_long_list_is_counted() -> None:
    words = rule_in_words(Rule((dport(*range(1, 40, 2)),), RETURN), Family.IP)
    assert words == "dport 1,3,5,7,9,11 and 14 more: return"


def test_an_empty_set_is_said() -> None:
    match = dport(80)
    empty = type(match)(match.field, IntervalSet())
    assert rule_in_words(Rule((empty,), ACCEPT), Family.IP) == "dport nothing: accept"


def test_a_rule_that_is_not_understood_is_its_own_text() -> None:
    rule = parse_rule("-m statistic --mode random --probability 0.5 -j RETURN", Family.IP)
    assert rule_in_words(rule, Family.IP) == rule.opaque


@given(
    st.sampled_from((Family.IP, Family.IP6)).flatmap(
        lambda f: st.tuples(iptables_rules(f) | nft_rules(f), st.just(f))
    )
    | st.tuples(nft_rules(Family.INET), st.just(Family.INET))
)
def test_every_rule_has_words(found: tuple[Rule, Family]) -> None:
    words = rule_in_words(*found)
    assert words and "\n" not in words
