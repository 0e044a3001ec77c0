"""The packet that somebody asks about, from words; what makes no sense is refused with why."""

from __future__ import annotations

from meshnet.errors import UsageError, printable
from meshnet.model.address import read_address, show_address
from meshnet.model.frozen import dataclass
from meshnet.model.match import PROTO_NUMBERS
from meshnet.model.packet import TCP, UDP, Family
from meshnet.model.values import (
    LAST_ID,
    LAST_PORT,
    Value,
    read_choice,
    read_interfaces,
    read_number,
)
from meshnet.reason.action import is_loopback

STATES = ("new", "established", "related", "invalid", "untracked")
_PORTED = (TCP, UDP, PROTO_NUMBERS["sctp"])
_OF_FAMILY = {PROTO_NUMBERS["icmp"]: Family.IP, PROTO_NUMBERS["ipv6-icmp"]: Family.IP6}
_ALIASES = {"icmpv6": PROTO_NUMBERS["ipv6-icmp"], "icmp6": PROTO_NUMBERS["ipv6-icmp"]}
_FORM = "such as: tcp 93.184.216.34:443, udp [2001:db8::1]:53, icmp 10.0.0.1"
#: The user that has no socket: what the kernel itself sends.
NOBODY = "none"


@dataclass(frozen=True)
class Question:
    """What is asked about: a packet as far as it was told. None is "not told".

    ``inbound`` says that it comes in, by ``iif``. ``socket`` is False for a packet that no
    socket sent. ``gid`` not told is the number of ``uid``.
    """

    family: Family
    proto: int
    dst: int
    dport: int | None
    src: int | None = None
    sport: int | None = None
    uid: int | None = None
    gid: int | None = None
    socket: bool = True
    iif: str = ""
    oif: str = ""
    mark: int = 0
    state: str = "new"

    @property
    def inbound(self) -> bool:
        """Whether it comes in."""
        return bool(self.iif)


@dataclass(frozen=True)
class Told:
    """The options of a question as they were written; None where not given."""

    uid: str | None = None
    gid: str | None = None
    iif: str | None = None
    oif: str | None = None
    src: str | None = None
    mark: str | None = None
    state: str | None = None


def read_question(words: tuple[str, ...], told: Told) -> Question:
    """The question in ``words`` (protocol, destination) and ``told``.

    Raises UsageError that says why something makes no sense.
    """
    if len(words) != 2:
        raise UsageError("a packet is a protocol and a destination", _FORM)
    proto = _protocol(words[0])
    family, dst, dport = _endpoint(words[1], proto, words[0], "destination")
    if dport is None and proto in _PORTED:
        raise UsageError(f"{printable(words[1])}: {words[0]} needs a port", _FORM)
    expected = _OF_FAMILY.get(proto, family)
    if expected is not family:
        raise UsageError(f"{printable(words[0])} is not sent to {printable(words[1])}", _FORM)
    src, sport = None, None
    if told.src is not None:
        other, src, sport = _endpoint(told.src, proto, words[0], "--src")
        if other is not family:
            raise UsageError(
                f"--src: {printable(told.src)} and {printable(words[1])} are of two families"
            )
    iif, oif = _link(told.iif, "--in"), _link(told.oif, "--out")
    _refuse_contradictions(told, family, dst, iif, oif)
    uid, gid = _owner(told.uid, "--uid"), _owner(told.gid, "--gid")
    socket = told.uid != NOBODY and not iif
    mark = "0" if told.mark is None else told.mark
    return Question(
        family,
        proto,
        dst,
        dport,
        src,
        sport,
        uid,
        gid if told.gid is not None else uid,
        socket,
        iif,
        oif,
        _mark(mark),
        read_choice(Value(told.state or "new", "--state"), *STATES),
    )


def _protocol(word: str) -> int:
    number = PROTO_NUMBERS.get(word, _ALIASES.get(word))
    if number is not None:
        return number
    if word.isascii() and word.isdigit() and len(word) <= 3 and int(word) < 256:
        return int(word)
    names = ", ".join(sorted((*PROTO_NUMBERS, "icmpv6")))
    raise UsageError(f"'{printable(word)}' is no protocol", f"{names}, or a number of 0 to 255")


def _endpoint(text: str, proto: int, name: str, what: str) -> tuple[Family, int, int | None]:
    """``ADDR``, ``ADDR:PORT``, ``[ADDR6]:PORT``; the port None where none is said."""
    host, port = text, None
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise UsageError(f"{what}: '{printable(text)}' is no address", _FORM)
        port = rest[1:] if rest else None
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        family, number = read_address(host)
    except ValueError as e:
        hint = "names are not looked up" if host and host[:1].isalpha() else _FORM
        raise UsageError(f"{what}: '{printable(text)}' is no address", hint) from e
    if port is None or (port == "*" and what == "--src"):
        return family, number, None
    if proto not in _PORTED:
        raise UsageError(f"{what}: '{printable(text)}' has a port, and {printable(name)} has none")
    return family, number, read_number(Value(port, what), 0, LAST_PORT, "a port")


def _link(text: str | None, what: str) -> str:
    if text is None:
        return ""
    names = read_interfaces(Value(text, what))
    if len(names) != 1 or names[0].endswith("+"):
        raise UsageError(f"{what}: '{printable(text)}' is not one interface")
    return names[0]


def _owner(text: str | None, what: str) -> int | None:
    if text is None or (text == NOBODY and what == "--uid"):
        return None
    if not text.isdigit():
        hint = f"a number; {NOBODY} for what no socket sends" if what == "--uid" else "a number"
        raise UsageError(f"{what}: '{printable(text)}' is no id; names are not looked up", hint)
    return read_number(Value(text, what), 0, LAST_ID, "an id")


def _mark(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number <= 0xFFFFFFFF:
        raise UsageError(f"--mark: '{printable(text)}' is no mark", "a number of 32 bits, or 0x...")
    return number


def _refuse_contradictions(told: Told, family: Family, dst: int, iif: str, oif: str) -> None:
    if iif and oif:
        raise UsageError(
            "--in and --out contradict each other: a packet comes in, or is sent from here",
            "for one that comes in, the kernel decides where it goes on",
        )
    if iif and (told.uid is not None or told.gid is not None):
        name = "--uid" if told.uid is not None else "--gid"
        raise UsageError(
            f"{name} on a packet that comes in: it has no socket, and so no user",
            "leave it out, or leave out --in",
        )
    if told.uid == NOBODY and told.gid is not None:
        raise UsageError("--gid on a packet without a socket", "leave out --gid, or name a --uid")
    loopback = is_loopback(family, dst)
    shown = show_address(family, dst)
    if loopback and oif and oif != "lo":
        raise UsageError(f"{shown} never leaves by {oif}: it is this namespace's own", "--out lo")
    if iif == "lo" and told.src is None and not loopback:
        raise UsageError("--in lo: what comes in by lo was sent from here", "leave out --in")
