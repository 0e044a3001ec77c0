"""How our rules differ from their profile's: exactly what is wrong, nothing where nothing is."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.backends.edits import with_comments
from meshnet.compile import compile_spec
from meshnet.compile.holdings import key_of
from meshnet.compile.ownership import OWN_CHAINS, own_part
from meshnet.model.drift import Drift
from meshnet.model.frozen import replace
from meshnet.model.intervals import NameSet
from meshnet.model.match import Match, dport, iif, proto
from meshnet.model.packet import Family, Field
from meshnet.model.rule import ACCEPT, RETURN, Kind, Rule, Target, redirect
from meshnet.model.ruleset import Chain, Ruleset, Table
from meshnet.model.spec import Form, Profile
from meshnet.reason.drift import drift
from tests.support.cases import CASES
from tests.support.damage import (
    dropped,
    flipped,
    inserted,
    places,
    rule_at,
    swapped,
    with_rules,
)
from tests.support.specs import spec_of, specs

EXTRA = Rule((proto("udp"), dport(4444)), Target(Kind.DROP))


def seen(held: Ruleset, form: Form) -> Drift:
    """The drift of what has something of ours."""
    found = drift(held, form)
    assert found is not None
    return found


def ours(held: Ruleset, form: Form) -> Ruleset:
    """The part of a dump that is ours, chains without a rule left out."""
    part = own_part(held) if form is Form.IPTABLES else held
    tables = []
    for table in part.tables:
        chains = tuple(chain for chain in table.chains if chain.rules)
        tables += [replace(table, chains=chains)] if chains else []
    return Ruleset(tuple(tables))


def keyed(ruleset: Ruleset) -> dict[object, list[object]]:
    """The rules of every chain in their order, without what is no difference."""
    return {
        (t.family, t.name, c.name): [key_of(rule) for rule in c.rules]
        for t in ruleset.tables
        for c in t.chains
        if c.rules
    }


def check_sound(found: Drift, held: Ruleset, form: Form) -> None:
    """What is said adds up: explained and extra rules are all of ours, each at its place."""
    wanted = keyed(compile_spec(found.spec, form))
    for place, rule in found.explained.items():
        assert rule.id and rule.why and rule.setting
        assert key_of(rule_at(held, (*place[:3], place[3] - 1))) == key_of(rule)
    for extra in found.extra:
        place = extra.family, extra.table, extra.chain, extra.position - 1
        assert rule_at(held, place) is extra.rule
        assert (*place[:3], extra.position) not in found.explained
    for moved in found.moved:
        assert found.explained[moved.family, moved.table, moved.chain, moved.before] is moved.rule
    explained = Counter((*place[:3], key_of(rule)) for place, rule in found.explained.items())
    missing = Counter((p.family, p.table, p.chain, key_of(p.rule)) for p in found.missing)
    every = Counter((*place, key) for place, keys in wanted.items() for key in keys)  # type: ignore[misc]
    assert explained + missing == every
    if not found:
        # Rules that cannot be told from ours may stand for them; all of ours are wanted.
        have = keyed(ours(held, form))
        assert all(_within(keys, wanted.get(place, [])) for place, keys in have.items())


def _within(part: list[object], whole: list[object]) -> bool:
    """Whether ``part`` is in ``whole``, in its order."""
    rest = iter(whole)
    return all(any(key == other for other in rest) for key in part)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("case", CASES)
def test_the_rules_of_a_case_do_not_drift(case: str, form: Form) -> None:
    wanted = compile_spec(spec_of(case), form)
    for held in (wanted, with_comments(wanted)):
        found = seen(held, form)
        assert not found and found.profile is spec_of(case).profile
        assert list(found.explained) == [(*p[:3], p[3] + 1) for p in places(held)]
        for (family, table, chain, position), rule in found.explained.items():
            assert rule is not None and rule == rule_at(
                wanted, (family, table, chain, position - 1)
            )
        check_sound(found, held, form)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("profile", Profile)
@settings(max_examples=60)
@given(data=st.data())
def test_one_thing_wrong_is_told_or_is_another_spec(
    profile: Profile, form: Form, data: st.DataObject
) -> None:
    wanted = compile_spec(data.draw(specs(profile)), form)
    place = data.draw(st.sampled_from(places(wanted)))
    how = data.draw(st.sampled_from(("drop", "swap", "flip", "insert", "replace")))
    held: Ruleset | None
    if how == "drop":
        held = dropped(wanted, place)
    elif how == "swap":
        held = swapped(wanted, place)
    elif how == "flip":
        held = flipped(wanted, place, data.draw(st.integers(0, 4)))
    elif how == "insert":
        held = inserted(wanted, place, EXTRA)
    else:
        held = inserted(dropped(wanted, place), place, EXTRA) if place[3] else None
    found = drift(held, form) if held is not None else None
    if found is None or held is None:
        return
    check_sound(found, held, form)
    if how == "insert" and (form is Form.NFT or place[2] in OWN_CHAINS):
        assert [e.rule for e in found.extra] == [EXTRA]
        assert not found.missing and not found.moved


@pytest.mark.parametrize("form", Form)
@settings(max_examples=40)
@given(data=st.data())
def test_much_wrong_is_told_without_a_crash(form: Form, data: st.DataObject) -> None:
    wanted = compile_spec(data.draw(specs(data.draw(st.sampled_from(tuple(Profile))))), form)
    held = wanted
    for _ in range(data.draw(st.integers(2, 12))):
        if not places(held):
            break
        place = data.draw(st.sampled_from(places(held)))
        other = data.draw(st.sampled_from(places(wanted)))
        held = data.draw(
            st.sampled_from(
                (
                    dropped(held, place),
                    swapped(held, place) or held,
                    flipped(held, place, 0) or held,
                    inserted(held, place, rule_at(wanted, other)),
                    inserted(held, place, Rule((), None, opaque="-m bpf --object-pinned /x")),
                    with_rules(held, place, ()),
                )
            )
        )
    found = drift(held, form)
    if found is not None:
        check_sound(found, held, form)


@pytest.mark.parametrize("form", Form)
def test_a_rule_lost_is_missing_at_its_place(form: Form) -> None:
    wanted = compile_spec(spec_of("default"), form)
    for place in places(wanted):
        rule = rule_at(wanted, place)
        found = seen(dropped(wanted, place), form)
        if rule.id in ("in.exclude-port", "out.capture-all"):
            # The rest is what a spec makes that leaves the port in, or captures nothing.
            assert not found
            continue
        (missing,) = found.missing
        assert not found.extra and not found.moved
        assert missing.rule is rule or missing.rule == rule
        assert (missing.family, missing.table, missing.chain) == place[:3]
        assert missing.position == place[3] + 1
        assert missing.rule.id and missing.rule.why and missing.rule.setting


@pytest.mark.parametrize("form", Form)
def test_two_rules_swapped_are_one_that_moved(form: Form) -> None:
    wanted = compile_spec(spec_of("both-families"), form)
    told = 0
    for place in places(wanted):
        held = swapped(wanted, place)
        if held is None or keyed(held) == keyed(wanted):
            continue
        found = seen(held, form)
        first, second = rule_at(wanted, place), rule_at(held, place)
        if not found:
            # The order of excluded ports is the spec's own.
            assert {first.id, second.id} == {"in.exclude-port"}
            continue
        assert not found.missing and not found.extra
        told += 1
        (moved,) = found.moved
        assert moved.rule.id in (first.id, second.id)
        assert {moved.before, moved.after} & {place[3] + 1, place[3] + 2}
    assert told > 8


@pytest.mark.parametrize("form", Form)
def test_a_turned_question_is_one_missing_and_one_extra(form: Form) -> None:
    wanted = compile_spec(spec_of("default"), form)
    for place in places(wanted):
        held = flipped(wanted, place, 0)
        rule = rule_at(wanted, place)
        if held is None or rule.id == "in.exclude-port":
            continue
        found = seen(held, form)
        assert [p.rule.id for p in found.missing] == [rule.id]
        # "Not the proxy's GID" is what a spec with that group alone has.
        known = rule.id == "out.proxy-gid"
        assert [p.position for p in found.extra] == [] if known else [place[3] + 1]
        assert not found.moved


def test_a_rule_put_in_is_extra_and_nothing_else_moves() -> None:
    for form, chain in ((Form.IPTABLES, "ISTIO_OUTPUT"), (Form.NFT, "istio-output")):
        wanted = compile_spec(spec_of("default"), form)
        table = wanted.tables[0]
        place = (table.family, table.name, chain, 3)
        found = seen(inserted(wanted, place, EXTRA), form)
        (extra,) = found.extra
        assert (extra.chain, extra.position, extra.rule) == (chain, 4, EXTRA)
        assert not found.missing and not found.moved
        assert len(found.explained) == len(places(wanted))


def test_foreign_rules_of_built_in_chains_are_no_drift() -> None:
    foreign = (
        Rule((iif("cni0"),), RETURN), Rule((proto("tcp"), dport(80)), redirect(8080)),
        Rule((), None, opaque="-m addrtype --dst-type LOCAL -j DOCKER"), Rule((), ACCEPT),
    )  # fmt: skip
    for case in CASES:
        wanted = compile_spec(spec_of(case), Form.IPTABLES)
        held = wanted
        for table in wanted.tables:
            for chain in table.chains:
                # There nothing but being in front tells that a rule is ours.
                front = case == "virtual-without-blocks" and chain.name == "PREROUTING"
                if chain.name not in OWN_CHAINS and not front:
                    place = table.family, table.name, chain.name, 0
                    held = with_rules(held, place, (*chain.rules, *foreign))
        found = seen(held, Form.IPTABLES)
        assert not found, case
        assert len(found.explained) == len(places(wanted))


def test_a_foreign_twin_keeps_out_of_it() -> None:
    wanted = compile_spec(spec_of("excluded-interfaces"), Form.IPTABLES)
    twin = Rule((Match(Field.IIF, NameSet.of("eth7")),), RETURN)
    found = seen(inserted(wanted, (Family.IP, "nat", "PREROUTING", 0), twin), Form.IPTABLES)
    assert not found
    assert (Family.IP, "nat", "PREROUTING", 1) not in found.explained
    assert found.explained[Family.IP, "nat", "PREROUTING", 2].id == "in.skip-interface"


def test_a_missing_jump_belongs_behind_foreign_rules() -> None:
    wanted = compile_spec(spec_of("default"), Form.IPTABLES)
    foreign = Rule((proto("tcp"), dport(80)), RETURN)
    held = with_rules(wanted, (Family.IP, "nat", "OUTPUT", 0), (foreign, foreign))
    (missing,) = seen(held, Form.IPTABLES).missing
    assert (missing.chain, missing.position, missing.rule.id) == ("OUTPUT", 3, "out.jump")


def test_a_base_chain_elsewhere_is_altered() -> None:
    wanted = compile_spec(spec_of("default"), Form.NFT)
    (table,) = wanted.tables
    late = replace(table.chains[0], priority=100)
    held = Ruleset((replace(table, chains=(late, *table.chains[1:])),))
    found = seen(held, Form.NFT)
    (altered,) = found.altered
    assert (altered.held.priority, altered.wanted.priority) == (100, -100)
    assert found and not (found.missing or found.extra or found.moved)
    dropping = Chain("input", (), "filter", "input", 0, "drop")
    found = seen(Ruleset((replace(table, chains=(*table.chains, dropping)),)), Form.NFT)
    assert [a.held.policy for a in found.altered] == ["drop"]


def test_a_comment_or_a_counter_is_no_drift() -> None:
    wanted = compile_spec(spec_of("classic"), Form.IPTABLES)
    bare = Ruleset(
        tuple(
            replace(t, chains=tuple(
                replace(c, rules=tuple(replace(r, comment="", packets=7) for r in c.rules))
                for c in t.chains
            ))
            for t in wanted.tables
        )
    )  # fmt: skip
    assert not seen(bare, Form.IPTABLES)


def test_nothing_of_ours_has_no_drift() -> None:
    for form in Form:
        assert drift(Ruleset(), form) is None
        assert (
            drift(Ruleset((Table(Family.IP, "nat", (Chain("OUTPUT", (EXTRA,)),)),)), form) is None
        )
