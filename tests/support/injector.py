"""Sends crafted packets in its own namespace, and tells what became of them.

A program of its own, driven by JSON lines. A late chain of the namespace hands each packet
that survived to NFLOG group GROUP and drops it, so that nothing is answered and no
connection is confirmed: every SYN is the first packet of its connection.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time

GROUP = 7
AF = {4: socket.AF_INET, 6: socket.AF_INET6}
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
#: Of include/uapi/linux/netfilter/nfnetlink_log.h: the subsystem, and attributes of a packet.
ULOG, PACKET, CONFIG = 4, 0, 1
HEADER, MARK, INDEV, OUTDEV, PAYLOAD = 1, 2, 4, 5, 9
libc = ctypes.CDLL(None)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def transport(packet, src, dst):
    """The bytes behind the IP header."""
    proto, sport, dport = packet["proto"], packet["sport"], packet["dport"]
    if proto == TCP:
        body = struct.pack("!HHIIBBHHH", sport, dport, 1, 0, 5 << 4, packet["flags"], 1024, 0, 0)
        at = 16
    elif proto == UDP:
        body = struct.pack("!HHHH", sport, dport, 12, 0) + b"ping"
        at = 6
    else:
        body = struct.pack("!BBHHH", 8 if proto == ICMP else 128, 0, 0, sport, 1)
        at = 2
    pseudo = b"" if proto == ICMP else src + dst + struct.pack("!II", len(body), proto)
    return body[:at] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[at + 2 :]


def whole(packet):
    """The packet with its IP header."""
    version = packet["version"]
    src, dst = (socket.inet_pton(AF[version], packet[end]) for end in ("src", "dst"))
    body = transport(packet, src, dst)
    if version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), packet["proto"], 64) + src + dst + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, packet["proto"], 0)
    head = head[:10] + struct.pack("!H", checksum(head + src + dst)) + src + dst
    return head + body


def send_out(packet):
    """As a process with this UID and GID sends it: the file-system ids count."""
    version = packet["version"]
    with contextlib.ExitStack() as undo:
        undo.callback(libc.setfsgid, 0)
        undo.callback(libc.setfsuid, 0)
        libc.setfsgid(packet["gid"])
        libc.setfsuid(packet["uid"])
        # Capabilities go with the id: the socket's file gets the owner, root may use it.
        sock = socket_of(version, packet)
    undo.close()
    if packet["mark"]:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, packet["mark"])
    with sock:
        try:
            sock.sendto(whole(packet), (packet["dst"], 0))
        except PermissionError:
            return  # Dropped at output.


def socket_of(version, packet):
    return socket.socket(AF[version], socket.SOCK_RAW, socket.IPPROTO_RAW)


def send_in(packet):
    """Onto the wire that ends at the interface ``iif``."""
    kind = 0x0800 if packet["version"] == 4 else 0x86DD
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((packet["wire"], kind))
        mac = bytes.fromhex(packet["mac"].replace(":", ""))
        sock.send(mac + b"\x02\0\0\0\0\x09" + struct.pack("!H", kind) + whole(packet))


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


class Log:
    """What the late chain hands over."""

    def __init__(self):
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self.sock.bind((0, 0))
        mode = attribute(2, struct.pack("!IBB", 0x200, 2, 0))
        self.ask(attribute(1, b"\x01"))
        # One packet a message; else they are kept back for a second.
        self.ask(mode + attribute(5, struct.pack("!I", 1)))

    def ask(self, body):
        body = struct.pack("!BBH", 0, 0, GROUP) + body
        head = struct.pack("=IHHII", 16 + len(body), ULOG << 8 | CONFIG, 5, 1, 0)
        self.sock.send(head + body)
        answer = self.sock.recv(4096)
        (code,) = struct.unpack_from("=i", answer, 16)
        if code:
            raise OSError(-code, os.strerror(-code))

    def heard(self, patience):
        """All packets that come within ``patience`` seconds after the last one."""
        found = []
        while select.select([self.sock], [], [], patience)[0]:
            data = self.sock.recv(65536)
            while data:
                size, kind = struct.unpack_from("=IH", data)
                if kind == ULOG << 8 | PACKET:
                    found.append(event(data[20:size]))
                data = data[size + (-size % 4) :]
        return found


def event(data):
    values = {}
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        values[kind & 0x7FFF] = data[4:size]
        data = data[size + (-size % 4) :]
    packet = values[PAYLOAD]
    version = packet[0] >> 4
    src, dst, at = (packet[12:16], packet[16:20], 20) if version == 4 else (
        packet[8:24], packet[24:40], 40
    )  # fmt: skip
    proto = packet[9] if version == 4 else packet[6]
    sport, dport = struct.unpack_from("!HH", packet, at) if proto in (TCP, UDP) else (None, None)
    return {
        "hook": values[HEADER][2],
        "mark": struct.unpack("!I", values[MARK])[0] if MARK in values else 0,
        "iif": link(values.get(INDEV)),
        "oif": link(values.get(OUTDEV)),
        "src": socket.inet_ntop(AF[version], src),
        "dst": socket.inet_ntop(AF[version], dst),
        "sport": sport,
        "dport": dport,
        "proto": proto,
    }


def link(data):
    return socket.if_indextoname(struct.unpack("!I", data)[0]) if data else ""


def dumps(tools):
    return [
        subprocess.run(tool, capture_output=True, text=True, check=True).stdout for tool in tools
    ]


def listen(ports):
    """Sockets for TPROXY to find."""
    kept = []
    for port in ports:
        for version, level, option in ((4, socket.SOL_IP, 19), (6, socket.IPPROTO_IPV6, 75)):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                sock = socket.socket(AF[version], kind)
                if version == 6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(level, option, 1)
                sock.bind(("0.0.0.0" if version == 4 else "::", port))
                if kind == socket.SOCK_STREAM:
                    sock.listen(1)
                kept.append(sock)
    return kept


def main():
    log, kept = Log(), None
    for line in sys.stdin:
        asked = json.loads(line)
        kept = kept or listen(asked["listen"])
        tools = asked["tools"]
        told = [{"dumps": {version: dumps(tools[version]) for version in tools}}]
        for packet in asked["packets"]:
            log.heard(0)
            (send_in if "wire" in packet else send_out)(packet)
            time.sleep(asked["patience"])
            version = str(packet["version"])
            events = log.heard(0)
            told.append({"events": events, "dumps": {version: dumps(tools[version])}})
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
