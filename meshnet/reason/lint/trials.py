"""Packets that are walked before anything is proven: they show quickly what most rules do.

What a walk saw need not be proven; what no walk saw is asked of the prover.
"""

from __future__ import annotations

from typing import NamedTuple

from meshnet.model.address import read_address
from meshnet.model.packet import TCP, Family, Packet
from meshnet.model.rule import Rule
from meshnet.model.verdict import Journey, Verdict
from meshnet.reason.findings.packets import witness
from meshnet.reason.symbolic.world import OUTPUT, PREROUTING, Start
from meshnet.reason.walk import Walker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from meshnet.model.ruleset import Ruleset
    from meshnet.model.verdict import Place
    from meshnet.reason.behaviour import Side
    from meshnet.reason.lines import Code, Line, TableCode

_HERE = {Family.IP: "10.244.0.7", Family.IP6: "fd00:10:244::7"}
_FAR = {Family.IP: "203.0.113.77", Family.IP6: "2001:db8:77::77"}


class End(NamedTuple):
    """A packet that was walked, and its fate."""

    start: Start
    verdict: Verdict
    port: int


class Trials:
    """Walks packets made from the rules' own constants.

    ``seen`` are the places of rules that held for some packet, ``needed`` of those without which
    some packet would have had another fate, or left as another packet. ``takers`` has for a rule
    the one in front of it, in its chain, that had the packet made for it. ``ends`` are how the
    packets ended. ``link`` is an interface that no rule names.
    """

    def __init__(
        self, side: Side, tables: list[TableCode], candidates: frozenset[Place], link: str
    ) -> None:
        self.seen: set[Place] = set()
        self.needed: set[Place] = set()
        self.takers: dict[Place, Place] = {}
        self.ends: list[End] = []
        self._walker = _Muting(side.rulesets, side.addresses, side.marks_route)
        self._candidates = candidates
        for table in tables:
            for line, packet, hook, local in _packets(table, link):
                self._try(line, packet, hook, local)

    def _try(self, line: Line, packet: Packet, hook: str, local: bool) -> None:
        journey = self._walker.walk(packet, hook, local=local)
        if any(step.held is None for step in journey.steps) or journey.fates:
            return
        self.ends.append(End(Start(packet, hook, local), journey.verdict, journey.port))
        places = {step.place for step in journey.steps if step.held and step.rule is not None}
        self.seen |= places
        for place in places if line.place not in places else ():
            if _chain_of(place) == _chain_of(line.place) and place.position < line.place.position:
                self.takers[line.place] = place
        for place in (places & self._candidates) - self.needed:
            other = self._walker.without(place, packet, hook, local)
            if not other.fates and _end(other) != _end(journey):
                self.needed.add(place)


def _chain_of(place: Place) -> tuple[object, ...]:
    return place.backend, place.family, place.table, place.chain


def _end(journey: Journey) -> tuple[Any, ...]:
    """What is compared: who has the packet, and as what it leaves."""
    verdict, left = journey.verdict.value, journey.packet
    kind = verdict if verdict in ("captured", "dropped") else "let go"
    if kind == "dropped":
        return (kind,)
    return kind, journey.port, left.mark, left.ctmark, left.dst, left.dport, left.ctstate


class _Muting(Walker):
    """A walker that can leave out a rule."""

    def __init__(
        self,
        rulesets: Mapping[str, Ruleset],
        addresses: Mapping[tuple[str, Family], int] | None,
        marks_route: bool,
    ) -> None:
        super().__init__(rulesets, addresses, marks_route)
        codes = (code for table in self._tables for code in table.codes.values())
        self._lines = {line.place: line for code in codes for line in code.lines}

    def without(self, place: Place, packet: Packet, hook: str, local: bool) -> Journey:
        """The way of ``packet`` if the rule at ``place`` were not there."""
        line = self._lines[place]
        family = line.family
        # A rule of no packet's family holds for none.
        line.family = Family.INET
        try:
            return self.follow(packet, hook, local=local).outcome().journey(packet)
        finally:
            line.family = family


def _packets(table: TableCode, link: str) -> Iterator[tuple[Line, Packet, str, bool]]:
    """For each rule a packet that it asks for, as far as that is easy."""
    for code, hook, path in _reached(table):
        for family in (Family.IP, Family.IP6):
            if not table.table.family.covers(family):
                continue
            begin, local, plain = _plain(hook, family, link)
            for line in code.lines:
                if line.family in (None, family):
                    rules = [Rule(each.matches, None) for each in (*path, line)]
                    yield line, witness(plain, rules), begin, local


def _reached(table: TableCode) -> Iterator[tuple[Code, str, tuple[Line, ...]]]:
    """Every chain that a hook leads to, once for a hook, with the rules on the way."""
    for base in table.codes.values():
        if not base.chain.hook:
            continue
        left: list[tuple[Code, tuple[Line, ...]]] = [(base, ())]
        seen = {base.chain.name}
        while left:
            code, path = left.pop()
            yield code, base.chain.hook, path
            for line in code.lines:
                if line.to is not None and line.to.chain.name not in seen:
                    seen.add(line.to.chain.name)
                    left.append((line.to, (*path, line)))


def _plain(hook: str, family: Family, link: str) -> tuple[str, bool, Packet]:
    """Where a packet begins that comes to ``hook``, whether it is for here, and a plain one."""
    here, far = (read_address(text[family])[1] for text in (_HERE, _FAR))
    if hook in ("output", "postrouting"):
        leaving = Packet(family, TCP, here, far, 40000, 443, None, link, 1000, 1000)
        return OUTPUT, True, leaving
    through = hook == "forward"
    oif = link if through else None
    return PREROUTING, not through, Packet(family, TCP, far, here, 40000, 443, link, oif)
