"""How the attributes of a netlink message lie, learned from one and then read at one go.

The messages of a long list are mostly laid out alike. Walking through forty attributes
costs ten times what one ``struct`` for all of them does.
"""

from __future__ import annotations

import struct
from operator import itemgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    #: The numbers of an attribute and of those around it, outermost first.
    Path = tuple[int, ...]

_HEAD = struct.Struct("=HH")
#: NLA_F_NESTED and NLA_F_NET_BYTEORDER are no part of an attribute's number.
_NUMBER = 0x3FFF
_SIZES = {"B": 1, "H": 2, "I": 4}


class Wanted:
    """Which attributes are read, and how.

    ``nests`` hold attributes themselves; ``fields`` are given in this order, each as a number
    ("B", "H", "I", big-endian) or as the bytes that it has ("s"); ``b""`` where it is missing.
    There are at least two. ``start`` is where the first attribute lies.
    """

    def __init__(self, start: int, nests: frozenset[Path], fields: dict[Path, str]) -> None:
        self.start = start
        self.nests = nests
        self.fields = fields


class Layouts:
    """The layouts met so far; give it one message after the other."""

    #: Layouts of one length that are kept; one message more than that is learned anew.
    KEPT = 8

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._known: dict[int, list[_Layout]] = {}

    def read(self, body: bytes) -> tuple[Any, ...]:
        """The fields wanted of ``body``. Raises ValueError where it is not made of attributes."""
        if len(body) < self._wanted.start:
            raise ValueError("it is cut short")
        known = self._known.setdefault(len(body), [])
        for layout in known:
            values = layout.unpack(body)
            if values[0::2] == layout.heads:
                return layout.pick(values)
        layout = _Layout(body, self._wanted)
        if len(known) < self.KEPT:
            known.append(layout)
        return layout.pick(layout.unpack(body))


class _Layout:
    """Values alternate: the head of an attribute, what it holds; nothing at the end."""

    def __init__(self, body: bytes, wanted: Wanted) -> None:
        text = f">{wanted.start}x"
        heads: list[int] = []
        places: dict[Path, int] = {}
        end = wanted.start
        for path, at, size in _walk(body, wanted.start, len(body), (), wanted.nests):
            text += f"{at - end}xI{_form(path, size, wanted)}"
            end = at + 4 + (0 if path in wanted.nests else size)
            places[path] = 2 * len(heads) + 1
            heads.append(int.from_bytes(body[at : at + 4], "big"))
        self.unpack = struct.Struct(f"{text}{len(body) - end}x0s").unpack
        self.heads = (*heads, b"")
        nothing = 2 * len(heads)
        self.pick: Callable[[tuple[Any, ...]], tuple[Any, ...]] = itemgetter(
            *(places.get(path, nothing) for path in wanted.fields)
        )


def _form(path: Path, size: int, wanted: Wanted) -> str:
    if path in wanted.nests:
        return "0s"
    form = wanted.fields.get(path, "s")
    if form == "s":
        return f"{size}s"
    if _SIZES[form] != size:
        raise ValueError(f"attribute {path} has {size} bytes")
    return form


def _walk(
    body: bytes, at: int, end: int, around: Path, nests: frozenset[Path]
) -> Iterator[tuple[Path, int, int]]:
    """(path, where its head is, bytes it holds) of every attribute, nests before their own."""
    while at < end:
        if end - at < 4:
            raise ValueError("bytes behind the last attribute")
        length, kind = _HEAD.unpack_from(body, at)
        if not 4 <= length <= end - at:
            raise ValueError("an attribute is longer than what holds it")
        path = (*around, kind & _NUMBER)
        yield path, at, length - 4
        if path in nests:
            yield from _walk(body, at + 4, at + length, path, nests)
        at += (length + 3) & ~3
