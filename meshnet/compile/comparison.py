"""The rules that are there beside those that are wanted, aligned in order, chain by chain."""

from __future__ import annotations

from bisect import bisect_left

from meshnet.compile import compile_spec
from meshnet.compile.holdings import keys_of
from meshnet.model.frozen import dataclass
from meshnet.model.ruleset import Chain, Ruleset
from meshnet.model.spec import CaptureSpec, Form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from meshnet.compile.holdings import ChainPlace, Holding

_NOTHING = Chain("")
_KEPT: dict[tuple[CaptureSpec, Form], tuple[Ruleset, dict[ChainPlace, Any]]] = {}
_MOST_KEPT, _SMALL = 64, 500


@dataclass(frozen=True)
class Alignment:
    """A chain that is there beside the chain that is wanted.

    ``pairs`` are (position held, position wanted), both from 0 and ascending: the rules that
    are as they should be. ``missing`` are positions wanted, ``extra`` positions held of
    rules of ours that no pair has. ``moves`` are (position held, position wanted) of those
    that equal each other: they are in neither.
    """

    held: Chain
    wanted: Chain
    pairs: tuple[tuple[int, int], ...]
    missing: tuple[int, ...]
    extra: tuple[int, ...]
    moves: tuple[tuple[int, int], ...] = ()


def compiled(spec: CaptureSpec, form: Form) -> tuple[Ruleset, dict[ChainPlace, Any]]:
    """What ``spec`` compiles to, and each chain of it with the keys of its rules.

    The latest small ones are kept: the namespaces of a node mostly hold a few configurations.
    """
    found = _KEPT.get((spec, form))
    if found is None:
        found = _compile(spec, form)
        if sum(len(keys) for _, keys in found[1].values()) <= _SMALL:
            while len(_KEPT) >= _MOST_KEPT:
                del _KEPT[next(iter(_KEPT))]
            _KEPT[spec, form] = found
    return found


def _compile(spec: CaptureSpec, form: Form) -> tuple[Ruleset, dict[ChainPlace, Any]]:
    ruleset = compile_spec(spec, form)
    keyed = {
        (table.family, table.name, chain.name): (chain, keys_of(chain.rules))
        for table in ruleset.tables
        for chain in table.chains
    }
    return ruleset, keyed


def compare(
    holdings: Mapping[ChainPlace, Holding], spec: CaptureSpec, form: Form
) -> dict[ChainPlace, Alignment]:
    """Every chain that is there or wanted, aligned."""
    wanted = compiled(spec, form)[1]
    return {
        place: _align_chain(holdings.get(place), *wanted.get(place, (_NOTHING, [])))
        for place in dict.fromkeys([*holdings, *wanted])
    }


def count_differences(alignments: Mapping[ChainPlace, Alignment]) -> int:
    """How many rules are missing, extra or out of order."""
    return sum(len(a.missing) + len(a.extra) + len(a.moves) for a in alignments.values())


def _align_chain(held: Holding | None, wanted: Chain, keys: list[Any]) -> Alignment:
    if held is None:
        return Alignment(_NOTHING, wanted, (), tuple(range(len(keys))), ())
    rules = held.chain.rules
    at = held.ours
    pairs = longest_common(keys_of(rules[i] for i in at), keys)
    if held.similar and len(pairs) < len(keys):
        more = tuple(sorted({*held.ours, *held.similar}))
        other = longest_common(keys_of(rules[i] for i in more), keys)
        if len(other) > len(pairs):
            at, pairs = more, other
    paired = tuple((at[i], j) for i, j in pairs)
    there = {i for i, _ in paired}
    done = {j for _, j in paired}
    missing = tuple(j for j in range(len(keys)) if j not in done)
    extra = tuple(i for i in held.ours if i not in there)
    if not (missing and extra):
        return Alignment(held.chain, wanted, paired, missing, extra)
    moves = _moves(extra, keys_of(rules[i] for i in extra), missing, keys)
    left, come = dict(moves), {j for _, j in moves}
    missing = tuple(j for j in missing if j not in come)
    extra = tuple(i for i in extra if i not in left)
    return Alignment(held.chain, wanted, paired, missing, extra, moves)


def _moves(
    extra: tuple[int, ...], held: list[Any], missing: tuple[int, ...], wanted: list[Any]
) -> tuple[tuple[int, int], ...]:
    """Extra rules that equal missing ones, each once."""
    absent: dict[Any, list[int]] = {}
    for j in reversed(missing):
        absent.setdefault(wanted[j], []).append(j)
    return tuple(
        (i, absent[key].pop()) for i, key in zip(extra, held, strict=True) if absent.get(key)
    )


def longest_common(one: Sequence[Any], other: Sequence[Any]) -> list[tuple[int, int]]:
    """The positions of a longest common subsequence, ascending.

    Equal beginnings and ends are taken at once; what is between by Hunt and Szymanski, in
    the time of the pairs of equal members: rules of a chain are hardly ever equal.
    """
    start, last = 0, min(len(one), len(other))
    while start < last and one[start] == other[start]:
        start += 1
    end = 0
    while end < last - start and one[-1 - end] == other[-1 - end]:
        end += 1
    places: dict[Any, list[int]] = {}
    for j in range(len(other) - end - 1, start - 1, -1):
        places.setdefault(other[j], []).append(j)
    # For each length the smallest end of a common subsequence, with the way that leads there.
    ends: list[int] = []
    ways: list[Any] = []
    for i in range(start, len(one) - end):
        for j in places.get(one[i], ()):
            length = bisect_left(ends, j)
            ends[length : length + 1] = [j]
            ways[length : length + 1] = [(i, j, ways[length - 1] if length else None)]
    middle: list[tuple[int, int]] = []
    way: Any = ways[-1] if ways else None
    while way is not None:
        middle.append((way[0], way[1]))
        way = way[2]
    ahead = [(i, i) for i in range(start)]
    behind = [(len(one) - n, len(other) - n) for n in range(end, 0, -1)]
    return [*ahead, *reversed(middle), *behind]
