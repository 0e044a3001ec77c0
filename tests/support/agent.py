"""The process that stands for everybody in one namespace: its listeners, and its clients.

A program of its own, driven by JSON lines on standard input, one answer a line on standard
output. One thread and one selector, so that a client can reach a listener of the same
namespace. A listener tells its client, over the connection itself, who it is and what it
sees; so an answer can be of no other connection.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import selectors
import socket
import struct
import sys
import time

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
ANY = {4: "0.0.0.0", 6: "::"}
#: (level, option) of SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST and of IP_TRANSPARENT.
ORIGINAL = {4: (socket.SOL_IP, 80), 6: (socket.IPPROTO_IPV6, 80)}
TRANSPARENT = {4: (socket.SOL_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}
#: (level, option) of IP_PKTINFO and IPV6_RECVPKTINFO.
PACKET_INFO = {4: (socket.SOL_IP, 8), 6: (socket.IPPROTO_IPV6, 49)}
#: Source ports are never used twice: nat asks for the first packet of a tuple only.
FIRST_PORT, LAST_PORT = 20001, 65535
#: A load opens its connections that many seconds apart, whatever becomes of them.
PACE = 0.002
RESET = struct.pack("ii", 1, 0)
OUTCOMES = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.ENETUNREACH: "no route",
    errno.EHOSTUNREACH: "no route",
    errno.EADDRNOTAVAIL: "no such source",
    errno.EPERM: "dropped",
}
_libc = ctypes.CDLL(None)


@contextlib.contextmanager
def owner(uid, gid):
    """Sockets made in here belong to ``uid`` and ``gid``: netfilter asks for the file's fsuid."""
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    try:
        yield
    finally:
        _libc.setfsuid(0)
        _libc.setfsgid(0)


def version_of(address):
    return 6 if ":" in address else 4


def show(name):
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def original_of(sock, version):
    """Where the client meant to go; "" where conntrack does not know the connection."""
    try:
        data = sock.getsockopt(*ORIGINAL[version], 28)
    except OSError:
        return ""
    (port,) = struct.unpack_from("!H", data, 2)
    packed = data[4:8] if version == 4 else data[8:24]
    return show((socket.inet_ntop(FAMILIES[version], packed), port))


class Client:
    """One connection, or one datagram and its answer. ``done`` gets a dict with ``who``."""

    def __init__(self, agent, probe, deadline, done):
        self.agent, self.probe, self.deadline, self.done = agent, probe, deadline, done
        self.version = version_of(probe["to"])
        self.data = b""
        udp = probe["protocol"] == "udp"
        kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
        with owner(probe["uid"], probe["gid"]):
            self.sock = socket.socket(FAMILIES[self.version], kind | socket.SOCK_NONBLOCK)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        target = (probe["to"], probe["port"])
        if probe["mark"]:
            # As the proxy does that speaks to the application with the client's own address.
            self.sock.setsockopt(*TRANSPARENT[self.version], 1)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, probe["mark"])
        try:
            port = probe["sport"] or agent.next_port()
            self.sock.bind((probe["source"] or ANY[self.version], port))
            if udp:
                self.sock.sendto(probe["token"].encode(), target)
                agent.watch(self.sock, selectors.EVENT_READ, self.hear_datagram)
                return
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            code = self.sock.connect_ex(target)
        except OSError as e:
            code = e.errno
        if code in (0, errno.EINPROGRESS):
            agent.watch(self.sock, selectors.EVENT_WRITE, self.connected)
        else:
            agent.soon(lambda: self.finish({"who": outcome(code)}))

    def connected(self):
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.finish({"who": outcome(code)})
            return
        self.agent.forget(self.sock)
        self.sock.send(self.probe["token"].encode() + b"\n")
        self.agent.watch(self.sock, selectors.EVENT_READ, self.hear)

    def hear(self):
        try:
            part = self.sock.recv(4096)
        except OSError as e:
            self.finish({"who": outcome(e.errno)})
            return
        self.data += part
        if self.data.endswith(b"\n") or not part:
            self.finish(json.loads(self.data or b'{"who": "closed"}'))

    def hear_datagram(self):
        try:
            data, sender = self.sock.recvfrom(4096)
        except OSError as e:
            self.finish({"who": outcome(e.errno)})
            return
        self.finish({**json.loads(data), "answered_from": show(sender)})

    def finish(self, answer):
        self.agent.forget(self.sock)
        self.sock.close()
        self.agent.clients.discard(self)
        if answer.get("token", self.probe["token"]) != self.probe["token"]:
            answer = {"who": "an answer to somebody else"}
        self.done(answer)


def outcome(code):
    return OUTCOMES.get(code, os.strerror(code))


