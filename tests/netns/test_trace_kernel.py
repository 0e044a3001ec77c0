"""The trace's judge on random rules: it accuses the walk of nothing that the kernel does too."""

from __future__ import annotations

from collections import Counter

import pytest

from meshnet.model.ruleset import Ruleset
from tests.support.lottery import Lottery
from tests.support.namespaces import Namespaces
from tests.support.tracing import Tracer
from tests.support.wire import FIRST_SEED, PREFIX, SETUPS, Bench, bench

RULESETS, PACKETS = 3, 60
_SYN, _ACK, _TCP = 2, 16, 6


def _load(made: Bench, setup: str, seed: int) -> Lottery:
    lottery, rulesets = Lottery(seed), {}
    for backend in SETUPS[setup]:
        if backend == "nft":
            rulesets[backend] = lottery.nft(ties=len(SETUPS[setup]) > 1)
        else:
            parts = [lottery.iptables(family) for family in PREFIX]
            rulesets[backend] = Ruleset(tuple(t for part in parts for t in part.tables))
    made.load(rulesets)
    return lottery


@pytest.mark.parametrize("setup", SETUPS)
def test_random_rules_rule_by_rule(namespaces: Namespaces, setup: str) -> None:
    seen: Counter[str] = Counter()
    wrong = []
    with bench(namespaces) as made:
        for seed in range(FIRST_SEED, FIRST_SEED + RULESETS):
            lottery = _load(made, setup, seed)
            drawn = [lottery.packet() for _ in range(PACKETS)]
            packets = [
                {**packet, "sport": made.fresh_port()}
                for packet in drawn
                if packet["proto"] == _TCP and packet["flags"] & (_SYN | _ACK) == _SYN
            ]
            tracer = Tracer(made.netns, "--rate", "0")
            try:
                made.send(packets)
                end = tracer.end(code=None)
            finally:
                tracer.kill()
            assert end["matched"] == end["shown"] == len(packets) and not end["lost"]
            seen.update(packet["agreement"] for packet in tracer.packets)
            wrong += [
                (seed, packet) for packet in tracer.packets if packet["agreement"] == "disagrees"
            ]
    print(f"seeds {FIRST_SEED}..{FIRST_SEED + RULESETS - 1}: {dict(seen)}")
    assert not wrong
    assert seen["agrees"] > 10 * seen["unchecked"]
