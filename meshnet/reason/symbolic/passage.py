"""All packets of a world through the rules, hook by hook: the walk of :mod:`meshnet.reason.walk`
for all of them at once. The rules are read, and put in order, by the walk's own parts."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

from meshnet.errors import MeshnetError
from meshnet.model.frozen import dataclass
from meshnet.model.packet import Family
from meshnet.model.rule import Kind, Target
from meshnet.model.ruleset import Ruleset
from meshnet.reason.effects import Beyond, Effect
from meshnet.reason.hooks import Group, Stage, order
from meshnet.reason.lines import Code, Line, TableCode, prepare
from meshnet.reason.named_sets import Contents, said_of
from meshnet.reason.symbolic.effects import Effects, reroute
from meshnet.reason.symbolic.fate import CAPTURED, DROPPED, OUTCOME_BITS
from meshnet.reason.symbolic.moving import Moving
from meshnet.reason.symbolic.terms import (
    Bit,
    Number,
    both,
    either,
    equal,
    every,
    no,
    pick,
)
from meshnet.reason.symbolic.world import NEW, OUTPUT, RELATED, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: So many rules are read into terms, chains counted for each jump to them; so deep do jumps go.
MOST, DEEPEST = 60_000, 200
#: So many orders of chains that no dump tells are thought of.
MOST_ORDERS = 120
_ICMP = (1, 58)


@dataclass(frozen=True)
class Row:
    """A rule that packets meet: ``asks`` are those that its matches hold for, wherever they
    are; ``held`` those that meet it and hold; ``taken`` those that do not go on behind it."""

    line: Line
    asks: Bit
    held: Bit
    taken: Bit


@dataclass(frozen=True)
class Visit:
    """A chain that packets go through: ``entered`` are those; ``caller`` led there, ``base``
    is the chain of the hook."""

    code: Code
    base: Code
    hook: str
    entered: Bit
    rows: tuple[Row, ...]
    caller: Line | None


class Program:
    """Rulesets made ready; raises ParseError as :class:`meshnet.reason.walk.Walker` does.

    ``sets`` is what named sets hold: rules that ask sets of different content have different
    doubts.
    """

    def __init__(
        self,
        rulesets: Mapping[str, Ruleset],
        addresses: Mapping[tuple[str, Family], int] | None = None,
        marks_route: bool = True,
        sets: Contents | None = None,
    ) -> None:
        self.rulesets = dict(rulesets)
        self.addresses = dict(addresses or {})
        self.marks_route = marks_route
        self.tables: list[TableCode] = [
            table for name, ruleset in sorted(rulesets.items()) for table in prepare(name, ruleset)
        ]
        #: What a line's doubts are called: the nth rule of one text bears its number.
        self.called: dict[Line, str] = {}
        counted: Counter[str] = Counter()
        for line in self.lines():
            if line.doubts or any(_may_ask(effect) for effect in line.effects):
                text = said_of(", ".join(line.doubts) or line.action, line.place, sets or {})
                counted[text] += 1
                self.called[line] = text if counted[text] == 1 else f"{text} ({counted[text]})"

    def lines(self) -> list[Line]:
        """Every rule."""
        codes = (code for table in self.tables for code in table.codes.values())
        return [line for code in codes for line in code.lines]


class Passage:
    """What becomes of the packets of ``world``.

    ``off`` gives conditions under which a rule is left out, as if it were not there. With
    ``observed`` the way through each chain is kept in ``visits``.
    """

    def __init__(
        self,
        program: Program,
        world: World,
        off: Mapping[Line, Bit] | None = None,
        observed: bool = False,
    ) -> None:
        self.program, self.world = program, world
        self.moving = Moving(world)
        self.visits: list[Visit] = []
        self.undecided: dict[str, None] = {}
        self._effects = Effects(self.moving, program.addresses, program.marks_route)
        self._off = off or {}
        self._observed = observed
        self._count = 0
        self._asked: Counter[tuple[str, Line]] = Counter()
        self._run()

    @property
    def outcome(self) -> Number:
        """The fate as a number: who captures, or neither; a doubt's answer is part of it."""
        return self._fate(0)

    @property
    def fate(self) -> Number:
        """As :attr:`outcome`; of what is let go also where it is sent to instead."""
        return self._fate(self.moving.aim)

    def _fate(self, free: Number) -> Number:
        moving = self.moving
        port = moving.port
        wide = port | CAPTURED if isinstance(port, int) else _wide(port)
        taken = pick(moving.captured, wide, free, OUTCOME_BITS)
        return pick(moving.gone, DROPPED, taken, OUTCOME_BITS)

    # -- from hook to hook ------------------------------------------------------------------

    def _run(self) -> None:
        moving = self.moving
        if self.world.hook == OUTPUT:
            self._hook("output", True)
            reroute(moving, no(moving.gone))
            moving.put("settled", True, True)
            self._hook("postrouting", True)
            moving.put("sourced", True, True)
            self._come_in_again(both(no(moving.gone), equal(moving.oif, 1)))
        else:
            self._hook("prerouting", True)
            self._inside(True)

    def _come_in_again(self, looped: Bit) -> None:
        """What leaves by lo: without a socket, its connection known."""
        moving = self.moving
        lost = equal(moving.ctstate, 3)
        for name, value in (("iif", 1), ("oif", 0), ("socket", False), ("local", True)):
            moving.put(name, looped, value)
        moving.put("tracked", both(looped, either(lost, moving.zoned)), False)
        moving.put("elsewhere", looped, False)
        self._hook("prerouting", looped)
        self._inside(looped)

    def _inside(self, here: Bit) -> None:
        """From prerouting to input, or through."""
        moving, world = self.moving, self.world
        moving.put("settled", here, True)
        open_end = both(moving.elsewhere, no(moving.captured))
        to_us = moving.local
        if open_end is not False:
            ours = world.doubt("whether the packet's new destination is of this namespace")
            to_us = either(both(open_end, ours), both(no(open_end), moving.local))
        self._hook("input", both(here, to_us))
        through = both(here, no(to_us))
        if open_end is not False:
            # The route is looked for with the new destination.
            moving.put("oif", both(through, open_end), world.route(moving.dst, moving.mark))
        self._hook("forward", through)
        if self.world.hook != OUTPUT:
            self._hook("postrouting", through)

    def _hook(self, hook: str, here: Bit) -> None:
        self.moving.hook = hook
        if here is False:
            return
        for group in order(self.program.tables, self.world.family, hook):
            self._group(group, here)

    def _group(self, group: Group, here: Bit) -> None:
        """Stages of one priority: of one table the one registered last first, else in any order."""
        orders = _orders(group)
        if len(orders) == 1:
            for stage in orders[0]:
                self._stage(stage, here)
            return
        names = " and ".join(sorted(stage.name for stage in group))
        self.undecided[f"the order of {names}, all at priority {group[0].priority}"] = None
        rest = here
        for number, stages in enumerate(orders):
            last = number == len(orders) - 1
            mine = True if last else self.world.doubt(f"order {number + 1} of {names}")
            for stage in stages:
                self._stage(stage, both(rest, mine))
            rest = both(rest, no(mine))

    def _stage(self, stage: Stage, here: Bit) -> None:
        here = both(here, no(self.moving.gone))
        if here is False:
            return
        if stage.kind == "conntrack":
            here = both(here, either(no(self.moving.tracked), self.moving.zoned))
            for name, value in (("tracked", True), ("zoned", False), ("stained", False)):
                self.moving.put(name, here, value)
        elif stage.kind == "nat":
            known = both(equal(self.moving.ctstate, RELATED), self._helped())
            here = every((here, self._asks_nat(), no(known)))
            for group in stage.nat:
                self._group(group, here)
        elif stage.code is not None:
            if stage.code.kind == "nat":
                here = both(here, self._asks_nat())
            if here is not False:
                self._base(stage.code, here)

    def _helped(self) -> Bit:
        return self.world.doubt("whether a related connection was translated by its first packet")

    def _asks_nat(self) -> Bit:
        """Only for the first packet of a connection; see ``progress._asks_nat``."""
        moving = self.moving
        done = moving.settled if moving.hook in ("output", "prerouting") else moving.sourced
        related = equal(moving.ctstate, RELATED)
        for number in _ICMP:
            related = both(related, no(equal(self.world.proto, number)))
        first = either(equal(moving.ctstate, NEW), related)
        # A template counts as new, and nothing settles it.
        return both(moving.tracked, either(moving.zoned, both(no(done), first)))

    # -- through a chain --------------------------------------------------------------------

    def _base(self, code: Code, here: Bit) -> None:
        self.moving.enter()
        self.moving.native = code.native
        fallen = self._chain(code, code, here, None, 0)
        if code.chain.policy == "drop":
            self.moving.put("gone", fallen, True)

    def _chain(self, code: Code, base: Code, here: Bit, caller: Line | None, deep: int) -> Bit:
        """Through ``code``; gives the packets that come out of it undecided."""
        if deep > DEEPEST:
            raise MeshnetError(f"{base.name}: chains are nested too deep to reason about them")
        moving, entered, back = self.moving, here, False
        rows: list[Row] = []
        for line in code.lines:
            if here is False and not self._observed:
                break
            asks = self._holds(line)
            held = both(here, asks)
            if held is False and not self._observed:
                continue
            changes = moving.changes
            on, returned, left = self._act(line, base, held, deep)
            if on is False and returned is False:
                moving.forget_since(changes)
            back = either(back, returned)
            if held is not False and (line.doubts or any(map(_is_open, line.effects))):
                self.undecided[self.program.called.get(line, line.action)] = None
            if line.ours:
                moving.put("ours", left, True)
            taken = both(held, no(on))
            if self._observed:
                rows.append(Row(line, asks, held, taken))
            here = either(both(here, no(asks)), on) if on is not held else here
        if self._observed:
            self.visits.append(Visit(code, base, moving.hook, entered, tuple(rows), caller))
        return either(here, back)

    def _holds(self, line: Line) -> Bit:
        self._count += 1
        if self._count > MOST:
            raise MeshnetError(f"more than {MOST} rules to reason about, jumps followed")
        if line.family is not None and line.family is not self.world.family:
            return False
        parts = [self.moving.holds(match) for match in line.matches]
        if line.doubts:
            parts.append(self.world.doubt(f"{self._at(line)}"))
        if line in self._off:
            parts.append(no(self._off[line]))
        return every(parts)

    def _at(self, line: Line) -> str:
        """What is undecided about ``line`` now: the same name where the same is asked."""
        key = (self.moving.hook, line)
        self._asked[key] += 1
        again = f", time {self._asked[key]}" if self._asked[key] > 1 else ""
        where = f" ({self.moving.hook}{again})" if self.moving.hook != OUTPUT or again else ""
        return f"{self.program.called[line]}{where}"

    def _act(self, line: Line, base: Code, held: Bit, deep: int) -> tuple[Bit, Bit, Bit]:
        """Those of ``held`` that go on behind ``line``, that go back to the calling chain, and
        that ``line`` itself lets go (for whose rule it is)."""
        on, behind, back, left = held, False, False, False
        for effect in line.effects:
            if on is False:
                break
            if isinstance(effect, Target) and effect.kind in (Kind.JUMP, Kind.GOTO):
                assert line.to is not None
                fallen = self._chain(line.to, base, on, line, deep + 1)
                if effect.kind is Kind.JUMP:
                    behind = either(behind, fallen)
                else:
                    back = either(back, fallen)
                on = False
            elif isinstance(effect, Target) and effect.kind in (Kind.ACCEPT, Kind.RETURN):
                left = either(left, on)
                back = either(back, on) if effect.kind is Kind.RETURN else back
                on = False
            else:
                at = self._at(line) if line in self.program.called else ""
                on = self._effects.change(effect, at, on, base)
        return either(on, behind), back, left


