"""What the rules of now say of many packets: each class of them is walked once."""

from __future__ import annotations

from meshnet.errors import ParseError
from meshnet.model.frozen import dataclass
from meshnet.model.packet import Family, Field, Packet
from meshnet.model.rule import Kind
from meshnet.model.ruleset import Ruleset
from meshnet.model.verdict import Journey, Step, Verdict
from meshnet.reason.classes import Classes
from meshnet.reason.lines import prepare
from meshnet.reason.walk import Walker
from meshnet.reason.words import rule_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: How many rules may be asked in all: a second or two. FEWEST packets are walked in any case.
MOST_RULES, FEWEST = 400_000, 20
_CAPTURES = (Kind.REDIRECT, Kind.TPROXY)


@dataclass(frozen=True)
class Ruling:
    """What becomes of a packet today.

    ``verdict`` is None where nobody asked; ``words`` then say why. ``rule`` is where the
    rule stands that decides, "" where none does; ``tproxy`` whether it hands over without
    translating.
    """

    verdict: Verdict | None
    words: str
    rule: str = ""
    tproxy: bool = False

    @property
    def captures(self) -> bool:
        """Whether the packet surely ends at the proxy."""
        return self.verdict is Verdict.CAPTURED


class Rulings:
    """Asks ``rulesets`` (by backend); packets that no rule can tell apart are asked about once.

    ``addresses`` are the primary ones of interfaces. Rulesets that no packet can walk through
    (a file may hold any) give no verdict, and the words say why.
    """

    def __init__(
        self,
        rulesets: Mapping[str, Ruleset],
        addresses: Mapping[tuple[str, Family], int] | None = None,
    ) -> None:
        self.rulesets = {name: held for name, held in rulesets.items() if held.tables}
        self.unreadable = ""
        try:
            self._walker = Walker(self.rulesets, addresses)
            tables = [t for name, held in self.rulesets.items() for t in prepare(name, held)]
        except ParseError as e:
            self.unreadable = e.message
            self._walker, tables = Walker({}), []
        self._classes = Classes(tables)
        self._known: dict[object, Ruling] = {}
        rules = [rule for held in self.rulesets.values() for rule in held.rules()]
        self._capturing = {
            chain.name for _, chain, rule in rules if rule.target and rule.target.kind in _CAPTURES
        }
        self._left = max(FEWEST, MOST_RULES // max(len(rules), 1))

    def ask(self, packet: Packet, hook: str, unknown: frozenset[Field] = frozenset()) -> Ruling:
        """What becomes of ``packet`` at ``hook`` ("output", "prerouting").

        ``unknown`` are fields that may have had any value.
        """
        if self.unreadable:
            return Ruling(None, f"the rules cannot be followed: {self.unreadable}")
        key = (hook, unknown, self._classes.of(packet))
        found = self._known.get(key)
        if found is None:
            if not self._left:
                return Ruling(None, "not asked: too many rules for so many kinds of packets")
            self._left -= 1
            found = self._known[key] = self._rule(self._walker.walk(packet, hook, unknown))
        return found

    def _rule(self, journey: Journey) -> Ruling:
        verdict, decider = journey.verdict, journey.decider
        if verdict is Verdict.MAYBE:
            undecided = ", ".join(journey.maybe[:3]) or "a rule"
            return Ruling(verdict, f"the rules alone do not tell: {undecided}")
        if decider is None or decider.rule is None:
            return Ruling(verdict, self._missed(journey))
        target = decider.rule.target
        tproxy = target is not None and target.kind is Kind.TPROXY
        return Ruling(verdict, self._words(decider), self._where(decider), tproxy)

    def _missed(self, journey: Journey) -> str:
        """That no rule took a packet, and the last one that could have captured it."""
        if not self.rulesets:
            return "no rules here"
        for step in reversed(journey.steps):
            target = step.rule.target if step.rule else None
            if step.held is not False or target is None:
                continue
            if target.kind in _CAPTURES or target.chain in self._capturing:
                return f"no rule takes it: not {self._words(step)}"
        return "no rule takes it"

    def _where(self, step: Step) -> str:
        where = f"{step.place.chain} {step.place.position}"
        return f"{step.place.backend} {where}" if len(self.rulesets) > 1 else where

    def _words(self, step: Step) -> str:
        if step.rule is None:
            return self._where(step)
        return f"{self._where(step)} ({rule_in_words(step.rule, step.place.family)})"
