"""Sends batches of packets in its own namespace, and tells what the kernel traced of each.

A program of its own (``python -m``), driven by JSON lines. Every packet bears a tag that no rule
changes (IPv4's identification, IPv6's flow label). One socket hears the trace of nf_tables and
the lines of legacy tables (NFLOG group 0), so both come in the kernel's own order. The
rules of table ``sink`` switch the trace on, and drop last whatever survived: nothing is answered.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import subprocess
import sys
from typing import Any

from meshnet.host.netlink import exchange, messages
from meshnet.host.nflog import LEGACY_GROUP, PACKET, binding, read_logged
from meshnet.host.nftrace import TRACE, handles, read_traced
from tests.support.injector import AF, ICMP, ICMP6, checksum, libc, transport

SINK = "sink"
#: Who owns the sockets that TPROXY finds: a late rule of the sink asks for it.
LISTENER = 4242
_NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP, _TRACES = 12, 270, 1, 9
_RCVBUFFORCE, _BUFFER = 33, 64 << 20
#: IPCTNL_MSG_CT_DELETE of subsystem 1; without a tuple it takes every entry.
_FLUSH = 1 << 8 | 2
#: Packets that are sent before what was heard of them is read.
_AT_ONCE = 40
_LINES = "TRACE: "
_LOGGERS = ("/proc/sys/net/netfilter/nf_log/2", "/proc/sys/net/netfilter/nf_log/10")


def whole(packet: dict[str, Any]) -> bytes:
    """The packet with its IP header, and its tag in it."""
    version, tag = packet["version"], packet["tag"]
    src, dst = (socket.inet_pton(AF[version], packet[end]) for end in ("src", "dst"))
    body = transport(packet, src, dst)
    if version == 6:
        head = struct.pack("!IHBB", 6 << 28 | tag, len(body), packet["proto"], 64)
        return head + src + dst + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), tag, 0, 64, packet["proto"], 0)
    head = head[:10] + struct.pack("!H", checksum(head + src + dst)) + src + dst
    return head + body


def tag_of(network: bytes, transport_header: bytes) -> int:
    """The tag of a packet of ours, by its raw headers; 0 for what the kernel itself sent."""
    if len(network) < 20:
        return 0
    wide = network[0] >> 4 == 6
    proto = network[6] if wide else network[9]
    if proto == (ICMP6 if wide else ICMP) and transport_header[:1] != (
        b"\x80" if wide else b"\x08"
    ):
        return 0
    if wide:
        return int.from_bytes(network[1:4], "big") & 0xFFFFF
    return int.from_bytes(network[4:6], "big")


class Mouth:
    """Sends; its sockets are kept, one for each owner."""

    def __init__(self) -> None:
        self.owned: dict[tuple[int, int, int], socket.socket] = {}
        self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)

    def send(self, packet: dict[str, Any]) -> None:
        """As a process with its UID and GID sends it, or onto the wire that it comes in by."""
        if "wire" in packet:
            kind = 0x0800 if packet["version"] == 4 else 0x86DD
            frame = bytes.fromhex(packet["mac"].replace(":", "")) + b"\x02\0\0\0\0\x09"
            self.wire.sendto(
                frame + struct.pack("!H", kind) + whole(packet), (packet["wire"], kind)
            )
            return
        sock = self._socket(packet["version"], packet["uid"], packet["gid"])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, packet["mark"])
        # EPERM is a drop at output, and what has no route is told by the trace's silence.
        with contextlib.suppress(OSError):
            sock.sendto(whole(packet), (packet["dst"], 0))

    def _socket(self, version: int, uid: int, gid: int) -> socket.socket:
        found = self.owned.get((version, uid, gid))
        if found is None:
            if len(self.owned) > 200:
                self.owned.popitem()[1].close()
            with as_owner(uid, gid):
                found = socket.socket(AF[version], socket.SOCK_RAW, socket.IPPROTO_RAW)
            self.owned[version, uid, gid] = found
        return found


@contextlib.contextmanager
def as_owner(uid: int, gid: int) -> Any:
    """The file-system ids of the block: a socket's file gets them."""
    libc.setfsgid(gid)
    libc.setfsuid(uid)
    try:
        yield
    finally:
        libc.setfsuid(0)
        libc.setfsgid(0)


