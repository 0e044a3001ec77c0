"""From a draft to the tables of a rule language: names, families, and what a match can hold."""

from __future__ import annotations

from meshnet.compile.draft import HOOKS, TABLES, Draft
from meshnet.model.address import cidrs_of_span
from meshnet.model.frozen import replace
from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.match import Match
from meshnet.model.packet import Family, Field
from meshnet.model.rule import Kind, Rule, Target
from meshnet.model.ruleset import Chain, Ruleset, Table
from meshnet.model.spec import CaptureSpec, Form, Profile

PRIORITIES = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0}
#: iptables' multiport takes fifteen ports, a range counts twice (net/netfilter/xt_multiport.c).
MULTIPORT_SLOTS = 15
#: The order of tables and chains in Istio's native nft program: a listing shows it.
NFT_TABLES = ("nat", "mangle", "raw", "filter")
_NFT_CHAINS = (
    *("prerouting", "input", "forward", "divert", "tproxy", "virtual", "inbound"),
    *("redirect", "in-redirect", "output", "application"),
    *("output-dns", "dns", "dns-answers", "drop"),
)
_OWNER = (Field.UID, Field.GID)
_WIDE = (Field.SRC, Field.DST, Field.UID, Field.GID)
#: The order in which iptables prints extensions; address, interface, protocol come before them.
_ORDER = (
    *(Field.SRC, Field.DST, Field.IIF, Field.OIF, Field.PROTO, Field.SPORT, Field.DPORT),
    *(Field.CTSTATE, Field.MARK, Field.CTMARK, Field.UID, Field.GID),
)


def lower(draft: Draft, spec: CaptureSpec, form: Form) -> Ruleset:
    """The draft as a concrete ruleset. Chains without a rule are left out, and jumps to them."""
    if form is Form.NFT:
        prefix = "meshnet" if spec.profile is Profile.STRICT else "istio-proxy"
        tables = (_nft_table(draft, spec, name, f"{prefix}-{name}") for name in NFT_TABLES)
    else:
        tables = (
            _iptables_table(draft, name, family) for family in spec.families for name in TABLES
        )
    return Ruleset(tuple(table for table in tables if table.chains))


def nft_name(chain: str) -> str:
    """How a chain is called in native nft: ``ISTIO_IN_REDIRECT`` is ``istio-in-redirect``."""
    return chain.lower().replace("_", "-")


def _nft_table(draft: Draft, spec: CaptureSpec, table: str, name: str) -> Table:
    wanted = {
        chain: tuple(r for r in rules if r.family is None or r.family in spec.families)
        for (owner, chain), rules in draft.chains.items()
        if owner == table
    }
    chains = []
    for chain, rules in _without_jumps_to_nothing(wanted).items():
        hook = HOOKS.get(chain, "")
        kind = "" if not hook else _chain_kind(table, hook)
        priority = PRIORITIES[table] if hook else 0
        lowered = tuple(_nft_rule(rule) for rule in rules)
        chains.append(Chain(nft_name(chain), lowered, kind, hook, priority))
    ordered = sorted(chains, key=_listing_order)
    return Table(Family.INET, name, tuple(ordered))


def _listing_order(chain: Chain) -> tuple[bool, int]:
    name = chain.name if chain.hook else chain.name.partition("-")[2]
    return not chain.hook, _NFT_CHAINS.index(name)


def _chain_kind(table: str, hook: str) -> str:
    if table == "nat":
        return "nat"
    return "route" if table == "mangle" and hook == "output" else "filter"


def _says_nothing(match: Match, family: Family | None = None) -> bool:
    """Whether every packet that has the field passes: the kernel's dump leaves that out.

    Addresses of both families are asked about only where the ``family`` is known.
    """
    bits = match.field.bits
    if match.field in (Field.SRC, Field.DST):
        bits = {None: 0, Family.IP: 32}.get(family, 128)
    elif match.field not in (Field.SPORT, Field.DPORT):
        return False
    whole = IntervalSet.of((0, (1 << bits) - 1))
    return bits > 0 and not match.negated and match.values == whole


