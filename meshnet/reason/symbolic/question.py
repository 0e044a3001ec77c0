"""Asking: is there a packet for which this holds, and which is the likeliest one."""

from __future__ import annotations

from meshnet.errors import MeshnetError
from meshnet.model.address import read_address
from meshnet.model.match import PROTO_NUMBERS
from meshnet.model.packet import Family
from meshnet.reason.symbolic.terms import Bit, both, either, engine, equal, every, no, number, some
from meshnet.reason.symbolic.world import OUTPUT, Start, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from meshnet.reason.symbolic.cells import Cells

#: How long one question may take, in milliseconds; the usual one takes one.
LONGEST = 60_000
#: How long one wish may take: a packet that is less usual does as well.
SHORT = 2_000
#: So many answers are wished for one by one.
MOST_DOUBTS = 64
_HERE = {Family.IP: "10.244.0.7", Family.IP6: "fd00:10:244::7"}
_FAR = {Family.IP: "203.0.113.77", Family.IP6: "2001:db8:77::77"}
_LOOP = {Family.IP: "127.0.0.1", Family.IP6: "::1"}


class Question:
    """Questions about the packets of ``world``; what was found out stays known."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._solver = engine().SolverFor("QF_FD")
        self._solver.set("timeout", LONGEST)
        self._laws = 0
        self._names: dict[int, tuple[Bit, Any]] = {}
        self._sides: dict[int, tuple[Bit, Any, Any]] = {}

    def add(self, condition: Bit) -> None:
        """From now on only packets for which ``condition`` holds are thought of."""
        self._solver.add(condition)

    def name(self, condition: Bit) -> Any:
        """A name for ``condition``: asked by its name, it is worked out once.

        Asking for its opposite needs another name, but for what :meth:`sides` gave.
        """
        found = self._names.get(id(condition))
        if found is None:
            fresh = engine().Bool(f"condition {len(self._names)}")
            self._solver.add(engine().Implies(fresh, condition))
            found = self._names[id(condition)] = condition, fresh
        return found[1]

    def sides(self, condition: Bit) -> tuple[Bit, Bit]:
        """``condition`` and its opposite under one name: the quickest to be asked for often."""
        if condition is True or condition is False:
            return condition, not condition
        found = self._sides.get(id(condition))
        if found is None:
            name = engine().Bool(f"truth {len(self._sides)}")
            self._solver.add(name == condition)
            opposite = engine().Not(name)
            found = self._sides[id(condition)] = condition, name, opposite
            for each in (name, opposite):
                self._names[id(each)] = each, each
        return found[1], found[2]

    def variable(self, value: Any, bits: int, name: str) -> Any:
        """A variable that is ``value``."""
        fresh = engine().BitVec(name, bits)
        self._solver.add(fresh == number(value, bits))
        return fresh

    def possible(self, *conditions: Bit) -> bool:
        """Whether there is a packet for which ``conditions`` hold.

        Raises MeshnetError where that takes too long to find out.
        """
        if any(condition is False for condition in conditions):
            return False
        found = self._answer(conditions)
        if found == 0:
            raise MeshnetError(
                f"not proven, and no packet was found: z3 had no answer after {LONGEST // 1000} s",
                "ask about fewer rules, or fewer things at once",
            )
        return found > 0

    def _answer(self, conditions: Iterable[Bit]) -> int:
        """As :meth:`_check`, of conditions."""
        self._obey()
        return self._check([self.name(c) for c in conditions if c is not True])

    def _check(self, names: list[Any]) -> int:
        """1: yes, -1: no, 0: not known. As z3's check, which looks at each name for much longer."""
        z3 = engine()
        asked = (z3.Ast * len(names))(*(name.as_ast() for name in names))
        context = self._solver.ctx.ref()
        found = z3.Z3_solver_check_assumptions(context, self._solver.solver, len(names), asked)
        if not found and "interrupted" in self._solver.reason_unknown():
            raise KeyboardInterrupt
        return int(found)

    def ask(self, *conditions: Bit) -> Any | None:
        """A model of ``conditions``, or None where there is no such packet.

        Raises MeshnetError where that takes too long to find out.
        """
        return self._solver.model() if self.possible(*conditions) else None

    def core(self, *conditions: Bit) -> list[int]:
        """After :meth:`possible` said no: positions of conditions that cannot hold together."""
        never = [at for at, each in enumerate(conditions) if each is False]
        if never:
            return never[:1]
        names = {self.name(c).get_id(): at for at, c in enumerate(conditions) if c is not True}
        found = (names.get(each.get_id()) for each in self._solver.unsat_core())
        return sorted(at for at in found if at is not None)

    def _obey(self) -> None:
        """The laws of the world grow while rules are read into it."""
        laws = self.world.laws
        if self._laws < len(laws):
            self._solver.add(every(laws[self._laws :]))
            self._laws = len(laws)

    def likely(self, *conditions: Bit, cells: Sequence[Cells] = ()) -> tuple[Start, Any] | None:
        """A packet for which ``conditions`` hold, as usual as they let it be, and its model.

        Of what nobody has a wish for the lowest of ``cells`` that will do are taken: the same
        question has the same answer, whatever was asked before.
        """
        model = self.ask(*conditions)
        if model is None:
            return None
        kept, settled = list(conditions), set[str]()
        self._solver.set("timeout", SHORT)
        for label, wish in self._wishes():
            if not self.world.truth(model, wish):
                # No answer is no granted wish: nothing is proven here.
                if wish is False or self._answer([*kept, wish]) <= 0:
                    continue
                model = self._solver.model()
            kept.append(wish)
            settled.add(label)
        # Whether there are ports hangs on the protocol.
        for each in sorted(cells, key=lambda each: each.label != "proto"):
            if each.label not in settled:
                model = self._settle(each, kept, model)
        self._solver.set("timeout", LONGEST)
        return self.world.start(model), model

    def _settle(self, cells: Cells, kept: list[Bit], model: Any) -> Any:
        """A model with the lowest of ``cells`` that ``kept`` lets be, and a plain value of it."""
        own = cells.cell(self.world.start(model).packet)
        low = 0
        while own is not None and low < own:
            middle = (low + own) // 2
            if self._answer([*kept, cells.condition(range(low, middle + 1))]) > 0:
                model = self._solver.model()
                own = cells.cell(self.world.start(model).packet)
            else:
                low = middle + 1
        if own is None:
            return model
        kept.append(cells.condition([own]))
        for wish in cells.plain(own):
            if self._answer([*kept, wish]) > 0:
                kept.append(wish)
                return self._solver.model()
        return model

    def _wishes(self) -> Iterator[tuple[str, Bit]]:
        """What most packets are like, the most usual first; a label where that settles a field."""
        world = self.world
        yield "ctstate", equal(world.ctstate, 0)
        for answer in self._answers():
            yield "", answer
        yield "mark", equal(world.mark, 0)
        yield "ctmark", equal(world.ctmark, 0)
        if world.hook == OUTPUT:
            yield "", world.socket
        else:
            yield "oif", equal(world.oif, 0)
        yield "proto", equal(world.proto, PROTO_NUMBERS["tcp"])
        if world.hook == OUTPUT:
            yield "", either(no(world.is_loopback(world.dst)), equal(world.oif, 1))
        other = world.names.other
        link = "oif" if world.hook == OUTPUT else "iif"
        if other >= 0:
            yield link, equal(getattr(world, link), other)
        yield from self._addresses()
        if world.hook == OUTPUT:
            for uid in (1000, 0, 1001):
                yield "uid", equal(world.uid, uid)
            yield "gid", equal(world.gid, world.uid)
            for gid in (1000, 0, 1001):
                yield "gid", equal(world.gid, gid)
        for port in (443, 80, 8080, 53):
            yield "dport", equal(world.dport, port)
        yield "sport", equal(world.sport, 40000)

    def _answers(self) -> Iterator[Bit]:
        """That what is undecided is answered by no: then what hangs on a yes is known to.

        Of numbers 1 is as good as any: by lo, established.
        """
        z3 = engine()
        terms = list(self.world.unknowns.values())
        doubts = [term for term in terms if z3.is_bool(term)]
        if doubts:
            yield no(some(doubts))
        yield from (no(doubt) for doubt in doubts[:MOST_DOUBTS])
        for term in [term for term in terms if not z3.is_bool(term)][:MOST_DOUBTS]:
            yield equal(term, 1)
            yield equal(term, 0)

    def _addresses(self) -> Iterator[tuple[str, Bit]]:
        world = self.world
        here, far, loop = (read_address(a[world.family])[1] for a in (_HERE, _FAR, _LOOP))
        if world.hook != OUTPUT:
            yield "dst", equal(world.dst, here)
            yield "src", equal(world.src, far)
            return
        inside, loops = equal(world.oif, 1), world.is_loopback(world.dst)
        own = both(inside, no(equal(world.dst, here)))
        yield "", both(no(own), no(both(no(inside), loops)))
        yield "dst", equal(world.dst, far)
        yield "dst", equal(world.dst, loop)
        # Any address of a block is likelier than its name.
        yield "", engine().Extract(7, 0, world.dst) == 10
        yield "src", equal(world.src, here)
        yield "src", equal(world.src, loop)
