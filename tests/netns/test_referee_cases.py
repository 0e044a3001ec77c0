"""What the referee once found, kept: rulesets that the walk read wrongly; and walks that are wrong.

A referee that finds nothing is worth what it would find: each mutant of the walk must be caught
on rules and packets on which the walk itself agrees with the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from meshnet.model.frozen import replace
from meshnet.model.packet import Family
from meshnet.reason import action, evaluate, hooks, progress
from meshnet.reason.state import Ending
from tests.support.namespaces import Namespaces
from tests.support.referee import Referee
from tests.support.referee_bench import Bench, bench
from tests.support.referee_coverage import Coverage
from tests.support.referee_packets import Packets
from tests.support.referee_rules import Game, random_game
from tests.support.referee_season import Batch, play

DATA = Path(__file__).parent / "data"
CASES = sorted(path.name for path in DATA.glob("referee-*.nft"))
PACKETS = 300


@pytest.mark.parametrize("name", CASES)
def test_kept_case(namespaces: Namespaces, name: str) -> None:
    with bench(namespaces) as made:
        found = list(disagreements([play_text(made, name)]))
    assert not found, found[:3]


def play_text(made: Bench, name: str) -> Batch:
    """Packets through the rules of a kept case."""
    rulesets, numbers = made.load_text((DATA / name).read_text())
    rng = Random(name)
    packets = Packets(rng, rulesets)
    told = made.send([packets.draw() for _ in range(PACKETS)])
    return Batch(Game(name, rulesets, rng), rulesets, numbers, told)


@pytest.fixture(scope="module")
def batches() -> Iterator[list[Batch]]:
    """Rules and packets with what the kernel made of them, for any walk to be held against."""
    namespaces = Namespaces("referee-proof")
    made = []
    try:
        for setup in ("nft-compat", "nft"):
            with bench(namespaces) as here:
                if setup == "nft":
                    made.append(play_text(here, "referee-zone.nft"))
                made += [play(here, random_game(setup, number), 100) for number in range(1, 11)]
        yield made
    finally:
        namespaces.remove()


def disagreements(batches: list[Batch]) -> Iterator[str]:
    """What the walk, as it is now, gets wrong."""
    for batch in batches:
        referee = Referee(batch.rulesets, batch.numbers, Coverage())
        yield from filter(None, (referee.disagreement(*one) for one in batch.told))


def _goto_comes_back(real: Any) -> Any:
    return lambda line, at, for_good: real(line, at, False)


def _return_ends_all(real: Any) -> Any:
    return lambda line, at: at._replace(frames=())


def _mark_without_mask(real: Any) -> Any:
    return lambda at, target: real(at, replace(target, mask=0xFFFFFFFF))


def _never_comes_in_again(real: Any) -> Any:
    return lambda state, program: Ending(state._replace(left=state.packet))


def _nat_is_always_asked(real: Any) -> Any:
    return lambda state: state.tracked


def _nat_is_never_settled(real: Any) -> Any:
    return lambda state: real(state._replace(settled=False, sourced=False))


def _missing_holds(real: Any) -> Any:
    return lambda self, match: (
        real(self, match) is not match.negated if match.absent else real(self, match)
    )


def _template_has_a_mark(real: Any) -> Any:
    return lambda state, native: real(state, False)


#: What each mutant changes, and how.
MUTANTS: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "goto comes back": (action, "_go", _goto_comes_back),
    "return leaves all chains": (action, "_return", _return_ends_all),
    "mark ignores its mask": (action, "_set_mark", _mark_without_mask),
    "redirected to another address": (
        action, "LOOPBACK", lambda real: {Family.IP: 0x7F000002, Family.IP6: 2}
    ),
    "mangle behind filter": (hooks, "PRIORITIES", lambda real: {**real, "mangle": 10}),
    "conntrack before raw": (hooks, "CONNTRACK", lambda real: -400),
    "nat at its own priority": (hooks, "_nat_priority", lambda real: lambda hook: -120),
    "lo is an end": (progress, "_after_postrouting", _never_comes_in_again),
    "nat asked about every packet": (progress, "_asks_nat", _nat_is_always_asked),
    "nat never settled": (progress, "_asks_nat", _nat_is_never_settled),
    "what is invalid has an entry": (
        evaluate, "has_connection", lambda real: lambda state: state.tracked
    ),
    "a template has a mark in nft": (evaluate, "_seen", _template_has_a_mark),
    "not means not, also of what is missing": (evaluate.View, "ask", _missing_holds),
}  # fmt: skip


def test_the_walk_itself_agrees(batches: list[Batch]) -> None:
    assert list(disagreements(batches)) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_walk_is_caught(
    batches: list[Batch], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    where, attribute, wrong = MUTANTS[name]
    monkeypatch.setattr(where, attribute, wrong(getattr(where, attribute)))
    assert next(disagreements(batches), "")