def _nft_rule(rule: Rule) -> Rule:
    matches = tuple(replace(m, absent=False) for m in rule.matches if not _says_nothing(m))
    return replace(rule, matches=matches, target=_renamed(rule.target))


def _renamed(target: Target | None) -> Target | None:
    if target is not None and target.chain:
        return replace(target, chain=nft_name(target.chain))
    return target


def _iptables_table(draft: Draft, table: str, family: Family) -> Table:
    lowered = {
        chain: tuple(
            part
            for rule in rules
            if rule.family in (None, family)
            for part in _iptables_rules(rule, family)
        )
        for (owner, chain), rules in draft.chains.items()
        if owner == table
    }
    chains = _without_jumps_to_nothing(lowered)
    return Table(
        family,
        table,
        tuple(Chain(name, rules, hook=HOOKS.get(name, "")) for name, rules in chains.items()),
    )


def _without_jumps_to_nothing(chains: dict[str, tuple[Rule, ...]]) -> dict[str, tuple[Rule, ...]]:
    """Chains without a rule left out, and with them the jumps there, which would do nothing."""
    while True:
        kept = {
            name: tuple(
                r for r in rules if not (r.target and r.target.chain) or chains.get(r.target.chain)
            )
            for name, rules in chains.items()
        }
        kept = {name: rules for name, rules in kept.items() if rules}
        if kept == chains:
            return kept
        chains = kept


def _iptables_rules(rule: Rule, family: Family) -> list[Rule]:
    """One rule, or several where iptables has no set: their matches are disjoint, so one acts."""
    variants: list[list[Match]] = [[]]
    speaking = [m for m in rule.matches if not _says_nothing(m, family)]
    for match in sorted(speaking, key=lambda m: _ORDER.index(m.field)):
        parts = _iptables_matches(match, family)
        variants = [[*head, part] for head in variants for part in parts]
    return [replace(rule, matches=tuple(v), family=None) for v in variants]


def _iptables_matches(match: Match, family: Family) -> list[Match]:
    if match.field in _OWNER and match.negated:
        match = replace(match, absent=True)
    if match.field in (Field.IIF, Field.OIF) and not match.negated:
        return [replace(match, values=NameSet.of(str(name))) for name in match.values]
    if not isinstance(match.values, IntervalSet) or match.negated:
        return [match]
    if match.field in (Field.SPORT, Field.DPORT):
        return [replace(match, values=chunk) for chunk in _multiport_chunks(match.values)]
    if match.field is Field.PROTO:
        numbers = [n for first, last in match.values for n in range(first, last + 1)]
        return [replace(match, values=IntervalSet.of(n)) for n in numbers]
    if match.field in _WIDE:
        return [replace(match, values=part) for part in _single_terms(match, family)]
    return [match]


def _single_terms(match: Match, family: Family) -> list[IntervalSet]:
    """One set for each interval of owners; for addresses, one for each block."""
    spans = match.values.spans if isinstance(match.values, IntervalSet) else ()
    if match.field in _OWNER:
        return [IntervalSet.of(span) for span in spans]
    return [c.values() for first, last in spans for c in cidrs_of_span(family, first, last)]


def _multiport_chunks(values: IntervalSet) -> list[IntervalSet]:
    chunks: list[list[tuple[int, int]]] = [[]]
    room = MULTIPORT_SLOTS
    for first, last in values:
        cost = 1 if first == last else 2
        if cost > room:
            chunks.append([])
            room = MULTIPORT_SLOTS
        chunks[-1].append((first, last))
        room -= cost
    return [IntervalSet.of(*chunk) for chunk in chunks]


def is_chain_jump(rule: Rule, names: frozenset[str]) -> bool:
    """Whether ``rule`` goes to one of the chains ``names``."""
    return (
        rule.target is not None
        and rule.target.kind in (Kind.JUMP, Kind.GOTO)
        and rule.target.chain in names
    )
