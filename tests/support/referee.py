"""Holds the walk against the kernel's own trace: the path rule by rule, and the outcome.

Where the dumps leave more than one way open, one of the ways must be the kernel's, whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from meshnet.model.packet import Family, Field
from meshnet.model.rule import Kind
from meshnet.model.ruleset import Chain, Ruleset
from meshnet.model.verdict import Place, Step
from meshnet.reason import fates
from meshnet.reason.action import is_loopback
from meshnet.reason.evaluate import has_connection
from meshnet.reason.fates import Stretch, Tree
from meshnet.reason.state import Ending, State
from meshnet.reason.walk import Walker
from tests.support.lottery import TABLES
from tests.support.referee_bench import addresses
from tests.support.referee_coverage import Coverage
from tests.support.referee_packets import as_packet

Key = tuple[str, str, str, str, int]
_POLICY = 1


class Met(NamedTuple):
    """What the kernel said of one packet: its rules, and where it got to at last.

    ``end`` is the point in the sink's last chain, None where it came to none.
    """

    path: tuple[Key, ...]
    end: tuple[Any, ...] | None
    handed: bool


class Referee:
    """Judges packets under one set of rules. ``numbers`` are nf_tables' handles, by chain."""

    def __init__(
        self, rulesets: dict[str, Ruleset], numbers: list[Any], coverage: Coverage
    ) -> None:
        self.walker = Walker(rulesets, addresses(), marks_route=False)
        self.coverage = coverage
        self._chains: dict[tuple[str, str, str, str], Chain] = {}
        for backend, ruleset in rulesets.items():
            for table in ruleset.tables:
                for chain in table.chains:
                    self._chains[backend, table.family.value, table.name, chain.name] = chain
        self._nat = {
            where
            for where, chain in self._chains.items()
            if chain.kind == "nat" or (where[0] != "nft" and where[2] == "nat")
        }
        self._positions = {
            (family, table, chain, number): at
            for family, table, chain, found in numbers
            for at, number in enumerate(found, 1)
        }

    def disagreement(self, sent: dict[str, Any], told: dict[str, Any]) -> str:
        """What the two say differently about one packet; "" where nothing."""
        packet, hook, local = as_packet(sent)
        if told["known"]:
            return "not the first packet of its connection"
        met = self._met(told)
        tree = self.walker.follow(packet, hook, local=local)
        remembered = self.walker.walk(packet, hook, local=local)
        if remembered != tree.outcome().journey(packet):
            return "a remembered walk is not the walk"
        ends = ends_on(tree, met.path)
        wrong = [_outcome(end, met) for end in ends]
        if all(wrong):
            if not (local and hook == "prerouting") and is_lost(tree, met):
                self.coverage.lost += 1
                return ""
            return " or ".join(dict.fromkeys(wrong)) or self._parting(tree, met.path)
        self.coverage.add(tree, remembered, hook, {place_of(key) for key in met.path})
        self.coverage.nat += any(key[:4] in self._nat for key in met.path)
        return ""

    def _met(self, told: dict[str, Any]) -> Met:
        path = [key for rule in told["met"] if (key := self._key(*rule)) is not None]
        last = told["points"][-1] if told["points"] else None
        # What goes by lo is told at postrouting too: it is not at its end there.
        over = last is not None and (last[0] == "in" or (last[0] == "out" and last[6] != "lo"))
        return Met(tuple(path), tuple(last) if over and last is not None else None, told["handed"])

    def _key(
        self, family: str, table: str, chain: str, kind: int, number: int, verdict: int | None
    ) -> Key | None:
        """Where a rule stands that the kernel reported; None for the ends of chains."""
        backend = "legacy" if verdict is None else "nft"
        if backend == "nft" and table in TABLES and family != "inet":
            backend = "nft-compat"
        found = self._chains[backend, family, table, chain]
        position = number
        if verdict is not None:
            if not number and kind != _POLICY:
                return None
            last = len(found.rules) + 1
            position = self._positions[family, table, chain, number] if number else last
        if position > len(found.rules) and not (found.hook and has_steps(found)):
            return None
        return backend, family, table, chain, position

    def _parting(self, tree: Tree, path: tuple[Key, ...]) -> str:
        """Where a path leaves the first way of the walk."""
        trail = tree.trails()[0]
        said = [
            key_of(step)
            for stretch in trail.stretches
            for step in stretch.steps
            if step.held is not False
        ]
        at = next(
            (n for n, (a, b) in enumerate(zip(said, path, strict=False)) if a != b),
            min(len(said), len(path)),
        )
        forked = " (one of several ways)" if tree.forked else ""
        before = path[max(0, at - 2) : at]
        return f"after {before} the kernel met {path[at:]}, the walk {said[at:]}{forked}"


