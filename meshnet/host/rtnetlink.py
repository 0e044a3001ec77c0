"""Addresses, policy rules and routes of this network namespace."""

from __future__ import annotations

import errno
import os
import struct

from meshnet.host.netlink import (
    ACK,
    CREATE,
    DUMP,
    EXCLUSIVE,
    NetlinkError,
    attribute,
    attributes,
    exchange,
)
from meshnet.model.packet import Family
from meshnet.model.plumbing import PROTOCOL, LocalRoute, LoopbackAddress, Part, PolicyRule

_ROUTE = 0
_NEWLINK, _GETLINK = 16, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_AF = {Family.IP: 2, Family.IP6: 10}
_FAMILY = {number: family for family, number in _AF.items()}
_IFA_ADDRESS, _IFA_LOCAL, _IFA_PROTO = 1, 2, 11
_FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 10, 15, 16, 21
_RTA_OIF, _RTA_TABLE = 4, 15
_LOCAL_TYPE, _HOST_SCOPE = 2, 254
_TO_TABLE = 1
_INVERT = 2
_ALL_BITS = b"\xff\xff\xff\xff"
#: Attributes that narrow a rule: interfaces, user range, protocol, ports, tunnel, iif group.
_NARROWING = {3, 17, 12, 20, 22, 23, 24}
_UP = 1


class Address:
    """An address of an interface, as far as we look at it."""

    def __init__(self, family: Family, number: int, length: int, link: int, protocol: int) -> None:
        self.family = family
        self.number = number
        self.length = length
        self.link = link
        self.protocol = protocol

    def is_local_only(self) -> bool:
        """Whether it is a loopback or link-local address, or the ``::6`` that we put on lo."""
        if self.family is Family.IP:
            return self.number >> 24 == 127 or self.number >> 16 == 0xA9FE
        return self.number in (1, 6) or self.number >> 118 == 0xFE80 >> 6


def addresses() -> list[Address]:
    """Every address of this namespace, IPv4 first, in the kernel's order."""
    found = []
    for body in exchange(_ROUTE, _GETADDR, DUMP, struct.pack("=BBBBi", 0, 0, 0, 0, 0), "addresses"):
        af, length, _, _, link = struct.unpack_from("=BBBBi", body)
        fields = attributes(body[8:])
        raw = fields.get(_IFA_LOCAL) or fields.get(_IFA_ADDRESS)
        if af in _FAMILY and raw:
            protocol = fields.get(_IFA_PROTO, b"\0")[0]
            number = int.from_bytes(raw, "big")
            found.append(Address(_FAMILY[af], number, length, link, protocol))
    return found


def loopback() -> tuple[int, bool]:
    """The index of lo, and whether it is up."""
    name = attribute(3, b"lo\0")
    body = exchange(_ROUTE, _GETLINK, 0, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + name, "link lo")[0]
    _, _, index, flags, _ = struct.unpack_from("=BxHiII", body)
    return int(index), bool(flags & _UP)


def refuses_ipv6_on_loopback() -> bool:
    """Whether lo of this namespace takes no IPv6 address (net.ipv6.conf.lo.disable_ipv6)."""
    try:
        with open("/proc/sys/net/ipv6/conf/lo/disable_ipv6", encoding="ascii") as f:
            return f.read().strip() != "0"
    except OSError:
        return True


def raise_loopback() -> None:
    """Set lo up: a local route by it needs that."""
    index, _ = loopback()
    body = struct.pack("=BxHiII", 0, 0, index, _UP, _UP)
    exchange(_ROUTE, _NEWLINK, ACK, body, "setting lo up")


def present_parts() -> list[tuple[Part, bool]]:
    """Parts that this namespace holds, and whether each is ours, told by the protocol number.

    A kernel before 5.18 keeps no number with an address: there ``::6`` on lo counts as ours.
    What has another shape than a part of a plan is none, whatever its number.
    """
    parts: list[tuple[Part, bool]] = []
    old = tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2]) < (5, 18)
    index, _ = loopback()
    for address in addresses():
        bits = 32 if address.family is Family.IP else 128
        if address.link == index and address.length == bits:
            unmarked = old and address.family is Family.IP6 and address.number == 6
            part = LoopbackAddress(address.family, address.number)
            parts.append((part, address.protocol == PROTOCOL or unmarked))
    for family in _AF:
        parts += _present_rules(family)
        parts += _present_routes(family, index)
    return parts


