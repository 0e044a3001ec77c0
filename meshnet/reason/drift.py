"""Our rules as the kernel holds them, held against those that their profile would have made."""

from __future__ import annotations

from bisect import bisect_left
from weakref import ref

from meshnet.compile.decompile import decompile
from meshnet.model.drift import AlteredChain, Drift, MovedRule, PlacedRule
from meshnet.model.ruleset import Ruleset
from meshnet.model.spec import Form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.compile.comparison import Alignment
    from meshnet.model.drift import RulePlace
    from meshnet.model.rule import Rule


#: The latest answers: inspect, its findings and its sentences ask about the same value.
_KEPT: list[tuple[ref[Ruleset], Form, Drift | None]] = []
_MOST_KEPT = 4


def drift(held: Ruleset, form: Form) -> Drift | None:
    """How ``held`` differs from the profile and the spec it comes closest to; None: nothing ours.

    ``held`` is a whole dump. Rules are aligned in order, chain by chain: a rule of ours that
    is there, but in another place, has moved. Foreign rules of built-in chains are neither
    missing nor extra. The result is false (``not drift``) where all is as it should be.
    """
    for kept, its_form, answer in _KEPT:
        if kept() is held and its_form is form:
            return answer
    answer = _compute(held, form)
    _KEPT.insert(0, (ref(held), form, answer))
    del _KEPT[_MOST_KEPT:]
    return answer


def _compute(held: Ruleset, form: Form) -> Drift | None:
    found = decompile(held, form)
    if found is None:
        return None
    missing: list[PlacedRule] = []
    extra: list[PlacedRule] = []
    moved: list[MovedRule] = []
    altered: list[AlteredChain] = []
    explained: dict[RulePlace, Rule] = {}
    for place, alignment in found.alignments.items():
        family, table, chain = place
        for i, j in (*alignment.pairs, *alignment.moves):
            explained[family, table, chain, i + 1] = alignment.wanted.rules[j]
        for i, j in alignment.moves:
            rule = alignment.wanted.rules[j]
            moved.append(MovedRule(*place, rule, i + 1, _position(alignment, j)))
        for j in alignment.missing:
            rule = alignment.wanted.rules[j]
            missing.append(PlacedRule(*place, _position(alignment, j), rule))
        for i in alignment.extra:
            extra.append(PlacedRule(*place, i + 1, alignment.held.rules[i]))
        if form is Form.NFT and _is_altered(alignment):
            altered.append(AlteredChain(*place[:2], alignment.held, alignment.wanted))
    return Drift(
        found.spec, form, explained, tuple(missing), tuple(extra), tuple(moved), tuple(altered)
    )


def _position(alignment: Alignment, wanted: int) -> int:
    """Where a wanted rule would have to be put in, counted from 1 in the chain as it is.

    Behind the rule that it follows, or else before the one that it precedes, or at the end.
    """
    at = bisect_left(alignment.pairs, wanted, key=lambda pair: pair[1])
    if at:
        return alignment.pairs[at - 1][0] + 2
    if alignment.pairs:
        return alignment.pairs[0][0] + 1
    head = alignment.wanted.rules[wanted].head
    return 1 if head else len(alignment.held.rules) + 1


def _is_altered(alignment: Alignment) -> bool:
    """Whether a chain of ours hangs elsewhere, or decides otherwise where no rule does."""
    held, wanted = alignment.held, alignment.wanted
    if not held.name:
        return False
    if not wanted.name:
        return bool(held.hook) and held.policy != "accept"
    return (held.kind, held.hook, held.priority, held.policy) != (
        wanted.kind,
        wanted.hook,
        wanted.priority,
        wanted.policy,
    )
