"""The netlink that ``meshnet-init`` needs, spoken directly: messages, attributes, answers.

pyroute2 does this and far more; its import costs ten times what a whole run may
(docs/performance.md), so the few requests of the start-up path are made here.
"""

from __future__ import annotations

import _socket
import os
import struct

from meshnet.errors import NotPermitted, ToolFailed
from meshnet.host import gate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST, ACK, DUMP = 1, 4, 0x300
EXCLUSIVE, CREATE = 0x200, 0x400
_ERROR, _DONE = 2, 3
_MULTI = 2
#: NLM_F_DUMP_INTR: the list changed while it was being made.
_CHANGED = 0x10
#: How often a list that changed is asked for again.
_TRIES = 10
#: Twice what the kernel puts into one part of a list (net/netlink/af_netlink.c, netlink_recvmsg).
_ROOM = 1 << 16
_BATCH_BEGIN, _BATCH_END = 16, 17
_PATIENCE = struct.pack("ll", 10, 0)
_HEADER = struct.Struct("=IHHII")


class NetlinkError(ToolFailed):
    """The kernel refused a request; ``code`` is its errno."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what}: {os.strerror(code)}")
        self.code = code


class Changed(ToolFailed):
    """The kernel says that what it was listing changed meanwhile (NLM_F_DUMP_INTR)."""


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + b"\0" * (-length % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in ``data`` by number; the last one wins."""
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def exchange(protocol: int, kind: int, flags: int, body: bytes, what: str) -> list[bytes]:
    """Send one request in this namespace and give the bodies of the answers.

    ``what`` names the object in errors. A list that changed while the kernel made it is asked
    for again. Raises NetlinkError (NotPermitted for EPERM), and ToolFailed where there is no
    answer, none that can be read, or the list never stood still.
    """
    return gate.touch(what, lambda: _whole(protocol, _message(kind, flags, body), what))


def stream(protocol: int, kind: int, flags: int, body: bytes, what: str) -> Iterator[bytes]:
    """As :func:`exchange`, but one body at a time: for answers that may be very many.

    Raises Changed where the list changed midway: what was given so far may lack something.
    """
    message = _message(kind, flags, body)
    sock = gate.touch(what, lambda: _send(protocol, message, what))
    yield from _answers(sock, what)


def send_batch(
    protocol: int, subsystem: int, kind: int, flags: int, body: bytes, what: str
) -> None:
    """Send one nfnetlink change as a transaction of its own; raises as :func:`exchange` does."""
    mark = struct.pack("=BBH", 0, 0, _socket.htons(subsystem >> 8))
    begin = _HEADER.pack(_HEADER.size + 4, _BATCH_BEGIN, REQUEST, 1, 0) + mark
    end = _HEADER.pack(_HEADER.size + 4, _BATCH_END, REQUEST, 3, 0) + mark
    middle = _HEADER.pack(_HEADER.size + len(body), kind, flags | REQUEST | ACK, 2, 0) + body
    batch = begin + middle + end
    gate.touch(what, lambda: list(_answers(_send(protocol, batch, what), what)))


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | REQUEST, 1, 0) + body


def _whole(protocol: int, message: bytes, what: str) -> list[bytes]:
    for _ in range(_TRIES):
        try:
            return list(_answers(_send(protocol, message, what), what))
        except Changed:
            pass
    return list(_answers(_send(protocol, message, what), what))


def _send(protocol: int, message: bytes, what: str) -> _socket.socket:
    sock = None
    try:
        sock = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, _PATIENCE)
        sock.bind((0, 0))
        sock.send(message)
    except BaseException as e:
        if sock is not None:
            sock.close()
        if isinstance(e, OSError):
            raise NetlinkError(what, e.errno or 0) from e
        raise
    return sock


def _answers(sock: _socket.socket, what: str) -> Iterator[bytes]:
    """The bodies that come back; closes the socket, whatever happens."""
    try:
        while True:
            data, _, flags, sender = sock.recvmsg(_ROOM)
            if sender[0] != 0:
                continue
            if flags & _socket.MSG_TRUNC:
                raise ToolFailed(f"{what}: an answer of the kernel is too long")
            for answer, marks, content in messages(data, what):
                if marks & _CHANGED:
                    raise Changed(f"{what}: changed while being read")
                if answer in (_ERROR, _DONE):
                    # A list ends with a number too: that of what went wrong midway.
                    if len(content) >= 4:
                        (code,) = struct.unpack_from("=i", content)
                        _check(-code, what)
                    return
                yield content
                if not marks & _MULTI:
                    return
    except BlockingIOError as e:
        raise ToolFailed(f"{what}: the kernel did not answer within 10 s") from e
    finally:
        sock.close()


def messages(data: bytes, what: str) -> Iterator[tuple[int, int, bytes]]:
    """(type, flags, body) of each message in ``data``; ToolFailed where it is cut short."""
    at, end = 0, len(data)
    while at < end:
        length = answer = flags = 0
        if end - at >= 16:
            length, answer, flags, _, _ = _HEADER.unpack_from(data, at)
        if not 16 <= length <= end - at:
            raise ToolFailed(f"{what}: the kernel's answer is cut short")
        yield answer, flags, data[at + 16 : at + length]
        at += (length + 3) & ~3


def _check(code: int, what: str) -> None:
    if code == 1:
        raise NotPermitted(f"{what}: needs CAP_NET_ADMIN in this network namespace")
    if code:
        raise NetlinkError(what, code)
