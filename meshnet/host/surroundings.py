"""What decides beside the rules: interfaces, addresses, routes, policy rules, sysctls.

Read from this process's own network namespace; nothing is changed. pyroute2 reads the same
(a test holds both side by side), at fourteen milliseconds a namespace: a sweep of two
hundred could not keep its time with it, and this takes one.
"""

from __future__ import annotations

import socket
import struct
import sys

from meshnet.host.netlink import DUMP, Changed, NetlinkError, attribute, attributes, stream
from meshnet.model.frozen import dataclass
from meshnet.model.snapshot import Gap, InterfaceAddress, Link, PolicyRoute, Route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal, TypeVar

    T = TypeVar("T")

_ROUTE = 0
_GETLINK, _GETADDR, _GETROUTE, _GETRULE = 18, 22, 26, 34
_FAMILIES = {socket.AF_INET: "ip", socket.AF_INET6: "ip6"}
_NUMBERS = {name: number for number, name in _FAMILIES.items()}
#: include/uapi/linux/rtnetlink.h
_SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
_KINDS = ["", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole"]
_KINDS += ["unreachable", "prohibit", "throw", "nat"]
_IFNAME, _EXT_MASK, _SKIP_STATS = 3, 29, 8
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _MULTIPATH, _TABLE, _VIA = 1, 4, 5, 6, 7, 9, 15, 18
_CLONED = 0x200
_UP, _LOOPBACK = 1, 8
#: include/uapi/linux/fib_rules.h
_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_FRA_DST, _FRA_SRC, _FRA_IIF, _FRA_GOTO, _FRA_PRIORITY = 1, 2, 3, 4, 6
_FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK, _FRA_OIF, _FRA_PROTOCOL = 10, 15, 16, 17, 21
_FRA_HELD = {_FRA_DST, _FRA_SRC, _FRA_IIF, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE}
_FRA_HELD |= {_FRA_FWMASK, _FRA_OIF, _FRA_PROTOCOL, 18}
_FRA_NAMES = {11: "realms", 12: "tun_id", 13: "suppress_ifgroup", 14: "suppress_prefixlength"}
_FRA_NAMES |= {19: "l3mdev", 20: "uidrange", 22: "ipproto", 23: "sport", 24: "dport", 25: "dscp"}
#: Conditions that are a first and a last number.
_SPANS = {20: "=I", 23: "=H", 24: "=H"}
_INVERT = 2
#: As many interfaces are kept whatever the limit: everything else names them.
MANY_LINKS = 100_000
_TRIES = 10
_NOTHING = b"\xff\xff\xff\xff"


@dataclass(frozen=True)
class Surroundings:
    """See the module; ``gaps`` say what was cut."""

    links: tuple[Link, ...]
    addresses: tuple[InterfaceAddress, ...]
    routes: tuple[Route, ...]
    policies: tuple[PolicyRoute, ...]
    gaps: tuple[Gap, ...] = ()


def read_surroundings(limit: int) -> Surroundings:
    """Interfaces, addresses, routes of all tables, policy rules: at most ``limit`` of each.

    Needs no capability. Raises ToolFailed where the kernel refuses.
    """
    gaps: list[Gap] = []
    links = _read(_links, MANY_LINKS, "interfaces", gaps)
    names = {link.index: link.name for link in links}
    return Surroundings(
        links,
        _read(lambda: _addresses(names), limit, "addresses", gaps),
        _read(lambda: _of_both(lambda f: _routes(f, names)), limit, "routes", gaps),
        _read(lambda: _of_both(_policies), limit, "policy rules", gaps),
        tuple(gaps),
    )


def read_links() -> tuple[Link, ...]:
    """The interfaces alone, at most :data:`MANY_LINKS`; raises as :func:`read_surroundings`."""
    return _read(_links, MANY_LINKS, "interfaces", [])


def _of_both(read: Callable[[str], Iterator[T]]) -> Iterator[T]:
    return (value for family in _NUMBERS for value in read(family))


def _read(read: Callable[[], Iterator[T]], limit: int, what: str, gaps: list[Gap]) -> tuple[T, ...]:
    """What ``read`` gives, at most ``limit``; again where the kernel says that it changed."""
    for left in range(_TRIES, -1, -1):
        kept: list[T] = []
        count = 0
        try:
            for count, value in enumerate(read(), 1):
                if count <= limit:
                    kept.append(value)
        except Changed:
            if left:
                continue
            gaps.append(Gap("routes", f"the {what} changed each time they were read"))
        if count > limit:
            gaps.append(Gap("routes", f"{limit:,} of {count:,} {what} kept"))
        break
    return tuple(kept)


def _links() -> Iterator[Link]:
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
    body += attribute(_EXT_MASK, struct.pack("=I", _SKIP_STATS))
    for answer in stream(_ROUTE, _GETLINK, DUMP, body, "interfaces"):
        _, _, index, flags, _ = struct.unpack_from("=BxHiII", answer)
        name = _text(attributes(answer[16:]).get(_IFNAME, b""))
        yield Link(index, name, bool(flags & _UP), bool(flags & _LOOPBACK))


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "backslashreplace")


def _name(index: int, links: dict[int, str]) -> str:
    """The name of an interface; one that came between two questions has only its number."""
    return links.get(index) or f"if{index}"


