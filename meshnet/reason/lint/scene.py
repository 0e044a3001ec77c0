"""Rules with all packets going through them, and the questions that are asked there."""

from __future__ import annotations

from functools import cached_property

from meshnet.model.packet import Family
from meshnet.model.rule import Kind, Target
from meshnet.model.spec import Form
from meshnet.reason.drift import drift
from meshnet.reason.lint.trials import Trials
from meshnet.reason.symbolic.names import Names, names_of
from meshnet.reason.symbolic.passage import Passage, Row, Visit
from meshnet.reason.symbolic.question import Question
from meshnet.reason.symbolic.terms import some
from meshnet.reason.symbolic.world import OUTPUT, PREROUTING, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshnet.model.drift import Drift
    from meshnet.reason.behaviour import Side
    from meshnet.reason.lines import Code, Line
    from meshnet.reason.symbolic.passage import Program
    from meshnet.reason.symbolic.terms import Bit

#: The hooks that packets of the walk come to; rules at others are not looked at.
HOOKS = frozenset(("prerouting", "input", "forward", "output", "postrouting"))


class LintScene:
    """All packets of a family that begin at a hook, on their way."""

    def __init__(self, program: Program, names: Names, hook: str, family: Family) -> None:
        self.world = World(hook, family, names)
        self.passage = Passage(program, self.world, observed=True)
        self.question = Question(self.world)

    @cached_property
    def met(self) -> dict[Line, list[tuple[Visit, Row]]]:
        """Where packets may meet each rule."""
        found: dict[Line, list[tuple[Visit, Row]]] = {}
        for visit in self.passage.visits:
            for row in visit.rows:
                found.setdefault(row.line, []).append((visit, row))
        return found

    def held(self, line: Line) -> Bit:
        """Packets that meet ``line`` and for which it holds."""
        return some(row.held for _, row in self.met.get(line, ()))


class Ground:
    """What all checks look at; everything is worked out when it is asked for."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.program = side.program()
        names = Names(names_of(self.program.tables))
        self._link = names.members[names.other] if names.other >= 0 else "eth0"
        self.scenes = tuple(
            LintScene(self.program, names, hook, family)
            for hook in (OUTPUT, PREROUTING)
            for family in (Family.IP, Family.IP6)
        )

    @cached_property
    def drifts(self) -> dict[str, Drift]:
        """What our rules are of, by backend."""
        found = {}
        for backend, ruleset in self.side.rulesets.items():
            one = drift(ruleset, Form.NFT if backend == "nft" else Form.IPTABLES)
            if one is not None:
                found[backend] = one
        return found

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """The rules that hooks which the walk knows may lead to, and those that none leads to."""
        beyond = {id(code) for code in self._beyond()}
        codes = (code for table in self.program.tables for code in table.codes.values())
        return tuple(line for code in codes if id(code) not in beyond for line in code.lines)

    def _beyond(self) -> Iterator[Code]:
        """The chains that hooks beyond the walk lead to."""
        left = [
            code
            for table in self.program.tables
            for code in table.codes.values()
            if code.chain.hook and code.chain.hook not in HOOKS
        ]
        seen: set[int] = set()
        while left:
            code = left.pop()
            if id(code) not in seen:
                seen.add(id(code))
                yield code
                left += [line.to for line in code.lines if line.to is not None]

    @cached_property
    def trials(self) -> Trials:
        """What walks of some packets showed."""
        candidates = frozenset(line.place for line in self.lines if only_decides(line))
        return Trials(self.side, self.program.tables, candidates, self._link)

    @cached_property
    def alive(self) -> frozenset[Line]:
        """The rules that some packet makes hold."""
        alive = {line for line in self.lines if line.place in self.trials.seen}
        pending = set(self.lines) - alive
        for scene in self.scenes:
            named = {}
            for line in pending:
                held = scene.held(line)
                if held is True:
                    alive.add(line)
                elif held is not False:
                    named[line] = scene.question.sides(held)[0]
            alive.update(_possible_of(scene.question, named))
            pending -= alive
        return frozenset(alive)


def _possible_of(question: Question, named: dict[Line, Bit]) -> Iterator[Line]:
    """Those of ``named`` whose condition holds for some packet; many are asked for together."""
    groups = [list(named)]
    while groups:
        group = groups.pop()
        if not group or not question.possible(some(named[line] for line in group)):
            continue
        if len(group) == 1:
            yield group[0]
        else:
            middle = len(group) // 2
            groups += [group[:middle], group[middle:]]


#: What decides about packets and does nothing else: no mark, no zone, no other address.
_DECIDING = frozenset((Kind.ACCEPT, Kind.RETURN, Kind.DROP, Kind.REJECT, Kind.RESET, Kind.REDIRECT))


def only_decides(line: Line) -> bool:
    """Whether ``line`` does nothing but let packets go, take or refuse them."""
    return bool(line.effects) and all(
        isinstance(effect, Target) and effect.kind in _DECIDING for effect in line.effects
    )
