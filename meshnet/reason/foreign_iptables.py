"""What can be said of a rule that the iptables dialect keeps as text.

The clauses that the dialect has words for are conditions like any other: a rule for
another port does not hold, whatever else it asks. The rest are doubts.
"""

from __future__ import annotations

from meshnet.dialects.iptables_rule import parse_rule
from meshnet.dialects.tokens import quote_word, split_words
from meshnet.errors import ParseError
from meshnet.model.address import read_address
from meshnet.model.match import Match
from meshnet.model.packet import Family, Field
from meshnet.model.rule import Kind, Rule, Target
from meshnet.reason.effects import Beyond, Effect, Foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

_BASE = ("-s", "-d", "-i", "-o", "-p", "-f")
#: Options whose value may look like an option.
_FREE_TEXT = frozenset(
    ("--comment", "--string", "--hex-string", "--name", "--log-prefix", "--nflog-prefix")
)
#: Targets that go on with the next rule and change nothing that rules here ask about.
_HARMLESS = frozenset(
    (
        *("LOG", "NFLOG", "ULOG", "TRACE", "AUDIT", "CHECKSUM", "CLASSIFY", "DSCP", "TOS", "ECN"),
        *("TTL", "HL", "TCPMSS", "TCPOPTSTRIP", "IDLETIMER", "LED", "RATEEST", "TEE"),
        *("SECMARK", "CONNSECMARK"),
    )
)


def read_text(
    rule: Rule, family: Family, chains: Container[str] = ()
) -> tuple[list[Match], list[str], list[Effect]]:
    """The matches, doubts and effects of an opaque ``rule`` in a table with these ``chains``.

    A target that is neither known nor one of ``chains`` may do anything.
    """
    try:
        words = split_words(rule.opaque)
    except ParseError:
        return [], [rule.opaque], [Foreign(Beyond.ANYTHING, rule.opaque)]
    clauses, target = _clauses(words)
    matches: list[Match] = []
    doubts: list[str] = []
    for clause in clauses:
        known = parse_rule(_text(_as_conntrack(clause)), family)
        if known.opaque:
            doubts.append(_text(clause))
        else:
            matches += known.matches
    return matches, doubts, _effects(target, family, chains)


def _text(words: list[str]) -> str:
    return " ".join(word if word == "!" else quote_word(word) for word in words)


def _clauses(words: list[str]) -> tuple[list[list[str]], list[str]]:
    """The conditions, one list of words each, and the words of the target.

    iptables prints addresses, interfaces and protocol before the first extension.
    """
    clauses: list[list[str]] = []
    extended = False
    for at, word in enumerate(words):
        value = at > 0 and words[at - 1] in _FREE_TEXT
        if word in ("-j", "-g") and not value:
            return clauses, words[at:]
        negated = clauses and clauses[-1] == ["!"]
        if word == "-m" and not value:
            extended = True
            clauses.append([word])
        elif not extended and not negated and (word == "!" or word in _BASE):
            clauses.append([word])
        elif clauses:
            clauses[-1].append(word)
        else:
            clauses.append([word])
    return clauses, []


def _as_conntrack(clause: list[str]) -> list[str]:
    """``-m state --state`` is ``-m conntrack --ctstate`` (net/netfilter/xt_state.c)."""
    if clause[:2] != ["-m", "state"]:
        return clause
    words = ["--ctstate" if word == "--state" else word for word in clause[2:]]
    return ["-m", "conntrack", *words]


def _effects(words: list[str], family: Family, chains: Container[str]) -> list[Effect]:
    if not words:
        return []
    if words[1:] and words[1] in chains:
        return [Target(Kind.GOTO if words[0] == "-g" else Kind.JUMP, chain=words[1])]
    known = parse_rule(_text(words), family)
    if not known.opaque and known.target is not None and not known.target.chain:
        return [known.target]
    name = words[1] if len(words) > 1 else ""
    options = _options(words[2:])
    if name in _HARMLESS:
        return []
    if name == "SET":
        return [Foreign(Beyond.FORGET, name, (Field.MARK,))] if "--map-mark" in options else []
    return [_effect(name, options, _text(words))]


def _options(words: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for at, word in enumerate(words):
        if word.startswith("--"):
            after = words[at + 1] if at + 1 < len(words) else ""
            found[word] = "" if after.startswith("--") else after
    return found


def _effect(name: str, options: dict[str, str], text: str) -> Effect:
    if name == "DNAT":
        address, port = _destination(options.get("--to-destination", ""))
        return Foreign(Beyond.DNAT, text, address=address, port=port)
    if name in ("SNAT", "MASQUERADE"):
        return Foreign(Beyond.SNAT, text)
    if name == "NETMAP":
        return Foreign(Beyond.DNAT, text)
    if name == "REDIRECT":
        to = options.get("--to-ports", "0")
        if to.isdigit():
            return Target(Kind.REDIRECT, port=int(to))
        return Foreign(Beyond.REDIRECT, text)
    if name == "NOTRACK" or (name == "CT" and "--notrack" in options):
        return Foreign(Beyond.NOTRACK, text)
    if name == "CT":
        return Target(Kind.ZONE)
    if name == "MARK":
        return Foreign(Beyond.FORGET, text, (Field.MARK,))
    if name == "CONNMARK":
        field = Field.MARK if "--restore-mark" in options else Field.CTMARK
        return Foreign(Beyond.FORGET, text, (field,))
    if name == "REJECT":
        return Target(Kind.REJECT)
    if name == "TPROXY" and options.get("--on-port", "").isdigit():
        return Target(Kind.TPROXY, port=int(options["--on-port"]), mask=0)
    if name in ("QUEUE", "NFQUEUE"):
        return Foreign(Beyond.QUEUE, text)
    return Foreign(Beyond.ANYTHING, text)


def _destination(text: str) -> tuple[int | None, int | None]:
    """The address and port of ``A``, ``A:P``, ``[A]:P`` or ``:P``.

    None for what is a range or no address; port 0 where none is said, which keeps it.
    """
    host, _, port = text.rpartition(":") if _has_port(text) else (text, "", "0")
    try:
        address: int | None = read_address(host.strip("[]"))[1]
    except ValueError:
        address = None
    return address, int(port) if port.isdigit() else None


def _has_port(text: str) -> bool:
    return "]:" in text or text.count(":") == 1
