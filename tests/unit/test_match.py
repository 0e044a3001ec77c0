"""Match.holds and Rule.holds against a definition that is written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.match import (
    Match,
    ctmark,
    ctstate,
    dport,
    iif,
    mark,
    oif,
    ports,
    proto,
    sport,
)
from meshnet.model.packet import TCP, UDP, Family, Field, Packet
from meshnet.model.rule import ACCEPT, DROP, Rule
from tests.support.strategies import interval_sets, iptables_matches, nft_matches, packets

WORDS = ("iif", "oif", "ctstate")
SSH = Packet(Family.IP, TCP, 0x0A000001, 0x0A000002, 40000, 22, iif="eth0")


def naive(match: Match, packet: Packet) -> bool:
    """What a match means, with sets of Python and no cleverness."""
    value = getattr(packet, match.field.label)
    if value is None:
        return match.absent
    if match.field.label in WORDS:
        inside = any(
            value[: len(n) - 1] == n[:-1] if n[-1] == "+" else value == n
            for n in match.values.names
        )
    else:
        if match.mask is not None:
            value = value & match.mask
        inside = bool([1 for first, last in match.values.spans if first <= value <= last])
    return inside != match.negated


any_match = st.one_of(
    iptables_matches(Family.IP), iptables_matches(Family.IP6), nft_matches(Family.IP6)
).filter(bool)


@given(any_match, packets(), st.booleans())
def test_each_match_is_its_definition(
    matches: tuple[Match, ...], packet: Packet, absent: bool
) -> None:
    for match in matches:
        assert match.holds(packet) == naive(match, packet)
        other = replace(match, absent=absent)
        assert other.holds(packet) == naive(other, packet)


@given(any_match, packets())
def test_inverted_is_the_contrary_wherever_the_field_is(
    matches: tuple[Match, ...], packet: Packet
) -> None:
    for match in matches:
        present = packet.value(match.field) is not None
        contrary = match.inverted().holds(packet) is not match.holds(packet)
        assert contrary is present
        assert match.inverted().inverted() == match


@given(any_match, packets())
def test_a_rule_is_a_conjunction(matches: tuple[Match, ...], packet: Packet) -> None:
    rule = Rule(matches, ACCEPT)
    assert rule.holds(packet) == all(naive(m, packet) for m in matches)
    assert Rule((), ACCEPT).holds(packet)
    assert replace(rule, family=Family.INET).holds(packet) == rule.holds(packet)
    for family in (Family.IP, Family.IP6):
        wanted = rule.holds(packet) and family is packet.family
        assert replace(rule, family=family).holds(packet) == wanted


@given(any_match, st.randoms())
def test_rules_are_the_same_whatever_the_order_of_their_matches(
    matches: tuple[Match, ...], random: object
) -> None:
    shuffled = list(matches)
    random.shuffle(shuffled)
    one, other = Rule(matches, ACCEPT), Rule(tuple(shuffled), ACCEPT)
    assert one.same(other) and other.same(one)
    assert not one.same(Rule(matches, DROP))
    assert not one.same(Rule(matches, ACCEPT, comment="x"))
    assert not one.same(Rule(matches[:-1], ACCEPT))


@given(interval_sets(0xFF), st.integers(0, 0xFF), st.integers(0, 0xFF), st.booleans())
def test_a_mask_comes_before_the_comparison(
    values: IntervalSet, mask: int, seen: int, negated: bool
) -> None:
    match = Match(Field.MARK, values, negated, mask)
    assert match.holds(replace(SSH, mark=seen)) == (((seen & mask) in values) != negated)


@pytest.mark.parametrize("negated", [False, True])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize(
    "field", [Field.UID, Field.GID, Field.SPORT, Field.DPORT, Field.IIF, Field.OIF]
)
def test_an_absent_field_has_the_answer_that_the_match_says(
    field: Field, absent: bool, negated: bool
) -> None:
    values = NameSet.of("lo") if not field.bits else IntervalSet.of((0, 1 << 32))
    nothing = Packet(Family.IP, 1, 1, 2)
    assert Match(field, values, negated, absent=absent).holds(nothing) is absent


def test_an_owner_that_is_negated_parts_the_dialects() -> None:
    forwarded = replace(SSH, uid=None)
    five = IntervalSet.of(5)
    assert Match(Field.UID, five, negated=True, absent=True).holds(forwarded)
    assert not Match(Field.UID, five, negated=True).holds(forwarded)


def test_an_opaque_rule_cannot_be_evaluated() -> None:
    with pytest.raises(ValueError, match="opaque"):
        Rule((), None, opaque="-m set --match-set a src").holds(SSH)


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        (proto("tcp"), True), (proto("udp"), False), (proto("tcp", "udp"), True),
        (iif("eth0"), True), (iif("eth+"), True), (iif("eth1", "lo"), False), (oif("eth0"), False),
        (dport(22), True), (dport(22, negated=True), False), (dport(80, 443), False),
        (sport(40000), True), (sport(22), False),
        (ports(Field.DPORT, IntervalSet.of((20, 25))), True),
        (mark(0), True), (mark(0, negated=True), False), (ctmark(1), False),
        (ctstate("new"), True), (ctstate("established", "related"), False),
    ],
)  # fmt: skip
def test_the_short_forms(match: Match, fits: bool) -> None:
    assert match.holds(SSH) is fits


def test_a_family_covers_its_own() -> None:
    assert Family.INET.covers(Family.IP) and Family.INET.covers(Family.IP6)
    assert Family.IP.covers(Family.IP) and not Family.IP.covers(Family.IP6)
    assert UDP == 17
