"""Sends crafted packets in its own namespace: a program of its own, driven by JSON lines."""

from __future__ import annotations

import contextlib
import ctypes
import json
import socket
import struct
import sys
import time

AF = {4: socket.AF_INET, 6: socket.AF_INET6}
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
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
    kept = None
    for line in sys.stdin:
        asked = json.loads(line)
        kept = kept or listen(asked["listen"])
        for packet in asked["packets"]:
            (send_in if "wire" in packet else send_out)(packet)
            time.sleep(asked["patience"])
        sys.stdout.write("sent\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
