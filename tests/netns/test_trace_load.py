"""A trace under load: every packet that matched is told, over the limit, or said to be lost."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.support.cases import BACKENDS
from tests.support.conversations import Conversations, talk
from tests.support.probe import WEB
from tests.support.tracing import Tracer

__all__ = ["talk"]

ALL = ("-p", "15001", "-z", "15006", "-u", "1337", "-g", "1337", "-i", "*", "-b", "*")
#: Room for the events of a few dozen connections.
SMALL = "import meshnet.host.nftrace as trace; trace.BUFFER = 1 << 18"
#: Opens ``count`` connections, ``pace`` seconds apart, and says how many.
BURST = """
import socket, sys, time
count, pace, kept = int(sys.argv[1]), float(sys.argv[2]), []
begun = time.monotonic()
for number in range(count):
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(("{to}", 80))
    kept.append(sock)
    if len(kept) > 500:
        kept.pop(0).close()
    time.sleep(max(0, begun + number * pace - time.monotonic()))
print(count)
"""


def burst(talk: Conversations, count: int, pace: float) -> None:
    code = BURST.format(to=WEB)
    talk.pod.run("/usr/bin/python3", "-c", code, str(count), str(pace), timeout=120)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_thousand_connections_a_second(talk: Conversations, backend: str) -> None:
    talk.pod.init(*ALL, "--backend", backend)
    tracer = Tracer(talk.pod, "dst port 80 and uid 0", "--rate", "0")
    try:
        burst(talk, 2000, 0.001)
        end = tracer.end()
    finally:
        tracer.kill()
    # Retransmitted SYNs count as well, where nobody answers.
    assert end["matched"] >= 2000 and end["skipped"] == 0
    assert end["shown"] == len(tracer.packets)
    assert end["disagreed"] == 0
    # All of them, or the loss is said.
    if not end["lost"]:
        assert end["shown"] == end["matched"]
        assert end["agreed"] + end["unchecked"] == end["shown"]
        assert end["incomplete"] == end["orphans"] == 0


def test_the_limit_is_kept_and_told(talk: Conversations) -> None:
    talk.pod.init(*ALL)
    tracer = Tracer(talk.pod, "dst port 80 and uid 0", "--rate", "50")
    try:
        burst(talk, 1500, 0)
        end = tracer.end()
    finally:
        tracer.kill()
    assert end["matched"] >= 1500
    assert end["shown"] + end["skipped"] == end["matched"] and end["skipped"] > 0
    assert end["lost"] == 0 and end["disagreed"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_lost_is_said(talk: Conversations, backend: str) -> None:
    """A tracer that is kept from reading loses events, and blames nobody for what is missing."""
    talk.pod.init(*ALL, "--backend", backend)
    tracer = Tracer(talk.pod, "dst port 80 and uid 0", "--rate", "0", spoilt=SMALL)
    try:
        (child,) = tracer.children()
        os.kill(child, signal.SIGSTOP)
        burst(talk, 600, 0)
        os.kill(child, signal.SIGCONT)
        tracer.until(lambda events: any(e["event"] == "lost" for e in events))
        time.sleep(0.3)
        burst(talk, 5, 0)
        end = tracer.end()
    finally:
        tracer.kill()
    assert end["lost"] > 0 and end["disagreed"] == 0
    assert end["shown"] < end["matched"]
    doubtful = [p for p in tracer.packets if p["lossy"] and p["agreement"] != "agrees"]
    assert len(doubtful) == end["incomplete"]
    assert all(packet["agreement"] == "unchecked" for packet in doubtful)
    # Once the buffer is read, packets are whole again.
    assert tracer.packets[-1]["agreement"] == "agrees" and not tracer.packets[-1]["lossy"]
