"""One nft rule as JSON statements: matches and targets, read and printed."""

from __future__ import annotations

from meshnet.model.address import cidr_of_span, read_address, show_address
from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.match import PROTO_NAMES, PROTO_NUMBERS, Match
from meshnet.model.packet import Family, Field
from meshnet.model.rule import Kind, Rule, Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_META = {
    "iifname": Field.IIF,
    "oifname": Field.OIF,
    "l4proto": Field.PROTO,
    "skuid": Field.UID,
    "skgid": Field.GID,
    "mark": Field.MARK,
}
_META_KEY = {field: key for key, field in _META.items()}
_PAYLOAD = {"saddr": Field.SRC, "daddr": Field.DST, "sport": Field.SPORT, "dport": Field.DPORT}
_PAYLOAD_KEY = {field: key for key, field in _PAYLOAD.items()}
_STATES = ("invalid", "established", "related", "new", "untracked")
_VERDICTS = {"accept": Kind.ACCEPT, "drop": Kind.DROP, "return": Kind.RETURN}
_META_MARK: dict[str, Any] = {"meta": {"key": "mark"}}
_CT_MARK: dict[str, Any] = {"ct": {"key": "mark"}}
_CT_ZONE: dict[str, Any] = {"ct": {"key": "zone"}}


class _Unknown(Exception):
    """The model has no word for this statement."""


def read_rule(statements: list[dict[str, Any]], table: Family, comment: str = "") -> Rule:
    """The rule that ``statements`` say; opaque (their JSON) where the model lacks a word."""
    packets = count = 0
    for statement in statements:
        if isinstance(statement.get("counter"), dict):
            packets, count = statement["counter"]["packets"], statement["counter"]["bytes"]
    try:
        matches, target, family = _Reader(statements, table).read()
    except (_Unknown, KeyError, TypeError, ValueError, AttributeError):
        import json

        text = json.dumps(statements, separators=(",", ":"))
        known = next((_jump_of(s) for s in statements if "jump" in s), None)
        return Rule((), known, opaque=text, comment=comment, packets=packets, bytes=count)
    return Rule(
        tuple(matches), target, family=family, comment=comment, packets=packets, bytes=count
    )


def _jump_of(statement: dict[str, Any]) -> Target | None:
    body = statement["jump"]
    chain = body.get("target") if isinstance(body, dict) else None
    return Target(Kind.JUMP, chain=chain) if isinstance(chain, str) else None


class _Reader:
    """Reads statements from left to right; an address narrows the family as nft implies it."""

    def __init__(self, statements: list[dict[str, Any]], table: Family) -> None:
        self.statements = statements
        self.table = table
        self.family: Family | None = None
        self.matches: list[Match] = []
        self.targets: list[Target] = []

    def read(self) -> tuple[list[Match], Target | None, Family | None]:
        for statement in self.statements:
            ((name, body),) = statement.items()
            if name == "match":
                if self.targets:
                    raise _Unknown("a match behind a target")
                self.read_match(body)
            elif name != "counter" or isinstance(body, str):
                self.targets.append(_read_target(name, body))
        return self.matches, _one_target(self.targets), self.family

    def narrow(self, family: Family) -> None:
        if self.family not in (None, family):
            raise _Unknown("two families")
        if self.table is Family.INET:
            self.family = family

    def read_match(self, body: dict[str, Any]) -> None:
        left, right, op = body["left"], body["right"], body["op"]
        if op not in ("==", "!=", "in"):
            raise _Unknown(op)
        mask = None
        if "&" in left:
            left, mask = left["&"]
        ((kind, what),) = left.items()
        negated = op == "!="
        if kind == "meta" and what["key"] == "nfproto":
            if negated:
                raise _Unknown("nfproto !=")
            self.narrow(Family.IP if right == "ipv4" else Family.IP6)
        elif kind == "meta":
            field = _META[what["key"]]
            self.add(Match(field, _read_values(field, right), negated, mask))
        elif kind == "ct" and what["key"] == "state" and mask is None:
            self.add(Match(Field.CTSTATE, NameSet.of(*_listed(right)), negated))
        elif kind == "ct" and what["key"] == "mark":
            self.add(Match(Field.CTMARK, _read_values(Field.CTMARK, right), negated, mask))
        elif kind == "payload" and mask is None:
            self.read_payload(what["protocol"], _PAYLOAD[what["field"]], right, negated)
        else:
            raise _Unknown(kind)

    def read_payload(self, protocol: str, field: Field, right: Any, negated: bool) -> None:
        if protocol in ("ip", "ip6"):
            self.narrow(Family(protocol))
        elif protocol in ("tcp", "udp"):
            needed = Match(Field.PROTO, IntervalSet.of(PROTO_NUMBERS[protocol]))
            known = [m for m in self.matches if m.field is Field.PROTO]
            if not known:
                self.add(needed)
            elif known != [needed]:
                raise _Unknown("two opinions of the protocol")
        elif protocol != "th":
            raise _Unknown(protocol)
        self.add(Match(field, _read_values(field, right), negated))

    def add(self, match: Match) -> None:
        self.matches.append(match)


