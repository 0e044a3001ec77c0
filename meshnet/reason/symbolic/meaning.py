"""What a formula says of all packets, and of what becomes of them."""

from __future__ import annotations

from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.packet import Field
from meshnet.reason.claims import Claim, Formula
from meshnet.reason.symbolic.passage import Passage
from meshnet.reason.symbolic.terms import (
    Bit,
    both,
    choose,
    either,
    equal,
    every,
    no,
    some,
    within,
)
from meshnet.reason.symbolic.world import STATES, has_ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.match import Match

_PORTS = (Field.SPORT, Field.DPORT)
_OWNERS = (Field.UID, Field.GID)


def meaning(formula: Formula, passage: Passage, intended: Passage | None = None) -> Bit:
    """For which packets ``formula`` is so; ``intended`` is what the spec does to them."""
    if formula.claim is not None:
        return _claimed(formula.claim, passage)
    parts = [meaning(part, passage, intended) for part in formula.parts]
    if formula.kind == "and":
        return every(parts)
    if formula.kind == "or":
        return some(parts)
    if formula.kind == "not":
        return no(parts[0])
    if formula.kind == "implies":
        return either(no(parts[0]), parts[1])
    moving, world = passage.moving, passage.world
    kept = no(moving.gone)
    free = both(kept, no(moving.captured))
    return {
        "captured": both(kept, moving.captured),
        "bypassed": both(free, moving.ours),
        "direct": both(free, no(moving.ours)),
        "dropped": moving.gone,
        "socket": world.socket,
        "local": world.local,
        **_meant(passage, intended),
    }[formula.kind]


def _meant(passage: Passage, intended: Passage | None) -> dict[str, Bit]:
    if intended is None:
        return {}
    there = both(intended.moving.captured, no(intended.moving.gone))
    alike = equal(passage.outcome, intended.outcome)
    return {"intended": there, "kept": both(there, alike)}


def _claimed(claim: Claim, passage: Passage) -> Bit:
    world = passage.world
    match = claim.match(world.family)
    if match is not None:
        return _asked(match, passage)
    if claim.field == "port":
        moving = passage.moving
        captured = both(no(moving.gone), moving.captured)
        inside = within(moving.port, claim.numbers, 16)
        return choose(captured, no(inside) if claim.negated else inside, claim.absent)
    said = world.family.value if claim.field == "family" else world.hook
    return (said in claim.names) is not claim.negated


def _asked(match: Match, passage: Passage) -> Bit:
    """:meth:`Match.holds` of the packet as it begins."""
    world, field = passage.world, match.field
    term = getattr(world, field.label)
    present: Bit = True
    if isinstance(match.values, IntervalSet):
        bits = world.bits if field in (Field.SRC, Field.DST) else field.bits
        inside = within(term, match.values, bits)
        if field in _PORTS:
            present = has_ports(world)
        elif field in _OWNERS:
            present = world.socket
    elif field is Field.CTSTATE:
        inside = _named(match.values, term)
    else:
        inside = some(equal(term, number) for number in world.names.numbers_in(match.values))
        present = no(equal(term, 0))
    return choose(present, no(inside) if match.negated else inside, match.absent)


def _named(values: NameSet, term: object) -> Bit:
    return some(equal(term, at) for at, name in enumerate(STATES) if name in values)
