"""Packets that no socket of an application sends. A program: run it inside a namespace.

``orphan ADDR PORT GID`` connects, waits for a line on standard input, sends a token and
closes at once: what is not acknowledged by then is sent again by the kernel, without a
socket. ``stray tcp|icmp ADDR`` sends a SYN-ACK (to port 8080), or an echo reply, that nobody
asked for, and says whether a reset came back. ``hear ADDR`` says whether an unasked echo reply
arrives within its patience.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys

SPORT = 7777
RST = 0x04
PATIENCE = 0.3


def version_of(address):
    return 6 if ":" in address else 4


def orphan(address, port, gid):
    family = socket.AF_INET6 if version_of(address) == 6 else socket.AF_INET
    os.setresgid(int(gid), int(gid), int(gid))
    os.setresuid(1000, 1000, 1000)
    sock = socket.create_connection((address, int(port)), timeout=5)
    assert sock.family == family
    print("connected", flush=True)
    sys.stdin.readline()
    # More than a segment: the FIN would join a smaller one, and conntrack calls that invalid.
    sock.send(b"orphan\n" + b"." * 4096)
    sock.close()
    print("closed", flush=True)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def stray_tcp(address):
    """A SYN-ACK of a connection that does not exist: invalid to conntrack, RST to TCP."""
    version = version_of(address)
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)
    sock.connect((address, 0))
    packed = [socket.inet_pton(family, a) for a in (sock.getsockname()[0], address)]
    header = [SPORT, 8080, 1000, 2000, 5 << 4, 0x12, 1024, 0, 0]
    length = struct.pack("!IHBB" if version == 6 else "!BBH", *_tail(version))
    body = struct.pack("!HHIIBBHHH", *header)
    header[7] = checksum(b"".join(packed) + length + body)
    sock.send(struct.pack("!HHIIBBHHH", *header))
    print("reset" if hear_reset(sock, version) else "silence", flush=True)


def _tail(version):
    """The end of the pseudo header: the length of a bare TCP header, and the protocol."""
    return (20, 0, 0, 6) if version == 6 else (0, 6, 20)


def hear_reset(sock, version):
    while select.select([sock], [], [], PATIENCE)[0]:
        data = sock.recv(4096)
        if version == 4:
            data = data[(data[0] & 15) * 4 :]
        if struct.unpack_from("!H", data, 2)[0] == SPORT and data[13] & RST:
            return True
    return False


def stray_icmp(address):
    version = version_of(address)
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    number = socket.IPPROTO_ICMPV6 if version == 6 else socket.IPPROTO_ICMP
    kind = 129 if version == 6 else 0
    sock = socket.socket(family, socket.SOCK_RAW, number)
    packet = struct.pack("!BBHHH", kind, 0, 0, 4242, 1)
    # The kernel fills in the checksum of ICMPv6 itself.
    packet = struct.pack("!BBHHH", kind, 0, checksum(packet), 4242, 1)
    sock.sendto(packet, (address, 0))


def hear(address):
    version = version_of(address)
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    number = socket.IPPROTO_ICMPV6 if version == 6 else socket.IPPROTO_ICMP
    sock = socket.socket(family, socket.SOCK_RAW, number)
    print("listening", flush=True)
    while select.select([sock], [], [], PATIENCE)[0]:
        data = sock.recv(4096)
        if version == 4:
            data = data[(data[0] & 15) * 4 :]
        if data[0] == (129 if version == 6 else 0):
            print("heard", flush=True)
            return
    print("silence", flush=True)


if __name__ == "__main__":
    {"orphan": orphan, "tcp": stray_tcp, "icmp": stray_icmp, "hear": hear}[sys.argv[1]](
        *sys.argv[2:]
    )
