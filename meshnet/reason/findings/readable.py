"""What an opaque rule asks and does, as far as it can be read."""

from __future__ import annotations

from meshnet.model.packet import Family
from meshnet.model.rule import Rule
from meshnet.reason.effects import Beyond, Effect, Foreign
from meshnet.reason.foreign_iptables import read_text
from meshnet.reason.foreign_nft import Statements

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.match import Match
    from meshnet.reason.findings.reached import Standing


def read_rule(
    standing: Standing, rule: Rule
) -> tuple[tuple[Match, ...], list[Effect], Family | None]:
    """Matches, effects, and the family that the rule is narrowed to.

    Conditions that cannot be read are left out: the packets are those at the most.
    """
    if not rule.opaque:
        return rule.matches, [rule.target] if rule.target else [], rule.family
    if standing.backend != "nft":
        matches, _, effects = read_text(rule, standing.table.family, standing.names)
        return tuple(matches), effects, None
    reader = Statements(standing.table.family)
    reader.read(rule)
    return tuple(reader.matches), reader.effects, reader.family


def translates(effects: list[Effect]) -> bool:
    """Whether one of the effects gives the packet another destination."""
    return any(isinstance(e, Foreign) and e.what is Beyond.DNAT for e in effects)
