"""Whether a trace keeps up with connections, and that it says what it lost.

A program in the pod opens connections at an even pace, the trace writes JSON into a file. How
many were opened is known, so what is neither shown nor said to be lost is known too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.cases import BACKENDS
from tests.support.namespaces import Namespace, Namespaces

ARGUMENTS = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*")
RATES, SECONDS = (1000, 5000), 3.0
#: At this rate nothing may be lost at all, said or not.
HELD = 1000
PORT = 80
#: How long it may take to begin, and to end, in seconds.
PATIENCE = 60.0
#: Opens connections for so long, so many a second; nobody answers. Says how many it opened.
OPENER = """
import socket, sys, time
rate, seconds, port, kept = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), []
begun = time.monotonic()
for number in range(int(rate * seconds)):
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(("192.0.2.10", port))
    kept.append(sock)
    if len(kept) > 200:
        kept.pop(0).close()
    time.sleep(max(0, begun + (number + 1) / rate - time.monotonic()))
print(rate * seconds / (time.monotonic() - begun))
"""


class Sample(NamedTuple):
    """One run: connections a second that were reached, the trace's last line, what it took.

    ``late`` is how long after the last connection it had told everything, ``busy`` its
    processor time a connection, in seconds both; ``packets`` how many lines it wrote.
    """

    rate: float
    end: dict[str, Any]
    packets: int
    late: float
    busy: float

    @property
    def silent(self) -> int:
        """How many packets are neither shown nor said to be lost."""
        missing = int(self.end["matched"] - self.end["skipped"] - self.packets)
        return 0 if self.end["lost"] else missing


def make(made: Namespaces) -> Namespace:
    """A pod with a way out, behind which nobody answers."""
    pod, world = made.make(), made.make()
    made.connect(pod, world)
    pod.run("ip", "addr", "add", "10.9.0.1/24", "dev", "eth0")
    world.run("ip", "addr", "add", "10.9.0.2/24", "dev", "eth0")
    pod.run("ip", "route", "add", "default", "via", "10.9.0.2")
    return pod


def run(pod: Namespace, rate: int) -> Sample:
    """One trace, and as many connections a second as that beside it."""
    program = str(Path(sys.executable).parent / "meshnet")
    command = [program, "trace", pod.path, f"dst port {PORT} and uid 0", "--rate", "0"]
    with tempfile.TemporaryFile("w+") as out:
        tracer = subprocess.Popen([*command, "-o", "json"], stdout=out, text=True)
        try:
            _await_start(tracer, out.fileno())
            argv = (str(rate), str(SECONDS), str(PORT))
            reached = float(pod.run("/usr/bin/python3", "-c", OPENER, *argv).stdout)
            began = time.monotonic()
            tracer.send_signal(signal.SIGINT)
            _, status, usage = os.wait4(tracer.pid, 0)
            tracer.returncode = os.waitstatus_to_exitcode(status)
            late = time.monotonic() - began
        finally:
            if tracer.returncode is None:
                tracer.kill()
                tracer.wait()
        out.seek(0)
        events = [json.loads(line) for line in out]
    end = events[-1]
    if tracer.returncode or end["event"] != "end" or end["disagreed"]:
        raise SystemExit(f"the trace ended with {tracer.returncode}: {end}")
    packets = sum(event["event"] == "packet" for event in events)
    busy = (usage.ru_utime + usage.ru_stime) / max(packets, 1)
    return Sample(reached, end, packets, late, busy)


def _await_start(tracer: subprocess.Popen[str], handle: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not os.fstat(handle).st_size or b'"start"' not in os.pread(handle, 4096, 0):
        if tracer.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the trace did not begin")
        time.sleep(0.02)


def measure_tracing(made: Namespaces) -> list[str]:
    """Print the table; give what is beyond the limits: a silent loss, or any loss at ``HELD``."""
    pod = make(made)
    beyond = []
    print(f"\n{'trace':<12}{'asked/s':>9}{'opened/s':>10}{'matched':>9}{'shown':>8}", end="")
    print(f"{'compared':>10}{'lost':>7}{'silent':>8}{'late s':>8}{'ms each':>9}")
    for backend in BACKENDS:
        pod.init(*ARGUMENTS, "--backend", backend)
        for rate in RATES:
            one = run(pod, rate)
            end = one.end
            print(f"{backend:<12}{rate:>9}{one.rate:>10.0f}{end['matched']:>9}", end="")
            print(f"{one.packets:>8}{end['agreed']:>10}{end['lost']:>7}", end="")
            print(f"{one.silent:>8}{one.late:>8.1f}{one.busy * 1000:>9.2f}")
            if one.silent:
                beyond.append(f"{backend}: {one.silent} packets are missing, and nothing is said")
            if rate <= HELD and end["lost"]:
                beyond.append(f"{backend}: {end['lost']} events lost at {rate} connections/s")
        pod.init("--cleanup-only")
    return beyond


if __name__ == "__main__":
    spaces = Namespaces("bench")
    try:
        print("\n".join(measure_tracing(spaces)))
    finally:
        spaces.remove()