def is_lost(tree: Tree, met: Met) -> bool:
    """Whether the kernel's routing threw a packet away between two chains: that is no rule.

    What TPROXY took although no policy route leads it here (net/ipv4/ip_forward.c); what DNAT
    sends to another host from a loopback address (net/ipv4/route.c). Until there the two agree.
    """
    if met.end is not None:
        return False
    for state in reached(tree, met.path):
        if state.first == "output" and state.elsewhere and from_loopback(state):
            return True
        if state.first == "prerouting" and hands_over(state):
            return True
    return False


def from_loopback(state: State) -> bool:
    return is_loopback(state.packet.family, state.packet.src)


def has_steps(chain: Chain) -> bool:
    """Whether a walk visits a base chain: one without rules that accepts is left out."""
    return bool(chain.rules) or chain.policy == "drop"


def key_of(step: Step) -> Key:
    place: Place = step.place
    return (place.backend, place.family.value, place.table, place.chain, place.position)


def place_of(key: Key) -> Place:
    backend, family, table, chain, position = key
    return Place(backend, Family(family), table, chain, position)


def ends_on(tree: Tree, path: tuple[Key, ...]) -> list[Ending]:
    """The ends of the ways on which exactly ``path`` is met."""
    return [end for _, end in _places(tree, path) if end is not None]


def reached(tree: Tree, path: tuple[Key, ...]) -> Iterator[State]:
    """The states, at the beginnings of chains, of a packet that has met exactly ``path``."""
    for state, _ in _places(tree, path):
        yield state


def _places(tree: Tree, path: tuple[Key, ...]) -> Iterator[tuple[State, Ending | None]]:
    """Where all of ``path`` is met: at a chain, or at the end of a way."""
    seen: set[tuple[int, int]] = set()
    todo: list[tuple[Any, frozenset[int]]] = [(tree._nodes[0], frozenset((0,)))]
    while todo:
        node, starts = todo.pop()
        ats = frozenset(at for at in starts if (id(node), at) not in seen)
        seen |= {(id(node), at) for at in ats}
        for stretch in fates._stretches(node):
            if len(path) in ats:
                yield stretch.at.state, None
            ats = _along(stretch, path, ats)
        if not ats:
            continue
        if node.end is not None and len(path) in ats:
            yield node.end.state, node.end
        todo += [(child, ats) for child in node.children]


def _along(stretch: Stretch, path: tuple[Key, ...], starts: frozenset[int]) -> frozenset[int]:
    """How far one may be on ``path`` behind the rules of ``stretch``, from each of ``starts``."""
    ats = set(starts)
    for step in stretch.steps:
        if step.held is False:
            continue
        key, told = key_of(step), _is_told(step, stretch.at.state)
        further = {at + 1 for at in ats if at < len(path) and path[at] == key}
        if told is None:
            ats |= further
        elif told:
            ats = further
    return frozenset(ats)


def _is_told(step: Step, state: State) -> bool | None:
    """Whether the kernel reports a rule that the walk says holds; None where that is open.

    nf_tables leaves a rule behind its counter where there is no mark of a connection to be read
    (net/netfilter/nft_ct.c), and where a map of others' rules lacks what is asked for.
    """
    rule = step.rule
    if step.held is None:
        return None
    if rule is None or step.place.backend != "nft":
        return True
    if rule.opaque:
        return None
    restores = rule.target is not None and rule.target.kind is Kind.RESTORE_MARK
    return not restores or has_connection(state)


def _outcome(end: Ending, met: Met) -> str:
    """How the kernel's end of a packet differs from the walk's; "" where it does not."""
    state = end.state
    if end.line is not None:
        return f"not dropped, but came to {met.end}" if met.end else ""
    if met.end is None:
        return f"came to no end; the walk's is {fates.fate_of(end)}"
    where, src, dst, sport, dport, iif, oif, mark = met.end
    packet, wrong = state.packet, []
    hook = {"in": "input", "out": "postrouting"}[where]
    if hook != state.hook:
        wrong.append(f"ended at {hook}, not at {state.hook}")
    known = {
        Field.SRC: (int(src, 16), packet.src),
        Field.DST: (int(dst, 16), packet.dst),
        Field.MARK: (mark, packet.mark),
        Field.IIF: (iif, (packet.iif or "") if where == "in" or state.first != "output" else iif),
        Field.OIF: (oif, (packet.oif or "") if where == "out" else oif),
    }
    if packet.dport is not None:
        known |= {Field.SPORT: (sport, packet.sport), Field.DPORT: (dport, packet.dport)}
    for field, (is_so, said) in known.items():
        if field not in state.unknown and is_so != said:
            wrong.append(f"{field.label} is {is_so}, not {said}")
    by_socket = hands_over(state)
    if met.handed is not by_socket:
        wrong.append(f"handed to a socket: {met.handed}, not {by_socket}")
    return ", ".join(wrong)


def hands_over(state: State) -> bool:
    """Whether TPROXY gave the packet the socket that it comes to."""
    return Field.UID in state.unknown and state.port is not None and state.hook == "input"
