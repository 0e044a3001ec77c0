"""A pod and the world, connections between them that stay open, and what ``conns`` says of them.

    world │ eth0 ── eth0 │ pod

Applications, clients and the proxy are processes of their own users (tests/support/relay.py).
"""

from __future__ import annotations

import json
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import run_json
from tests.support.namespaces import Namespace, Namespaces
from tests.support.probe import (
    API,
    API6,
    APP,
    FAR,
    FAR6,
    NEAR,
    NEAR6,
    POD,
    POD6,
    PROXY,
    ROOT,
    WEB,
    WEB6,
)

SOURCE = Path(__file__).with_name("relay.py")
#: A Python that every user may run.
PYTHON = "/usr/bin/python3"
APP_PORT, WORLD_PORTS = 8080, (80, 443, 9000)
BEHIND = (WEB, WEB6, API, API6, FAR, FAR6)


class Speaker:
    """One process of relay.py."""

    def __init__(self, namespace: Namespace, *arguments: str, uid: int, gid: int) -> None:
        user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        run = [PYTHON, "-I", "-S", "-c", SOURCE.read_text(), *arguments]
        self.process = subprocess.Popen(
            ["nsenter", f"--net={namespace.path}", *user, *run],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
        )
        self.pid = self.process.pid

    def answer(self, seconds: float = 30) -> Any:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            raise AssertionError("no answer from a client, an application or the proxy")
        return json.loads(line)

    def ask(self, **order: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()
        return self.answer()

    def dial(self, to: str, port: int, **rest: Any) -> tuple[str, int]:
        """Open a connection that stays; its own end."""
        (address, sport), *_ = self.ask(to=to, port=port, **rest)
        return address, sport

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Conversations:
    """See the module."""

    def __init__(self, namespaces: Namespaces) -> None:
        self.namespaces = namespaces
        self.pod, self.world = _quiet(namespaces), _quiet(namespaces)
        namespaces.connect(self.pod, self.world)
        self.pod.run("ip", "-batch", "-", text=_lines(POD, POD6, NEAR, NEAR6))
        more = "".join(f"addr add {a} dev lo\n" for a in BEHIND)
        self.world.run("ip", "-batch", "-", text=_lines(NEAR, NEAR6, POD, POD6) + more)
        self.speakers: list[Speaker] = []
        self.proxy: Speaker | None = None

    def begin(self) -> None:
        """Start everybody but the proxy."""
        self.server = self.start(self.world, "serve", *map(str, WORLD_PORTS), uid=ROOT)
        self.app = self.start(self.pod, "serve", str(APP_PORT), uid=APP)
        self.client = self.start(self.pod, "dial", uid=APP)
        self.caller = self.start(self.world, "dial", uid=APP)

    def start(
        self, namespace: Namespace, *arguments: str, uid: int, gid: int | None = None
    ) -> Speaker:
        """Start a process of relay.py; its group has the user's number unless told otherwise."""
        gid = uid if gid is None else gid
        self.speakers.append(Speaker(namespace, *arguments, uid=uid, gid=gid))
        assert self.speakers[-1].answer() == "ready"
        return self.speakers[-1]

    def start_proxy(self, tproxy: bool = False) -> Speaker:
        """Start the proxy; where TPROXY is used Istio's is root, with the proxy's group."""
        if tproxy:
            self.proxy = self.start(self.pod, "relay", "tproxy", uid=ROOT, gid=PROXY)
        else:
            self.proxy = self.start(self.pod, "relay", uid=PROXY)
        return self.proxy

    def conns(self, *arguments: str, code: int | None = 0) -> dict[str, Any]:
        """What ``meshnet conns -o json`` says of the pod."""
        found: dict[str, Any] = run_json("conns", self.pod.path, *arguments, code=code)
        return found

    def row(self, end: tuple[str, int], code: int | None = 0) -> dict[str, Any]:
        """The one row whose source is ``end``."""
        return row_of(self.conns(code=code), end)

    def end(self) -> None:
        for speaker in self.speakers:
            speaker.end()


def row_of(document: dict[str, Any], end: tuple[str, int]) -> dict[str, Any]:
    """The one row of ``document`` whose source is ``end``."""
    wanted = {"address": end[0], "port": end[1]}
    rows = [row for row in document["connections"] if row["source"] == wanted]
    assert len(rows) == 1, f"{end} in {json.dumps(document['connections'], indent=1)}"
    return rows[0]


@pytest.fixture
def talk(namespaces: Namespaces) -> Iterator[Conversations]:
    """A pod and the world, with an application, a client and a server, and without a proxy."""
    made = Conversations(namespaces)
    try:
        made.begin()
        yield made
    finally:
        made.end()


def _quiet(namespaces: Namespaces) -> Namespace:
    """A namespace whose link-local addresses are there at once: DAD takes a second."""
    made = namespaces.make()
    made.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
    return made


def _lines(own: str, own6: str, gate: str, gate6: str) -> str:
    return (
        f"addr add {own}/24 dev eth0\naddr add {own6}/64 dev eth0 nodad\n"
        f"route add default via {gate}\nroute add ::/0 via {gate6}\n"
    )
