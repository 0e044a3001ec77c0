"""From rules back to a spec: its rules are the very same, and damage does not confuse it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.backends.edits import with_comments
from meshnet.compile import compile_spec
from meshnet.compile.comparison import longest_common
from meshnet.compile.decompile import decompile
from meshnet.compile.ownership import OWN_CHAINS, OWN_TABLES
from meshnet.dialects.iptables import parse_save, print_save
from meshnet.dialects.nft_json import parse_listing, print_listing
from meshnet.model.frozen import replace
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match, dport, proto
from meshnet.model.packet import Family, Field
from meshnet.model.rule import RETURN, Kind, Rule, Target, jump
from meshnet.model.ruleset import Chain, Ruleset, Table
from meshnet.model.spec import CaptureSpec, Form, IPv6, Profile
from tests.support.cases import CASES
from tests.support.damage import dropped, inserted, places, rule_at
from tests.support.specs import spec_of, specs
from tests.support.strategies import iptables_rulesets, nft_rulesets


def shown(ruleset: Ruleset, form: Form) -> Ruleset:
    """``ruleset`` as a tool prints it and its dialect reads it."""
    if form is Form.NFT:
        return parse_listing(print_listing(ruleset))
    tables = [parse_save(print_save(ruleset.of(f)), f).tables for f in (Family.IP, Family.IP6)]
    return Ruleset(tuple(table for found in tables for table in found))


def check(spec: CaptureSpec, form: Form) -> None:
    """Every way to look at the rules of ``spec`` gives a spec with the same rules."""
    wanted = compile_spec(spec, form)
    for held in (wanted, shown(wanted, form), shown(with_comments(wanted), form)):
        found = decompile(held, form)
        assert found is not None and found.spec.profile is spec.profile
        assert found.wanted == compile_spec(found.spec, form) == wanted
        assert found.differences == 0
        again = decompile(found.wanted, form)
        assert again is not None and again.spec == found.spec


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("case", CASES)
def test_the_rules_of_a_case_give_a_spec_that_makes_them(case: str, form: Form) -> None:
    check(spec_of(case), form)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("profile", Profile)
@settings(max_examples=40)
@given(data=st.data())
def test_the_rules_of_any_spec_give_one_that_makes_them(
    profile: Profile, form: Form, data: st.DataObject
) -> None:
    check(data.draw(specs(profile)), form)


@pytest.mark.parametrize("form", Form)
def test_what_rules_show_is_read_back_as_it_was_said(form: Form) -> None:
    for case in ("default", "tproxy-both-families", "dns", "two-proxies", "ports", "classic"):
        spec = replace(spec_of(case), tproxy_table=133)
        found = decompile(compile_spec(spec, form), form)
        assert found is not None and found.form is form
        assert replace(found.spec, gids=spec.gids) == spec, case


def test_nothing_of_ours_is_nothing() -> None:
    for form in Form:
        assert decompile(Ruleset(), form) is None
        assert decompile(Ruleset((Table(Family.IP, "nat", (Chain("OUTPUT"),)),)), form) is None
    # nft's own tables are not iptables', and its foreign ones are not ours.
    native = compile_spec(spec_of("default"), Form.NFT)
    assert decompile(native, Form.IPTABLES) is None
    renamed = Ruleset(tuple(replace(table, name="other") for table in native.tables))
    assert decompile(renamed, Form.NFT) is None


@settings(max_examples=10)
@given(st.data())
def test_rules_of_others_alone_are_never_ours(data: st.DataObject) -> None:
    held = data.draw(iptables_rulesets(Family.IP))
    if not any(c.name in OWN_CHAINS for t in held.tables for c in t.chains):
        assert decompile(held, Form.IPTABLES) is None
    listed = data.draw(nft_rulesets())
    if not any(t.name in OWN_TABLES for t in listed.tables):
        assert decompile(listed, Form.NFT) is None


def test_an_empty_chain_of_ours_is_ours() -> None:
    found = decompile(Ruleset((Table(Family.IP, "nat", (Chain("ISTIO_OUTPUT"),)),)), Form.IPTABLES)
    assert found is not None and found.differences > 0


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("case", CASES)
def test_a_lost_rule_is_missed_or_another_spec_has_no_need_of_it(case: str, form: Form) -> None:
    """At most the lost rule is a difference, but for those that nothing else tells of."""
    wanted = compile_spec(spec_of(case), form)
    for place in places(wanted)[::2]:
        held = dropped(wanted, place)
        found = decompile(held, form)
        if found is None:
            continue
        assert found.spec.profile is spec_of(case).profile
        assert found.differences <= 3, (place, found.spec)


@pytest.mark.parametrize("form", Form)
def test_a_lost_rule_of_both_families_is_known_from_the_other(form: Form) -> None:
    spec = replace(spec_of("both-families"), out_ports_excluded=spec_of("ports").out_ports_excluded)
    wanted = compile_spec(spec, form)
    for place in places(wanted):
        rule = rule_at(wanted, place)
        # Without this one the rules are those of "-i 0.0.0.0/0".
        if rule.id == "out.capture-all":
            continue
        if place[0] is Family.IP6 and rule.id.startswith("out."):
            found = decompile(dropped(wanted, place), form)
            assert found is not None and found.wanted == wanted, rule


def test_a_rule_put_in_by_hand_does_not_become_a_setting() -> None:
    wanted = compile_spec(spec_of("default"), Form.IPTABLES)
    root = Rule((Match(Field.UID, IntervalSet.of(0)),), RETURN)
    ssh = Rule((proto("tcp"), dport(22)), RETURN)
    for rule in (root, ssh):
        held = inserted(wanted, (Family.IP, "nat", "ISTIO_OUTPUT", 0), rule)
        found = decompile(held, Form.IPTABLES)
        assert found is not None and found.spec == spec_of("default") and found.differences == 1


def test_two_profiles_at_once_give_the_one_with_more_rules() -> None:
    strict = compile_spec(spec_of("strict-ipv4"), Form.NFT)
    istio = compile_spec(spec_of("tproxy"), Form.NFT)
    found = decompile(Ruleset((*strict.tables, *istio.tables)), Form.NFT)
    assert found is not None and found.spec.profile is Profile.ISTIO
    assert found.differences == sum(1 for _ in strict.rules())


def test_ipv6_that_is_off_is_not_taken_for_lost() -> None:
    for case in ("default", "both-families"):
        found = decompile(compile_spec(spec_of(case), Form.IPTABLES), Form.IPTABLES)
        assert found is not None
        assert found.spec.ipv6 is (IPv6.OFF if case == "default" else IPv6.CAPTURE)


members = st.lists(st.integers(0, 4), max_size=14)


@settings(max_examples=300)
@given(members, members)
def test_a_longest_common_subsequence_is_one(one: list[int], other: list[int]) -> None:
    pairs = longest_common(one, other)
    assert all(one[i] == other[j] for i, j in pairs)
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
            )
    assert len(pairs) == table[-1][-1]


def foreign_rules(number: int) -> tuple[Rule, ...]:
    return tuple(
        Rule((proto("tcp"), dport(1 + n % 65000)), Target(Kind.ACCEPT)) for n in range(number)
    )


def test_many_foreign_rules_cost_little() -> None:
    wanted = compile_spec(spec_of("default"), Form.IPTABLES)
    (nat,) = wanted.tables
    crowd = Chain("KUBE-SERVICES", foreign_rules(20_000))
    prerouting = nat.chain("PREROUTING")
    assert prerouting is not None
    hooked = replace(prerouting, rules=(*foreign_rules(20_000), *prerouting.rules))
    chains = tuple(hooked if c.name == "PREROUTING" else c for c in nat.chains)
    held = Ruleset((replace(nat, chains=(*chains, crowd)), Table(Family.IP, "filter", (crowd,))))
    found = decompile(held, Form.IPTABLES)
    assert found is not None and found.differences == 0 and found.spec == spec_of("default")


@pytest.mark.parametrize("form", Form)
def test_a_chain_of_ours_full_of_rules_does_not_hang(form: Form) -> None:
    wanted = compile_spec(spec_of("default"), form)
    name = "ISTIO_OUTPUT" if form is Form.IPTABLES else "istio-output"
    many = tuple(Rule((proto("tcp"), dport(1 + n)), RETURN) for n in range(20_000))
    more = tuple(Rule((proto("tcp"), dport(1 + n)), jump("ISTIO_REDIRECT")) for n in range(5_000))
    tables = tuple(
        replace(t, chains=tuple(
            replace(c, rules=(*many, *c.rules, *more)) if c.name == name else c for c in t.chains
        ))
        for t in wanted.tables
    )  # fmt: skip
    found = decompile(Ruleset(tables), form)
    assert found is not None
