"""A process that lives in a namespace: under an owner and a name, with sockets of its own.

The program reads one JSON line and does it: ``{"uid", "gid", "name", "listen": [[family, protocol,
address, port, flags]], "children": N}``; it says ``ready``. After that each line
``{"dial": [address, port]}`` makes a connection that is kept, and ``{"speak": true}`` sends on it.
Flags are "only6" and "transparent". Listeners are bound before the owner is taken on, so that any
flag can be set.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
from typing import Any

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
TRANSPARENT = {4: (socket.SOL_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Inhabitant:
    """The process, started in ``namespace`` (an object with ``path``); ``end`` ends it.

    ``wrap`` are words before the program: another way of entering.
    """

    def __init__(
        self,
        path: str,
        uid: int = 0,
        gid: int | None = None,
        name: str = "somebody",
        listen: list[tuple[Any, ...]] | None = None,
        children: int = 0,
        wrap: tuple[str, ...] = (),
    ) -> None:
        enter = wrap or ("nsenter", f"--net={path}")
        self.process = subprocess.Popen(
            [*enter, "/usr/bin/python3", "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        order = {"uid": uid, "gid": uid if gid is None else gid, "name": name}
        order |= {"listen": listen or [], "children": children}
        self.pids = self.tell(order)
        self.pid = self.pids[0]

    def tell(self, order: dict[str, Any]) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the inhabitant is gone"
        return json.loads(answer)

    def dial(self, address: str, port: int) -> str:
        """Connect and keep the connection; what became of it, "" where all is well."""
        return str(self.tell({"dial": [address, port]}))

    def speak(self) -> str:
        """Say something on the connection that was dialled last; what became of it, as for dial."""
        return str(self.tell({"speak": True}))

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def serve() -> None:
    """The program: see the module."""
    order = json.loads(sys.stdin.readline())
    kept = [_listen(*one) for one in order["listen"]]
    ctypes.CDLL(None).prctl(15, order["name"].encode(), 0, 0, 0)
    os.setgroups([])
    os.setresgid(*[order["gid"]] * 3)
    os.setresuid(*[order["uid"]] * 3)
    pids = [os.getpid()]
    accepted: list[socket.socket] = []
    for _ in range(order["children"]):
        child = os.fork()
        if not child:
            ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
            while True:
                os.read(os.pipe()[0], 1)
        pids.append(child)
    for sock in kept:
        if sock.type == socket.SOCK_STREAM:
            threading.Thread(target=_accept, args=(sock, accepted), daemon=True).start()
    print(json.dumps(pids), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "dial" in order:
            kept.append(_socket(order["dial"][0]))
        problem = ""
        try:
            if "dial" in order:
                kept[-1].connect(tuple(order["dial"]))
            else:
                kept[-1].send(b"hello")
                kept[-1].recv(1)
        except TimeoutError:
            problem = "" if "speak" in order else "timed out"
        except OSError as e:
            problem = os.strerror(e.errno or 0)
        print(json.dumps(problem), flush=True)


def _socket(address: str) -> socket.socket:
    sock = socket.socket(FAMILIES[6 if ":" in address else 4], socket.SOCK_STREAM)
    sock.settimeout(2)
    return sock


def _accept(listener: socket.socket, accepted: list[socket.socket]) -> None:
    """Take every connection and keep it."""
    while True:
        accepted.append(listener.accept()[0])


def _listen(version: int, protocol: str, address: str, port: int, *flags: str) -> socket.socket:
    sock = socket.socket(FAMILIES[version], KINDS[protocol])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if version == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int("only6" in flags))
    if "transparent" in flags:
        sock.setsockopt(*TRANSPARENT[version], 1)
    sock.bind((address, port))
    if protocol == "tcp":
        sock.listen(64)
    return sock


if __name__ == "__main__":
    serve()