def _one_target(targets: list[Target]) -> Target | None:
    if len(targets) <= 1:
        # A tproxy without a verdict hands over and goes on to the next rule.
        if targets and targets[0].kind is Kind.TPROXY:
            raise _Unknown("tproxy alone")
        return targets[0] if targets else None
    kinds = [t.kind for t in targets]
    if kinds == [Kind.TPROXY, Kind.MARK, Kind.ACCEPT]:
        return Target(Kind.TPROXY, port=targets[0].port, mark=targets[1].mark)
    raise _Unknown("several targets")


def _listed(right: Any) -> list[str]:
    if isinstance(right, dict):
        right = right["set"]
    return [right] if isinstance(right, str) else list(right)


def _read_values(field: Field, right: Any) -> IntervalSet | NameSet:
    parts = right["set"] if isinstance(right, dict) and "set" in right else [right]
    if field.bits == 0:
        if any(p.endswith("+") for p in parts):
            raise _Unknown("a name that ends in +")
        return NameSet.of(*(p[:-1] + "+" if p.endswith("*") else p for p in parts))
    return IntervalSet.of(*(_read_span(field, part) for part in parts))


def _read_span(field: Field, part: Any) -> tuple[int, int]:
    if isinstance(part, dict) and "prefix" in part:
        family, first = read_address(part["prefix"]["addr"])
        bits = 32 if family is Family.IP else 128
        return first, first | ((1 << (bits - part["prefix"]["len"])) - 1)
    if isinstance(part, dict):
        first, last = part["range"]
        return _read_number(field, first), _read_number(field, last)
    number = _read_number(field, part)
    return number, number


def _read_number(field: Field, part: Any) -> int:
    if isinstance(part, int):
        return part
    if field in (Field.SRC, Field.DST):
        return read_address(part)[1]
    if field is Field.PROTO:
        return PROTO_NUMBERS[part]
    return int(part, 0)


def _read_target(name: str, body: Any) -> Target:
    if name in _VERDICTS:
        return Target(_VERDICTS[name])
    if name in ("jump", "goto"):
        if not isinstance(body["target"], str):
            raise _Unknown(name)
        return Target(Kind.JUMP if name == "jump" else Kind.GOTO, chain=body["target"])
    if name == "redirect" and set(body) == {"port"}:
        return Target(Kind.REDIRECT, port=int(body["port"]))
    if name == "tproxy" and "addr" not in body:
        return Target(Kind.TPROXY, port=int(body["port"]))
    if name == "reject" and body.get("type") == "tcp reset":
        return Target(Kind.RESET)
    if name == "reject" and body.get("expr", "port-unreachable") == "port-unreachable":
        return Target(Kind.REJECT)
    if name == "mangle":
        return _read_mangle(body["key"], body["value"])
    raise _Unknown(name)


def _read_mangle(key: Any, value: Any) -> Target:
    if key == _META_MARK and isinstance(value, int):
        return Target(Kind.MARK, mark=value)
    if key == _CT_MARK and value == _META_MARK:
        return Target(Kind.SAVE_MARK)
    if key == _META_MARK and value == _CT_MARK:
        return Target(Kind.RESTORE_MARK)
    if key == _CT_ZONE and isinstance(value, int):
        return Target(Kind.ZONE, zone=value)
    raise _Unknown("mangle")


def print_statements(rule: Rule, table: Family) -> list[dict[str, Any]]:
    """The statements of ``rule`` in a table of family ``table``, with a counter.

    Raises ValueError for what nft has no words for (an owner that matches packets
    without a socket, a masked assignment of a mark).
    """
    if rule.opaque:
        import json

        opaque: list[dict[str, Any]] = json.loads(rule.opaque)
        return opaque
    statements: list[dict[str, Any]] = []
    addressed = any(m.field in (Field.SRC, Field.DST) for m in rule.matches)
    if rule.family is not None and not addressed and table is Family.INET:
        right = "ipv4" if rule.family is Family.IP else "ipv6"
        left = {"meta": {"key": "nfproto"}}
        statements.append({"match": {"op": "==", "left": left, "right": right}})
    family = rule.family or table
    for match in rule.matches:
        statements.append({"match": _print_match(match, rule, family)})
    counter = {"counter": {"packets": rule.packets, "bytes": rule.bytes}}
    before, after = _print_target(rule.target, family)
    return [*statements, *before, counter, *after]


