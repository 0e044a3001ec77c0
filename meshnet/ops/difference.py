"""Two sources of rules, side by side: their text, and what they do to every packet."""

from __future__ import annotations

from meshnet.model.difference import SCHEMA, Difference
from meshnet.model.frozen import replace
from meshnet.ops.prove import explained, explainer_of
from meshnet.ops.sides import side_of
from meshnet.ops.sources import Source
from meshnet.reason.behaviour import MOST_CLASSES, compare_behaviour
from meshnet.reason.text_difference import compare_text


def differ(
    one: Source, other: Source, behaviour: bool = True, most: int = MOST_CLASSES
) -> Difference:
    """What is different between the rules of the two sources.

    ``behaviour`` False: only as text, for which z3 is not needed. ``most`` classes are told at each
    hook and family. Raises ParseError for rules that no packet can walk through.
    """
    sides = side_of(one), side_of(other)
    text = compare_text(sides[0].rulesets, sides[1].rulesets)
    notes = tuple(f"{source.name}: {note}" for source in (one, other) for note in source.notes)
    difference = Difference(SCHEMA, one.name, other.name, text, (), not behaviour, (), notes)
    if not behaviour:
        return difference
    found = compare_behaviour(*sides, most)
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
