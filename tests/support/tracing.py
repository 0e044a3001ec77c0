"""``meshnet trace`` at work beside a test: its lines as they come, its end, and its kin."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.namespaces import Namespace

PATIENCE = 30.0
SYSCTLS = ("net.netfilter.nf_log.2", "net.netfilter.nf_log.10")


#: Runs ``meshnet`` in a Python in which something is other than it should be.
SPOILT = "import sys\n{}\nfrom meshnet.cli.main import main\nmain()\n"


class Tracer:
    """A running trace of a namespace; it has begun when this is made.

    ``spoilt`` is Python that runs before the program does.
    """

    def __init__(
        self,
        namespace: Namespace,
        *arguments: str,
        prefix: tuple[str, ...] = (),
        wait: bool = True,
        spoilt: str = "",
    ) -> None:
        program = [str(Path(sys.executable).parent / "meshnet")]
        if spoilt:
            program = [sys.executable, "-c", SPOILT.format(spoilt)]
        command = [*program, "trace", namespace.path, "-o", "json", *arguments]
        self.process = subprocess.Popen(
            [*prefix, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.namespace = namespace
        self.events: list[dict[str, Any]] = []
        self._part = ""
        if wait:
            self.until(lambda events: any(e["event"] == "start" for e in events))

    @property
    def packets(self) -> list[dict[str, Any]]:
        """The packets so far."""
        return [event for event in self.events if event["event"] == "packet"]

    def until(self, enough: Any, patience: float = PATIENCE) -> list[dict[str, Any]]:
        """Read until ``enough(events)``; an AssertionError where that does not come."""
        deadline = time.monotonic() + patience
        while not enough(self.events):
            left = deadline - time.monotonic()
            assert left > 0, f"not in time: {json.dumps(self.events, indent=1)[-3000:]}"
            if not self._read(left):
                raise AssertionError(f"it ended: {self.process.communicate()[1]}")
        return self.events

    def _read(self, seconds: float) -> bool:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        if not ready:
            return True
        part = os.read(self.process.stdout.fileno(), 1 << 16).decode()
        *lines, self._part = (self._part + part).split("\n")
        self.events += [json.loads(line) for line in lines]
        return bool(part)

    def packet(self, **wanted: Any) -> dict[str, Any]:
        """The first packet that has these values; ``port`` is the source's."""

        def fits(event: dict[str, Any]) -> bool:
            return event["event"] == "packet" and all(
                _value(event, name) == value for name, value in wanted.items()
            )

        events = self.until(lambda events: any(map(fits, events)))
        return next(filter(fits, events))

    def end(self, code: int | None = 0) -> dict[str, Any]:
        """Interrupt it as a terminal does, and give its last line."""
        self.process.send_signal(signal.SIGINT)
        return self.finish(code)

    def finish(self, code: int | None = 0) -> dict[str, Any]:
        """Wait for its own end, and give its last line."""
        while self._read(PATIENCE):
            assert self.process.poll() is None or select.select([self.process.stdout], [], [], 0)[0]
        error = self.process.communicate(timeout=PATIENCE)[1]
        assert code is None or self.process.returncode == code, (error, self.events[-3:])
        last = self.events[-1]
        assert last["event"] == "end", (last, error)
        return last

    def children(self) -> list[int]:
        """The processes that it started."""
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True
        )
        return [int(pid) for pid in found.stdout.split()]

    def kill(self) -> None:
        """Whatever is left of it ends now."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def _value(event: dict[str, Any], name: str) -> Any:
    if name == "port":
        return event["source"]["port"]
    if name == "to":
        return event["destination"]["address"], event["destination"]["port"]
    return event[name]


def tables(namespace: Namespace) -> list[str]:
    """The tables of traces that are there."""
    lines = namespace.run("nft", "list", "tables").stdout.splitlines()
    return [line for line in lines if "meshnet-trace" in line]


def loggers(namespace: Namespace) -> dict[str, str]:
    """What the namespace's sysctls say about who logs."""
    shown = namespace.run("sysctl", *SYSCTLS).stdout.splitlines()
    return dict(line.split(" = ") for line in shown)  # type: ignore[misc]


def await_gone(namespace: Namespace, before: dict[str, str], patience: float = 10.0) -> None:
    """Until nothing of a trace is left in ``namespace``; AssertionError where something stays."""
    deadline = time.monotonic() + patience
    while tables(namespace) or loggers(namespace) != before:
        assert time.monotonic() < deadline, (tables(namespace), loggers(namespace))
        time.sleep(0.02)


def chains(packet: dict[str, Any]) -> list[str]:
    """The rules of a packet: "ISTIO_OUTPUT 9"; policies are left out."""
    return [f"{r['chain']} {r['position']}" for r in packet["rules"] if not r["policy"]]
