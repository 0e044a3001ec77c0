"""A season: many games, each a ruleset and its packets, judged; played once, asked for often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from meshnet.model.spec import Profile
from tests.support.cases import BACKENDS, CASES
from tests.support.namespaces import Namespaces
from tests.support.referee import Referee
from tests.support.referee_bench import LONGER, Bench, bench
from tests.support.referee_coverage import Coverage
from tests.support.referee_packets import Packets
from tests.support.referee_rules import (
    AMONG,
    Game,
    among_game,
    case_game,
    random_game,
    spec_game,
)
from tests.support.wire import SETUPS

#: How often a packet is sent again that the two disagree about: rules may hold by chance.
AGAIN = 12
#: Disagreements that are told of one game; the first is mostly enough.
TOLD = 3


class Size(NamedTuple):
    """Rulesets of each sort, and packets for each of them."""

    random: int = 20
    specs: int = 6
    among: int = 6
    packets: int = 115
    packets_of_ours: int = 55


#: The parts of a season, one namespace each: legacy tables stay where they once were.
PARTS = (
    *SETUPS,
    *(f"cases on {backend}" for backend in BACKENDS),
    *(f"specs on {backend}" for backend in BACKENDS),
    *(f"ours on {ours} among {others}" for ours, others in AMONG),
)


class Batch(NamedTuple):
    """A ruleset as it was dumped, and its packets with what the kernel told of them."""

    game: Game
    rulesets: Any
    numbers: Any
    told: list[tuple[dict[str, Any], dict[str, Any]]]


class Season:
    """All games from seed ``first`` on; a part is played when it is first asked for.

    ``goes_on`` is asked before each game.
    """

    def __init__(
        self,
        namespaces: Namespaces,
        first: int,
        size: Size,
        goes_on: Callable[[], bool] = lambda: True,
        coverage: Coverage | None = None,
    ) -> None:
        self.namespaces, self.first, self.size = namespaces, first, size
        self._goes_on = goes_on
        self.coverage = coverage or Coverage()
        self._played: dict[str, list[str]] = {}

    def play(self, part: str) -> list[str]:
        """The disagreements in ``part``, with seeds, rulesets' names and packets."""
        if part not in self._played:
            found: list[str] = []
            with bench(self.namespaces) as made:
                for game, count in games(part, self.first, self.size):
                    if not self._goes_on():
                        break
                    self.coverage.setup = part
                    self.coverage.rulesets[part] += 1
                    found += self._judge(made, play(made, game, count))
            self._played[part] = found
        return self._played[part]

    def _judge(self, made: Bench, batch: Batch) -> list[str]:
        referee = Referee(batch.rulesets, batch.numbers, self.coverage)
        found = []
        for sent, told in batch.told:
            said = referee.disagreement(sent, told)
            if not said:
                continue
            again = [
                referee.disagreement(*made.send([fresh(sent)], LONGER)[0]) for _ in range(AGAIN)
            ]
            text = f"seed {batch.game.name}: {sent}: {said}"
            if any(again):
                found.append(text)
            else:
                self.coverage.fleeting.append(text)
        return found[:TOLD]


def fresh(sent: dict[str, Any]) -> dict[str, Any]:
    """The packet as the first one of a connection that was not there before."""
    kept = sent["sport"] < 1024
    return sent if kept else {**sent, "sport": None}


def play(made: Bench, game: Game, count: int) -> Batch:
    """Load the rules of ``game`` and send so many packets through them."""
    rulesets, numbers = made.load(game.rulesets)
    packets = Packets(game.rng, rulesets)
    return Batch(game, rulesets, numbers, made.send([packets.draw() for _ in range(count)]))


def games(part: str, first: int, size: Size) -> Iterator[tuple[Game, int]]:
    """The games of ``part``, each with its number of packets."""
    if part in SETUPS:
        for number in range(first, first + size.random):
            yield random_game(part, number), size.packets
        return
    sort, _, where = part.partition(" on ")
    if sort == "ours":
        ours, _, others = where.partition(" among ")
        for number in range(first, first + size.among):
            yield among_game((ours, others), number), size.packets
    elif sort == "cases":
        for number, case in enumerate(CASES, first):
            yield case_game(case, where, number), size.packets_of_ours
    else:
        for profile in Profile:
            for at in range(size.specs):
                yield spec_game(profile, where, first, at), size.packets_of_ours
