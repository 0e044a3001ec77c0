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
_BATCH_BEGIN, _BATCH_END = 16, 17
_PATIENCE = struct.pack("ll", 10, 0)
_HEADER = struct.Struct("=IHHII")


class NetlinkError(ToolFailed):
    """The kernel refused a request; ``code`` is its errno."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what}: {os.strerror(code)}")
        self.code = code


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

    ``what`` names the object in errors. Raises NetlinkError (NotPermitted for EPERM).
    """
    return gate.touch(what, lambda: list(_exchange(protocol, kind, flags, body, what)))


def send_batch(
    protocol: int, subsystem: int, kind: int, flags: int, body: bytes, what: str
) -> None:
    """Send one nfnetlink change as a transaction of its own; raises as :func:`exchange` does."""
    mark = struct.pack("=BBH", 0, 0, _socket.htons(subsystem >> 8))
    begin = _HEADER.pack(_HEADER.size + 4, _BATCH_BEGIN, REQUEST, 1, 0) + mark
    end = _HEADER.pack(_HEADER.size + 4, _BATCH_END, REQUEST, 3, 0) + mark
    middle = _HEADER.pack(_HEADER.size + len(body), kind, flags | REQUEST | ACK, 2, 0) + body
    gate.touch(what, lambda: list(_converse(protocol, begin + middle + end, what)))


def _exchange(protocol: int, kind: int, flags: int, body: bytes, what: str) -> Iterator[bytes]:
    header = _HEADER.pack(_HEADER.size + len(body), kind, flags | REQUEST, 1, 0)
    yield from _converse(protocol, header + body, what)


def _converse(protocol: int, message: bytes, what: str) -> Iterator[bytes]:
    sock = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, _PATIENCE)
        sock.bind((0, 0))
        sock.send(message)
        while True:
            data, at = sock.recv(1 << 18), 0
            while at < len(data):
                length, answer, more, _, _ = _HEADER.unpack_from(data, at)
                content = data[at + _HEADER.size : at + length]
                at += (length + 3) & ~3
                if answer == _DONE:
                    return
                if answer == _ERROR:
                    (code,) = struct.unpack_from("=i", content)
                    _check(-code, what)
                    return
                yield content
                if not more & _MULTI:
                    return
    except BlockingIOError as e:
        raise ToolFailed(f"{what}: the kernel did not answer within 10 s") from e
    finally:
        sock.close()


def _check(code: int, what: str) -> None:
    if code == 1:
        raise NotPermitted(f"{what}: needs CAP_NET_ADMIN in this network namespace")
    if code:
        raise NetlinkError(what, code)
