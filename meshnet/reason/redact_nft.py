"""nft's JSON in other words. What is not known to be harmless is replaced."""

from __future__ import annotations

import json
import re

from meshnet.model.address import cidrs_of_span, read_address, show_address
from meshnet.reason.pseudonyms import Pseudonyms
from meshnet.reason.redact_iptables import comment, replace_addresses, rule_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Keys whose strings are nft's own words.
_PLAIN = {"family", "type", "hook", "policy", "op", "protocol", "key", "field", "dir", "base"}
_PLAIN |= {"flags", "version", "release_name", "unit", "rate_unit", "burst_unit", "level"}
_WORD = re.compile(r"[a-z0-9_ -]{1,32}", re.IGNORECASE)
#: Right sides that are nft's own words.
_VALUES = {"tcp", "udp", "icmp", "icmpv6", "ipv6-icmp", "sctp", "ah", "esp", "gre", "igmp"}
_VALUES |= {"ipv4", "ipv6", "ip", "ip6", "arp", "vlan", "new", "established", "related"}
_VALUES |= {"invalid", "untracked", "snat", "dnat", "original", "reply", "syn", "ack", "fin"}
_VALUES |= {"rst", "psh", "urg", "unicast", "multicast", "broadcast", "local", "loopback"}
_VALUES |= {"echo-request", "echo-reply", "port-unreachable", "admin-prohibited", "tcp reset"}
_VALUES |= {"icmpx", "l4proto", "nfproto", "exists", "missing", "second", "minute", "hour", "day"}
_OPERATORS = {"==", "!=", "<", ">", "<=", ">=", "in", "&", "|", "^", "<<", ">>"}
_LINKS = {"iifname", "oifname", "iif", "oif", "ibrname", "obrname", "sdifname"}
#: What stands for a dump that no reader can read either.
UNREADABLE = "(left out: it could not be read)"


def link_patterns(text: str) -> set[str]:
    """The beginnings of interface names that the dump's rules ask for."""
    return set(re.findall(r'"([^"\\ ]+)\*"', text))


def redact_listing(text: str, names: Pseudonyms) -> str:
    """``text`` with everything replaced that may tell where it came from.

    A span of addresses becomes the blocks that make it up: those keep their meaning.
    """
    try:
        return json.dumps(_walk(json.loads(text), "", False, names))
    except (ValueError, RecursionError):
        return UNREADABLE


def _walk(value: Any, key: str, link: bool, names: Pseudonyms) -> Any:
    """``value``, which stands under ``key``; ``link``: what is compared here are interfaces."""
    if isinstance(value, str):
        return _string(value, key, link, names)
    if isinstance(value, list):
        return [other for one in value for other in _members(one, key, link, names)]
    if not isinstance(value, dict):
        return value
    asked = value.get("left", value.get("key"))
    link = link or _asks_for_link(asked)
    if key == "prefix" and isinstance(value.get("addr"), str):
        return _prefix(value, names)
    spans = _span(value.get("range"), names)
    if spans:
        return spans[0] if len(spans) == 1 else {"set": spans}
    return {
        _key(name): _walk(inner, name, link and name not in ("left", "key", "op"), names)
        for name, inner in value.items()
    }


def _members(value: Any, key: str, link: bool, names: Pseudonyms) -> list[Any]:
    """A member of a list; a span of addresses becomes several."""
    spans = _span(value.get("range"), names) if isinstance(value, dict) else []
    return spans or [_walk(value, key, link, names)]


def _key(name: str) -> str:
    return name if _WORD.fullmatch(name) else "redacted"


def _asks_for_link(left: Any) -> bool:
    meta = left.get("meta") if isinstance(left, dict) else None
    return isinstance(meta, dict) and meta.get("key") in _LINKS


def _prefix(value: dict[str, Any], names: Pseudonyms) -> Any:
    length = value.get("len")
    try:
        address, _, _ = names.block(f"{value['addr']}/{length}").partition("/")
    except ValueError:
        return {"addr": names.name("word", value["addr"]), "len": 0}
    return {"addr": address, "len": length}


def _span(span: Any, names: Pseudonyms) -> list[Any]:
    """The blocks of a span of addresses, replaced; none where it is something else."""
    if not (isinstance(span, list) and len(span) == 2 and all(isinstance(s, str) for s in span)):
        return []
    try:
        (family, first), (other, last) = (read_address(text) for text in span)
    except ValueError:
        return []
    if family is not other or first > last:
        return []
    return [
        {"prefix": _prefix({"addr": show_address(family, c.network), "len": c.length}, names)}
        for c in cidrs_of_span(family, first, last)
    ]


def _string(text: str, key: str, link: bool, names: Pseudonyms) -> str:
    if key in ("name", "table", "chain", "target"):
        return rule_name(text, names)
    if key == "comment":
        return comment(text, names)
    if link or key == "dev":
        stem = text.removesuffix("*")
        return names.interface(stem) + text[len(stem) :]
    if text in _OPERATORS or (key in _PLAIN and _WORD.fullmatch(text)):
        return text
    if text.startswith("@"):
        return "@" + rule_name(text[1:], names)
    if text in _VALUES or text in ("0.0.0.0", "::") or re.fullmatch(r"\*|(0x)?[0-9a-f]{1,8}", text):
        return text
    try:
        read_address(text)
    except ValueError:
        return names.name("word", text)
    return replace_addresses(text, names)