def _print_match(match: Match, rule: Rule, family: Family) -> dict[str, Any]:
    if match.absent:
        raise ValueError("nft never matches an owner on a packet without a socket")
    op = "!=" if match.negated else "=="
    left: dict[str, Any]
    if match.field is Field.CTSTATE:
        states = sorted(match.values, key=lambda s: _STATES.index(str(s)))
        right: Any = states[0] if len(states) == 1 else states
        if match.negated and len(states) > 1:
            # A list is a bitmap that nft compares whole: `!= new,established` holds always.
            right = {"set": states}
        return {
            "op": "!=" if match.negated else "in",
            "left": {"ct": {"key": "state"}},
            "right": right,
        }
    if match.field is Field.CTMARK:
        left = _CT_MARK
    elif match.field in (Field.SRC, Field.DST):
        left = {"payload": {"protocol": family.value, "field": _PAYLOAD_KEY[match.field]}}
    elif match.field in (Field.SPORT, Field.DPORT):
        left = {"payload": {"protocol": transport(rule), "field": _PAYLOAD_KEY[match.field]}}
    else:
        left = {"meta": {"key": _META_KEY[match.field]}}
    if match.mask is not None:
        left = {"&": [left, match.mask]}
    return {"op": op, "left": left, "right": _print_values(match, family)}


def transport(rule: Rule) -> str:
    """The protocol that a port match of ``rule`` reads: "tcp", "udp", or "th" for either."""
    for match in rule.matches:
        if match.field is Field.PROTO and not match.negated:
            return PROTO_NAMES.get(int(match.values.only() or 0), "th")
    return "th"


def _print_values(match: Match, family: Family) -> Any:
    if isinstance(match.values, NameSet):
        names = [n[:-1] + "*" if n.endswith("+") else n for n in match.values]
        return names[0] if len(names) == 1 else {"set": names}
    parts = [_print_span(match.field, family, span) for span in match.values]
    return parts[0] if len(parts) == 1 else {"set": parts}


def _print_span(field: Field, family: Family, span: tuple[int, int]) -> Any:
    first, last = span
    if field in (Field.SRC, Field.DST):
        if first == last:
            return show_address(family, first)
        cidr = cidr_of_span(family, first, last)
        if cidr:
            return {"prefix": {"addr": show_address(family, first), "len": cidr.length}}
        return {"range": [show_address(family, first), show_address(family, last)]}
    if field is Field.PROTO and first == last:
        return PROTO_NAMES.get(first, first)
    return first if first == last else {"range": [first, last]}


def _print_target(
    target: Target | None, family: Family
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What stands before the counter and what stands behind it."""
    if target is None:
        return [], []
    kind = target.kind
    if kind in (Kind.JUMP, Kind.GOTO):
        return [], [{kind.value: {"target": target.chain}}]
    if kind is Kind.REDIRECT:
        return [], [{"redirect": {"port": target.port}}]
    if kind is Kind.TPROXY:
        proxy = {"tproxy": {"family": family.value, "port": target.port}}
        return [proxy, _set_mark(target)], [{"accept": None}]
    if kind is Kind.MARK:
        return [], [_set_mark(target)]
    if kind is Kind.SAVE_MARK:
        return [], [{"mangle": {"key": _CT_MARK, "value": _META_MARK}}]
    if kind is Kind.RESTORE_MARK:
        return [], [{"mangle": {"key": _META_MARK, "value": _CT_MARK}}]
    if kind is Kind.ZONE:
        return [], [{"mangle": {"key": _CT_ZONE, "value": target.zone}}]
    if kind is Kind.RESET:
        return [], [{"reject": {"type": "tcp reset"}}]
    if kind is Kind.REJECT:
        return [], [{"reject": {"type": "icmpx", "expr": "port-unreachable"}}]
    return [], [{kind.value: None}]


def _set_mark(target: Target) -> dict[str, Any]:
    if target.mask != 0xFFFFFFFF:
        raise ValueError("a mark is set whole here, not under a mask")
    return {"mangle": {"key": _META_MARK, "value": target.mark}}
