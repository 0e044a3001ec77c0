"""Rules in words: short enough for a column, the same for every backend."""

from __future__ import annotations

from meshnet.model.address import cidrs_of_span, show_address
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import PROTO_NAMES, Match
from meshnet.model.packet import Family, Field
from meshnet.model.rule import FULL_MASK, Kind, Rule, Target

#: More members of a set than this are counted and not named.
NAMED = 6
_ADDRESSES = (Field.SRC, Field.DST)
_HEX = (Field.MARK, Field.CTMARK)
_PLAIN = {
    Kind.ACCEPT: "accept",
    Kind.DROP: "drop",
    Kind.RETURN: "return",
    Kind.SAVE_MARK: "save the mark with the connection",
    Kind.RESTORE_MARK: "take the connection's mark",
    Kind.RESET: "answer with a TCP reset",
    Kind.REJECT: "reject",
}


def rule_in_words(rule: Rule, family: Family) -> str:
    """What ``rule``, of a table of ``family``, asks and does: "tcp, uid 1337: return".

    An opaque rule is its own text. A rule without matches begins with "all".
    """
    if rule.opaque:
        return rule.opaque
    asked = [match_in_words(match, rule.family or family) for match in rule.matches]
    if rule.family is not None and rule.family is not family:
        asked.insert(0, "IPv6" if rule.family is Family.IP6 else "IPv4")
    done = target_in_words(rule.target) if rule.target else "count"
    return f"{', '.join(asked) or 'all'}: {done}"


def match_in_words(match: Match, family: Family) -> str:
    """One question: "dst not 10.0.0.0/8", "tcp", "uid 1337"."""
    values = values_in_words(match, family)
    no = "not " if match.negated else ""
    if match.field is Field.PROTO:
        return f"{no}{values}"
    mask = "" if match.mask is None else f"/{match.mask:#x}"
    name = "ct" if match.field is Field.CTSTATE else match.field.label
    return f"{name} {no}{values}{mask}"


def values_in_words(match: Match, family: Family) -> str:
    """The set that a match asks for, long ones cut with a count of the rest."""
    if not isinstance(match.values, IntervalSet):
        names = list(match.values)
    elif match.field in _ADDRESSES:
        names = [text for span in match.values for text in _blocks(family, span)]
    else:
        names = [_span(match.field, span) for span in match.values]
    if len(names) > NAMED:
        names = [*names[:NAMED], f"and {len(names) - NAMED} more"]
    return ",".join(names[:NAMED]) + "".join(f" {name}" for name in names[NAMED:]) or "nothing"


def _blocks(family: Family, span: tuple[int, int]) -> list[str]:
    first, last = span
    # An inet table's rule says by its addresses which family it is of.
    shown = family
    if family is Family.INET:
        shown = Family.IP6 if last >> 32 else Family.IP
    bits = 32 if shown is Family.IP else 128
    blocks = cidrs_of_span(shown, first, last)
    if len(blocks) > NAMED:
        return [f"{show_address(shown, first)}-{show_address(shown, last)}"]
    return [
        show_address(shown, block.network) + ("" if block.length == bits else f"/{block.length}")
        for block in blocks
    ]


def _span(field: Field, span: tuple[int, int]) -> str:
    first, last = span
    if field is Field.PROTO:
        return "/".join(
            PROTO_NAMES.get(n, f"proto {n}") for n in range(first, min(last, first + 3) + 1)
        )
    if field in _HEX and first == last:
        return str(first) if first < 65536 else f"{first:#x}"
    return str(first) if first == last else f"{first}-{last}"


def target_in_words(target: Target) -> str:
    """What a target does: "redirect to :15001", "go through ISTIO_OUTPUT"."""
    if target.kind in _PLAIN:
        return _PLAIN[target.kind]
    mask = "" if target.mask == FULL_MASK else f"/{target.mask:#x}"
    words = {
        Kind.JUMP: f"go through {target.chain}",
        Kind.GOTO: f"go over to {target.chain}",
        Kind.REDIRECT: f"redirect to :{target.port}" if target.port else "redirect to itself",
        Kind.TPROXY: f"hand to :{target.port} with mark {target.mark}{mask}",
        Kind.MARK: f"set mark {target.mark}{mask}",
        Kind.ZONE: f"track in zone {target.zone}",
    }
    return words.get(target.kind, target.kind.value)
