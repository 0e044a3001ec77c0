"""Probes under way: many connections at once, each followed to its end."""

from __future__ import annotations

import contextlib
import errno
import secrets
import select
import socket
import time

from meshnet.errors import ToolFailed
from meshnet.host.listener import (
    TOKEN_BYTES,
    Arrival,
    Endpoint,
    Listener,
    original_destination,
    question_with,
)
from meshnet.host.netns import run_child
from meshnet.model.packet import TCP, Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: How long a listener of ours may take for its greeting, once connected, in seconds.
GREETING = 0.5
#: Source ports that kernels do not give out by themselves (net.ipv4.ip_local_port_range).
_APART = range(20000, 32000)


class Dial:
    """One probe: to whom, for how long (seconds), and what became of it.

    ``end`` is one of

    ========== ================================================================
    arrived    a listener of ours got it: ``arrival``
    elsewhere  somebody answered who is not ours: ``port`` of this namespace, or 0
    refused    a reset, or a port-unreachable
    failed     the network said no: ``why``
    silent     nothing came back in time
    ========== ================================================================

    ``answered`` says that an answer came back as from the address that was asked.
    """

    def __init__(
        self, sock: socket.socket, family: Family, transport: int, to: Endpoint, patience: float
    ) -> None:
        self.socket = sock
        self.family = family
        self.transport = transport
        self.to = to
        self.patience = patience
        self.deadline = 0.0
        self.token = secrets.token_bytes(TOKEN_BYTES) if transport != TCP else b""
        self.connected = False
        self.answered = False
        self.end = ""
        self.why = ""
        self.port = 0
        self.arrival: Arrival | None = None
        self.original: Endpoint | None = None

    def start(self) -> None:
        """Send the first packet."""
        self.deadline = time.monotonic() + self.patience
        self.socket.setblocking(False)
        try:
            code = self.socket.connect_ex(self.to)
            if code not in (0, errno.EINPROGRESS):
                self._end_by(code)
            elif self.transport != TCP:
                self.connected = True
                self.socket.send(question_with(self.token))
        except OSError as e:
            self._end_by(e.errno or 0)

    def leave_common_ports(self) -> None:
        """Take a source port at random, of those that the kernel does not give out by itself.

        Where it cannot be had, the kernel will choose after all.
        """
        for _ in range(8):
            with contextlib.suppress(OSError):
                self.socket.bind(("", _APART.start + secrets.randbelow(len(_APART))))
                return

    def events(self) -> int:
        """What to wait for."""
        return select.POLLIN if self.connected else select.POLLOUT

    def advance(self, arrivals: dict[bytes, Arrival]) -> None:
        """Go on after such an event."""
        try:
            if not self.connected:
                code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    self._end_by(code)
                    return
                self.connected = True
                self.deadline = time.monotonic() + GREETING
                return
            said = self.socket.recv(512)
        except BlockingIOError:
            return
        except OSError as e:
            if self.connected and self.transport == TCP:
                self.end = "elsewhere"
            else:
                self._end_by(e.errno or 0)
            return
        if self.transport == TCP:
            self.token = said
        self.answered = True
        self._settle(arrivals)

    def expire(self, arrivals: dict[bytes, Arrival]) -> None:
        """End the waiting: the time is over."""
        self._settle(arrivals)

    def _settle(self, arrivals: dict[bytes, Arrival]) -> None:
        self.arrival = arrivals.get(self.token)
        if self.arrival is not None:
            self.end = "arrived"
        else:
            # A datagram is "connected" without a word from the other side.
            heard = self.answered or (self.connected and self.transport == TCP)
            self.end = "elsewhere" if heard else "silent"
        if self.transport == TCP and self.connected:
            self.original = original_destination(self.socket, self.family)

    def _end_by(self, code: int) -> None:
        import os

        # A datagram that OUTPUT rejects comes back as EPERM (net/ipv6/ip6_output.c, NF_HOOK).
        eperm = "refused" if self.transport != TCP else "failed"
        self.end = {
            errno.ECONNREFUSED: "refused",
            errno.EPERM: eperm,
            errno.ETIMEDOUT: "silent",
            # Taken first and reset then: before that it would have been refused.
            errno.ECONNRESET: "elsewhere",
        }.get(code, "failed")
        self.why = os.strerror(code)

    def local(self) -> Endpoint:
        """This end of the connection."""
        name = self.socket.getsockname()
        return name[0], name[1]


def run_dials(dials: Sequence[Dial], listeners: Sequence[Listener]) -> None:
    """Start all of ``dials`` and follow each until it ended; takes their longest patience."""
    arrivals: dict[bytes, Arrival] = {}
    for dial in dials:
        dial.start()
    waiting = [dial for dial in dials if not dial.end]
    while waiting:
        _step(waiting, listeners, arrivals)
        now = time.monotonic()
        for dial in waiting:
            if not dial.end and now >= dial.deadline:
                dial.expire(arrivals)
        waiting = [dial for dial in waiting if not dial.end]


def _step(
    waiting: Sequence[Dial], listeners: Sequence[Listener], arrivals: dict[bytes, Arrival]
) -> None:
    poll = select.poll()
    ours = {listener.socket.fileno(): listener for listener in listeners}
    theirs = {dial.socket.fileno(): dial for dial in waiting}
    for number in ours:
        poll.register(number, select.POLLIN)
    for number, dial in theirs.items():
        poll.register(number, dial.events())
    left = min(dial.deadline for dial in waiting) - time.monotonic()
    ready = [number for number, _ in poll.poll(max(left, 0) * 1000 + 1)]
    # Arrivals first: a token must be known before its probe reads it.
    for number in ready:
        if number in ours and (taken := ours[number].take()) is not None:
            arrivals[taken[0]] = taken[1]
    for number in ready:
        if number in theirs:
            theirs[number].advance(arrivals)


def find_receivers(dials: Sequence[Dial], netns: str | None) -> None:
    """Fill ``port`` of the dials that ended elsewhere, where a socket of ``netns`` answered.

    It stays 0 where no socket of the namespace does: then somebody out there answered.
    """
    lost = [d for d in dials if d.end == "elsewhere" and d.transport == TCP]
    if not lost:
        return
    found = run_child(_connections, netns=netns)
    ports = {(address, port): local for address, port, local in found}
    for dial in lost:
        dial.port = ports.get(dial.local(), 0)


def _connections() -> list[tuple[str, int, int]]:
    """The peer's address and port and the local port of every TCP socket with a peer."""
    found = []
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/thread-self/net/{name}", encoding="ascii") as f:
                lines = f.read().splitlines()[1:]
        except FileNotFoundError:
            continue
        except OSError as e:
            raise ToolFailed(f"cannot read /proc/net/{name}: {e.strerror}") from e
        for line in lines:
            _, local, peer = line.split()[:3]
            address, port = peer.split(":")
            found.append((_unpack(address), int(port, 16), int(local.split(":")[1], 16)))
    return found


def _unpack(text: str) -> str:
    """An address of /proc/net: words of 32 bits in the machine's byte order."""
    import sys

    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    raw = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    if len(raw) == 16 and raw[:12] == b"\0" * 10 + b"\xff\xff":
        raw = raw[12:]
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
