"""Edits of iptables tables, for both variants: what to flush, fill, put in, take out.

Pure. An edit is of one table and is committed at once. Our chains are flushed and
filled only where they differ; in chains that are not ours, our rules are replaced in
place, and every other rule keeps its own.
"""

from __future__ import annotations

from meshnet.compile.ownership import COMMENT, OWN_CHAINS, owned_rules
from meshnet.dialects.iptables_rule import print_rule
from meshnet.model.frozen import dataclass, replace
from meshnet.model.packet import Family
from meshnet.model.rule import Kind, Rule
from meshnet.model.ruleset import Chain, Ruleset, Table


@dataclass(frozen=True)
class Edit:
    """One line of an edit. ``verb``: flush (or create), append, insert, delete, drop.

    ``position`` counts from 1. A delete says the rule where it is the first like it in
    its chain, so that a table that changed meanwhile refuses; else the position alone.
    """

    verb: str
    chain: str
    rule: Rule | None = None
    position: int = 0


@dataclass(frozen=True)
class TableEdit:
    """All edits of one table; never empty."""

    family: Family
    table: str
    edits: tuple[Edit, ...]


def plan_edits(held: Ruleset, wanted: Ruleset) -> tuple[TableEdit, ...]:
    """What turns ``held`` (whole dumps) into ``wanted`` (only ours), in the order to commit.

    Empty where nothing has to change. Where the result could not be told from rules that
    were there before, ours get comments.
    """
    edits = _plan(held, wanted)
    if edits and _is_ambiguous(held, wanted):
        edits = _plan(held, with_comments(wanted))
    return edits


def with_comments(ruleset: Ruleset) -> Ruleset:
    """``ruleset`` with each rule's id as its comment, where it has none."""
    return Ruleset(
        tuple(
            replace(
                table,
                chains=tuple(
                    replace(c, rules=tuple(_commented(r) for r in c.rules)) for c in table.chains
                ),
            )
            for table in ruleset.tables
        )
    )


def _commented(rule: Rule) -> Rule:
    return rule if rule.comment else replace(rule, comment=f"{COMMENT}{rule.id}")


def commit_order(held: Ruleset, wanted: Ruleset, family: Family) -> tuple[str, ...]:
    """The order of tables, so that capture never pauses between two commits.

    Where nothing of ours is there yet, nothing can pause: then it is the order of Istio's
    tool, which a listing of nf_tables shows.

    Zones before the redirects that need them; a table that takes over before the one
    that gives up: mangle before nat where TPROXY takes inbound connections, after it
    where REDIRECT does; refusals before nat lets go of IPv6, and gone after nat has it.
    When all goes, mangle goes first: nat's chains tell which of its rules are ours.
    """
    if not any(c.name in OWN_CHAINS for t in held.of(family).tables for c in t.chains):
        return ("mangle", "nat", "raw", "filter")
    if not wanted.of(family).tables:
        return ("mangle", "nat", "filter", "raw")
    mangle = wanted.table(family, "mangle")
    tproxy = mangle is not None and any(
        rule.target is not None and rule.target.kind is Kind.TPROXY
        for chain in mangle.chains
        for rule in chain.rules
    )
    first = [t for t in ("raw", "filter") if wanted.table(family, t)]
    last = [t for t in ("filter", "raw") if t not in first]
    middle = ["mangle", "nat"] if tproxy else ["nat", "mangle"]
    return (*first, *middle, *last)


def _plan(held: Ruleset, wanted: Ruleset) -> tuple[TableEdit, ...]:
    ours = owned_rules(held)
    found = []
    for family in (Family.IP, Family.IP6):
        for name in commit_order(held, wanted, family):
            edits = _plan_table(
                held.table(family, name) or Table(family, name),
                wanted.table(family, name) or Table(family, name),
                {c: p for (f, t, c), p in ours.items() if (f, t) == (family, name)},
            )
            if edits:
                found.append(TableEdit(family, name, tuple(edits)))
    return tuple(found)


def _plan_table(held: Table, wanted: Table, ours: dict[str, frozenset[int]]) -> list[Edit]:
    flushes, fills, changes, drops = [], [], [], []
    for chain in wanted.chains:
        if chain.name not in OWN_CHAINS:
            continue
        now = held.chain(chain.name)
        if now is None or not _same(now.rules, chain.rules):
            flushes.append(Edit("flush", chain.name))
            fills += [Edit("append", chain.name, rule) for rule in chain.rules]
    for chain in held.chains:
        if chain.name in OWN_CHAINS:
            if wanted.chain(chain.name) is None:
                flushes.append(Edit("flush", chain.name))
                drops.append(Edit("drop", chain.name))
        else:
            target = wanted.chain(chain.name)
            changes += _change_chain(chain, ours.get(chain.name, frozenset()), target)
    for chain in wanted.chains:
        if chain.name not in OWN_CHAINS and held.chain(chain.name) is None:
            changes += _change_chain(Chain(chain.name), frozenset(), chain)
    return [*flushes, *fills, *changes, *drops]


