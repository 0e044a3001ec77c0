"""Ids of another user namespace: the arithmetic, and what needs no namespace of one's own."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import MeshnetError
from meshnet.host.userns import SAME, IdMap, owner_of, parse_map
from meshnet.model.snapshot import UNMAPPED

ids = st.integers(0, 2**32 - 2)


@given(inside=ids, outside=ids, count=st.integers(1, 70000), step=st.integers(-5, 70005))
def test_an_extent_moves_its_ids_and_no_others(
    inside: int, outside: int, count: int, step: int
) -> None:
    ours = IdMap(((inside, outside, count),))
    wanted = inside + step if 0 <= step < count else None
    assert ours.inside(outside + step) == wanted
    assert ours.shown(outside + step) == (UNMAPPED if wanted is None else wanted)


@given(ids)
def test_the_same_ids_stay(id: int) -> None:
    assert SAME.inside(id) == SAME.shown(id) == id


def test_a_map_is_read_as_the_kernel_prints_it() -> None:
    text = "         0       1000          1\n         1     100000      65536\n"
    found = parse_map(text)
    assert found == IdMap(((0, 1000, 1), (1, 100000, 65536)))
    assert [found.inside(n) for n in (1000, 100000, 165535, 165536, 0)] == [0, 1, 65536, None, None]
    assert parse_map("") == IdMap(())
    assert parse_map("").inside(0) is None
    assert parse_map("0 4294967295 10\n") == IdMap(())
    assert parse_map("0 0 4294967295\n") == SAME


@pytest.mark.parametrize("text", ["1 2", "a b c", "1 2 3 4", "\n"])
def test_other_text_is_no_map(text: str) -> None:
    with pytest.raises(ValueError):
        parse_map(text)


def test_the_readers_own_namespace_needs_no_translation() -> None:
    inode, uids, gids = owner_of()
    assert (uids, gids) == (SAME, SAME)
    assert inode in (0, os.stat("/proc/self/ns/user").st_ino)


@pytest.mark.parametrize("path", ["/nowhere", "/proc/self/ns/nothing", "a\0b", "\x1b[31m"])
def test_a_namespace_that_is_not_there(path: str) -> None:
    with pytest.raises(MeshnetError, match="there is no network namespace") as caught:
        owner_of(path)
    assert caught.value.message.isprintable()


def test_what_is_no_namespace_has_no_known_owner() -> None:
    assert owner_of("/proc/self/status") == (0, SAME, SAME)
