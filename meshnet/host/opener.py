"""Who opened a connection: its socket by its addresses, and who holds that.

Asked while the first packet is under way: most openers are still there then.
"""

from __future__ import annotations

import socket
import struct
import time

from meshnet.host.autoload import loads_nothing
from meshnet.host.processes import pids_by_netns, read_process, socket_owners
from meshnet.model.feature import Module
from meshnet.model.packet import TCP, UDP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SOCK_DIAG, _BY_FAMILY, _REQUEST_FLAG = 4, 20, 1
_MODULES = {TCP: Module("tcp_diag", "INET_TCP_DIAG"), UDP: Module("udp_diag", "INET_UDP_DIAG")}
_FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}
#: struct inet_diag_req_v2 with an exact address and no cookie (include/uapi/linux/inet_diag.h).
_REQUEST = struct.Struct("=IHHII BBxxI 2s2s16s16sI8s")
_ANY_COOKIE = b"\xff" * 8
_INODE = 16 + 4 + 48 + 16
#: Who holds which socket is looked up at most so often, in seconds, and takes at most a
#: fifth of the time.
_PAUSE, _SHARE = 0.02, 4

Ends = tuple[bytes, int, bytes, int]


class Openers:
    """Answers for one network namespace, by its inode."""

    def __init__(self, netns: int) -> None:
        self._netns = netns
        self._asks = {proto: loads_nothing(module) for proto, module in _MODULES.items()}
        self._sockets: dict[int, tuple[int, ...]] = {}
        self._names: dict[int, str] = {}
        self._next = 0.0
        self._everybody = 0.0
        self._diag = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG
        )
        self._diag.settimeout(1)

    def socket_of(self, proto: int, ends: Ends, link: int) -> int:
        """The inode of the socket with these addresses (local first); 0 where none is known.

        ``link`` is the interface that it may be bound to.
        """
        if not self._asks.get(proto):
            return 0
        src, sport, dst, dport = ends
        request = _REQUEST.pack(
            _REQUEST.size, _BY_FAMILY, _REQUEST_FLAG, 1, 0,
            _FAMILIES[len(src)], proto, 0xFFFFFFFF,
            struct.pack("!H", sport), struct.pack("!H", dport), src, dst, link, _ANY_COOKIE,
        )  # fmt: skip
        try:
            self._diag.send(request)
            answer = self._diag.recv(8192)
        except OSError:
            return 0
        (kind,) = struct.unpack_from("=H", answer, 4)
        if kind != _BY_FAMILY or len(answer) < _INODE + 4:
            return 0
        (inode,) = struct.unpack_from("=I", answer, _INODE)
        return int(inode)

    def look_up(self, inodes: Iterable[int], last: bool = False) -> bool:
        """Find who holds ``inodes``; False where it is too early to look again.

        ``last``: look in any case. Sockets that nobody of the namespace holds are asked for
        everywhere, once a second.
        """
        wanted = set(inodes) - self._sockets.keys()
        if not wanted:
            return True
        begun = time.monotonic()
        if begun < self._next and not last:
            return False
        places = pids_by_netns()
        self._sockets = socket_owners(places.get(self._netns, ()))
        if wanted - self._sockets.keys() and (begun >= self._everybody or last):
            others = (pid for inode, p in places.items() if inode != self._netns for pid in p)
            self._sockets = {**socket_owners(others), **self._sockets}
            self._everybody = time.monotonic() + 1
        self._names.clear()
        now = time.monotonic()
        self._next = now + max(_PAUSE, _SHARE * (now - begun))
        return True

    def holder(self, inode: int) -> tuple[int, str]:
        """(pid, command) of the first process that holds a socket; (0, "") where none is known."""
        pids = self._sockets.get(inode, ())
        if not inode or not pids:
            return 0, ""
        pid = min(pids)
        if pid not in self._names:
            record = read_process(pid)
            self._names[pid] = record.command if record else "?"
        return pid, self._names[pid]

    def close(self) -> None:
        """Close the socket that asks."""
        self._diag.close()
