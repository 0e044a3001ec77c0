"""Conditions on fields taken together: one for a field, as far as they are plain sets."""

from __future__ import annotations

from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.match import Match
from meshnet.model.packet import Family, Field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PORTS = (Field.SPORT, Field.DPORT)


class Conjunction:
    """Conditions on fields, taken together; ``excluded`` are collected and cut out at once."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._allowed: dict[Field, IntervalSet] = {}
        self._excluded: dict[Field, list[IntervalSet]] = {}
        self._cut: set[tuple[Field, IntervalSet]] = set()
        self._absent: dict[Field, bool] = {}
        #: Conditions that are no plain set: on names, or under a mask.
        self._others: dict[Match, None] = {}

    def add(self, match: Match) -> None:
        """One more condition."""
        values, field = match.values, match.field
        if match.mask is not None or not isinstance(values, IntervalSet):
            self._others[match] = None
            return
        self._absent[field] = self._absent.get(field, True) and match.absent
        if match.negated:
            self._excluded.setdefault(field, []).append(values)
            self._cut.add((field, values))
            return
        known = self._allowed.get(field)
        self._allowed[field] = values if known is None else known.intersection(values)

    def cut(self, field: Field, matches: list[Match]) -> None:
        """Add that none of ``matches`` on ``field`` holds; each is one for :func:`is_cut`."""
        if not matches:
            return
        here = field not in _PORTS and not any(match.absent for match in matches)
        self._absent[field] = self._absent.get(field, True) and here
        sets = (m.values for m in matches if isinstance(m.values, IntervalSet))
        self._excluded.setdefault(field, []).extend(sets)

    def fields(self) -> frozenset[Field]:
        """Those that some condition is about."""
        return frozenset((*self._absent, *(match.field for match in self._others)))

    def implies(self, match: Match) -> bool:
        """Whether what is known already says that ``match`` holds; False where that is hard."""
        if match in self._others:
            return True
        values, field = match.values, match.field
        if not isinstance(values, IntervalSet):
            return any(
                other.field is field
                and not other.negated
                and not other.absent
                and other.values.only() is not None
                and not str(other.values.only()).endswith("+")
                and (other.values.only() in values) is not match.negated
                for other in self._others
            )
        if match.mask is not None or field not in self._absent:
            return False
        if self._absent[field] and not match.absent:
            return False
        allowed = self._allowed.get(field)
        if allowed is not None and len(allowed) * len(values) < 64:
            if match.negated:
                return not allowed.intersection(values)
            return allowed.intersection(values) == allowed
        return match.negated and (field, values) in self._cut

    def matches(self) -> tuple[Match, ...]:
        """The conditions, in the order of the fields."""
        found: list[Match] = []
        for field in Field:
            found += [match for match in self._others if match.field is field]
            if field in self._absent:
                found.append(self._plain(field))
        return tuple(_tidy(found))

    def _plain(self, field: Field) -> Match:
        out = IntervalSet.union(self._excluded.get(field, ()))
        absent = self._absent[field]
        allowed = self._allowed.get(field)
        if allowed is None:
            return Match(field, out, negated=True, absent=absent)
        if not out:
            return Match(field, allowed, absent=absent)
        last = 32 if self._family is Family.IP and field in (Field.SRC, Field.DST) else field.bits
        rest = out.complement((1 << last) - 1)
        return Match(field, _both(allowed, rest), absent=absent)


def is_cut(match: Match) -> bool:
    """Whether it is no more than a set cut out that ``match`` does not hold."""
    return not match.negated and match.mask is None and isinstance(match.values, IntervalSet)


def _both(one: IntervalSet, other: IntervalSet) -> IntervalSet:
    """The intersection, by one pass over both."""
    found, a, b = [], one.spans, other.spans
    i = j = 0
    while i < len(a) and j < len(b):
        first, last = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if first <= last:
            found.append((first, last))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return IntervalSet(tuple(found))


def _tidy(matches: Iterable[Match]) -> list[Match]:
    """Without conditions on names that an exact one of the same field says already."""
    kept = list(matches)
    exact = {
        match.field: str(match.values.only())
        for match in kept
        if isinstance(match.values, NameSet)
        and not match.negated
        and not match.absent
        and match.values.only() is not None
        and not str(match.values.only()).endswith("+")
    }
    return [
        match
        for match in kept
        if match.field not in exact
        or (match.values == NameSet((exact[match.field],)) and not match.negated)
    ]
