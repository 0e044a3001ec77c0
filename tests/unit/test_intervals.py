"""IntervalSet and NameSet against the sets of Python."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.model.intervals import IntervalSet, NameSet

LAST = 40
pairs = st.tuples(st.integers(0, LAST), st.integers(0, LAST)).map(lambda p: (min(p), max(p)))
members = st.lists(st.one_of(st.integers(0, LAST), pairs), max_size=8)


def plain(parts: list[int | tuple[int, int]]) -> set[int]:
    """The same members, as a set of Python."""
    found: set[int] = set()
    for part in parts:
        first, last = part if isinstance(part, tuple) else (part, part)
        found |= set(range(first, last + 1))
    return found


def listed(values: IntervalSet) -> set[int]:
    """The members of an IntervalSet, one by one."""
    return {n for first, last in values.spans for n in range(first, last + 1)}


@given(members)
def test_it_holds_what_it_was_given(parts: list[int | tuple[int, int]]) -> None:
    made = IntervalSet.of(*parts)
    assert listed(made) == plain(parts)
    assert {n for n in range(LAST + 2) if n in made} == plain(parts)


@given(members)
def test_spans_are_sorted_and_apart(parts: list[int | tuple[int, int]]) -> None:
    spans = IntervalSet.of(*parts).spans
    assert all(first <= last for first, last in spans)
    assert all(a[1] + 1 < b[0] for a, b in pairwise(spans))
    assert list(IntervalSet.of(*parts)) == list(spans)
    assert len(IntervalSet.of(*parts)) == len(spans)


@given(members, members)
def test_equal_sets_are_equal_values(one: list[int], other: list[int]) -> None:
    a, b = IntervalSet.of(*one), IntervalSet.of(*other)
    assert (a == b) == (plain(one) == plain(other))
    if a == b:
        assert hash(a) == hash(b)


@given(st.lists(members, max_size=4))
def test_union_is_pythons(parts: list[list[int]]) -> None:
    made = IntervalSet.union(IntervalSet.of(*p) for p in parts)
    assert listed(made) == set().union(*(plain(p) for p in parts))


@given(members, members)
def test_intersection_is_pythons(one: list[int], other: list[int]) -> None:
    a, b = IntervalSet.of(*one), IntervalSet.of(*other)
    assert listed(a.intersection(b)) == plain(one) & plain(other)
    assert a.intersection(b) == b.intersection(a)


@given(members, st.integers(0, LAST + 3))
def test_complement_is_pythons(parts: list[int], last: int) -> None:
    made = IntervalSet.of(*(p for p in parts if max(p if isinstance(p, tuple) else (p,)) <= last))
    rest = made.complement(last)
    assert listed(rest) == set(range(last + 1)) - listed(made)
    assert rest.complement(last) == made


@given(members)
def test_only_is_the_one_member(parts: list[int]) -> None:
    (*found,) = plain(parts)
    assert IntervalSet.of(*parts).only() == (found[0] if len(found) == 1 else None)


@pytest.mark.parametrize("wrong", [(5, 4), (-1, 3), -1])
def test_what_is_no_interval_is_refused(wrong: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError):
        IntervalSet.of(wrong)


@pytest.mark.parametrize("stranger", ["5", None, 5.5, (5, 5)])
def test_strangers_are_no_members(stranger: object) -> None:
    assert stranger not in IntervalSet.of((0, 10))


def test_the_empty_set() -> None:
    empty = IntervalSet.of()
    assert (empty.spans, len(empty), empty.only(), 0 in empty) == ((), 0, None, False)
    assert empty.complement(3) == IntervalSet.of((0, 3))
    assert IntervalSet.union([]) == empty


name_lists = st.lists(st.text("ab+", min_size=1, max_size=4), max_size=4)


@given(name_lists, st.text("ab+", max_size=5))
def test_names_hold_themselves_and_beginnings(given_names: list[str], name: str) -> None:
    made = NameSet.of(*given_names)
    wanted = any(
        name.startswith(n.removesuffix("+")) if n.endswith("+") and n else name == n
        for n in given_names
    )
    assert (name in made) == wanted
    assert list(made) == sorted(set(given_names))
    assert len(made) == len(set(given_names))


@given(name_lists)
def test_the_only_name(given_names: list[str]) -> None:
    made = NameSet.of(*given_names)
    assert made.only() == (given_names[0] if len(set(given_names)) == 1 else None)
    assert 5 not in made
