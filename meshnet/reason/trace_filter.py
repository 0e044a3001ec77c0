"""The expression of ``meshnet trace``: a small part of what tcpdump understands.

expression := term { "and" term }
term       := "tcp" | "udp" | [ "tcp" | "udp" ] side | "uid" NUMBER
side       := [ "src" | "dst" ] ( "port" NUMBER | "host" ADDRESS )
"""

from __future__ import annotations

from meshnet.errors import UsageError, printable
from meshnet.model.address import read_address
from meshnet.model.frozen import dataclass, replace
from meshnet.model.packet import TCP, UDP
from meshnet.model.trace_filter import HostTerm, PortTerm, TraceFilter
from meshnet.model.values import LAST_ID, LAST_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Each term that leaves the side open doubles the rules that ask for it.
MOST_OPEN = 4
_PROTOCOLS = {"tcp": TCP, "udp": UDP}
_SIDES = ("src", "dst", "port", "host")
_TERMS = "tcp, udp, [src|dst] port NUMBER, [src|dst] host ADDRESS, uid NUMBER, joined by 'and'"


@dataclass(frozen=True)
class _Word:
    text: str
    column: int


def parse_filter(text: str) -> TraceFilter:
    """What ``text`` asks for; blank text asks for every TCP packet.

    Raises UsageError that names the column, counted from 1.
    """
    words = _Words(text)
    found, protocol = TraceFilter(), 0
    if words.done():
        return found
    while True:
        word = words.next("a term")
        if word.text in _PROTOCOLS:
            if protocol and protocol != _PROTOCOLS[word.text]:
                raise _wrong(word, "no packet is both tcp and udp")
            protocol = _PROTOCOLS[word.text]
            found = replace(found, protocol=protocol)
            if words.follow(_SIDES):
                # "tcp port 80", as tcpdump has it.
                continue
        else:
            found = _with_term(found, word, words)
        if words.done():
            break
        between = words.next("'and'")
        if between.text != "and":
            raise _wrong(between, f"'and' is missing before '{printable(between.text)}'")
        words.need("a term behind 'and'")
    sides = [*(term.side for term in found.ports), *(term.side for term in found.hosts)]
    open_terms = sides.count("")
    if open_terms > MOST_OPEN:
        raise UsageError(f"the filter leaves the side of {open_terms} terms open", "say src or dst")
    return found


class _Words:
    """The words of a text, each with its column."""

    def __init__(self, text: str) -> None:
        self._words = list(_split(text))
        self._at = 0
        self._end = len(text) + 1

    def done(self) -> bool:
        return self._at == len(self._words)

    def follow(self, texts: tuple[str, ...]) -> bool:
        """Whether one of ``texts`` is next."""
        return not self.done() and self._words[self._at].text in texts

    def need(self, what: str) -> None:
        if self.done():
            raise UsageError(f"the filter ends at column {self._end}, {what} is missing", _TERMS)

    def next(self, what: str) -> _Word:
        self.need(what)
        self._at += 1
        return self._words[self._at - 1]


def _split(text: str) -> Iterator[_Word]:
    column = 0
    for part in text.replace("\t", " ").split(" "):
        if part:
            yield _Word(part, column + 1)
        column += len(part) + 1


def _with_term(found: TraceFilter, word: _Word, words: _Words) -> TraceFilter:
    side = ""
    if word.text in ("src", "dst"):
        side, word = word.text, words.next(f"'port' or 'host' behind '{word.text}'")
    if word.text == "port":
        port = _number(words.next("a port"), LAST_PORT, "a port")
        return replace(found, ports=(*found.ports, PortTerm(port, side)))
    if word.text == "host":
        return replace(found, hosts=(*found.hosts, _host(words.next("an address"), side, found)))
    if word.text == "uid" and not side:
        return replace(found, uid=_uid(words.next("a UID"), found))
    if side:
        raise _wrong(word, f"'{side}' goes before port or host, not '{printable(word.text)}'")
    raise _wrong(word, f"'{printable(word.text)}' is no term")


def _host(word: _Word, side: str, found: TraceFilter) -> HostTerm:
    try:
        family, address = read_address(word.text)
    except ValueError as e:
        raise _wrong(word, f"'{printable(word.text)}' is no address") from e
    if found.family not in (None, family):
        raise _wrong(word, "no packet is of both IPv4 and IPv6")
    return HostTerm(family, address, side)


def _uid(word: _Word, found: TraceFilter) -> int:
    uid = _number(word, LAST_ID, "a numeric UID")
    if found.uid not in (None, uid):
        raise _wrong(word, "no packet is of two UIDs")
    return uid


def _number(word: _Word, last: int, what: str) -> int:
    text = word.text
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= last):
        raise _wrong(word, f"'{printable(text)}' is not {what}")
    return int(text)


def _wrong(word: _Word, why: str) -> UsageError:
    return UsageError(f"the filter, column {word.column}: {why}", _TERMS)
