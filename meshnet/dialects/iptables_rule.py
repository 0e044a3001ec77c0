"""One iptables rule as text: what stands behind ``-A CHAIN``."""

from __future__ import annotations

from itertools import pairwise

from meshnet.dialects.tokens import quote_word, split_words
from meshnet.errors import ParseError
from meshnet.model.address import cidr_of_span, read_cidr, show_address
from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.match import PROTO_NAMES, PROTO_NUMBERS, Match
from meshnet.model.packet import Family, Field
from meshnet.model.rule import FULL_MASK, Kind, Rule, Target

_BASE = {"-s": Field.SRC, "-d": Field.DST, "-i": Field.IIF, "-o": Field.OIF, "-p": Field.PROTO}
_PORTS = {"--sport": Field.SPORT, "--dport": Field.DPORT}
_MULTI = {"--sports": Field.SPORT, "--dports": Field.DPORT}
_OWNER = {"--uid-owner": Field.UID, "--gid-owner": Field.GID}
_STATES = ("invalid", "new", "related", "established", "untracked", "snat", "dnat")
_NEVER_NEGATED = ("!", "-j", "-g", "-m", "--comment")
_PLAIN = {
    "ACCEPT": Target(Kind.ACCEPT),
    "DROP": Target(Kind.DROP),
    "RETURN": Target(Kind.RETURN),
}
_REJECT = {"tcp-reset": Kind.RESET}
_REJECT |= dict.fromkeys(("icmp-port-unreachable", "icmp6-port-unreachable"), Kind.REJECT)
_KNOWN_MODULES = {"tcp", "udp", "multiport", "owner", "mark", "connmark", "conntrack", "comment"}
#: Targets with options; a name that is not one of these and not plain is a chain.
_WITH_OPTIONS = {"REDIRECT", "TPROXY", "MARK", "CONNMARK", "CT", "REJECT"}
_FOREIGN = {"DNAT", "SNAT", "MASQUERADE", "LOG", "NFLOG", "TRACE", "NOTRACK", "QUEUE", "NFQUEUE"}
_TARGETS = _WITH_OPTIONS | _FOREIGN | set(_PLAIN)


class _Unknown(Exception):
    """The model has no word for this rule."""


def parse_rule(spec: str, family: Family) -> Rule:
    """The rule that ``spec`` says; opaque where the model has no word for part of it."""
    try:
        return _Reader(split_words(spec), family).rule()
    except (_Unknown, ValueError, IndexError, KeyError, ParseError):
        return Rule((), _guess_target(spec), opaque=spec)


def _guess_target(spec: str) -> Target | None:
    """Where an opaque rule goes, if that is a chain: so that its chain is not removed below it."""
    try:
        words = split_words(spec)
    except ParseError:
        words = spec.split(" ")
    for option, name in pairwise(words):
        if option in ("-j", "-g") and name not in _TARGETS:
            return Target(Kind.GOTO if option == "-g" else Kind.JUMP, chain=name)
    return None


