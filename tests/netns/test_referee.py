"""The walk against the kernel's own trace: random rules, specs and packets, rule by rule.

Random rulesets of iptables (legacy and nft_compat) and of nft, the rules of our own cases and of
random specs, and ours among others' rules; packets at the bounds of what they ask for. The kernel's
trace tells every rule that a packet met, in order, and where it came out.

``MESHNET_SEED`` is the first seed; ``make fuzz`` plays on with fresh ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.namespaces import Namespaces
from tests.support.referee_season import PARTS, Season, Size

FIRST_SEED = int(os.environ.get("MESHNET_SEED", "1"))
#: What one run of the tests must hold at least.
PACKETS, RULESETS = 20_000, 200


@pytest.fixture(scope="module")
def season() -> Iterator[Season]:
    """One season for all tests: each part is played once."""
    namespaces = Namespaces("referee")
    try:
        yield Season(namespaces, FIRST_SEED, Size())
    finally:
        namespaces.remove()


@pytest.mark.parametrize("part", PARTS)
def test_walk_is_what_the_kernel_does(season: Season, part: str) -> None:
    """Every packet meets the walk's rules, one by one, and comes out as the walk says."""
    found = season.play(part)
    print(f"{part}: seeds from {FIRST_SEED}")
    assert not found, "\n".join(found)


def test_everything_was_seen(season: Season) -> None:
    """Each match true and false, each target, each verdict; and enough of all."""
    for part in PARTS:
        season.play(part)
    print(f"seeds from {FIRST_SEED}\n{season.coverage.report()}")
    assert season.coverage.total >= PACKETS
    assert sum(season.coverage.rulesets.values()) >= RULESETS
    assert not season.coverage.shortfalls()
