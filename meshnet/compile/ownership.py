"""Which rules of a dump are ours.

Chains are ours by name. In chains that are not ours, a rule that goes to one of them is
ours; so is one that bears a comment of ours. What Istio puts into built-in chains
without a tag (an interface's RETURN, marks of TPROXY) is ours only in the shape that the
spec decompiled from our chains emits: one instance of each, the last one where it was
appended and the first one where it was put in front, so that a foreign twin keeps its place.
"""

from __future__ import annotations

from meshnet.compile.draft import Draft
from meshnet.compile.istio_tproxy import add_marks
from meshnet.compile.lowering import is_chain_jump, lower
from meshnet.model.address import cidr_of_span
from meshnet.model.frozen import replace
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match
from meshnet.model.packet import Family, Field
from meshnet.model.rule import RETURN, Kind, Rule, Target
from meshnet.model.ruleset import Chain, Ruleset, Table
from meshnet.model.spec import OUTBOUND_MARK, CaptureSpec, Form, Inbound, IPv6

OWN_CHAINS = frozenset(
    f"ISTIO_{name}"
    for name in [
        "INBOUND",
        "REDIRECT",
        "IN_REDIRECT",
        "OUTPUT",
        "OUTPUT_DNS",
        "DIVERT",
        "TPROXY",
        "DROP",
    ]
) | frozenset(
    f"MESHNET_{name}"
    for name in [
        "INBOUND",
        "REDIRECT",
        "IN_REDIRECT",
        "OUTPUT",
        "APPLICATION",
        "VIRTUAL",
        "DNS",
        "DNS_ANSWERS",
        "DIVERT",
        "TPROXY",
        "DROP",
    ]
)
OWN_TABLES = frozenset(
    f"{prefix}-{table}"
    for prefix in ("istio-proxy", "meshnet")
    for table in ("nat", "mangle", "raw", "filter")
)
COMMENT = "meshnet:"
_OUTBOUND = Target(Kind.MARK, mark=OUTBOUND_MARK)

Place = tuple[Family, str, str]


def owned_rules(dump: Ruleset) -> dict[Place, frozenset[int]]:
    """For each chain that is not ours the positions (from 0) of our rules; none, no entry."""
    found: dict[Place, set[int]] = {}
    tagged = _tagged_tables(dump)
    for table in dump.tables:
        for chain in table.chains:
            if chain.name in OWN_CHAINS:
                continue
            for position, rule in enumerate(chain.rules):
                ours = table in tagged and rule.comment.startswith(COMMENT)
                if ours or is_chain_jump(rule, OWN_CHAINS):
                    found.setdefault((table.family, table.name, chain.name), set()).add(position)
    for family in (Family.IP, Family.IP6):
        _add_untagged(dump, family, tagged, found)
    return {place: frozenset(positions) for place, positions in found.items() if positions}


def _tagged_tables(dump: Ruleset) -> list[Table]:
    """The tables that were written with comments: each is one commit, so all of it or nothing."""
    return [
        table
        for table in dump.tables
        if any(
            rule.comment.startswith(COMMENT)
            for chain in table.chains
            if chain.name in OWN_CHAINS
            for rule in chain.rules
        )
    ]


def own_part(dump: Ruleset) -> Ruleset:
    """Our chains, and our rules in other chains, as a ruleset that could be wanted again."""
    ours = owned_rules(dump)
    tables = []
    for table in dump.tables:
        chains = []
        for chain in table.chains:
            positions = ours.get((table.family, table.name, chain.name), frozenset())
            if chain.name in OWN_CHAINS:
                chains.append(chain)
            elif positions:
                rules = tuple(_with_head(chain, i) for i in sorted(positions))
                chains.append(replace(chain, rules=rules))
        if chains:
            tables.append(replace(table, chains=tuple(chains)))
    return Ruleset(tuple(tables))