class _Reader:
    """Reads the words of one rule from left to right."""

    def __init__(self, words: list[str], family: Family) -> None:
        self.words = words
        self.family = family
        self.at = 0
        self.negated = False
        self.module = ""
        self.matches: list[Match] = []
        self.target: Target | None = None
        self.comment = ""

    def word(self) -> str:
        self.at += 1
        return self.words[self.at - 1]

    def rule(self) -> Rule:
        while self.at < len(self.words):
            option = self.word()
            if option == "!" and not self.negated:
                self.negated = True
                continue
            if self.negated and option in _NEVER_NEGATED:
                raise _Unknown("!")
            self.read(option)
            self.negated = False
        if self.negated:
            raise _Unknown("!")
        return Rule(tuple(self.matches), self.target, comment=self.comment)

    def read(self, option: str) -> None:
        if option in _BASE:
            self.read_base(_BASE[option])
        elif option == "-m":
            self.module = self.word()
            if self.module not in _KNOWN_MODULES:
                raise _Unknown(self.module)
        elif option in ("-j", "-g"):
            self.target = self.read_target(option, self.word())
        elif option == "--comment" and self.module == "comment" and not self.comment:
            self.comment = self.word()
            if not self.comment:
                raise _Unknown("an empty comment")
        else:
            self.read_module(option)

    def match(self, field: Field, values: IntervalSet | NameSet, mask: int | None = None) -> None:
        # xt_owner answers "not this owner" for a packet without a socket.
        absent = self.negated and field in (Field.UID, Field.GID)
        self.matches.append(Match(field, values, self.negated, mask, absent))

    def read_base(self, field: Field) -> None:
        word = self.word()
        if field is Field.PROTO:
            self.match(field, IntervalSet.of(_proto_number(word)))
        elif field in (Field.IIF, Field.OIF):
            self.match(field, NameSet.of(word))
        else:
            cidr, _ = read_cidr(word)
            if cidr.family is not self.family:
                raise _Unknown(word)
            self.match(field, cidr.values())

    def read_module(self, option: str) -> None:
        word = self.word()
        if option in _PORTS and self.module in ("tcp", "udp"):
            self.match(_PORTS[option], IntervalSet.of(_port_span(word)))
        elif option in _MULTI and self.module == "multiport":
            spans = (_port_span(part) for part in word.split(","))
            self.match(_MULTI[option], IntervalSet.of(*spans))
        elif option in _OWNER and self.module == "owner":
            first, _, last = word.partition("-")
            self.match(_OWNER[option], IntervalSet.of((int(first), int(last or first))))
        elif option == "--mark" and self.module in ("mark", "connmark"):
            value, mask = _value_and_mask(word)
            field = Field.MARK if self.module == "mark" else Field.CTMARK
            self.match(field, IntervalSet.of(value), None if mask == FULL_MASK else mask)
        elif option == "--ctstate" and self.module == "conntrack":
            states = word.lower().split(",")
            if not set(states) <= set(_STATES):
                raise _Unknown(word)
            self.match(Field.CTSTATE, NameSet.of(*states))
        else:
            raise _Unknown(option)

    def read_target(self, option: str, name: str) -> Target:
        rest = self.words[self.at :]
        self.at = len(self.words)
        if option == "-g" or (name not in _PLAIN and name not in _WITH_OPTIONS):
            if rest or name in _FOREIGN:
                raise _Unknown(name)
            return Target(Kind.GOTO if option == "-g" else Kind.JUMP, chain=name)
        if name in _PLAIN:
            if rest:
                raise _Unknown(rest[0])
            return _PLAIN[name]
        return _target_with_options(name, _pairs(rest))


def _pairs(words: list[str]) -> dict[str, str]:
    """Options with their values; one without a value has the empty one."""
    options: dict[str, str] = {}
    last = ""
    for word in words:
        if word.startswith("--"):
            options[word] = ""
            last = word
        elif last and not options[last]:
            options[last] = word
        else:
            raise _Unknown(word)
    return options


def _target_with_options(name: str, options: dict[str, str]) -> Target:
    keys = set(options)
    if name == "REDIRECT" and keys == {"--to-ports"}:
        return Target(Kind.REDIRECT, port=int(options["--to-ports"]))
    if name == "TPROXY" and keys <= {"--on-port", "--on-ip", "--tproxy-mark"}:
        if options.get("--on-ip", "0.0.0.0") not in ("0.0.0.0", "::"):
            raise _Unknown("--on-ip")
        value, mask = _value_and_mask(options.get("--tproxy-mark", "0x0/0x0"))
        return Target(Kind.TPROXY, port=int(options["--on-port"]), mark=value, mask=mask)
    if name == "MARK" and keys == {"--set-xmark"}:
        value, mask = _value_and_mask(options["--set-xmark"])
        return Target(Kind.MARK, mark=value, mask=mask)
    if name == "CONNMARK":
        return _connmark(options)
    if name == "CT" and keys == {"--zone"}:
        return Target(Kind.ZONE, zone=int(options["--zone"], 0))
    if name == "REJECT" and options.get("--reject-with") in _REJECT and len(keys) == 1:
        return Target(_REJECT[options["--reject-with"]])
    raise _Unknown(name)


def _connmark(options: dict[str, str]) -> Target:
    masks = {options.get("--nfmask", "0xffffffff"), options.get("--ctmask", "0xffffffff")}
    if masks == {"0xffffffff"}:
        if "--save-mark" in options:
            return Target(Kind.SAVE_MARK)
        if "--restore-mark" in options:
            return Target(Kind.RESTORE_MARK)
    raise _Unknown("CONNMARK")


def _proto_number(word: str) -> int:
    if word in PROTO_NUMBERS:
        return PROTO_NUMBERS[word]
    if word.isdigit():
        return int(word)
    raise _Unknown(word)


def _port_span(word: str) -> tuple[int, int]:
    first, colon, last = word.partition(":")
    span = int(first), int(last if colon else first)
    if max(span) > 65535:
        raise _Unknown(word)
    return span


def _value_and_mask(word: str) -> tuple[int, int]:
    value, slash, mask = word.partition("/")
    return int(value, 0), int(mask, 0) if slash else FULL_MASK


