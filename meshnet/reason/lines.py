"""Chains made ready to be walked: each rule with its place, its doubts and where it goes."""

from __future__ import annotations

from meshnet.compile.ownership import OWN_CHAINS, OWN_TABLES, owned_rules
from meshnet.errors import ParseError, printable
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match
from meshnet.model.packet import Family, Field
from meshnet.model.rule import Kind, Rule, Target
from meshnet.model.ruleset import Chain, Ruleset, Table
from meshnet.model.verdict import Place, Step
from meshnet.reason.effects import Beyond, Effect
from meshnet.reason.foreign_iptables import read_text
from meshnet.reason.foreign_nft import Statements
from meshnet.reason.words import target_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: How deep chains may be nested in nf_tables (include/net/netfilter/nf_tables.h,
#: NFT_JUMP_STACK_SIZE); legacy tables have room for any depth (net/netfilter/x_tables.c).
DEEPEST = 16
#: The backend whose rules are nft's own; the others hold iptables' language.
NATIVE = "nft"


class Line:
    """A rule, or (``rule`` None) the policy of a base chain, as the walk reads it.

    It is itself only: two lines are never equal, so they are cheap to compare.
    """

    __slots__ = (
        *("_steps", "action", "doubts", "effects", "family"),
        *("matches", "ours", "place", "quick", "rule", "to"),
    )

    def __init__(self, place: Place, rule: Rule | None, action: str, ours: bool) -> None:
        self.place = place
        self.rule = rule
        self.action = action
        self.ours = ours
        self.family: Family | None = None
        self.matches: tuple[Match, ...] = ()
        #: Of matches over one interval: the field's name, first, last, negated.
        self.quick: tuple[tuple[str, int, int, bool], ...] = ()
        self.doubts: tuple[str, ...] = ()
        self.effects: tuple[Effect, ...] = ()
        self.to: Code | None = None
        self._steps: dict[tuple[str, bool | None], Step] = {}

    def step(self, hook: str, held: bool | None) -> Step:
        """The step of a packet that meets this line."""
        found = self._steps.get((hook, held))
        if found is None:
            found = Step(self.place, self.rule, held, self.action, hook, self.ours)
            self._steps[hook, held] = found
        return found


class Code:
    """A chain as lines. ``last_ours`` is the index of the last rule of ours in a foreign
    chain, -1 where there is none; ``kind`` and ``priority`` are those of a base chain."""

    __slots__ = (
        *("_missed", "chain", "kind", "last_ours", "lines"),
        *("name", "native", "ours", "policy", "priority", "saves"),
    )

    def __init__(self, chain: Chain, name: str, native: bool, ours: bool) -> None:
        self.chain = chain
        self.name = name
        self.native = native
        self.ours = ours
        self.lines: tuple[Line, ...] = ()
        self.last_ours = -1
        self.kind = chain.kind
        self.priority = chain.priority
        self.policy: Line | None = None
        #: Whether a rule of the table writes to the mark of what the packet has of a connection.
        self.saves = False
        self._missed: dict[str, tuple[Step, ...]] = {}

    def missed(self, hook: str) -> tuple[Step, ...]:
        """For each line the step of a packet for which it does not hold."""
        found = self._missed.get(hook)
        if found is None:
            found = self._missed[hook] = tuple(line.step(hook, False) for line in self.lines)
        return found


class TableCode:
    """The chains of one table of one backend, made ready."""

    def __init__(self, backend: str, table: Table, owned: dict[str, frozenset[int]]) -> None:
        self.backend = backend
        self.table = table
        self.native = backend == NATIVE
        ours = self.native and table.family is Family.INET and table.name in OWN_TABLES
        self.codes: dict[str, Code] = {}
        for chain in table.chains:
            mine = ours or (not self.native and chain.name in OWN_CHAINS)
            name = f"{backend} {table.family.value} {table.name} {chain.name}"
            self.codes[chain.name] = Code(chain, printable(name), self.native, mine)
        for chain in table.chains:
            self._fill(self.codes[chain.name], owned.get(chain.name, frozenset()))
        saves = any(_saves(line) for code in self.codes.values() for line in code.lines)
        for code in self.codes.values():
            code.saves = saves and not self.native
        _check_nesting(self)

    def _fill(self, code: Code, owned: frozenset[int]) -> None:
        lines = []
        for at, rule in enumerate(code.chain.rules):
            line = Line(self._place(code, at + 1), rule, "", code.ours or at in owned)
            self._read(line, rule)
            line.quick = tuple(_quick(line.matches))
            lines.append(line)
        code.lines = tuple(lines)
        if not code.ours and owned:
            code.last_ours = max(owned)
        if code.chain.hook:
            place = self._place(code, len(lines) + 1)
            code.policy = Line(place, None, f"policy {code.chain.policy}", code.ours)

    def _place(self, code: Code, position: int) -> Place:
        return Place(self.backend, self.table.family, self.table.name, code.chain.name, position)

    def _read(self, line: Line, rule: Rule) -> None:
        line.family = rule.family
        if rule.opaque and self.native:
            reader = Statements(self.table.family)
            reader.read(rule)
            line.family = reader.family
            line.matches, line.doubts = tuple(reader.matches), tuple(reader.doubts)
            line.effects = tuple(reader.effects)
        elif rule.opaque:
            matches, doubts, effects = read_text(rule, self.table.family, self.codes)
            line.matches, line.doubts = tuple(matches), tuple(doubts)
            line.effects = tuple(effects)
        else:
            line.matches = rule.matches
            line.effects = (rule.target,) if rule.target is not None else ()
        line.action = _action(rule)
        to = next((e.chain for e in line.effects if isinstance(e, Target) and e.chain), "")
        if to and to not in self.codes:
            raise ParseError(
                f"{printable(str(line.place))} goes to {printable(to)}, which is no chain there"
            )
        line.to = self.codes[to] if to else None


def _quick(matches: tuple[Match, ...]) -> Iterator[tuple[str, int, int, bool]]:
    """What is enough to say "no" to most packets; see :meth:`meshnet.reason.evaluate.View.test`."""
    for match in matches:
        if match.mask is None and isinstance(match.values, IntervalSet) and len(match.values) == 1:
            yield (match.field.label, *match.values.spans[0], match.negated)


def _saves(line: Line) -> bool:
    return any(
        effect.kind is Kind.SAVE_MARK
        if isinstance(effect, Target)
        else Field.CTMARK in effect.fields or effect.what is Beyond.ANYTHING
        for effect in line.effects
    )


def _action(rule: Rule) -> str:
    if rule.opaque:
        return printable(rule.opaque)
    return target_in_words(rule.target) if rule.target is not None else "count"


def _check_nesting(tables: TableCode) -> None:
    """Raise ParseError for chains, reached from a hook, that go round or too deep.

    The kernel refuses such rules: what a dump with them is of, nobody knows.
    """
    depth: dict[str, int] = {}
    for code in tables.codes.values():
        if code.chain.hook:
            _measure(tables, code, depth)
            if tables.backend != "legacy" and depth[code.chain.name] > DEEPEST:
                raise ParseError(f"{code.name}: chains are nested deeper than {DEEPEST}")


def _measure(tables: TableCode, start: Code, depth: dict[str, int]) -> None:
    """Fill in how many chains deep one gets from each chain that ``start`` reaches."""
    path: list[tuple[Code, list[Code]]] = [(start, _next(start))]
    open_chains = {start.chain.name}
    while path:
        code, rest = path[-1]
        name = code.chain.name
        if rest:
            to = rest.pop()
            if to.chain.name in open_chains:
                names = [c.chain.name for c, _ in path]
                ring = [*names[names.index(to.chain.name) :], to.chain.name]
                raise ParseError(
                    f"{code.name}: chains go round: {printable(' -> '.join(ring))}",
                    "the kernel refuses such rules",
                )
            if to.chain.name not in depth:
                open_chains.add(to.chain.name)
                path.append((to, _next(to)))
            continue
        depth[name] = 1 + max((depth[c.chain.name] for c in _next(code)), default=0)
        open_chains.discard(name)
        path.pop()


def _next(code: Code) -> list[Code]:
    found = {line.to.chain.name: line.to for line in code.lines if line.to is not None}
    return list(found.values())


def prepare(backend: str, ruleset: Ruleset) -> list[TableCode]:
    """The tables of ``ruleset``; raises ParseError where no kernel holds such chains."""
    owned: dict[tuple[Family, str], dict[str, frozenset[int]]] = {}
    if backend != NATIVE:
        for (family, table, chain), positions in owned_rules(ruleset).items():
            owned.setdefault((family, table), {})[chain] = positions
    return [
        TableCode(backend, table, owned.get((table.family, table.name), {}))
        for table in ruleset.tables
    ]
