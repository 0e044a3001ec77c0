"""Interfaces as numbers: as many names as rules can tell apart."""

from __future__ import annotations

from itertools import product

from meshnet.errors import MeshnetError
from meshnet.model.intervals import NameSet
from meshnet.model.packet import Field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meshnet.reason.lines import TableCode

#: Names for "any interface that no rule names", the likely ones first.
_OTHERS = ("eth0", "net1", "ens3", "wan0", "zz9")
#: How long the kernel lets a name be (include/uapi/linux/if.h, IFNAMSIZ).
LONGEST = 15
_ENDINGS = "0123456789abcdefghijklmnopqrstuvwxyz"
BITS = 12


class Names:
    """One name for each set of names that no rule of ``tables`` can tell apart.

    The first is "", where there is no interface, the second "lo"; ``other`` is the number
    of one that no rule names. ``patterns`` are those of rules, by the number that stands for them.
    """

    def __init__(self, sets: Iterable[NameSet]) -> None:
        said = {name for names in sets for name in names}
        exact = sorted(name for name in said if not name.endswith("+"))
        prefixes = sorted(name[:-1] for name in said if name.endswith("+"))
        self.members: list[str] = list(dict.fromkeys(("", "lo", *exact)))
        self.patterns: dict[int, str] = {}
        other = None if "" in prefixes else _unnamed(exact, prefixes)
        for prefix in prefixes:
            found = _witness(prefix, set(self.members), prefixes)
            if found is not None:
                self.patterns[len(self.members)] = f"{prefix}+"
                self.members.append(found)
        # A rule for "+" names every interface: then none is other than all.
        self.other = -1
        if other is not None:
            self.other = len(self.members)
            self.members.append(other)
        if len(self.members) >= 1 << BITS:
            raise MeshnetError("these rules name more interfaces than can be told apart")
        self.numbers = {name: at for at, name in enumerate(self.members)}
        self._known: dict[int, tuple[NameSet, tuple[int, ...]]] = {}

    def numbers_in(self, names: NameSet) -> tuple[int, ...]:
        """The numbers of the names that are in ``names``; the set itself is asked."""
        found = self._known.get(id(names))
        if found is None:
            numbers = tuple(at for at, name in enumerate(self.members) if name in names)
            found = self._known[id(names)] = names, numbers
        return found[1]

    def said(self, number: int) -> str:
        """The name or the pattern that ``number`` stands for."""
        return self.patterns.get(number, self.members[number])


def names_of(tables: Iterable[TableCode]) -> list[NameSet]:
    """What the rules of ``tables`` say of interfaces."""
    return [
        match.values
        for table in tables
        for code in table.codes.values()
        for line in code.lines
        for match in line.matches
        if match.field in (Field.IIF, Field.OIF) and isinstance(match.values, NameSet)
    ]


def _witness(prefix: str, taken: set[str], prefixes: list[str]) -> str | None:
    """A name with this beginning, with no longer one of ``prefixes``, that is not ``taken``."""
    longer = [p for p in prefixes if len(p) > len(prefix)]
    for name in _beginning(prefix):
        if name and name not in taken and not any(name.startswith(p) for p in longer):
            return name
    return None


def _beginning(prefix: str) -> Iterator[str]:
    """Names that begin with ``prefix``, the likely ones first."""
    if not prefix:
        yield from _OTHERS
        yield from (f"{end}net0" for end in reversed(_ENDINGS))
    for length in range(1, min(LONGEST - len(prefix), 3) + 1):
        for end in product(_ENDINGS, repeat=length):
            yield prefix + "".join(end)
    yield prefix


def _unnamed(exact: list[str], prefixes: list[str]) -> str:
    """A name that no rule names; MeshnetError where none was found."""
    known = {"lo", *exact}
    for name in _beginning(""):
        if name not in known and not any(name.startswith(prefix) for prefix in prefixes):
            return name
    raise MeshnetError("these rules name more interfaces than can be told apart")
