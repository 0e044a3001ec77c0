"""Named sets and maps of nft, as far as dumps show what is in them.

No walk looks into them: a rule that asks one is undecided. But two sides that ask sets of
different content must not be given the same answer.
"""

from __future__ import annotations

import json
import re
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from meshnet.model.snapshot import Dump
    from meshnet.model.verdict import Place

#: What is in each set, by "family table name".
Contents = dict[str, str]
_KINDS = ("set", "map")
_NAMED = re.compile(r"@([A-Za-z_][\w./\\-]*)")
#: Of longer contents the beginning is shown, and a number that tells them apart.
LONGEST = 48


def named_sets(dumps: Iterable[Dump]) -> Contents:
    """The contents of every named set and map; nothing for dumps that cannot be read."""
    found: Contents = {}
    for dump in dumps:
        if not dump.family and ('"set"' in dump.text or '"map"' in dump.text):
            found.update(_listed(dump.text))
    return found


def _listed(text: str) -> Iterator[tuple[str, str]]:
    try:
        for item in json.loads(text)["nftables"]:
            ((kind, body),) = item.items()
            if kind in _KINDS:
                yield f"{body['family']} {body['table']} {body['name']}", _content(body)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return


def _content(body: Mapping[str, Any]) -> str:
    """The members in an order of their own: nft's is none."""
    elements = body.get("elem", [])
    shown = sorted(_member(each) for each in elements) if isinstance(elements, list) else []
    return ", ".join(shown) or "empty"


def _member(element: Any) -> str:
    """One member; how long it still stays is no difference."""
    if isinstance(element, str | int):
        return str(element)
    if isinstance(element, dict):
        if "elem" in element:
            return _member(element["elem"].get("val"))
        if "prefix" in element:
            return f"{element['prefix'].get('addr')}/{element['prefix'].get('len')}"
        if "range" in element:
            return "-".join(_member(each) for each in element["range"])
        if "concat" in element:
            return " . ".join(_member(each) for each in element["concat"])
    if isinstance(element, list) and len(element) == 2:
        return f"{_member(element[0])} : {_member(element[1])}"
    return json.dumps(element, sort_keys=True, separators=(",", ":"))


def said_of(text: str, place: Place, contents: Contents) -> str:
    """``text``, which may name sets, with what is in them; as it is where that is not known."""
    told = []
    for name in dict.fromkeys(_NAMED.findall(text)):
        content = contents.get(f"{place.family.value} {place.table} {name}")
        if content is not None:
            told.append(f"@{name} holds {_short(content)}")
    return f"{text} ({'; '.join(told)})" if told else text


def _short(content: str) -> str:
    if len(content) <= LONGEST:
        return content
    return f"{content[:LONGEST]}… [{zlib.crc32(content.encode()):08x}]"