def _same(one: tuple[Rule, ...], other: tuple[Rule, ...]) -> bool:
    return len(one) == len(other) and all(a.same(b) for a, b in zip(one, other, strict=True))


def _change_chain(held: Chain, ours: frozenset[int], wanted: Chain | None) -> list[Edit]:
    """Replace our rules in a chain that is not ours; foreign ones keep their order and place."""
    rules = wanted.rules if wanted else ()
    now = [held.rules[i] for i in sorted(ours)]
    if _same(tuple(now), rules):
        return []
    edits = [_deletion(held, position) for position in sorted(ours, reverse=True)]
    heads = [r for r in rules if r.head]
    tails = [r for r in rules if not r.head]
    edits += [Edit("insert", held.name, rule, at) for at, rule in enumerate(heads, 1)]
    foreign_before = _foreign_before(held, ours, len(heads))
    if foreign_before is None:
        edits += [Edit("append", held.name, rule) for rule in tails]
    else:
        start = len(heads) + foreign_before
        edits += [Edit("insert", held.name, r, start + n + 1) for n, r in enumerate(tails)]
    return edits


def _foreign_before(held: Chain, ours: frozenset[int], heads: int) -> int | None:
    """How many foreign rules stand before our appended ones; None where they are to be appended."""
    jumps = [i for i in ours if not _looks_like_head(held.rules[i])]
    if not jumps:
        return None
    first = min(jumps)
    before = sum(1 for i in range(first) if i not in ours)
    foreign = len(held.rules) - len(ours)
    return None if before == foreign else before


def _looks_like_head(rule: Rule) -> bool:
    """Rules for virtual interfaces go in front: they jump to the outbound side, or return."""
    target = rule.target
    chain = target.chain if target else ""
    return bool(rule.matches) and chain in ("ISTIO_REDIRECT", "MESHNET_VIRTUAL", "")


def _deletion(held: Chain, position: int) -> Edit:
    rule = held.rules[position]
    twin = any(held.rules[i].same(rule) for i in range(position))
    return Edit("delete", held.name, None if twin else rule, position + 1)


def _is_ambiguous(held: Ruleset, wanted: Ruleset) -> bool:
    """Whether, once applied, our rules could not be told from those that were there before."""
    ours = owned_rules(held)
    result, places = [], {}
    for family in (Family.IP, Family.IP6):
        for name in ("raw", "mangle", "nat", "filter"):
            table, found = _merge(
                held.table(family, name) or Table(family, name),
                wanted.table(family, name) or Table(family, name),
                {c: p for (f, t, c), p in ours.items() if (f, t) == (family, name)},
            )
            result.append(table)
            places.update({(family, name, c): p for c, p in found.items()})
    return owned_rules(Ruleset(tuple(result))) != {k: v for k, v in places.items() if v}


def _merge(
    held: Table, wanted: Table, ours: dict[str, frozenset[int]]
) -> tuple[Table, dict[str, frozenset[int]]]:
    """The table after its edits, and where in it our rules stand."""
    chains, places = [], {}
    names = dict.fromkeys([c.name for c in held.chains] + [c.name for c in wanted.chains])
    for name in names:
        now = held.chain(name) or Chain(name)
        target = wanted.chain(name)
        if name in OWN_CHAINS:
            chains += [target] if target else []
            continue
        rules = list(now.rules)
        marks = [i in ours.get(name, frozenset()) for i in range(len(rules))]
        for edit in _change_chain(now, ours.get(name, frozenset()), target):
            at = len(rules) if edit.verb == "append" else edit.position - 1
            if edit.verb == "delete":
                del rules[at], marks[at]
            elif edit.rule is not None:
                rules.insert(at, edit.rule)
                marks.insert(at, True)
        chains.append(replace(now, rules=tuple(rules)))
        places[name] = frozenset(i for i, own in enumerate(marks) if own)
    return replace(held, chains=tuple(chains)), places


def print_edits(edits: tuple[TableEdit, ...], family: Family) -> str:
    """The edits of ``family`` as input for iptables-restore --noflush; "" where there are none."""
    lines: list[str] = []
    for table in edits:
        if table.family is not family:
            continue
        lines.append(f"*{table.table}")
        lines += [_print_edit(edit, family) for edit in table.edits]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def _print_edit(edit: Edit, family: Family) -> str:
    rule = "" if edit.rule is None else print_rule(edit.rule, family)
    if edit.verb == "flush":
        return f":{edit.chain} - [0:0]"
    if edit.verb == "append":
        return f"-A {edit.chain} {rule}".rstrip()
    if edit.verb == "insert":
        return f"-I {edit.chain} {edit.position} {rule}".rstrip()
    if edit.verb == "delete":
        return f"-D {edit.chain} {rule or edit.position}".rstrip()
    return f"-X {edit.chain}"