def print_rule(rule: Rule, family: Family) -> str:
    """What stands behind ``-A CHAIN `` for ``rule`` in a table of ``family`` (ip or ip6).

    Raises ValueError for what iptables has no words for: two intervals of addresses
    or owners in one match, a negated owner that does not match packets without socket.
    """
    if rule.opaque:
        return rule.opaque
    protos = [m.values.only() for m in rule.matches if m.field is Field.PROTO and not m.negated]
    parts = [_print_match(match, family, protos[0] if protos else None) for match in rule.matches]
    if rule.comment:
        parts.append(f"-m comment --comment {quote_word(rule.comment)}")
    if rule.target is not None:
        parts.append(_print_target(rule.target, family))
    return " ".join(parts)


def _print_match(match: Match, family: Family, proto: int | str | None) -> str:
    no = "! " if match.negated else ""
    if isinstance(match.values, NameSet):
        if match.field is Field.CTSTATE:
            return f"-m conntrack {no}--ctstate {','.join(_by_state(match.values))}"
        option = "-i" if match.field is Field.IIF else "-o"
        return f"{no}{option} {quote_word(_only(match.values.only(), match))}"
    if match.field is Field.PROTO:
        number = _only(match.values.only(), match)
        return f"{no}-p {PROTO_NAMES.get(int(number), number)}"
    if match.field in (Field.SRC, Field.DST):
        option = "-s" if match.field is Field.SRC else "-d"
        return f"{no}{option} {_print_addresses(match, family)}"
    if match.field in (Field.SPORT, Field.DPORT):
        return _print_ports(match, no, PROTO_NAMES.get(int(proto or 0), ""))
    if match.field in (Field.UID, Field.GID):
        if match.absent is not match.negated:
            raise ValueError("iptables matches a packet without socket exactly where negated")
        return f"-m owner {no}--{match.field.label}-owner {_print_span(match, '-')}"
    module = "mark" if match.field is Field.MARK else "connmark"
    mask = "" if match.mask is None else f"/{match.mask:#x}"
    return f"-m {module} {no}--mark {int(_only(match.values.only(), match)):#x}{mask}"


def _by_state(states: NameSet) -> list[str]:
    return [s.upper() for s in sorted(states, key=_STATES.index)]


def _only(value: int | str | None, match: Match) -> str:
    if value is None:
        raise ValueError(f"iptables takes one value for {match.field.label}")
    return str(value)


def _print_span(match: Match, dash: str) -> str:
    if not isinstance(match.values, IntervalSet) or len(match.values) != 1:
        raise ValueError(f"iptables takes one interval for {match.field.label}")
    first, last = match.values.spans[0]
    return str(first) if first == last else f"{first}{dash}{last}"


def _print_addresses(match: Match, family: Family) -> str:
    _print_span(match, "-")
    assert isinstance(match.values, IntervalSet)
    first, last = match.values.spans[0]
    cidr = cidr_of_span(family, first, last)
    if cidr is None:
        raise ValueError("iptables takes one block of addresses")
    return f"{show_address(family, cidr.network)}/{cidr.length}"


def _print_ports(match: Match, no: str, module: str) -> str:
    assert isinstance(match.values, IntervalSet)
    option = "--sport" if match.field is Field.SPORT else "--dport"
    if len(match.values) == 1 and module in ("tcp", "udp"):
        return f"-m {module} {no}{option} {_print_span(match, ':')}"
    texts = (str(a) if a == b else f"{a}:{b}" for a, b in match.values)
    return f"-m multiport {no}{option}s {','.join(texts)}"


def _print_target(target: Target, family: Family) -> str:
    kind = target.kind
    if kind is Kind.JUMP:
        return f"-j {target.chain}"
    if kind is Kind.GOTO:
        return f"-g {target.chain}"
    if kind is Kind.REDIRECT:
        return f"-j REDIRECT --to-ports {target.port}"
    if kind is Kind.TPROXY:
        anywhere = "0.0.0.0" if family is Family.IP else "::"
        mark = f"{target.mark:#x}/{target.mask:#x}"
        return f"-j TPROXY --on-port {target.port} --on-ip {anywhere} --tproxy-mark {mark}"
    if kind is Kind.MARK:
        return f"-j MARK --set-xmark {target.mark:#x}/{target.mask:#x}"
    if kind in (Kind.SAVE_MARK, Kind.RESTORE_MARK):
        return f"-j CONNMARK --{kind.value} --nfmask 0xffffffff --ctmask 0xffffffff"
    if kind is Kind.ZONE:
        return f"-j CT --zone {target.zone}"
    if kind is Kind.RESET:
        return "-j REJECT --reject-with tcp-reset"
    if kind is Kind.REJECT:
        name = "icmp-port-unreachable" if family is Family.IP else "icmp6-port-unreachable"
        return f"-j REJECT --reject-with {name}"
    return f"-j {kind.name}"
