"""Sets of integers as sorted, disjoint, inclusive intervals, and sets of names."""

from __future__ import annotations

from meshnet.model.frozen import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True)
class IntervalSet:
    """A set of non-negative integers.

    ``spans`` are (first, last), inclusive, ascending, neither overlapping nor
    adjacent: two equal sets compare equal. The empty set has no span.
    """

    spans: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(*members: int | tuple[int, int]) -> IntervalSet:
        """The set of the given integers and inclusive (first, last) pairs, in any order.

        Raises ValueError where a pair runs backwards or a number is negative.
        """
        pairs = sorted(m if isinstance(m, tuple) else (m, m) for m in members)
        merged: list[tuple[int, int]] = []
        for first, last in pairs:
            if first < 0 or last < first:
                raise ValueError(f"not an interval: {first}-{last}")
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        return IntervalSet(tuple(merged))

    @staticmethod
    def union(sets: Iterable[IntervalSet]) -> IntervalSet:
        """All members of all ``sets``; the empty set where there are none."""
        return IntervalSet.of(*(span for s in sets for span in s.spans))

    def complement(self, last: int) -> IntervalSet:
        """The members of 0..``last`` that are not in this set."""
        gaps, start = [], 0
        for first, end in self.spans:
            if first > start:
                gaps.append((start, first - 1))
            start = end + 1
        if start <= last:
            gaps.append((start, last))
        return IntervalSet(tuple(gaps))

    def intersection(self, other: IntervalSet) -> IntervalSet:
        """The members that both sets have."""
        both = [
            (max(a, c), min(b, d))
            for a, b in self.spans
            for c, d in other.spans
            if max(a, c) <= min(b, d)
        ]
        return IntervalSet.of(*both)

    def __contains__(self, value: object) -> bool:
        if isinstance(value, int):
            for first, last in self.spans:
                if first <= value <= last:
                    return True
        return False

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.spans)

    def __len__(self) -> int:
        """The number of intervals, not of members."""
        return len(self.spans)

    def only(self) -> int | None:
        """The single member, or None where there are none or several."""
        if len(self.spans) == 1 and self.spans[0][0] == self.spans[0][1]:
            return self.spans[0][0]
        return None


@dataclass(frozen=True)
class NameSet:
    """A set of names: interfaces, or conntrack states.

    A name that ends in ``+`` stands for all names with that beginning, as in
    iptables (``net/netfilter/x_tables.c``, interface masks).
    """

    names: tuple[str, ...] = ()

    @staticmethod
    def of(*names: str) -> NameSet:
        """The set of ``names``, sorted, each once."""
        return NameSet(tuple(sorted(set(names))))

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, str):
            return False
        return any(value.startswith(n[:-1]) if n.endswith("+") else value == n for n in self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def only(self) -> str | None:
        """The single name, or None where there are none or several."""
        return self.names[0] if len(self.names) == 1 else None
