"""Which cells of a field a region takes in, while those of strangers are found one by one."""

from __future__ import annotations


class Holes:
    """All ``count`` cells but those that strangers lie in; ``own`` is the packet's."""

    def __init__(self, count: int, own: int) -> None:
        self.own, self._left = own, set(range(count))

    def cells(self) -> list[int]:
        """Those that are taken in, ascending."""
        return sorted(self._left)

    def drop(self, cell: int) -> bool:
        """Leave ``cell`` out; False where the packet itself would be left out."""
        self._left.discard(cell)
        return cell != self.own


class Hull(Holes):
    """All cells but those from the first stranger's to the last one's."""

    def __init__(self, count: int, own: int) -> None:
        super().__init__(count, own)
        self._first, self._last = count, -1

    def drop(self, cell: int) -> bool:
        self._first, self._last = min(self._first, cell), max(self._last, cell)
        self._left -= set(range(self._first, self._last + 1))
        return not self._first <= self.own <= self._last


class Gap(Holes):
    """The cells around the packet's, up to the nearest strangers."""

    def drop(self, cell: int) -> bool:
        gone = range(cell + 1) if cell < self.own else range(cell, max(self._left, default=0) + 1)
        self._left -= set(gone)
        return cell != self.own


#: From the most cells to the fewest.
SHAPES: tuple[type[Holes], ...] = (Holes, Hull, Gap)
