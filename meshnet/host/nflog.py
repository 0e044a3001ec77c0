"""Packets as NFLOG hands them over: each with its owner; and the lines of legacy tables' trace."""

from __future__ import annotations

import struct

from meshnet.host.netlink import ACK, attribute
from meshnet.host.owner_table import message
from meshnet.model.trace import Logged

SUBSYSTEM = 4 << 8
PACKET, _CONFIG = SUBSYSTEM, SUBSYSTEM | 1
#: Where legacy tables' trace goes: the logger's default (net/netfilter/nfnetlink_log.c).
LEGACY_GROUP = 0
#: Bytes of each packet that are copied: the headers, with options.
_COPIED = 160
_BIND, _COPY_PACKET, _SEQUENCE = b"\1", 2, 1
#: Attributes of a packet, of include/uapi/linux/netfilter/nfnetlink_log.h.
_HEADER, _MARK, _INDEV, _OUTDEV, _PAYLOAD, _PREFIX = 1, 2, 4, 5, 9, 10
_UID, _SEQ, _GID = 11, 12, 14


def binding(group: int, number: int) -> list[bytes]:
    """The requests, numbered from ``number``, that make a socket the listener of ``group``.

    One packet a message at once, and numbered, so that what is lost is known.
    """
    mode = attribute(2, struct.pack("!IBB", _COPIED, _COPY_PACKET, 0))
    flags = attribute(6, struct.pack("!H", _SEQUENCE))
    bodies = [attribute(1, _BIND), mode + attribute(5, struct.pack("!I", 1)) + flags]
    return [message(_CONFIG, ACK, n, 0, group, body) for n, body in enumerate(bodies, number)]


def read_logged(body: bytes) -> Logged:
    """The packet in the body of a message of kind PACKET."""
    hook = iif = oif = mark = sequence = 0
    uid = gid = None
    prefix = packet = b""
    at, end = 4, len(body)
    while at + 4 <= end:
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            break
        data = body[at + 4 : at + length]
        if kind == _HEADER:
            hook = data[2]
        elif kind == _PAYLOAD:
            packet = data
        elif kind == _PREFIX:
            prefix = data
        elif kind == _SEQ:
            sequence = int.from_bytes(data, "big")
        elif kind == _INDEV:
            iif = int.from_bytes(data, "big")
        elif kind == _OUTDEV:
            oif = int.from_bytes(data, "big")
        elif kind == _UID:
            uid = int.from_bytes(data, "big")
        elif kind == _GID:
            gid = int.from_bytes(data, "big")
        elif kind == _MARK:
            mark = int.from_bytes(data, "big")
        at += (length + 3) & ~3
    text = prefix.rstrip(b"\0").decode("utf-8", "backslashreplace")
    group = int.from_bytes(body[2:4], "big")
    return Logged(group, sequence, text, hook, iif, oif, mark, uid, gid, packet)


def listener_of(group: int) -> str:
    """Who listens to ``group`` in this namespace, as far as /proc tells; "" for nobody.

    (net/netfilter/nfnetlink_log.c, seq_show: group and the netlink port of the listener.)
    """
    try:
        with open("/proc/thread-self/net/netfilter/nfnetlink_log", encoding="ascii") as f:
            lines = [line.split() for line in f]
    except OSError:
        return ""
    return next((words[1] for words in lines if len(words) > 1 and words[0] == str(group)), "")