class Agent:
    def __init__(self, place):
        self.place = place
        self.selector = selectors.DefaultSelector()
        self.clients, self.later, self.heard = set(), [], []
        self.port = FIRST_PORT
        self.load = None
        self.timers = []

    def next_port(self):
        self.port = self.port + 1 if self.port < LAST_PORT else FIRST_PORT
        return self.port

    def watch(self, sock, events, call):
        self.selector.register(sock, events, call)

    def forget(self, sock):
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(sock)

    def soon(self, call):
        self.later.append(call)

    def run(self):
        self.watch(sys.stdin, selectors.EVENT_READ, self.obey)
        while True:
            calls, self.later = self.later, []
            for call in calls:
                call()
            now = time.monotonic()
            while self.timers and self.timers[0][0] <= now:
                self.timers.pop(0)[1]()
            for client in [c for c in self.clients if c.deadline <= now]:
                client.finish({"who": "nobody"})
            for key, _ in self.selector.select(self.patience(now)):
                # An earlier call of this round may have closed the socket.
                if self.selector.get_map().get(key.fd) is key:
                    key.data()

    def patience(self, now):
        """How long to wait for a socket; None for as long as it takes."""
        if self.later:
            return 0
        ends = [c.deadline for c in self.clients] + [end for end, _ in self.timers[:1]]
        return max(0, min(ends) - now) if ends else None

    def obey(self):
        line = sys.stdin.buffer.raw.readline()
        if not line:
            os._exit(0)
        command = json.loads(line)
        getattr(self, f"do_{command.pop('do')}")(**command)

    def answer(self, value):
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()

    def do_listen(self, listeners, versions=(4, 6)):
        for one in listeners:
            for version in versions:
                self.listen(version, **one)
        self.answer("listening")

    def listen(self, version, port, protocol, uid, gid, transparent):
        udp = protocol == "udp"
        with owner(uid, gid):
            sock = socket.socket(
                FAMILIES[version], socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
            )
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transparent:
            sock.setsockopt(*TRANSPARENT[version], 1)
        sock.bind((ANY[version], port))
        me = f"{self.place}:{port}"
        if udp:
            sock.setsockopt(*PACKET_INFO[version], 1)
            self.watch(sock, selectors.EVENT_READ, lambda: self.answer_datagram(sock, version, me))
            return
        sock.listen(512)
        sock.setblocking(False)
        who = (uid, gid)
        self.watch(sock, selectors.EVENT_READ, lambda: self.accept(sock, version, me, who))

    def accept(self, listener, version, me, who):
        try:
            with owner(*who):
                sock, client = listener.accept()
        except OSError:
            return
        seen = {
            "who": me,
            "original": original_of(sock, version),
            "local": show(sock.getsockname()),
            "client": client[0],
        }
        self.watch(sock, selectors.EVENT_READ, lambda: self.reply(sock, seen))

    def reply(self, sock, seen):
        with contextlib.suppress(OSError):
            token = sock.recv(4096).decode().partition("\n")[0]
            if token:
                self.heard.append(token)
            sock.send(json.dumps({**seen, "token": token}).encode() + b"\n")
        self.forget(sock)
        sock.close()

    def answer_datagram(self, sock, version, me):
        """Answer from the address that was asked, as name servers with several addresses do."""
        with contextlib.suppress(OSError):
            data, extra, _, client = sock.recvmsg(4096, 128)
            ((level, kind, info),) = extra
            if version == 4:
                info = struct.pack("I4s4x", 0, info[8:12])
            else:
                info = info[:16] + struct.pack("I", 0)
            seen = {"who": me, "client": client[0], "token": data.decode()}
            sock.sendmsg([json.dumps(seen).encode()], [(level, kind, info)], 0, client)

    def do_probe(self, probes, timeout):
        results = [None] * len(probes)
        deadline = time.monotonic() + timeout

        def keep(position, answer):
            results[position] = answer
            if None not in results:
                self.answer(results)

        for n, probe in enumerate(probes):
            self.clients.add(Client(self, probe, deadline, lambda a, n=n: keep(n, a)))

    def do_heard(self):
        self.answer(self.heard)

    def do_load(self, probes, timeout):
        """Open a connection every PACE for each of ``probes``, until do_rest."""
        self.load = {}
        for probe in probes:
            self.load_on(probe, timeout)
        self.answer("loading")

    def load_on(self, probe, timeout):
        def count(answer):
            if self.load is not None:
                kept = {name: answer[name] for name in ("who", "original") if name in answer}
                key = json.dumps({**kept, "asked": probe["token"]})
                self.load[key] = self.load.get(key, 0) + 1

        if self.load is not None:
            now = time.monotonic()
            self.timers.append((now + PACE, lambda: self.load_on(probe, timeout)))
            self.clients.add(Client(self, probe, now + timeout, count))

    def do_rest(self):
        counts, self.load = self.load, None
        self.answer([(json.loads(key), count) for key, count in counts.items()])


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))
    Agent(sys.argv[1]).run()
