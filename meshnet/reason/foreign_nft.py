"""What can be said of a rule that the nft dialect keeps as JSON statements."""

from __future__ import annotations

from meshnet.dialects.nft_expr import read_rule
from meshnet.model.address import read_address
from meshnet.model.match import Match
from meshnet.model.packet import Family, Field
from meshnet.model.rule import Kind, Rule, Target
from meshnet.reason.effects import Beyond, Effect, Foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Statements that go on and change nothing that rules here ask about.
_HARMLESS = frozenset(
    ("counter", "log", "continue", "dup", "flow", "last", "secmark", "ct helper", "ct timeout")
)
_HARMLESS |= {"ct expectation"}
#: Statements that may end the rule, by a count, a rate or a set that is full.
_DOUBTFUL = frozenset(("limit", "quota", "ct count", "connlimit", "set", "map", "meter"))
_PAYLOAD = {"saddr": Field.SRC, "daddr": Field.DST, "sport": Field.SPORT, "dport": Field.DPORT}


class Statements:
    """Reads the statements of one opaque rule from left to right."""

    def __init__(self, table: Family) -> None:
        self.table = table
        self.family: Family | None = None
        self.matches: list[Match] = []
        self.doubts: list[str] = []
        self.effects: list[Effect] = []

    def read(self, rule: Rule) -> None:
        """Fill in what ``rule`` says; what is not understood is a doubt, or may do anything."""
        import json

        try:
            statements = json.loads(rule.opaque)
            for statement in statements:
                ((name, body),) = statement.items()
                text = f"{name} {json.dumps(body)}" if body is not None else name
                if not self._read(name, body, statement, text):
                    return
        except (ValueError, TypeError, KeyError, AttributeError):
            self._give_up(rule.opaque)

    def _give_up(self, text: str) -> None:
        self.effects.append(Foreign(Beyond.ANYTHING, text))

    def _read(self, name: str, body: Any, statement: dict[str, Any], text: str) -> bool:
        """Read one statement; False where nothing can be said of those behind it."""
        condition = name == "match" or name in _DOUBTFUL
        if condition and self.effects:
            self._give_up(text)
            return False
        if name in _HARMLESS:
            return True
        if name in _DOUBTFUL:
            self.doubts.append(text)
            return True
        known = read_rule([statement], self.table)
        if name == "match":
            self._condition(known, text)
        elif known.opaque or known.target is None:
            self.effects += self._effects(name, body, text)
        elif known.target.kind is Kind.TPROXY:
            self.effects.append(Foreign(Beyond.HAND, text, port=known.target.port))
        else:
            self.effects.append(known.target)
        return True

    def _condition(self, known: Rule, text: str) -> None:
        if known.opaque or (self.family and known.family not in (None, self.family)):
            self.doubts.append(text)
            return
        self.family = self.family or known.family
        self.matches += known.matches

    def _effects(self, name: str, body: Any, text: str) -> list[Effect]:
        if name == "mangle":
            return self._mangle(body["key"], text)
        if name == "notrack":
            return [Foreign(Beyond.NOTRACK, text)]
        if name == "dnat":
            return [_dnat(body, text)]
        if name in ("snat", "masquerade"):
            return [Foreign(Beyond.SNAT, text, family=_family(body))]
        if name == "redirect":
            if isinstance(body, dict) and "port" in body:
                return [Foreign(Beyond.REDIRECT, text)]
            return [Target(Kind.REDIRECT, port=0)]
        if name == "reject":
            return [Target(Kind.REJECT)]
        if name == "queue":
            return [Foreign(Beyond.QUEUE, text)]
        if name == "tproxy" and isinstance(body, dict) and isinstance(body.get("port"), int):
            return [Foreign(Beyond.HAND, text, port=body["port"])]
        return [Foreign(Beyond.ANYTHING, text)]

    def _mangle(self, key: Any, text: str) -> list[Effect]:
        ((kind, what),) = key.items()
        if kind == "meta":
            return [Foreign(Beyond.FORGET, text, (Field.MARK,))] if what["key"] == "mark" else []
        if kind == "ct":
            if what["key"] == "zone":
                return [Target(Kind.ZONE)]
            return [Foreign(Beyond.FORGET, text, (Field.CTMARK,))] if what["key"] == "mark" else []
        if kind == "payload" and "field" in what:
            field = _PAYLOAD.get(what["field"])
            return [Foreign(Beyond.FORGET, text, (field,))] if field else []
        return [Foreign(Beyond.ANYTHING, text)]


def _dnat(body: Any, text: str) -> Foreign:
    """Where to, as far as it is one address and one port; port 0 keeps the packet's."""
    address = port = None
    if isinstance(body, dict):
        if isinstance(body.get("addr"), str):
            try:
                address = read_address(body["addr"])[1]
            except ValueError:
                address = None
        found = body.get("port", 0)
        port = found if isinstance(found, int) else None
    return Foreign(Beyond.DNAT, text, address=address, port=port, family=_family(body))


def _family(body: Any) -> Family | None:
    """The one that a translation in a table of both is for (net/netfilter/nft_nat.c)."""
    named = body.get("family") if isinstance(body, dict) else None
    return Family(named) if named in ("ip", "ip6") else None
