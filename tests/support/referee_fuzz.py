"""Seasons of the referee with fresh seeds, for so many seconds: ``python -m`` this, as root.

Prints each season's seed and, at the end, what was seen; exit 1 where the walk and the kernel
disagree. ``MESHNET_SEED`` repeats a season: it is its first seed.
"""

from __future__ import annotations

import os
import random
import sys
import time
from functools import partial

from tests.support.namespaces import Namespaces
from tests.support.referee_coverage import Coverage
from tests.support.referee_season import PARTS, Season, Size

#: Small seasons: every sort of game comes soon.
SIZE = Size(random=4, specs=4, among=2)


def before(end: float) -> bool:
    return time.monotonic() < end


def main() -> int:
    """Play until the time is over; 1 where something was found."""
    end = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 600)
    seed = int(os.environ.get("MESHNET_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
    coverage, disagreements = Coverage(), 0
    while before(end):
        namespaces = Namespaces("referee-fuzz")
        goes_on = partial(before, end)
        season = Season(namespaces, seed, SIZE, goes_on, coverage)
        try:
            for part in PARTS:
                for text in season.play(part):
                    disagreements += 1
                    print(f"MESHNET_SEED={seed}, {part}: {text}", flush=True)
        finally:
            namespaces.remove()
        print(f"season of seed {seed}: {coverage.total} packets until now", flush=True)
        seed += SIZE.random
    print(coverage.report())
    print(f"{disagreements} disagreements")
    return 1 if disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
