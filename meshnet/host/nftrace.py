"""The kernel's packet trace, read from a netlink socket that also holds what switches it on.

pyroute2 has no class for the multicast group, and ``nft monitor trace`` loses events: one raw
socket reads the events of nf_tables, the packets that NFLOG hands over and the notices of
changed rules, in the kernel's own order (net/netfilter/nf_tables_trace.c).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct

from meshnet.errors import KernelLacks, NotPermitted, ToolFailed
from meshnet.host import gate
from meshnet.host.netlink import DUMP, NetlinkError, attributes, exchange, messages
from meshnet.host.nflog import binding, listener_of
from meshnet.host.owner_table import GET_RULE, SUBSYSTEM, TraceTable, batch, removal
from meshnet.model.trace import Traced

TRACE, NEW_GENERATION, _GET_GENERATION = SUBSYSTEM | 17, SUBSYSTEM | 15, SUBSYSTEM | 16
_NETFILTER = 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
#: NFNLGRP_NFTABLES, NFNLGRP_NFTRACE of include/uapi/linux/netfilter/nfnetlink.h.
_CHANGES, _TRACES = 7, 9
_RCVBUFFORCE, _MEMINFO = 33, 55
#: In bytes: ten seconds of a thousand connections a second.
BUFFER = 64 << 20
_ERROR = 2
_PATIENCE = 10.0
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
#: IPS_CONFIRMED and IPS_TEMPLATE of include/uapi/linux/netfilter/nf_conntrack_common.h.
_CONFIRMED, _TEMPLATE = 0x8, 0x800
_VERDICT_CODE = 1


def read_traced(body: bytes) -> Traced:
    """The event in the body of a message of kind TRACE."""
    fields = attributes(body[4:])
    code = 1
    if 5 in fields:
        inner = attributes(fields[5])
        code = int.from_bytes(inner.get(_VERDICT_CODE, b"\0\0\0\1"), "big", signed=True)
    elif 16 in fields:
        code = int.from_bytes(fields[16], "big", signed=True)
    known: bool | None = None
    status = int.from_bytes(fields.get(20, b""), "big")
    if 18 in fields and not status & _TEMPLATE:
        known = bool(status & _CONFIRMED)
    return Traced(
        int.from_bytes(fields.get(6, b""), "big"),
        _FAMILIES.get(body[0], ""),
        _text(fields.get(1, b"")),
        _text(fields.get(2, b"")),
        int.from_bytes(fields.get(4, b""), "big"),
        int.from_bytes(fields.get(3, b""), "big"),
        code,
        fields.get(8, b""),
        fields.get(9, b""),
        int.from_bytes(fields.get(10, b""), "big"),
        int.from_bytes(fields.get(12, b""), "big"),
        int.from_bytes(fields.get(14, b""), "big"),
        known,
    )


def read_generation(body: bytes) -> tuple[int, int, str]:
    """(generation of the rules, pid and name of who changed them) in a notice or an answer."""
    fields = attributes(body[4:])
    pid = int.from_bytes(fields.get(2, b""), "big")
    return int.from_bytes(fields.get(1, b""), "big"), pid, _text(fields.get(3, b""))


def generation() -> int:
    """The number of the rules that nf_tables holds here now: each change makes another."""
    body = struct.pack("=BBH", 0, 0, 0)
    return read_generation(exchange(_NETFILTER, _GET_GENERATION, 0, body, "nft generation")[0])[0]


def handles() -> dict[tuple[str, str, str], list[int]]:
    """The handles of the rules of each (family, table, chain), in their order."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for number, family in _FAMILIES.items():
        body = struct.pack("=BBH", number, 0, 0)
        for answer in exchange(_NETFILTER, GET_RULE, DUMP, body, "nft rules"):
            fields = attributes(answer[4:])
            where = (family, _text(fields[1]), _text(fields[2]))
            found.setdefault(where, []).append(int.from_bytes(fields[3], "big"))
    return found


def matched(table: str, chain: str) -> int:
    """How many packets the first counter of a chain of family inet has counted."""
    body = struct.pack("=BBH", 1, 0, 0)
    for answer in exchange(_NETFILTER, GET_RULE, DUMP, body, "the trace's counter"):
        fields = attributes(answer[4:])
        if (_text(fields[1]), _text(fields[2])) != (table, chain):
            continue
        # NFTA_RULE_EXPRESSIONS, of them the first, its data, and there the packets.
        expression = attributes(attributes(attributes(fields[4])[1])[2])
        return int.from_bytes(expression.get(2, b""), "big")
    return 0