def _addresses(links: dict[int, str]) -> Iterator[InterfaceAddress]:
    body = struct.pack("=BBBBi", 0, 0, 0, 0, 0)
    for answer in stream(_ROUTE, _GETADDR, DUMP, body, "addresses"):
        family, length, _, scope, index = struct.unpack_from("=BBBBi", answer)
        fields = attributes(answer[8:])
        raw = fields.get(_IFA_LOCAL) or fields.get(_IFA_ADDRESS)
        if family in _FAMILIES and raw:
            yield InterfaceAddress(
                _name(index, links),
                _FAMILIES[family],
                socket.inet_ntop(family, raw),
                length,
                _SCOPES.get(scope, str(scope)),
            )


def _routes(family: str, links: dict[int, str]) -> Iterator[Route]:
    number = _NUMBERS[family]
    body = struct.pack("=BBBBBBBBI", number, 0, 0, 0, 0, 0, 0, 0, 0)
    for answer in stream(_ROUTE, _GETROUTE, DUMP, body, "routes"):
        _, length, _, _, table, protocol, _, kind, flags = struct.unpack_from("=BBBBBBBBI", answer)
        if flags & _CLONED or answer[0] != number:
            continue
        fields = attributes(answer[12:])
        if _TABLE in fields:
            (table,) = struct.unpack("=I", fields[_TABLE])
        (metric,) = struct.unpack("=I", fields.get(_PRIORITY, bytes(4)))
        source = fields.get(_PREFSRC)
        for hop in _hops(fields):
            yield Route(
                family,
                table,
                _cidr(number, fields.get(_DST), length),
                _KINDS[kind] if 0 < kind < len(_KINDS) else str(kind),
                _gateway(number, hop),
                _name(struct.unpack("=i", hop[_OIF])[0], links) if _OIF in hop else "",
                socket.inet_ntop(number, source) if source else "",
                metric,
                protocol,
            )


def _hops(fields: dict[int, bytes]) -> Iterator[dict[int, bytes]]:
    """The next hops of a route; one that is the route itself where there are not several."""
    data = fields.get(_MULTIPATH)
    if data is None:
        yield fields
        return
    at = 0
    while at + 8 <= len(data):
        length, _, _, index = struct.unpack_from("=HBBi", data, at)
        if length < 8:
            return
        yield {**attributes(data[at + 8 : at + length]), _OIF: struct.pack("=i", index)}
        at += (length + 3) & ~3


def _gateway(family: int, hop: dict[int, bytes]) -> str:
    if _GATEWAY in hop:
        return socket.inet_ntop(family, hop[_GATEWAY])
    if _VIA in hop:
        (other,) = struct.unpack_from("=H", hop[_VIA])
        return socket.inet_ntop(other, hop[_VIA][2:]) if other in _FAMILIES else ""
    return ""


def _cidr(family: int, raw: bytes | None, length: int) -> str:
    full = raw or bytes(4 if family == socket.AF_INET else 16)
    return f"{socket.inet_ntop(family, full)}/{length}"


def _policies(family: str) -> Iterator[PolicyRoute]:
    number = _NUMBERS[family]
    body = struct.pack("=BBBBBBBBI", number, 0, 0, 0, 0, 0, 0, 0, 0)
    try:
        for answer in stream(_ROUTE, _GETRULE, DUMP, body, "policy rules"):
            if answer[0] == number:
                yield _policy(family, answer)
    except NetlinkError:
        # A kernel without CONFIG_IP_MULTIPLE_TABLES has none, and refuses to list them.
        return


def _policy(family: str, answer: bytes) -> PolicyRoute:
    number, to, source, tos, table, _, _, action, flags = struct.unpack_from("=BBBBBBBBI", answer)
    fields = attributes(answer[12:])

    def value(kind: int, default: int = 0) -> int:
        return int(struct.unpack("=I", fields[kind])[0]) if kind in fields else default

    other = tuple(_condition(kind, raw) for kind, raw in fields.items() if kind not in _FRA_HELD)
    other += (f"tos {tos:#x}",) if tos else ()
    return PolicyRoute(
        family,
        value(_FRA_PRIORITY),
        value(_FRA_TABLE, table),
        _ACTIONS.get(action, f"action {action}"),
        value(_FRA_FWMARK) if {_FRA_FWMARK, _FRA_FWMASK} & set(fields) else None,
        value(_FRA_FWMASK, 0xFFFFFFFF),
        _cidr(number, fields.get(_FRA_SRC), source) if source else "",
        _cidr(number, fields.get(_FRA_DST), to) if to else "",
        _text(fields.get(_FRA_IIF, b"")),
        _text(fields.get(_FRA_OIF, b"")),
        bool(flags & _INVERT),
        fields.get(_FRA_PROTOCOL, b"\0")[0],
        tuple(filter(None, other)),
    )


def _condition(kind: int, raw: bytes) -> str:
    """A condition in ip-rule's words; "" for one that says nothing."""
    name = _FRA_NAMES.get(kind, "goto" if kind == _FRA_GOTO else f"attribute {kind}")
    if raw == _NOTHING or not any(raw):
        return ""
    if kind in _SPANS and len(raw) == 2 * struct.calcsize(_SPANS[kind]):
        first, last = struct.unpack("=" + 2 * _SPANS[kind][1], raw)
        return f"{name} {first}" if first == last else f"{name} {first}-{last}"
    if len(raw) in (1, 2, 4):
        order: Literal["little", "big"] = "little" if sys.byteorder == "little" else "big"
        return f"{name} {int.from_bytes(raw, order)}"
    return f"{name} {raw.hex()}"
