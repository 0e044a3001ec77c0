"""Listeners that say what arrived, and with which original destination."""

from __future__ import annotations

import errno
import secrets
import socket
import struct

from meshnet.errors import NotPermitted
from meshnet.model.frozen import dataclass
from meshnet.model.packet import TCP, Family

TOKEN_BYTES = 16
#: include/uapi/linux/netfilter_ipv4.h and netfilter_ipv6/ip6_tables.h: one number for both.
_ORIGINAL_DST = 80
#: include/uapi/linux/in.h and in6.h.
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
_LEVEL = {Family.IP: socket.IPPROTO_IP, Family.IP6: socket.IPPROTO_IPV6}
_ANY = {Family.IP: "0.0.0.0", Family.IP6: "::"}
_LOOPBACK = {Family.IP: "127.0.0.1", Family.IP6: "::1"}

#: An address as text, and a port.
Endpoint = tuple[str, int]


@dataclass(frozen=True)
class Arrival:
    """A connection, or a question, that a listener of ours got.

    ``original`` is where it was meant to go: what conntrack says where the destination
    was rewritten, the socket's own address where it was not. None for a datagram.
    """

    port: int
    original: Endpoint | None


class Listener:
    """A socket at ``port`` of its namespace that greets each connection with a token.

    The listener speaks, and the probe listens: nobody else's service is ever sent a byte.
    A datagram brings its token itself, and is answered.
    """

    def __init__(self, sock: socket.socket, family: Family, transport: int, port: int) -> None:
        self.socket = sock
        self.family = family
        self.transport = transport
        self.port = port
        self.kept: list[socket.socket] = []

    def open(self, *, transparent: bool = False, loopback: bool = False) -> bool:
        """Bind and listen; False where somebody else has the port.

        ``transparent`` takes connections to foreign addresses, as TPROXY hands them over.
        ``loopback`` binds to 127.0.0.1 or ::1 only: an answer to a datagram must leave
        from the address that it came to, or conntrack does not know it again. ``port`` 0
        becomes the one that the kernel picks. Raises NotPermitted for a port below 1024
        without CAP_NET_BIND_SERVICE, or without a capability for ``transparent``.
        """
        self.socket.setblocking(False)
        try:
            if transparent:
                option = _IP_TRANSPARENT if self.family is Family.IP else _IPV6_TRANSPARENT
                self.socket.setsockopt(_LEVEL[self.family], option, 1)
            if self.transport == TCP:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(((_LOOPBACK if loopback else _ANY)[self.family], self.port))
            if self.transport == TCP:
                self.socket.listen(128)
        except PermissionError as e:
            need = "CAP_NET_ADMIN or CAP_NET_RAW" if e.errno == errno.EPERM else ""
            raise NotPermitted(f"needs {need or 'CAP_NET_BIND_SERVICE'}") from e
        except OSError as e:
            if e.errno != errno.EADDRINUSE:
                raise
            return False
        self.port = self.socket.getsockname()[1]
        return True

    def take(self) -> tuple[bytes, Arrival] | None:
        """The next arrival with its token; None where there is none after all."""
        try:
            return self._accept() if self.transport == TCP else self._answer()
        except OSError:
            # Reset before it was taken, or an ICMP error of an earlier answer.
            return None

    def _accept(self) -> tuple[bytes, Arrival]:
        connection, _ = self.socket.accept()
        self.kept.append(connection)
        token = secrets.token_bytes(TOKEN_BYTES)
        connection.send(token)
        local = connection.getsockname()
        original = original_destination(connection, self.family) or (local[0], local[1])
        return token, Arrival(self.port, original)

    def _answer(self) -> tuple[bytes, Arrival]:
        question, sender = self.socket.recvfrom(512)
        self.socket.sendto(answer_to(question), sender)
        return token_in(question), Arrival(self.port, None)

    def close(self) -> None:
        """Close the socket and every connection that it took."""
        for sock in (*self.kept, self.socket):
            sock.close()


def original_destination(connection: socket.socket, family: Family) -> Endpoint | None:
    """Where the connection was meant to go; None where conntrack does not know it.

    Works on either end of it: conntrack finds the entry by both of its tuples
    (``net/netfilter/nf_conntrack_proto.c``, getorigdst and ipv6_getorigdst).
    """
    try:
        raw = connection.getsockopt(_LEVEL[family], _ORIGINAL_DST, 28)
    except OSError:
        return None
    (port,) = struct.unpack_from("!H", raw, 2)
    if family is Family.IP:
        return socket.inet_ntop(socket.AF_INET, raw[4:8]), port
    return socket.inet_ntop(socket.AF_INET6, raw[8:24]), port


def question_with(token: bytes) -> bytes:
    """A DNS question (A, IN) for a name made of ``token`` below .invalid, which nobody has."""
    label = token.hex().encode()
    name = bytes([len(label)]) + label + b"\x07invalid\0"
    return token[:2] + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + name + struct.pack("!HH", 1, 1)


def token_in(question: bytes) -> bytes:
    """The token of such a question; empty for any other datagram."""
    try:
        return bytes.fromhex(question[13 : 13 + 2 * TOKEN_BYTES].decode("ascii"))
    except ValueError:
        return b""


def answer_to(question: bytes) -> bytes:
    """The answer "no such name" to ``question``, or a datagram that answers nothing."""
    return question[:2] + b"\x81\x83" + question[4:]