class TraceSocket:
    """The socket that everything comes by; closing it takes the table away.

    ``lost`` counts the messages that the kernel could not put into its buffer.
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER
            )
            self._socket.bind((0, 0))
        except OSError as e:
            raise KernelLacks(f"no netfilter netlink socket: {e.strerror}") from e
        self._number = 0
        self._table = ""
        self._kept: list[tuple[int, bytes]] = []
        self._room = bytearray(1 << 16)
        self.buffer = self._enlarge()

    def _enlarge(self) -> int:
        """The size of the receive buffer, as large as this process may have it."""
        for option in (_RCVBUFFORCE, socket.SO_RCVBUF):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
                break
            except PermissionError:
                continue
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    def fileno(self) -> int:
        """For poll()."""
        return self._socket.fileno()

    def listen(self, group: int) -> bool:
        """Become the listener of an NFLOG group; False where somebody else is."""
        requests = binding(group, self._number + 1)
        self._number += len(requests)
        try:
            for request in requests:
                self._ask(request, 1, f"NFLOG group {group}")
        except NotPermitted:
            # The kernel says the same of a group that is somebody else's.
            if listener_of(group):
                return False
            raise
        except NetlinkError as e:
            if e.code == errno.EBUSY:
                return False
            if e.code in (errno.EOPNOTSUPP, errno.ENOENT, errno.EPROTONOSUPPORT, errno.EINVAL):
                raise KernelLacks("this kernel has no nfnetlink_log") from e
            raise
        return True

    def begin(self, table: TraceTable) -> None:
        """Make ``table`` and hear of everything from then on.

        Raises KernelLacks where the kernel has no owner tables or no trace.
        """
        self._join(_CHANGES)
        self._join(_TRACES)
        data, answers = batch(table, self._number + 1)
        self._number += answers + 2
        try:
            self._ask(data, answers, f"the table {table.name}")
        except NetlinkError as e:
            if e.code in (errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL, errno.EPROTONOSUPPORT):
                why = f"this kernel cannot trace packets: {os.strerror(e.code)}"
                raise KernelLacks(why, "meshnet doctor; owner tables came with Linux 5.12") from e
            raise
        self._table = table.name

    def end(self) -> None:
        """Take the table away; what was heard before can still be read."""
        if self._table:
            data, self._table = removal(self._table, self._number + 1), ""
            self._number += 3
            # Done when send() returns; an answer might find no room behind what was heard.
            gate.touch("the trace's table", lambda: self._socket.send(data))

    def _join(self, group: int) -> None:
        try:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except PermissionError as e:
            raise NotPermitted("needs CAP_NET_ADMIN in this network namespace") from e
        except OSError as e:
            raise KernelLacks(f"this kernel tells no traces: {e.strerror}") from e

    def _ask(self, request: bytes, answers: int, what: str) -> None:
        """Send, and await that many acknowledgements; what else comes is kept."""

        def exchange_here() -> None:
            self._socket.send(request)
            left = answers
            while left:
                if not select.select([self._socket], [], [], _PATIENCE)[0]:
                    raise ToolFailed(f"{what}: the kernel did not answer within {_PATIENCE:g} s")
                for kind, body in self._answered(what):
                    if kind != _ERROR:
                        self._kept.append((kind, body))
                        continue
                    (code,) = struct.unpack_from("=i", body)
                    if code == -errno.EPERM:
                        raise NotPermitted("tracing needs CAP_NET_ADMIN in this network namespace")
                    if code:
                        raise NetlinkError(what, -code)
                    left -= 1

        gate.touch(what, exchange_here)

    def _answered(self, what: str) -> list[tuple[int, bytes]]:
        try:
            return self._receive(what)
        except Overrun:
            return []

    def heard(self) -> list[tuple[int, bytes]]:
        """(kind, body) of the next messages: one datagram's, none where nothing is there now.

        Raises Overrun where the kernel had to drop some before these.
        """
        if self._kept:
            kept, self._kept = self._kept, []
            return kept
        return self._receive("the trace")

    def _receive(self, what: str) -> list[tuple[int, bytes]]:
        try:
            size = self._socket.recv_into(self._room, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError as e:
            if e.errno == errno.ENOBUFS:
                raise Overrun from e
            raise ToolFailed(f"{what}: {e.strerror}") from e
        data = bytes(memoryview(self._room)[:size])
        return [(kind, body) for kind, _, body in messages(data, what)]

    @property
    def lost(self) -> int:
        """How many messages the kernel dropped for want of room (sock_diag(7), sk_drops)."""
        info = self._socket.getsockopt(socket.SOL_SOCKET, _MEMINFO, 36)
        return int(struct.unpack_from("=I", info, 32)[0])

    def close(self) -> None:
        """Close it; the kernel takes the table away."""
        self._socket.close()


class Overrun(Exception):
    """Messages were dropped: the reader was too slow for the receive buffer."""


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "backslashreplace")


def link_name(index: int) -> str:
    """The interface's name; ``#7`` where number 7 is gone, "" for none."""
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return f"#{index}"
