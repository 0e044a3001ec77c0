"""The rules that a trace met, found in the dumps of the same moment: where, which, and why."""

from __future__ import annotations

from meshnet.dialects import iptables_rule, nft_text
from meshnet.dialects.dumps import rulesets
from meshnet.model.frozen import replace
from meshnet.model.packet import Family
from meshnet.model.rule import Rule
from meshnet.model.ruleset import Chain, Ruleset
from meshnet.model.spec import Form
from meshnet.model.trace import Met, TracedRule
from meshnet.model.verdict import Place, Step
from meshnet.reason.drift import drift
from meshnet.reason.findings.dormant import awake
from meshnet.reason.lines import prepare
from meshnet.reason.words import rule_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meshnet.model.snapshot import Snapshot

#: How tables of traces are called: they decide nothing, and are no part of what is traced.
TRACES = "meshnet-trace-"
Where = tuple[str, str, str]


class RuleBook:
    """What each rule of a snapshot is. ``handles`` are those of nf_tables, by chain, in order.

    Raises ParseError where a dump cannot be read.
    """

    def __init__(self, snapshot: Snapshot, handles: Iterable[Sequence[object]] = ()) -> None:
        self.handles = tuple(handles)
        found = awake(snapshot, rulesets(snapshot))[0]
        self.rulesets = {name: _without_traces(held) for name, held in found.items()}
        self._chains: dict[tuple[str, Where], Chain] = {}
        self._backends: dict[tuple[str, str], str] = {}
        for backend, held in self.rulesets.items():
            for table in held.tables:
                if backend != "legacy":
                    self._backends[table.family.value, table.name] = backend
                for chain in table.chains:
                    where = (table.family.value, table.name, chain.name)
                    self._chains[backend, where] = chain
        self._positions: dict[tuple[Where, int], int] = {}
        for family, table_name, chain_name, numbers in self.handles:
            where = (str(family), str(table_name), str(chain_name))
            assert isinstance(numbers, list)
            for position, number in enumerate(numbers, 1):
                self._positions[where, number] = position
        self._ours = {
            line.place
            for backend, held in self.rulesets.items()
            for code in prepare(backend, held)
            for chain in code.codes.values()
            for line in chain.lines
            if line.ours
        }
        #: Rules of ours as the profile makes them, by backend and place.
        self.reasons = {name: _explained(name, held) for name, held in self.rulesets.items()}
        self._known: dict[Place, TracedRule] = {}

    def place(self, met: Met) -> Place | None:
        """Where a rule that was met stands, or the place behind the last one for a policy.

        None for what the dumps do not have.
        """
        where = (met.family, met.table, met.chain)
        backend = "legacy" if met.legacy else self._backends.get((met.family, met.table), "")
        chain = self._chains.get((backend, where))
        if chain is None:
            return None
        if met.legacy:
            position = met.number
        else:
            position = self._positions.get((where, met.number), 0)
            if not met.number:
                position = len(chain.rules) + 1
        if not 1 <= position <= len(chain.rules) + 1:
            return None
        return Place(backend, Family(met.family), met.table, met.chain, position)

    def is_return(self, place: Place) -> bool:
        """Whether ``place`` is the end of a chain that is only jumped to: no rule, no policy."""
        chain = self._chain(place)
        return chain is not None and not chain.hook and place.position > len(chain.rules)

    def lets_pass(self, place: Place) -> bool:
        """Whether ``place`` is a policy that accepts."""
        chain = self._chain(place)
        return chain is not None and place.position > len(chain.rules) and chain.policy == "accept"

    def rule(self, place: Place) -> Rule | None:
        """The rule at ``place``; None for a policy."""
        chain = self._chain(place)
        if chain is None or place.position > len(chain.rules):
            return None
        return chain.rules[place.position - 1]

    def _chain(self, place: Place) -> Chain | None:
        return self._chains.get((place.backend, (place.family.value, place.table, place.chain)))

    def tell(self, place: Place) -> TracedRule:
        """The rule at ``place`` in words, and why it is there."""
        found = self._known.get(place)
        if found is None:
            found = self._known[place] = self._told(place)
        return found

    def _told(self, place: Place) -> TracedRule:
        rule, chain = self.rule(place), self._chain(place)
        if rule is None:
            policy = chain.policy if chain is not None else "?"
            return TracedRule(str(place), f"policy {policy}", place, policy=True)
        key = (place.family, place.table, place.chain, place.position)
        why = self.reasons[place.backend].get(key)
        text, source = rule_in_words(rule, place.family), _source(rule, place)
        told = TracedRule(str(place), text, place, source, ours=place in self._ours)
        if why is None:
            return told
        return replace(told, why=why.why, setting=why.setting, id=why.id, ours=True)

    def unknown(self, met: Met) -> TracedRule:
        """A rule that the dumps do not have, by what the kernel calls it."""
        what = f"rule {met.number}" if met.legacy else f"handle {met.number}"
        where = f"{met.family} {met.table} {met.chain} {what}"
        return TracedRule(where, "a rule that was not there when the rules were read")

    def tell_steps(self, steps: Iterable[Step]) -> tuple[TracedRule, ...]:
        """The rules of a walk that held, or may have."""
        return tuple(self.tell(step.place) for step in steps if step.held is not False)


def _without_traces(held: Ruleset) -> Ruleset:
    kept = tuple(table for table in held.tables if not table.name.startswith(TRACES))
    return held if len(kept) == len(held.tables) else Ruleset(kept)


def _form(backend: str) -> Form:
    return Form.NFT if backend == "nft" else Form.IPTABLES


def _explained(backend: str, held: Ruleset) -> dict[tuple[Family, str, str, int], Rule]:
    found = drift(held, _form(backend))
    return dict(found.explained) if found is not None else {}


def _source(rule: Rule, place: Place) -> str:
    """The rule in its backend's own language; "" where that has no words for it."""
    if rule.opaque:
        return rule.opaque
    try:
        if _form(place.backend) is Form.NFT:
            return nft_text.print_rule(rule, place.family)
        return iptables_rule.print_rule(rule, place.family)
    except ValueError:
        return ""