def _present_rules(family: Family) -> list[tuple[Part, bool]]:
    parts: list[tuple[Part, bool]] = []
    for body in exchange(_ROUTE, _GETRULE, DUMP, _rule_header(family), "policy rules"):
        _, to, source, _, _, _, _, action, flags = struct.unpack_from("=BBBBBBBBI", body)
        fields = attributes(body[12:])
        whole = fields.get(_FRA_FWMASK, _ALL_BITS) == _ALL_BITS
        if _FRA_FWMARK not in fields or not whole or (to, source, action) != (0, 0, _TO_TABLE):
            continue
        if flags & _INVERT or set(fields) & _NARROWING:
            continue
        (mark,) = struct.unpack("=I", fields[_FRA_FWMARK])
        (table,) = struct.unpack("=I", fields[_FRA_TABLE])
        ours = fields.get(_FRA_PROTOCOL, b"\0")[0] == PROTOCOL
        parts.append((PolicyRule(family, mark, table), ours))
    return parts


def _present_routes(family: Family, index: int) -> list[tuple[Part, bool]]:
    parts: list[tuple[Part, bool]] = []
    body = struct.pack("=BBBBBBBBI", _AF[family], 0, 0, 0, 0, 0, 0, 0, 0)
    for answer in exchange(_ROUTE, _GETROUTE, DUMP, body, "routes"):
        _, to, _, _, _, protocol, _, kind, _ = struct.unpack_from("=BBBBBBBBI", answer)
        fields = attributes(answer[12:])
        by_loopback = fields.get(_RTA_OIF) == struct.pack("=i", index)
        if kind == _LOCAL_TYPE and to == 0 and by_loopback and _RTA_TABLE in fields:
            (table,) = struct.unpack("=I", fields[_RTA_TABLE])
            parts.append((LocalRoute(family, table), protocol == PROTOCOL))
    return parts


def add_part(part: Part) -> bool:
    """Make ``part``; False where one like it was there already, whoever made it."""
    try:
        _send(part, add=True)
    except NetlinkError as e:
        if e.code == errno.EEXIST:
            return False
        raise
    return True


def remove_part(part: Part) -> bool:
    """Take ``part`` away; False where it was gone already."""
    try:
        _send(part, add=False)
    except NetlinkError as e:
        if e.code in (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL):
            return False
        raise
    return True


def _send(part: Part, add: bool) -> None:
    flags = ACK | (CREATE | EXCLUSIVE if add else 0)
    if isinstance(part, LoopbackAddress):
        kind, body = (_NEWADDR if add else _DELADDR), _address_body(part)
    elif isinstance(part, PolicyRule):
        kind, body = (_NEWRULE if add else _DELRULE), _rule_body(part)
    else:
        kind, body = (_NEWROUTE if add else _DELROUTE), _route_body(part)
    what = str(part) if add else str(part).replace(" add ", " delete ", 1)
    exchange(_ROUTE, kind, flags, body, what)


def _address_body(part: LoopbackAddress) -> bytes:
    bits = 32 if part.family is Family.IP else 128
    raw = part.address.to_bytes(bits // 8, "big")
    index, _ = loopback()
    body = struct.pack("=BBBBi", _AF[part.family], bits, 0, 0, index)
    body += attribute(_IFA_LOCAL, raw) + attribute(_IFA_ADDRESS, raw)
    return body + attribute(_IFA_PROTO, bytes([PROTOCOL]))


def _rule_header(family: Family) -> bytes:
    return struct.pack("=BBBBBBBBI", _AF[family], 0, 0, 0, 0, 0, 0, _TO_TABLE, 0)


def _rule_body(part: PolicyRule) -> bytes:
    body = _rule_header(part.family)
    body += attribute(_FRA_FWMARK, struct.pack("=I", part.mark))
    body += attribute(_FRA_TABLE, struct.pack("=I", part.table))
    return body + attribute(_FRA_PROTOCOL, bytes([PROTOCOL]))


def _route_body(part: LocalRoute) -> bytes:
    head = (_AF[part.family], 0, 0, 0, 0, PROTOCOL, _HOST_SCOPE, _LOCAL_TYPE, 0)
    index, _ = loopback()
    body = struct.pack("=BBBBBBBBI", *head) + attribute(_RTA_OIF, struct.pack("=i", index))
    return body + attribute(_RTA_TABLE, struct.pack("=I", part.table))
