"""Our rules in what a kernel holds, chain by chain, with their positions.

Only our chains and our rules in others are looked at: a namespace may hold tens of
thousands of foreign rules.
"""

from __future__ import annotations

from meshnet.compile.ownership import COMMENT, OWN_CHAINS, OWN_TABLES, owned_rules
from meshnet.model.frozen import dataclass
from meshnet.model.packet import Family, Field
from meshnet.model.rule import Kind, Rule
from meshnet.model.ruleset import Chain, Ruleset
from meshnet.model.spec import Form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    #: A table's family and name, and a chain of it.
    ChainPlace = tuple[Family, str, str]

#: What a rule of ours without a tag may do in a built-in chain, and what it may ask then.
_UNTAGGED = (Kind.RETURN, Kind.MARK, Kind.SAVE_MARK, Kind.RESTORE_MARK)
_UNTAGGED_RETURN = (Field.IIF, Field.OIF)


@dataclass(frozen=True)
class Holding:
    """A chain as the kernel holds it, and which of its rules are ours.

    ``ours`` and ``similar`` are positions from 0, ascending. ``similar`` are rules that nobody
    can tell from a rule of ours that has no tag; in a chain of ours there are none.
    """

    chain: Chain
    ours: tuple[int, ...]
    similar: tuple[int, ...] = ()


def find_holdings(held: Ruleset, form: Form) -> dict[ChainPlace, Holding]:
    """Every chain with something of ours in it, in the order of the dump.

    For iptables also the built-in chains beside ours: rules of ours may be missing there.
    """
    if form is Form.NFT:
        return {
            (table.family, table.name, chain.name): Holding(chain, tuple(range(len(chain.rules))))
            for table in held.tables
            if table.family is Family.INET and table.name in OWN_TABLES
            for chain in table.chains
        }
    found: dict[ChainPlace, Holding] = {}
    owned = owned_rules(held)
    concerned = {
        (t.family, t.name) for t in held.tables if any(c.name in OWN_CHAINS for c in t.chains)
    } | {place[:2] for place in owned}
    for table in held.tables:
        if (table.family, table.name) not in concerned:
            continue
        for chain in table.chains:
            place = table.family, table.name, chain.name
            if chain.name in OWN_CHAINS:
                found[place] = Holding(chain, tuple(range(len(chain.rules))))
            elif place in owned or chain.hook:
                ours = owned.get(place, frozenset())
                similar = [i for i, r in enumerate(chain.rules) if i not in ours and _similar(r)]
                found[place] = Holding(chain, tuple(sorted(ours)), tuple(similar))
    return found


def holds_any(holdings: dict[ChainPlace, Holding]) -> bool:
    """Whether anything of ours is there: a chain, be it empty, or a rule."""
    return any(
        held.ours or place[0] is Family.INET or place[2] in OWN_CHAINS
        for place, held in holdings.items()
    )


def _similar(rule: Rule) -> bool:
    if rule.target is None or rule.target.kind not in _UNTAGGED or rule.opaque:
        return False
    if rule.comment and not rule.comment.startswith(COMMENT):
        return False
    return rule.target.kind is not Kind.RETURN or any(
        match.field in _UNTAGGED_RETURN for match in rule.matches
    )


def key_of(rule: Rule) -> Any:
    """What two rules have in common that do the same: plain values, quick to hash.

    Neither comments nor the order of matches is a difference.
    """
    target = rule.target
    done = target and (
        target.kind, target.chain, target.port, target.mark, target.mask, target.zone
    )  # fmt: skip
    asked = [(m.field, tuple(m.values), m.negated, m.mask, m.absent) for m in rule.matches]
    return done, rule.opaque, rule.family, len(asked), frozenset(asked)


def keys_of(rules: Iterable[Rule]) -> list[Any]:
    """The key of each rule."""
    return [key_of(rule) for rule in rules]
