"""All packets at once against the walk of each: the same rules, the same fates."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.errors import KernelLacks, MeshnetError
from meshnet.model.intervals import NameSet
from meshnet.model.packet import Family
from meshnet.model.ruleset import Ruleset
from meshnet.model.verdict import Verdict
from meshnet.reason.behaviour import Side
from meshnet.reason.symbolic import terms
from meshnet.reason.symbolic.fate import OUTCOME_BITS
from meshnet.reason.symbolic.names import Names, names_of
from meshnet.reason.symbolic.passage import Passage, Program
from meshnet.reason.symbolic.question import Question
from meshnet.reason.symbolic.terms import no
from meshnet.reason.symbolic.world import World
from meshnet.reason.walk import Walker
from tests.support.cases import CASES
from tests.support.lottery import as_packet
from tests.support.symbolic import Crowd, outcome
from tests.support.walks import compiled
from tests.unit.test_walk import anything, drawn

pytest.importorskip("z3", reason="cannot run here: z3 is not installed (the extra prove)")


class Twin:
    """Rules, walked by one packet and gone through by all."""

    def __init__(self, rulesets: Mapping[str, Ruleset], links: tuple[str, ...] = ()) -> None:
        self.walker = Walker(rulesets)
        self.program = Program(rulesets)
        self.names = Names([*names_of(self.program.tables), NameSet.of("lo", *links)])
        self._asked: dict[tuple[str, Family], tuple] = {}

    def _scene(self, hook: str, family: Family) -> tuple:
        found = self._asked.get((hook, family))
        if found is None:
            world = World(hook, family, self.names)
            passage = Passage(self.program, world)
            question = Question(world)
            found = world, question, question.variable(passage.outcome, OUTCOME_BITS, "outcome")
            found = (*found, passage)
            self._asked[hook, family] = found
        return found

    def outcomes(self, packet, hook: str, local: bool) -> set[int]:
        """Every fate that the proof thinks possible."""
        world, question, variable, _ = self._scene(hook, packet.family)
        found: set[int] = set()
        conditions = [world.is_packet(packet, local)]
        while len(found) < 12 and (model := question.ask(*conditions)) is not None:
            value = model.eval(variable, model_completion=True).as_long()
            found.add(value)
            conditions.append(no(variable == value))
        return found

    def lets_go(self, packet, hook: str, local: bool) -> bool:
        """Whether a rule of ours lets it go, in the proof's eyes."""
        world, question, _, passage = self._scene(hook, packet.family)
        here = world.is_packet(packet, local)
        return not question.possible(here, no(passage.moving.ours))

    def check(self, packet, hook: str, local: bool) -> None:
        """The walk's fates are the proof's; where some are undecided, the proof may know more."""
        journey = self.walker.walk(packet, hook, local=local)
        fates = journey.fates or (journey,)
        possible = {outcome(fate) for fate in fates}
        found = self.outcomes(packet, hook, local)
        shown = f"{packet} {hook} {local} {journey.maybe}"
        assert found, shown
        if any(fate.verdict is Verdict.MAYBE for fate in fates):
            return
        if journey.verdict is Verdict.MAYBE:
            assert found <= possible, shown
            return
        assert found == possible, shown
        if journey.verdict in (Verdict.BYPASSED, Verdict.DIRECT):
            assert self.lets_go(packet, hook, local) is (journey.verdict is Verdict.BYPASSED), shown


@pytest.mark.parametrize("seed", range(8))
def test_the_proof_is_the_walk_for_all_packets(seed: int) -> None:
    """Rules of all matches and targets, jumps and gotos, of two backends, and whatever packet."""
    rulesets, lottery = drawn(seed)
    twin = Twin(rulesets, ("v0", "v1"))
    try:
        for _ in range(20):
            twin.check(*as_packet(lottery.packet()))
        crowd = Crowd(random.Random(seed), Side(rulesets))
        twin.names = crowd.names
        twin._asked.clear()
        for packet in crowd.packets(20):
            twin.check(*packet)
    except MeshnetError as e:
        assert "too many orders" in e.message


@settings(max_examples=25, deadline=None)
@given(anything(), st.integers(0, 1000))
def test_any_ruleset_means_the_same_to_both(rulesets: dict[str, Ruleset], seed: int) -> None:
    crowd = Crowd(random.Random(seed), Side(rulesets))
    twin = Twin(rulesets)
    twin.names = crowd.names
    try:
        for packet in crowd.packets(4):
            twin.check(*packet)
    except MeshnetError as e:
        assert "too many orders" in e.message


@pytest.mark.parametrize("case", ["default", "tproxy-both-families", "dns", "strict-everything"])
@pytest.mark.parametrize("backend", ["nft-compat", "nft"])
def test_our_own_rules_too(case: str, backend: str) -> None:
    rulesets = compiled(CASES[case], backend)
    crowd = Crowd(random.Random(1), Side(rulesets))
    twin = Twin(rulesets)
    twin.names = crowd.names
    for packet in crowd.packets(40):
        twin.check(*packet)


def test_without_z3_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "_engine", None)
    monkeypatch.setitem(sys.modules, "z3", None)
    with pytest.raises(KernelLacks, match=r"meshnet\[prove\]") as raised:
        terms.engine()
    assert raised.value.exit_code == 4
    assert "\n" not in str(raised.value)


def test_interfaces_that_rules_tell_apart_are_told_apart() -> None:
    sets = [NameSet.of("eth+", "eth7"), NameSet.of("e+"), NameSet.of("tap+")]
    names = Names(sets)
    kinds = {tuple(name in each for each in sets) for name in names.members}
    # eth7 and eth0 are one kind for "eth+", and two for who asks for eth7 alone.
    assert {(True, True, False), (False, True, False), (False, False, True)} <= kinds
    assert names.members[names.other] not in NameSet.of("e+", "tap+", "lo")
    assert Names([NameSet.of("+")]).other == -1
    for text in ("abcdefghijklmno+", "abcdefghijklmn+"):
        assert all(len(name) <= 15 for name in Names([NameSet.of(text)]).members)