def _with_head(chain: Chain, position: int) -> Rule:
    """The rule, marked as one that goes in front where nothing but such rules precede it."""
    virtual = frozenset({"ISTIO_REDIRECT", "MESHNET_VIRTUAL"})
    rule = chain.rules[position]
    in_front = chain.name == "PREROUTING" and bool(rule.matches)
    return replace(rule, head=in_front and is_chain_jump(rule, virtual))


def has_own(dump: Ruleset) -> bool:
    """Whether the dump holds anything of ours."""
    return any(c.name in OWN_CHAINS for t in dump.tables for c in t.chains) or bool(
        owned_rules(dump)
    )


def _add_untagged(
    dump: Ruleset, family: Family, tagged: list[Table], found: dict[Place, set[int]]
) -> None:
    for table, chain, expected, head in _expected(dump, family, tagged):
        place = dump.table(family, table)
        actual = place.chain(chain) if place else None
        if actual is None or place in tagged:
            continue
        positions = found.setdefault((family, table, chain), set())
        order = range(len(actual.rules))
        for rule in expected:
            for at in order if head else reversed(order):
                if at not in positions and actual.rules[at].same(rule):
                    positions.add(at)
                    break


def _expected(
    dump: Ruleset, family: Family, tagged: list[Table]
) -> list[tuple[str, str, list[Rule], bool]]:
    """(table, chain, rules, whether in front) that the decompiled spec puts untagged."""
    shapes: list[tuple[str, str, list[Rule], bool]] = []
    nat = dump.table(family, "nat")
    mangle = dump.table(family, "mangle")
    # Either table may be gone already: a removal was killed between two commits.
    tables = ["nat"] if nat is not None and nat.chain("ISTIO_OUTPUT") is not None else []
    spec = decompile_tproxy(nat or Table(family, "nat"), mangle)
    if spec is not None:
        shapes += _mark_shapes(spec, family)
        tables.append("mangle")
    if not tables:
        return shapes
    tables = [name for name in tables if dump.table(family, name) not in tagged]
    skipped = _excluded_interfaces([dump.table(family, t) for t in tables])
    for table in tables:
        shapes.append((table, "PREROUTING", [_by(Field.IIF, n) for n in skipped], False))
        shapes.append((table, "OUTPUT", [_by(Field.OIF, n) for n in skipped], False))
    virtual = [_by(Field.IIF, n) for n in _virtual_interfaces(dump)]
    shapes.append(("nat", "PREROUTING", virtual, True))
    return shapes


def _by(field: Field, name: str) -> Rule:
    from meshnet.model.intervals import NameSet

    return Rule((Match(field, NameSet.of(name)),), RETURN)


def _mark_shapes(spec: CaptureSpec, family: Family) -> list[tuple[str, str, list[Rule], bool]]:
    draft = Draft()
    add_marks(draft, spec, Form.IPTABLES)
    table = lower(draft, spec, Form.IPTABLES).table(family, "mangle")
    chains = [c for c in table.chains if c.name not in OWN_CHAINS] if table else []
    return [("mangle", c.name, list(c.rules), False) for c in chains]


def decompile_tproxy(nat: Table, mangle: Table | None) -> CaptureSpec | None:
    """As much of the spec as TPROXY's marks follow from; None where TPROXY is not used."""
    inbound = mangle.chain("ISTIO_INBOUND") if mangle else None
    if inbound is None:
        return None
    marks = [
        m.values.only()
        for rule in inbound.rules
        for m in rule.matches
        if m.field is Field.MARK and not m.negated
    ]
    if not marks:
        return None
    output = nat.chain("ISTIO_OUTPUT") or Chain("ISTIO_OUTPUT")
    calls = [
        rule
        for rule in output.rules
        if rule.target
        and rule.target.kind is Kind.JUMP
        and rule.target.chain == "ISTIO_IN_REDIRECT"
    ]
    marked = [r for r in _rules_of(mangle, "OUTPUT") if r.target == _OUTBOUND]
    calls = calls or marked
    spec = CaptureSpec(
        uids=_owners(calls, Field.UID),
        gids=_owners(calls, Field.GID),
        inbound=Inbound.TPROXY,
        tproxy_mark=int(marks[0] or 0),
        ipv6=IPv6.CAPTURE,
    )
    away = [m.values for r in calls for m in r.matches if m.field is Field.DST and m.negated]
    if nat.family is Family.IP and away and isinstance(away[0], IntervalSet):
        cidr = cidr_of_span(Family.IP, *away[0].spans[0])
        spec = replace(spec, loopback=cidr or spec.loopback)
    return spec


