"""The TCP and UDP sockets of this network namespace, asked of the kernel by sock_diag.

Where asking would load a module, ``/proc`` tells most of the same (host/procnet.py).
pyroute2 has sock_diag too, and takes twenty times as long for ten thousand sockets.
"""

from __future__ import annotations

import errno
import struct
import sys
from _socket import if_indextoname

from meshnet.errors import ToolFailed
from meshnet.host.autoload import loads_nothing
from meshnet.host.netlink import DUMP, Changed, NetlinkError, attributes, stream
from meshnet.host.procnet import read_table
from meshnet.host.socket_list import LIMIT, LISTENING, SocketList
from meshnet.host.userns import SAME, IdMap
from meshnet.model.feature import Module
from meshnet.model.snapshot import Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SOCK_DIAG, _BY_FAMILY = 4, 20
_NUMBERS = {"tcp": 6, "udp": 17}
_FAMILIES = {2: "ip", 10: "ip6"}
_MODULES = {
    "tcp": Module("tcp_diag", "INET_TCP_DIAG"),
    "udp": Module("udp_diag", "INET_UDP_DIAG"),
}
#: struct inet_diag_req_v2: family, protocol, attributes wanted, states; any address.
_REQUEST = struct.Struct("=BBBxI48x")
#: struct inet_diag_msg (include/uapi/linux/inet_diag.h): family, state, ports, addresses,
#: interface, uid, inode.
_MESSAGE = struct.Struct("=BB2x2s2s16s16sI20xII")
_EVERY_STATE = 0xFFE
#: INET_DIAG_SKV6ONLY; INET_DIAG_SOCKOPT, since Linux 5.10.
_ONLY6, _OPTIONS = 11, 22
#: The sixth bit field of struct inet_diag_sockopt: compilers begin at the machine's own end.
_TRANSPARENT = 1 << 5 if sys.byteorder == "little" else 0x80 >> 5
#: What a kernel answers that lacks sock_diag, or its part for this protocol or family.
_LACKS = (errno.ENOENT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL, errno.EAFNOSUPPORT)
_TRIES = 3
#: The attributes repeat from socket to socket: this many different ones are remembered.
_REMEMBERED = 1024


def read_sockets(
    listening_only: bool = False, limit: int = LIMIT, uids: IdMap = SAME
) -> tuple[list[Socket], int]:
    """(sockets, how many more there were) of this network namespace; those that listen first.

    TCP in every state, and UDP, of both families; with ``listening_only`` TCP in state listen
    and UDP that takes packets from anybody ("unconn"). ``uids`` turns the reader's UIDs into
    those wanted; sockets that no process holds any more or yet (time-wait, syn-recv) have
    UNMAPPED. ``pids`` stay empty. :func:`lacking` says what may be missing. No module is
    loaded, no capability is needed. Raises ToolFailed where an answer cannot be read.
    """
    for _ in range(_TRIES):
        try:
            return _read(listening_only, SocketList(limit, uids))
        except Changed:
            pass
    return _read(listening_only, SocketList(limit, uids))


def lacking() -> str:
    """What sockets read here do not tell, in one sentence; "" where they tell everything."""
    absent = [module.name for module in _MODULES.values() if not loads_nothing(module)]
    if not absent:
        return ""
    return (
        f"without {' and '.join(absent)} in the kernel it is not known which sockets are bound "
        "to an interface, take IPv6 only, or are transparent"
    )


def _read(listening_only: bool, found: SocketList) -> tuple[list[Socket], int]:
    for proto, module in _MODULES.items():
        asks = loads_nothing(module)
        for number, family in _FAMILIES.items():
            if not asks or not _ask(proto, number, listening_only, found):
                read_table(proto, family, found, listening_only)
    return found.result()


def _ask(proto: str, family: int, listening_only: bool, found: SocketList) -> bool:
    """Add the sockets of one kind; False where the kernel cannot be asked this way."""
    states = 1 << LISTENING[proto] if listening_only else _EVERY_STATE
    request = _REQUEST.pack(family, _NUMBERS[proto], 0, states)
    try:
        what = f"{proto} sockets"
        collect(stream(_SOCK_DIAG, _BY_FAMILY, DUMP, request, what), proto, found)
    except NetlinkError as e:
        # The kernel says so before it gives any.
        if e.code in _LACKS:
            return False
        raise
    return True


def collect(bodies: Iterable[bytes], proto: str, found: SocketList) -> None:
    """Add the sockets in the kernel's answers. Raises ToolFailed where one is cut short."""
    links = {0: ""}
    remembered: dict[bytes, tuple[bool, bool | None]] = {}
    for body in bodies:
        if len(body) < _MESSAGE.size:
            raise ToolFailed(f"{proto} sockets: the kernel's answer is cut short")
        if not found.has_room(proto, body[1]):
            continue
        family, state, sport, dport, src, dst, index, uid, inode = _MESSAGE.unpack_from(body)
        if family == 2:
            src, dst = src[:4], dst[:4]
        rest = body[72:]
        flags = remembered.get(rest)
        if flags is None:
            if len(remembered) >= _REMEMBERED:
                remembered.clear()
            flags = remembered[rest] = _flags(rest)
        link = links.get(index)
        if link is None:
            link = links[index] = _name(index)
        ends = (src, sport[0] << 8 | sport[1], dst, dport[0] << 8 | dport[1])
        found.add(proto, state, ends, uid, inode, link, *flags)


def _flags(rest: bytes) -> tuple[bool, bool | None]:
    """(takes IPv6 only, is transparent) by a socket's attributes."""
    found = attributes(rest)
    options = found.get(_OPTIONS)
    return found.get(_ONLY6, b"\0")[:1] == b"\1", bool(
        options[0] & _TRANSPARENT
    ) if options else None


def _name(index: int) -> str:
    """The interface's name; ``#7`` where number 7 is gone."""
    try:
        return if_indextoname(index)
    except OSError:
        return f"#{index}"
