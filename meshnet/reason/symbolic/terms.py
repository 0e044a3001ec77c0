"""Conditions and numbers over all packets at once.

A condition is a bool, or one of z3's; a number is an int, or a bit-vector of z3's. What is
constant stays Python's, so that a rule that cannot be reached costs nothing.
"""

from __future__ import annotations

from typing import Any

from meshnet.errors import KernelLacks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshnet.model.intervals import IntervalSet

#: A condition: bool or z3.BoolRef. A number: int or z3.BitVecRef.
Bit = Any
Number = Any
_engine: Any = None


def engine() -> Any:
    """z3, loaded when it is first asked for; raises KernelLacks where it is not installed."""
    global _engine
    if _engine is None:
        try:
            import z3
        except ImportError as e:
            raise KernelLacks(
                "what holds for every packet is proven by z3, which is not installed: "
                "pip install 'meshnet[prove]'"
            ) from e
        _engine = z3
    return _engine


def both(one: Bit, other: Bit) -> Bit:
    """Both hold."""
    if one is False or other is False:
        return False
    if one is True or one is other:
        return other
    if other is True:
        return one
    return engine().And(one, other)


def either(one: Bit, other: Bit) -> Bit:
    """At least one holds."""
    if one is True or other is True:
        return True
    if one is False or one is other:
        return other
    if other is False:
        return one
    return engine().Or(one, other)


def every(parts: Iterable[Bit]) -> Bit:
    """All of ``parts`` hold; true where there are none."""
    kept = []
    for part in parts:
        if part is False:
            return False
        if part is not True:
            kept.append(part)
    if not kept:
        return True
    return kept[0] if len(kept) == 1 else engine().And(kept)


def some(parts: Iterable[Bit]) -> Bit:
    """At least one of ``parts`` holds; false where there are none."""
    kept = []
    for part in parts:
        if part is True:
            return True
        if part is not False:
            kept.append(part)
    if not kept:
        return False
    return kept[0] if len(kept) == 1 else engine().Or(kept)


def no(one: Bit) -> Bit:
    """``one`` does not hold."""
    if one is True or one is False:
        return not one
    z3 = engine()
    return one.arg(0) if z3.is_not(one) else z3.Not(one)


def choose(condition: Bit, one: Bit, other: Bit) -> Bit:
    """``one`` where ``condition`` holds, else ``other``; conditions."""
    if condition is True or one is other:
        return one
    if condition is False:
        return other
    if isinstance(one, bool):
        return either(condition, other) if one else both(no(condition), other)
    if isinstance(other, bool):
        return either(no(condition), one) if other else both(condition, one)
    return engine().If(condition, one, other)


def pick(condition: Bit, one: Number, other: Number, bits: int) -> Number:
    """``one`` where ``condition`` holds, else ``other``; numbers of ``bits``."""
    if condition is True or one is other:
        return one
    if condition is False:
        return other
    if isinstance(one, int) and isinstance(other, int) and one == other:
        return one
    return engine().If(condition, number(one, bits), number(other, bits))


def number(value: Number, bits: int) -> Any:
    """``value`` as a bit-vector."""
    return engine().BitVecVal(value, bits) if isinstance(value, int) else value


def equal(one: Number, other: Number) -> Bit:
    """Both are the same number, or the same condition."""
    if one is other:
        return True
    plain = isinstance(one, int), isinstance(other, int)
    if all(plain):
        return bool(one == other)
    if isinstance(one, bool) or isinstance(other, bool):
        if isinstance(one, bool):
            one, other = other, one
        return one if other else no(one)
    return one == other


def masked(value: Number, mask: int, bits: int) -> Number:
    """The bits of ``mask`` in ``value``."""
    full = (1 << bits) - 1
    if mask & full == full:
        return value
    return value & (mask & full)


def within(value: Number, values: IntervalSet, bits: int) -> Bit:
    """``value``, of ``bits``, is in ``values``: the members that have more bits are none."""
    if isinstance(value, int):
        return value in values
    last_of_all = (1 << bits) - 1
    spans = [(first, min(last, last_of_all)) for first, last in values if first <= last_of_all]
    return some(_in_span(value, first, last, bits) for first, last in spans)


def _in_span(value: Any, first: int, last: int, bits: int) -> Bit:
    z3 = engine()
    if first == last:
        return value == first
    size = last - first + 1
    if size == 1 << bits:
        return True
    if size & (size - 1) == 0 and first % size == 0:
        low = size.bit_length() - 1
        return z3.Extract(bits - 1, low, value) == first >> low
    if first == 0:
        return z3.ULE(value, last)
    if last == (1 << bits) - 1:
        return z3.UGE(value, first)
    return z3.And(z3.UGE(value, first), z3.ULE(value, last))
