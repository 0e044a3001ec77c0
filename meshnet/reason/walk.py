"""One packet through the rules: what the kernel would do, hook by hook, and which rule decides.

A packet that leaves ("output", then postrouting; what leaves by lo comes in again) or that
comes in ("prerouting", then input). What no dump shows makes a fork, and each way is walked;
where they end alike, the fork does not matter. What is assumed: a socket listens where a
rule hands a packet to; nobody has moved the routing of local addresses behind that of marks.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from meshnet.errors import UsageError, printable
from meshnet.model.packet import Family, Field, Packet
from meshnet.model.ruleset import Ruleset
from meshnet.model.verdict import Journey
from meshnet.reason.action import Actions
from meshnet.reason.classes import Classes
from meshnet.reason.evaluate import View
from meshnet.reason.fates import Outcome, Tree, Visit
from meshnet.reason.hooks import Group, order
from meshnet.reason.lines import Line, prepare
from meshnet.reason.progress import next_hook, next_stage, start
from meshnet.reason.state import Cursor, Ending, Fork, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshnet.model.verdict import Step

HOOKS = ("output", "prerouting")
#: Outcomes that are kept, the last used ones.
REMEMBERED = 20_000
#: Behind so many rules of a chain ways are looked at anew: two that have met are one from there.
MEETING = 64


class Walker:
    """Rulesets made ready to be walked by many packets.

    ``rulesets`` are by backend name ("legacy", "nft-compat", "nft"). ``addresses`` are the
    primary ones of interfaces: what REDIRECT makes of the destination of a packet that came
    in; without them that is not known. ``marks_route`` False says that no policy route asks
    for a mark, so that a packet whose mark was changed leaves as it would have. Packets
    that no rule tells apart are walked once.
    Raises ParseError for chains that go round, or that no kernel can hold.
    """

    def __init__(
        self,
        rulesets: Mapping[str, Ruleset],
        addresses: Mapping[tuple[str, Family], int] | None = None,
        marks_route: bool = True,
    ) -> None:
        self._tables = [t for name, r in sorted(rulesets.items()) for t in prepare(name, r)]
        self._programs: dict[tuple[str, Family], tuple[Group, ...]] = {}
        self._actions = Actions(addresses or {}, marks_route)
        self._classes = Classes(self._tables)
        self._known: OrderedDict[object, Outcome] = OrderedDict()
        self._view: tuple[State, bool, View] | None = None
        self._forked = False

    def walk(
        self,
        packet: Packet,
        hook: str,
        unknown: frozenset[Field] = frozenset(),
        local: bool = True,
    ) -> Journey:
        """The way of ``packet`` from ``hook`` ("output" or "prerouting") on.

        ``unknown`` are fields that the caller does not know: matches on them are undecided.
        ``local`` False: a packet that came in is not for this namespace, and is forwarded
        by ``packet.oif`` unless a rule takes it. Raises UsageError for another hook.
        """
        if hook not in HOOKS or packet.family is Family.INET:
            raise UsageError(f"no packet begins at hook {printable(hook)}", ", ".join(HOOKS))
        key = (hook, unknown, local, self._classes.of(packet))
        outcome = self._known.get(key)
        if outcome is None:
            outcome = self._known[key] = self._explore(packet, hook, unknown, local)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return outcome.journey(packet)

    def follow(
        self,
        packet: Packet,
        hook: str,
        unknown: frozenset[Field] = frozenset(),
        local: bool = True,
    ) -> Tree:
        """As :meth:`walk`, with what was seen of the packet at each rule; nothing is remembered."""
        if hook not in HOOKS or packet.family is Family.INET:
            raise UsageError(f"no packet begins at hook {printable(hook)}", ", ".join(HOOKS))
        return self._grow(packet, hook, unknown, local)

    def stages(self, hook: str, family: Family) -> tuple[Group, ...]:
        """What is asked at ``hook``, in order; see :mod:`meshnet.reason.hooks`."""
        return self._program(hook, family)

    def forget(self) -> None:
        """Walk every packet anew, also where one of its class was walked before."""
        self._known.clear()

    def _program(self, hook: str, family: Family) -> tuple[Group, ...]:
        found = self._programs.get((hook, family))
        if found is None:
            found = self._programs[hook, family] = order(self._tables, family, hook)
        return found

    def _explore(
        self, packet: Packet, hook: str, unknown: frozenset[Field], local: bool
    ) -> Outcome:
        return self._grow(packet, hook, unknown, local).outcome()

    def _grow(self, packet: Packet, hook: str, unknown: frozenset[Field], local: bool) -> Tree:
        # Over lo everything was settled on its way out.
        again = hook == "prerouting" and packet.iif == "lo"
        known = again and packet.ctstate != "invalid"
        state = State(hook, packet, hook, local or again, unknown, tracked=known, settled=again)
        tree = Tree(start(state, self._program))
        while (cursor := tree.next()) is not None:
            self._forked = tree.forked
            steps: list[Step] = []
            visits: list[Visit] = []
            tree.add(self._segment(cursor, steps, visits), steps, visits)
        return tree

    def _segment(self, cursor: Cursor, steps: list[Step], visits: list[Visit]) -> Ending | Fork:
        """From ``cursor`` to the end or to the next fork; steps and visits are added to."""
        now: Cursor | Ending | Fork = cursor
        while isinstance(now, Cursor):
            if now.frames:
                visits.append(Visit(now, len(steps)))
                now = self._chain(now, steps)
            elif now.todo:
                now = next_stage(now)
            else:
                now = next_hook(now.state, self._program)
        return now

    def _view_of(self, state: State, native: bool) -> View:
        """What rules see of ``state``; ways that fork have the same one."""
        if self._view is None or self._view[0] is not state or self._view[1] is not native:
            self._view = state, native, View(state, native)
        return self._view[2]

    def _chain(self, cursor: Cursor, steps: list[Step]) -> Cursor | Ending | Fork:
        """Through the innermost chain until a rule does something, or to its end."""
        todo, frames, state = cursor
        code, at = frames[-1]
        hook, lines, missed = state.hook, code.lines, code.missed(state.hook)
        view = self._view_of(state, code.native)
        while at < len(lines):
            line = lines[at]
            at += 1
            held = view.test(line)
            if held is False:
                steps.append(missed[at - 1])
                if at % MEETING == 0 and self._forked:
                    return Fork(str, (Cursor(todo, (*frames[:-1], (code, at)), state),))
                continue
            steps.append(line.step(hook, held))
            here = Cursor(todo, (*frames[:-1], (code, at)), state)
            ways = self._actions.act(line, here)
            if held is None:
                ways = (here, *ways)
            if len(ways) > 1 and any(way != here for way in ways):
                return Fork(partial(undecided, line, view), ways)
            if at % MEETING == 0 and self._forked and ways[0] is here:
                return Fork(str, (here,))
            if ways[0] is not here:
                return ways[0]
        if len(frames) > 1:
            return Cursor(todo, frames[:-1], state)
        policy = code.policy
        assert policy is not None
        steps.append(policy.step(hook, True))
        if code.chain.policy == "drop":
            return Ending(state, (policy, hook))
        return Cursor(todo, (), state)


def undecided(line: Line, view: View) -> str:
    """What it is called that ``line`` cannot be decided for what ``view`` shows."""
    doubts = ", ".join(view.doubts(line)) or line.action
    place = line.place
    return printable(f"{place.table} {place.chain} {place.position}: {doubts}")


#: The last one that walk() made, and the rulesets that it was made of.
_last: tuple[dict[str, Ruleset], Walker] | None = None


def walk(rulesets: Mapping[str, Ruleset], packet: Packet, hook: str) -> Journey:
    """The way of ``packet`` from ``hook`` ("output" or "prerouting") on; see :class:`Walker`.

    Rulesets that are the same objects as in the last call are not made ready again.
    """
    global _last
    same = (
        _last is not None
        and _last[0].keys() == rulesets.keys()
        and all(_last[0][name] is ruleset for name, ruleset in rulesets.items())
    )
    if not same or _last is None:
        _last = dict(rulesets), Walker(rulesets)
    return _last[1].walk(packet, hook)