def _may_ask(effect: Effect) -> bool:
    """Whether ``effect`` may need a name for what it leaves open."""
    return not isinstance(effect, Target) or effect.kind is Kind.TPROXY


def _is_open(effect: Effect) -> bool:
    """Whether what ``effect`` does to later rules' packets hangs on what no dump shows."""
    if isinstance(effect, Target):
        return False
    if effect.what is Beyond.DNAT:
        return effect.address is None or effect.port is None
    return effect.what not in (Beyond.NOTRACK, Beyond.HAND, Beyond.SNAT)


def _wide(port: Number) -> Number:
    """A captured port as an outcome."""
    from meshnet.reason.symbolic.terms import engine

    z3 = engine()
    return z3.Concat(z3.BitVecVal(1, OUTCOME_BITS - 16), port)


def _orders(group: Group) -> list[tuple[Stage, ...]]:
    """In which orders the stages of ``group`` may run."""
    if len(group) == 1:
        return [group]
    found = [each for each in permutations(group) if _as_registered(each)] if len(group) < 7 else []
    if not found or len(found) > MOST_ORDERS:
        if len({id(stage.series) for stage in group}) == 1:
            return [tuple(sorted(group, key=lambda stage: -stage.rank))]
        raise MeshnetError(
            f"{len(group)} chains at priority {group[0].priority} may run in too many orders"
        )
    return found


def _as_registered(stages: tuple[Stage, ...]) -> bool:
    """Of one table the chain that was registered last comes first."""
    return all(
        one.series is not other.series or one.rank > other.rank
        for at, one in enumerate(stages)
        for other in stages[at + 1 :]
    )
