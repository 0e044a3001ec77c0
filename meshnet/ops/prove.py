"""Proving statements about the rules of a source."""

from __future__ import annotations

from meshnet.errors import UsageError, printable
from meshnet.model.difference import Treatment
from meshnet.model.frozen import replace
from meshnet.model.proof import SCHEMA, Proof, Statement
from meshnet.ops.sides import ipv6_up, is_whole, meant_by, side_of, specs_of
from meshnet.ops.sources import Source
from meshnet.reason.explanation import Explainer
from meshnet.reason.expression import read_expression
from meshnet.reason.invariants import NAMES, Invariant, no_black_hole, no_leak, no_loop
from meshnet.reason.proving import Prover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshnet.reason.behaviour import Side
    from meshnet.reason.symbolic.world import Start


def prove(source: Source, asked: Sequence[str]) -> Proof:
    """Prove each of ``asked``, an expression or an invariant's name; all invariants where empty.

    Raises UsageError for an expression that says nothing, with its column, and for an invariant
    that cannot be asked of this source.
    """
    statements = [_read(source, text) for text in asked or NAMES]
    left_out = [f"{each.name}: {each.text}" for each in statements if each.formula is None]
    if asked and left_out:
        raise UsageError(left_out[0])
    side = side_of(source)
    leak = any(each.name == "no-leak" and each.formula is not None for each in statements)
    prover = Prover(side, meant_by(source) if leak else None)
    found = []
    told: list[Statement] = []
    for each in statements:
        if each.formula is not None:
            found.append(prover.prove(each.name, each.text, each.formula))
    explainer = Explainer(side.rulesets, side.addresses, side.marks_route)
    for one in found:
        examples = tuple(
            replace(a.counterexample, fate=explained(explainer, a.start, a.counterexample.fate))
            for a in one.against
        )
        told.append(replace(one.statement, counterexamples=examples))
    return Proof(
        SCHEMA,
        source.name,
        tuple(told),
        tuple(left_out),
        tuple(prover.undecided),
        tuple(source.notes),
        is_whole(source),
    )


def _read(source: Source, text: str) -> Invariant:
    if text == "no-loop":
        return no_loop(specs_of(source).values())
    if text == "no-leak":
        return no_leak(specs_of(source).values())
    if text == "no-black-hole":
        return no_black_hole(source.snapshot, ipv6_up(source))
    if text.strip().startswith("no-"):
        raise UsageError(f"there is no statement '{printable(text, 40)}'", ", ".join(NAMES))
    return Invariant("", text, read_expression(text))


def explained(explainer: Explainer, start: Start, fate: Treatment) -> Treatment:
    """``fate`` with the reason that explain gives; as it is where that would be about another."""
    leg = explainer.explain(start.packet, start.hook, local=start.local)
    if leg.verdict != fate.verdict:
        return fate
    return replace(fate, because=leg.because.words)


def explainer_of(side: Side) -> Explainer:
    """What explains packets by the rules of ``side``."""
    return Explainer(side.rulesets, side.addresses, side.marks_route)
