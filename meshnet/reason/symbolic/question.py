"""Asking: is there a packet for which this holds, and which is the likeliest one."""

from __future__ import annotations

from meshnet.errors import MeshnetError
from meshnet.model.address import read_address
from meshnet.model.match import PROTO_NUMBERS
from meshnet.model.packet import Family
from meshnet.reason.symbolic.terms import Bit, both, either, engine, equal, every, no, number
from meshnet.reason.symbolic.world import OUTPUT, Start, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: How long one question may take, in milliseconds; the usual one takes one.
LONGEST = 60_000
_HERE = {Family.IP: "10.244.0.7", Family.IP6: "fd00:10:244::7"}
_FAR = {Family.IP: "203.0.113.77", Family.IP6: "2001:db8:77::77"}
_LOOP = {Family.IP: "127.0.0.1", Family.IP6: "::1"}


class Question:
    """Questions about the packets of ``world``; what was found out stays known."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._solver = engine().SimpleSolver()
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
        self._obey()
        found = self._check([self.name(c) for c in conditions if c is not True])
        if found == 0:
            raise MeshnetError("the question is too hard: z3 found no answer within a minute")
        return found > 0

    def _check(self, names: list[Any]) -> int:
        """1: yes, -1: no, 0: not known. As z3's check, which looks at each name for much longer."""
        z3 = engine()
        asked = (z3.Ast * len(names))(*(name.as_ast() for name in names))
        context = self._solver.ctx.ref()
        found = z3.Z3_solver_check_assumptions(context, self._solver.solver, len(names), asked)
        return int(found)

    def ask(self, *conditions: Bit) -> Any | None:
        """A model of ``conditions``, or None where there is no such packet.

        Raises MeshnetError where that takes too long to find out.
        """
        return self._solver.model() if self.possible(*conditions) else None

    def core(self, *conditions: Bit) -> list[int]:
        """After :meth:`possible` said no: positions of conditions that cannot hold together."""
        names = {self.name(c).get_id(): at for at, c in enumerate(conditions) if c is not True}
        found = (names.get(each.get_id()) for each in self._solver.unsat_core())
        return sorted(at for at in found if at is not None)

    def _obey(self) -> None:
        """The laws of the world grow while rules are read into it."""
        laws = self.world.laws
        if self._laws < len(laws):
            self._solver.add(every(laws[self._laws :]))
            self._laws = len(laws)

    def likely(self, *conditions: Bit) -> tuple[Start, Any] | None:
        """A packet for which ``conditions`` hold, as usual as they let it be, and its model."""
        model = self.ask(*conditions)
        if model is None:
            return None
        kept = list(conditions)
        for wish in self._wishes():
            if not self.world.truth(model, wish):
                better = self.ask(*kept, wish)
                if better is None:
                    continue
                model = better
            kept.append(wish)
        return self.world.start(model), model

    def _wishes(self) -> Iterator[Bit]:
        """What most packets are like, the most usual first."""
        world = self.world
        yield equal(world.ctstate, 0)
        yield equal(world.mark, 0)
        yield equal(world.ctmark, 0)
        if world.hook == OUTPUT:
            yield world.socket
        else:
            yield equal(world.oif, 0)
        yield equal(world.proto, PROTO_NUMBERS["tcp"])
        other = world.names.other
        if other >= 0:
            yield equal(world.oif if world.hook == OUTPUT else world.iif, other)
        yield from self._addresses()
        if world.hook == OUTPUT:
            for uid in (1000, 0, 1001):
                yield equal(world.uid, uid)
            yield equal(world.gid, world.uid)
            for gid in (1000, 0, 1001):
                yield equal(world.gid, gid)
        for port in (443, 80, 8080, 53):
            yield equal(world.dport, port)
        yield equal(world.sport, 40000)

    def _addresses(self) -> Iterator[Bit]:
        world = self.world
        here, far, loop = (read_address(a[world.family])[1] for a in (_HERE, _FAR, _LOOP))
        if world.hook != OUTPUT:
            yield equal(world.dst, here)
            yield equal(world.src, far)
            return
        inside, loops = equal(world.oif, 1), world.is_loopback(world.dst)
        yield both(no(both(inside, no(equal(world.dst, here)))), no(both(no(inside), loops)))
        yield either(no(loops), inside)
        yield equal(world.dst, far)
        yield equal(world.dst, loop)
        # Any address of a block is likelier than its name.
        yield engine().Extract(7, 0, world.dst) == 10
        yield equal(world.src, here)
        yield equal(world.src, loop)
