"""What our rules tell about the spec they were made from: shapes of rules, and who agrees.

Both forms look alike here: chains have iptables' names, tables nft's short ones. A *shape*
is what a rule asks, without the values: ``"oif tcp !dst !dport uid"``.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from meshnet.compile.draft import HOOKS
from meshnet.model.frozen import dataclass
from meshnet.model.intervals import IntervalSet
from meshnet.model.packet import TCP, UDP, Family, Field
from meshnet.model.rule import Kind, Rule
from meshnet.model.spec import Form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeVar

    from meshnet.compile.holdings import ChainPlace, Holding

    T = TypeVar("T")
    Span = tuple[int, int]
    #: Table, chain, what is done (a kind's value, or the chain it goes to), shape.
    Where = tuple[str, str, str, str]

_PROTOCOLS = {IntervalSet.of(TCP).spans: "tcp", IntervalSet.of(UDP).spans: "udp"}
_BUILTIN = {hook: name for name, hook in HOOKS.items()}


@dataclass(frozen=True)
class Clue:
    """A rule of ours. ``family`` None is both; ``at`` its position from 0."""

    family: Family | None
    at: int
    rule: Rule

    def spans(self, field: Field) -> tuple[Span, ...]:
        """The intervals that the rule's first match of ``field`` asks for; none without."""
        for match in self.rule.matches:
            if match.field is field and isinstance(match.values, IntervalSet):
                return match.values.spans
        return ()

    def names(self, field: Field) -> tuple[str, ...]:
        """The names that the rule's first match of ``field`` asks for; none without."""
        for match in self.rule.matches:
            if match.field is field and not isinstance(match.values, IntervalSet):
                return match.values.names
        return ()


@lru_cache(maxsize=512)
def _shape(text: str) -> frozenset[str]:
    return frozenset(text.split())


def shape_of(rule: Rule) -> frozenset[str]:
    """The fields that a rule asks for, "!" before those it asks to differ."""
    found = []
    for match in rule.matches:
        name = match.field.label
        if match.field is Field.PROTO:
            name = _PROTOCOLS.get(tuple(match.values), name)  # type: ignore[arg-type]
        found.append(f"!{name}" if match.negated else name)
    return frozenset(found)


class Evidence:
    """Our rules by table, chain, what they do and what they ask; opaque ones say nothing."""

    def __init__(self, holdings: dict[ChainPlace, Holding], form: Form) -> None:
        self.form = form
        self.holdings = holdings
        self._clues: dict[tuple[str, str, str, frozenset[str]], list[Clue]] = {}
        self._places: set[tuple[str, str]] = set()
        seen: set[Family] = set()
        for (family, table, chain), held in holdings.items():
            table = table.rpartition("-")[2]
            chain = _canonical(chain, held.chain.hook)
            for at in held.ours:
                rule = held.chain.rules[at]
                if rule.target is None or rule.opaque:
                    continue
                own = rule.family if family is Family.INET else family
                target = rule.target
                to = _canonical(target.chain, "") if target.chain else target.kind.value
                index = table, chain, to, shape_of(rule)
                self._clues.setdefault(index, []).append(Clue(own, at, rule))
                self._places.add((table, chain))
                if own is not None:
                    seen.add(own)
        self.ip6 = Family.IP6 in seen
        self.families = (Family.IP, Family.IP6) if self.ip6 else (Family.IP,)

    def has(self, table: str, *chains: str) -> bool:
        """Whether one of these chains has a rule of ours that can be read."""
        return any((table, chain) in self._places for chain in chains)

    def find(self, where: Where, family: Family | None = None) -> list[Clue]:
        """The rules of that shape, for ``family`` where one is given, in the dump's order."""
        table, chain, to, shape = where
        clues = self._clues.get((table, chain, to, _shape(shape)), [])
        if family is None:
            return clues
        return [clue for clue in clues if clue.family is None or clue.family is family]

    def sequence(self, field: Field, family: Family, *wheres: Where) -> list[Span]:
        """The intervals of ``field`` in rules of these shapes, in the order of the rules."""
        clues = [clue for where in wheres for clue in self.find(where, family)]
        if len(wheres) > 1:
            clues.sort(key=lambda clue: clue.at)
        return [span for clue in clues for span in clue.spans(field)]

    def agreed(self, field: Field, *groups: Sequence[Where]) -> tuple[Span, ...]:
        """The intervals that most of these groups of shapes name in at least one family, in order.

        A rule that somebody put in by hand is alone; one that got lost is missed in one.
        """
        found = []
        for family in self.families:
            lists = [self.sequence(field, family, *wheres) for wheres in groups]
            found.append(named_by(len(groups) // 2 + 1, lists))
        return merge(found)

    def any_of(self, field: Field, *wheres: Where) -> tuple[Span, ...]:
        """The intervals that any of these shapes names, in order."""
        return merge([self.sequence(field, f, w) for f in self.families for w in wheres])

    def port(self, default: int, *wheres: tuple[str, str, str]) -> int:
        """The port that most rules hand TCP to, by table, chain and kind of target."""
        ports = [
            clue.rule.target.port
            for (table, chain, to, _), clues in self._clues.items()
            if (table, chain, to) in wheres
            for clue in clues
            if clue.rule.target is not None
        ]
        return most_common(ports, default)

    def marks(self, *chains: str) -> list[int]:
        """The marks that rules of these chains of mangle ask for, or set."""
        found = []
        for (table, chain, to, _), clues in self._clues.items():
            if table != "mangle" or chain not in chains:
                continue
            for clue in clues:
                for match in clue.rule.matches:
                    mark = match.values.only()
                    if match.field in (Field.MARK, Field.CTMARK) and not match.negated:
                        found += [mark] if isinstance(mark, int) else []
                target = clue.rule.target
                if target is not None and to in (Kind.MARK.value, Kind.TPROXY.value):
                    found.append(target.mark)
        return found


def _canonical(chain: str, hook: str) -> str:
    return _BUILTIN.get(hook, chain) if hook else chain.upper().replace("-", "_")


def merge(lists: Iterable[Sequence[T]]) -> tuple[T, ...]:
    """All members of all lists, each once; a member stands behind the one it follows in a list."""
    merged: dict[T, None] = {}
    for one in lists:
        if not merged:
            merged = dict.fromkeys(one)
        new = [item for item in one if item not in merged]
        if not new:
            continue
        followers: dict[T | None, list[T]] = {}
        anchor: T | None = None
        for item in one:
            if item in merged:
                anchor = item
            else:
                followers.setdefault(anchor, []).append(item)
        result = list(followers.get(None, ()))
        for item in merged:
            result += [item, *followers.get(item, ())]
        merged = dict.fromkeys(result)
    return tuple(merged)


def named_by(enough: int, lists: Sequence[Sequence[T]]) -> list[T]:
    """The members of at least ``enough`` of the lists, in order."""
    votes = Counter(item for one in lists for item in dict.fromkeys(one))
    return [item for item in merge(lists) if votes[item] >= enough]


def most_common(values: Iterable[T], default: T) -> T:
    """The value that is named most often, the first of several; ``default`` without any."""
    ranked = Counter(values).most_common(1)
    return ranked[0][0] if ranked else default


def without_first(items: Sequence[T], gone: Iterable[T]) -> list[T]:
    """``items`` without the first occurrence of each of ``gone``."""
    rest = list(items)
    for item in gone:
        if item in rest:
            rest.remove(item)
    return rest