class Ears:
    """Hears what the kernel traces, and knows of which packet it speaks."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
        self.sock.bind((0, 0))
        self.sock.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
        for request in binding(LEGACY_GROUP, 1):
            self.sock.send(request)
            (code,) = struct.unpack_from("=i", self.sock.recv(4096), 16)
            assert not code, f"NFLOG group {LEGACY_GROUP}: error {-code}"
        self.sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _TRACES)
        self.tags: dict[int, int] = {}
        self.told: dict[int, dict[str, Any]] = {}

    def hear(self, patience: float) -> None:
        """Read until nothing came for ``patience`` seconds. Lost events raise OSError (ENOBUFS)."""
        while select.select([self.sock], [], [], patience)[0]:
            for kind, _, body in messages(self.sock.recv(1 << 16), "the trace"):
                if kind == TRACE:
                    self._traced(body)
                elif kind == PACKET:
                    self._logged(body)

    def _traced(self, body: bytes) -> None:
        event = read_traced(body)
        if event.network:
            self.tags[event.id] = tag_of(event.network, event.transport)
        one = self.told.get(self.tags.get(event.id, 0))
        if one is None:
            return
        if event.known is not None and one["known"] is None:
            one["known"] = event.known
        if event.table != SINK:
            rule = (event.family, event.table, event.chain, event.kind, event.handle, event.verdict)
            one["met"].append(rule)
        elif event.network:
            wide = event.network[0] >> 4 == 6
            ends = event.network[8:40] if wide else event.network[12:20]
            src, dst = ends[: len(ends) // 2], ends[len(ends) // 2 :]
            ports = struct.unpack_from("!HH", event.transport)
            links = (link(event.iif), link(event.oif))
            point = (event.chain, src.hex(), dst.hex(), *ports, *links, event.mark)
            one["points"].append(point)
        elif event.chain == "handed":
            one["handed"] = True

    def _logged(self, body: bytes) -> None:
        line = read_logged(body)
        if not line.prefix.startswith(_LINES):
            return
        wide = line.packet[0] >> 4 == 6
        network, rest = line.packet[: 40 if wide else 20], line.packet[40 if wide else 20 :]
        one = self.told.get(tag_of(network, rest))
        if one is None:
            return
        table, _, rest_of_it = line.prefix.removeprefix(_LINES).strip().partition(":")
        chain, _, number = rest_of_it.rsplit(":", 2)
        one["met"].append(("ip6" if wide else "ip", table, chain, 0, int(number), None))


def link(index: int) -> str:
    return socket.if_indextoname(index) if index else ""


class Listeners:
    """Transparent sockets for TPROXY to find."""

    def __init__(self) -> None:
        self.kept: dict[int, list[socket.socket]] = {}

    def listen(self, ports: list[int]) -> None:
        for port in set(self.kept) - set(ports):
            for sock in self.kept.pop(port):
                sock.close()
        for port in set(ports) - set(self.kept):
            with as_owner(LISTENER, LISTENER):
                self.kept[port] = [sock for version in (4, 6) for sock in _pair(version)]
            for sock in self.kept[port]:
                sock.bind(("0.0.0.0" if sock.family == socket.AF_INET else "::", port))
                if sock.type == socket.SOCK_STREAM:
                    sock.listen(1)


def _pair(version: int) -> list[socket.socket]:
    made = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        sock = socket.socket(AF[version], kind)
        level, option = (socket.SOL_IP, 19) if version == 4 else (socket.IPPROTO_IPV6, 75)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(level, option, 1)
        made.append(sock)
    return made


def flush() -> None:
    """No connection is known any more."""
    exchange(_NETFILTER, _FLUSH, 4, struct.pack("=BBH", 0, 0, 0), "conntrack")


def sent(
    ears: Ears, mouth: Mouth, packets: list[dict[str, Any]], patience: float
) -> list[dict[str, Any]]:
    """What was heard of each packet of a batch."""
    ears.hear(0)
    ears.tags.clear()
    empty = {"known": None, "handed": False}
    ears.told = {p["tag"]: {**empty, "met": [], "points": []} for p in packets}
    for number, packet in enumerate(packets, 1):
        mouth.send(packet)
        if number % _AT_ONCE == 0:
            ears.hear(0)
    ears.hear(patience)
    return [ears.told[p["tag"]] for p in packets]


def dumps(tools: list[list[str]]) -> list[str]:
    return [subprocess.run(t, capture_output=True, text=True, check=True).stdout for t in tools]


def main() -> None:
    for path in _LOGGERS:
        with open(path, "w", encoding="ascii") as f:
            f.write("nfnetlink_log")
    ears, mouth, listeners = Ears(), Mouth(), Listeners()
    for line in sys.stdin:
        asked = json.loads(line)
        told: Any
        if "tools" in asked:
            flush()
            listeners.listen(asked["listen"])
            numbers = [[*where, found] for where, found in handles().items()]
            told = {"dumps": dumps(asked["tools"]), "handles": numbers}
        else:
            told = sent(ears, mouth, asked["packets"], asked["patience"])
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
