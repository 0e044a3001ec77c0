"""What is captured outbound, inbound and for DNS, a sentence each."""

from __future__ import annotations

from meshnet.model.capture import DIRECTIONS, CaptureLine
from meshnet.model.frozen import replace
from meshnet.model.packet import Family
from meshnet.model.spec import Form
from meshnet.reason.drift import drift
from meshnet.reason.foreign_redirects import ForeignRedirect, foreign_redirects
from meshnet.reason.sentences import NOT_CAPTURED, Sentence, dns, inbound, outbound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from meshnet.model.drift import Drift
    from meshnet.model.rule import Rule
    from meshnet.model.ruleset import Ruleset

_NAMES = {Family.IP: "IPv4", Family.IP6: "IPv6"}
_BOTH = "IPv4+IPv6"
_SAY = {"outbound": outbound, "inbound": inbound, "dns": dns}
#: Rules without which nothing gets to the proxy, by what the profiles call them.
_VITAL = {
    "outbound": ("out.jump", "out.redirect", "out.application"),
    "inbound": ("in.jump", "in.redirect", "in.tproxy"),
    "dns": (),
}


def describe(rulesets: Mapping[str, Ruleset]) -> tuple[CaptureLine, ...]:
    """What the rules of every backend (by name) capture, in the order of DIRECTIONS.

    Each direction has at least one line; families that are alike share theirs. Where our
    rules differ from those of their profile, the sentence is about the profile's and says so.
    Redirects that are not ours have lines of their own.
    """
    lines: list[CaptureLine] = []
    for backend, ruleset in rulesets.items():
        found = drift(ruleset, Form.NFT if backend == "nft" else Form.IPTABLES)
        if found is not None:
            lines += _ours(backend, found)
    lines += _foreign(foreign_redirects(rulesets))
    for direction in DIRECTIONS:
        if not any(line.direction == direction for line in lines):
            lines.append(CaptureLine(direction, _BOTH, NOT_CAPTURED))
    lines.sort(key=lambda line: DIRECTIONS.index(line.direction))
    return tuple(lines)


def _ours(backend: str, found: Drift) -> Iterator[CaptureLine]:
    for direction in DIRECTIONS:
        said = {family: _say(found, direction, family) for family in _NAMES}
        if len(set(said.values())) == 1:
            said = {Family.INET: said[Family.IP]}
        for family, sentence in said.items():
            name = _NAMES.get(family, _BOTH)
            yield CaptureLine(direction, name, sentence.text, sentence.ports, backend)


def _say(found: Drift, direction: str, family: Family) -> Sentence:
    sentence = _SAY[direction](found.spec, found.form, family)
    missing = [
        p.rule.id
        for p in found.missing
        if _concerns(family, p.family, p.rule)
        and _direction(p.rule.id, p.table, p.chain) == direction
    ]
    vital = [name for name in missing if name in _vital(found, direction)]
    if vital and sentence.ports:
        return Sentence(f"{NOT_CAPTURED}: rule {vital[0]} is missing")
    counts = {
        "missing": len(missing),
        "extra": sum(
            _concerns(family, p.family, p.rule) and _direction("", p.table, p.chain) == direction
            for p in found.extra
        ),
        "moved": sum(
            _concerns(family, m.family, m.rule)
            and _direction(m.rule.id, m.table, m.chain) == direction
            for m in found.moved
        ),
    }
    differs = ", ".join(f"{number} {word}" for word, number in counts.items() if number)
    if not differs:
        return sentence
    return replace(sentence, text=f"{sentence.text}; but its rules differ: {differs}")


def _concerns(family: Family, table: Family, rule: Rule) -> bool:
    return (rule.family or table).covers(family)


def _vital(found: Drift, direction: str) -> tuple[str, ...]:
    names = _VITAL[direction]
    if direction == "inbound":
        # With TPROXY the redirect serves the proxy's own calls only.
        unused = "in.redirect" if found.spec.tproxy else "in.tproxy"
        names = tuple(name for name in names if name != unused)
        names += ("out.redirect",) if found.profile.value == "classic" else ()
    return names


def _direction(rule_id: str, table: str, chain: str) -> str:
    """Which direction a rule is about: by its name, or by where it stands."""
    prefix = rule_id.partition(".")[0]
    known = {"dns": "dns", "in": "inbound", "ip6": "inbound", "out": "outbound", "virt": "outbound"}
    if prefix in known:
        return known[prefix]
    name = chain.upper().replace("-", "_")
    if "DNS" in name or table.endswith("raw"):
        return "dns"
    inward = ("INBOUND", "IN_REDIRECT", "PREROUTING", "INPUT", "TPROXY", "DIVERT", "DROP")
    return "inbound" if any(part in name for part in inward) else "outbound"


def _foreign(found: Iterable[ForeignRedirect]) -> Iterator[CaptureLine]:
    """One line a direction and family: the first rule, and how many more there are."""
    groups: dict[tuple[str, Family], list[ForeignRedirect]] = {}
    for redirect in found:
        for family in redirect.families:
            groups.setdefault((redirect.direction, family), []).append(redirect)
    for direction in DIRECTIONS:
        said = {f: _foreign_sentence(groups.get((direction, f), [])) for f in _NAMES}
        if said[Family.IP] == said[Family.IP6]:
            said = {Family.INET: said[Family.IP]}
        for family, sentence in said.items():
            if sentence is not None:
                name = _NAMES.get(family, _BOTH)
                yield CaptureLine(direction, name, sentence.text, sentence.ports)


def _foreign_sentence(redirects: list[ForeignRedirect]) -> Sentence | None:
    if not redirects:
        return None
    first = redirects[0]
    more = f" and {len(redirects) - 1} more" if len(redirects) > 1 else ""
    text = f"foreign rules redirect {first.what} to {first.to} ({first.where}{more})"
    return Sentence(text, tuple(sorted({r.port for r in redirects if r.port})))
