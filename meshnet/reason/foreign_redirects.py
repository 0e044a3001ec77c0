"""Redirects that are not ours: who else hands connections to a port of this namespace."""

from __future__ import annotations

from meshnet.errors import printable
from meshnet.model.frozen import dataclass
from meshnet.model.match import PROTO_NAMES
from meshnet.model.packet import UDP, Family, Field
from meshnet.model.rule import Kind, Rule, Target
from meshnet.model.spec import DNS_PORT
from meshnet.reason.effects import Beyond, Effect
from meshnet.reason.findings.reached import Standing, captures, standings
from meshnet.reason.findings.readable import read_rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meshnet.model.match import Match
    from meshnet.model.ruleset import Ruleset

#: What rules that the model has no words for say where they change a destination.
_WORDS = ("REDIRECT", "TPROXY", "DNAT", "redirect", "tproxy", "dnat")
_DIRECTIONS = {"output": "outbound", "prerouting": "inbound"}


@dataclass(frozen=True)
class ForeignRedirect:
    """A foreign rule that hands connections to a local port.

    ``what`` are words for what it asks ("tcp 80"), ``to`` for where it leads (":3128");
    ``port`` is 0 where it is not known. ``where`` names the rule.
    """

    direction: str
    families: tuple[Family, ...]
    what: str
    to: str
    port: int
    where: str


def foreign_redirects(rulesets: Mapping[str, Ruleset]) -> Iterator[ForeignRedirect]:
    """Every foreign redirect that a packet can come to, in the order of the dumps.

    DNAT counts where its address is loopback's. A rule that is reached from both hooks is
    told for both directions; DNS is a direction of its own.
    """
    for standing in standings(rulesets):
        if standing.ours or not standing.hooks:
            continue
        for at, rule in enumerate(standing.chain.rules):
            if _may_redirect(rule) and not standing.owns(at):
                yield from _of_rule(standing, at, rule)


def _may_redirect(rule: Rule) -> bool:
    return captures(rule) or any(word in rule.opaque for word in _WORDS)


def _of_rule(standing: Standing, at: int, rule: Rule) -> Iterator[ForeignRedirect]:
    matches, effects, family = read_rule(standing, rule)
    found = next((to for to in map(_local_port, effects) if to is not None), None)
    if found is None:
        return
    to, port = found
    own = family or standing.table.family
    families = (Family.IP, Family.IP6) if own is Family.INET else (own,)
    where = f"{standing.backend} {standing.table.name} {standing.chain.name} {at + 1}"
    asks = [m.values.only() for m in matches if m.field is Field.DPORT and not m.negated]
    protocols = [m.values.only() for m in matches if m.field is Field.PROTO and not m.negated]
    directions = [_DIRECTIONS[hook] for hook in sorted(standing.hooks) if hook in _DIRECTIONS]
    if asks == [DNS_PORT]:
        directions = ["dns"] if directions else []
    elif protocols == [UDP]:
        return
    for direction in directions:
        yield ForeignRedirect(direction, families, _words(matches), to, port, printable(where, 60))


def _local_port(effect: Effect) -> tuple[str, int] | None:
    """Where an effect hands connections to in this namespace, in words and as a port."""
    if isinstance(effect, Target):
        if effect.kind not in (Kind.REDIRECT, Kind.TPROXY):
            return None
        return (f":{effect.port}" if effect.port else "this pod", effect.port)
    port = effect.port or 0
    if effect.what is Beyond.REDIRECT:
        return ("some ports", 0)
    if effect.what is Beyond.HAND:
        return (f":{port}", port)
    loopback = effect.address is not None and (effect.address >> 24 == 127 or effect.address == 1)
    if effect.what is Beyond.DNAT and loopback:
        return (f"loopback:{port}" if port else "loopback", port)
    return None


def _words(matches: tuple[Match, ...]) -> str:
    """The protocol and the ports; "all" where a rule asks for none."""
    said = []
    for field in (Field.PROTO, Field.DPORT):
        for match in matches:
            if match.field is field:
                said.append(_value(match))
    return " ".join(said) or "all"


def _value(match: Match) -> str:
    number = match.values.only()
    if not isinstance(number, int) or match.negated:
        return "some ports" if match.field is Field.DPORT else "some"
    return str(number) if match.field is Field.DPORT else PROTO_NAMES.get(number, str(number))