def _rules_of(table: Table | None, name: str) -> tuple[Rule, ...]:
    chain = table.chain(name) if table else None
    return chain.rules if chain else ()


def _owners(rules: list[Rule], field: Field) -> tuple[tuple[int, int], ...]:
    return tuple(
        m.values.spans[0]
        for rule in rules
        for m in rule.matches
        if m.field is field and isinstance(m.values, IntervalSet)
    )


def _excluded_interfaces(tables: list[Table | None]) -> list[str]:
    """The names that stand right before our jumps, and together in every other chain too.

    The rules are Istio's, and name the interface nowhere else; so their place tells. A
    chain that has a jump of ours must have them right before it; one that has none must
    have them somewhere, one behind the other.
    """
    beside: list[list[str]] = []
    anywhere: list[list[list[str]]] = []
    for table in tables:
        for name, field, jump in (
            ("OUTPUT", Field.OIF, "ISTIO_OUTPUT"),
            ("PREROUTING", Field.IIF, "ISTIO_INBOUND"),
        ):
            chain = (table.chain(name) if table else None) or Chain(name)
            if any(is_chain_jump(rule, frozenset({jump})) for rule in chain.rules):
                beside.append(_run_before_jump(chain, field, jump))
            else:
                anywhere.append(_runs(chain, field))
    best = beside[0] if beside else []
    while best and not (
        all(run[-len(best) :] == best for run in beside)
        and all(any(_holds_run(run, best) for run in runs) for runs in anywhere)
    ):
        best = best[1:]
    return best


def _interface(rule: Rule, field: Field) -> str | None:
    if rule.target != RETURN or len(rule.matches) != 1 or rule.comment:
        return None
    match = rule.matches[0]
    only = match.values.only()
    return only if match.field is field and not match.negated and isinstance(only, str) else None


def _run_before_jump(chain: Chain, field: Field, to: str) -> list[str]:
    """The names of interface RETURNs that stand right before the first jump to ``to``.

    A jump of invalid packets to our drop chain may stand between.
    """
    run: list[str] = []
    for rule in chain.rules:
        name = _interface(rule, field)
        if name is not None:
            run.append(name)
        elif is_chain_jump(rule, frozenset({to})):
            return run
        elif not is_chain_jump(rule, frozenset({"ISTIO_DROP"})):
            run = []
    return []


def _runs(chain: Chain, field: Field) -> list[list[str]]:
    """The names of every run of interface RETURNs."""
    runs: list[list[str]] = [[]]
    for rule in chain.rules:
        name = _interface(rule, field)
        if name is not None:
            runs[-1].append(name)
        elif runs[-1]:
            runs.append([])
    return runs


def _holds_run(run: list[str], part: list[str]) -> bool:
    return any(run[i : i + len(part)] == part for i in range(len(run) - len(part) + 1))


def _virtual_interfaces(dump: Ruleset) -> list[str]:
    """Interfaces whose inbound traffic goes to our outbound redirect, in either family."""
    names = []
    for family in (Family.IP, Family.IP6):
        nat = dump.table(family, "nat")
        chain = nat.chain("PREROUTING") if nat else None
        for rule in chain.rules if chain else ():
            if is_chain_jump(rule, frozenset({"ISTIO_REDIRECT"})):
                names += [str(m.values.only()) for m in rule.matches if m.field is Field.IIF]
    return list(dict.fromkeys(names))
