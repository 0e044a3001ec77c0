"""Two sources of rules, side by side: their text, and what they do to every packet."""

from __future__ import annotations

from meshnet.errors import ParseError
from meshnet.model.difference import SCHEMA, Difference
from meshnet.model.frozen import replace
from meshnet.ops.prove import explained, explainer_of
from meshnet.ops.sides import check, is_whole, side_of
from meshnet.ops.sources import Source
from meshnet.reason.behaviour import compare_behaviour
from meshnet.reason.text_difference import compare_text


def differ(
    one: Source, other: Source, behaviour: bool = True, most: int | None = None
) -> Difference:
    """What is different between the rules of the two sources.

    ``behaviour`` False: only as text, for which z3 is not needed. ``most`` classes are told at each
    hook and family. Raises ParseError for rules that no packet can walk through.
    """
    sides = side_of(one), side_of(other)
    text = compare_text(
        sides[0].rulesets, sides[1].rulesets, (sides[0].sets or {}, sides[1].sets or {})
    )
    notes = tuple(f"{source.name}: {note}" for source in (one, other) for note in source.notes)
    difference = Difference(SCHEMA, one.name, other.name, text, (), not behaviour, (), notes)
    difference = replace(difference, whole=is_whole(one) and is_whole(other))
    if not behaviour:
        return difference
    try:
        found = compare_behaviour(*sides, most)
    except ParseError:
        for source, side in zip((one, other), sides, strict=True):
            check(source, side)
        raise
    explainers = [explainer_of(side) for side in sides] if found.partings else []
    classes = tuple(
        replace(
            parting.divergence,
            one=explained(explainers[0], parting.start, parting.divergence.one),
            other=explained(explainers[1], parting.start, parting.divergence.other),
        )
        for parting in found.partings
    )
    return replace(difference, classes=classes, more=found.more, undecided=found.undecided)
