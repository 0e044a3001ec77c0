"""Network namespaces that a user namespace owns: whose ids are in rules, and whose in /proc."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meshnet.errors import NotPermitted
from meshnet.host.netns import Door, run_child
from meshnet.host.processes import read_process, socket_owners
from meshnet.host.sockdiag import read_sockets
from meshnet.host.userns import SAME, IdMap, owner_of
from meshnet.model.snapshot import UNMAPPED

NEWUSER, NEWNET = 0x10000000, 0x40000000
RANGE = IdMap(((0, 100000, 65536),))
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def living(*steps: Callable[[], None]) -> Iterator[int]:
    """A process that took these steps and waits; its pid."""
    says, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for step in steps:
                step()
            os.write(tell, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert os.read(says, 1) == b"x"
        yield pid
    finally:
        os.close(says)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def unshare(flags: int) -> None:
    assert _libc.unshare(flags) == 0, os.strerror(ctypes.get_errno())


def enter(path: str, kind: int) -> None:
    handle = os.open(path, os.O_RDONLY)
    assert _libc.setns(handle, kind) == 0, os.strerror(ctypes.get_errno())
    os.close(handle)


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def show_oneself() -> None:
    """Let /proc/PID belong to this process's user, not to root (PR_SET_DUMPABLE)."""
    assert _libc.prctl(4, 1, 0, 0, 0) == 0


def write_maps(pid: int, uids: str, gids: str) -> None:
    for name, text in (("uid_map", uids), ("gid_map", gids)):
        Path(f"/proc/{pid}/{name}").write_text(text)


@pytest.fixture
def pod() -> Iterator[int]:
    """The first process of a network namespace that a user namespace of its own owns."""
    with living(lambda: unshare(NEWUSER | NEWNET)) as pid:
        write_maps(pid, "0 100000 65536\n", "0 100000 65536\n")
        yield pid


def inhabitant(pod: int, uid: int) -> list[Callable[[], None]]:
    """The steps of a process that lives in the pod under that UID of it."""
    return [
        lambda: enter(f"/proc/{pod}/ns/user", NEWUSER),
        lambda: enter(f"/proc/{pod}/ns/net", NEWNET),
        lambda: become(uid),
    ]


def inode(pid: int, kind: str) -> int:
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino


def test_ids_inside_a_user_namespace(pod: int) -> None:
    with living(*inhabitant(pod, 1337)) as pid:
        record = read_process(pid)
        assert record is not None
        assert record.uids == record.gids == (101337,) * 4
        assert (record.netns, record.userns) == (inode(pod, "net"), inode(pod, "user"))
        for pids in ((), (pid,), (os.getpid(), 2**22 + 1, pod)):
            owner, uids, gids = owner_of(f"/proc/{pod}/ns/net", pids)
            assert (owner, uids, gids) == (record.userns, RANGE, RANGE)
        assert uids.inside(record.uids[3]) == 1337
        assert uids.shown(0) == UNMAPPED


def test_the_maps_of_users_and_groups_differ() -> None:
    with living(lambda: unshare(NEWUSER | NEWNET)) as pid:
        assert owner_of(f"/proc/{pid}/ns/net")[1:] == (IdMap(()), IdMap(()))
        write_maps(pid, "0 1000 1\n1 200000 10\n", "5 7 2\n")
        for pids in ((), (pid,)):
            _, uids, gids = owner_of(f"/proc/{pid}/ns/net", pids)
            assert uids == IdMap(((0, 1000, 1), (1, 200000, 10)))
            assert gids == IdMap(((5, 7, 2),))


def test_an_owner_in_which_nobody_lives(pod: int) -> None:
    with living(lambda: enter(f"/proc/{pod}/ns/net", NEWNET)) as guest:
        wanted = (inode(pod, "user"), RANGE, RANGE)
        os.kill(pod, signal.SIGKILL)
        os.waitid(os.P_PID, pod, os.WEXITED | os.WNOWAIT)
        assert owner_of(f"/proc/{guest}/ns/net", [guest]) == wanted


def test_maps_of_nested_namespaces_are_those_that_the_reader_sees(pod: int) -> None:
    steps = [*inhabitant(pod, 0), lambda: unshare(NEWUSER | NEWNET), show_oneself]
    with living(*steps) as inner:
        # Only the user namespace around it may write a map, in its own ids.
        middle = Door(None, user=f"/proc/{pod}/ns/user")
        run_child(lambda: write_maps(inner, "0 1000 500\n", "0 1000 500\n"), door=middle)
        for pids in ((), (inner,)):
            owner, uids, _ = owner_of(f"/proc/{inner}/ns/net", pids)
            assert (owner, uids) == (inode(inner, "user"), IdMap(((0, 101000, 500),)))

        def from_the_middle() -> Any:
            _, uids, _ = owner_of(f"/proc/{inner}/ns/net", [inner])
            above = owner_of()
            return [uids.extents, above[0], above[1] == SAME]

        assert run_child(from_the_middle, door=middle) == [[[0, 1000, 500]], 0, True]


def test_without_the_capability_it_is_named(pod: int) -> None:
    handle = os.open(f"/proc/{pod}/ns/net", os.O_RDONLY)

    def job() -> Any:
        become(65534)
        # The maps are open to everybody, but which process is in the owner is not.
        return owner_of(handle, [pod])[0]

    with pytest.raises(NotPermitted, match="needs CAP_SYS_ADMIN"):
        run_child(job)
    os.close(handle)


def test_nothing_is_left_open_or_running(pod: int) -> None:
    path = f"/proc/{pod}/ns/net"
    owner_of(path)
    before = os.listdir("/proc/self/fd")
    for _ in range(20):
        owner_of(path)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if children.exists():
        assert children.read_text().split() == [str(pod)]


SERVER = """
import os, socket, time
s = socket.socket(); s.bind(("127.0.0.1", 8080)); s.listen()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.sendto(b"x", ("127.0.0.1", 9))
print("ready", flush=True); time.sleep(100)
"""
COUNTER = "add table ip t; add chain ip t o { type filter hook output priority 0; }; "
COUNTER += "add rule ip t o meta skuid 1337 udp dport 9 counter"


def test_rules_mean_the_ids_that_we_compare_with(pod: int) -> None:
    inside = ("nsenter", f"--target={pod}", "--user", "--net")
    net = f"--net=/proc/{pod}/ns/net"
    subprocess.run(["nsenter", net, "ip", "link", "set", "lo", "up"], check=True, timeout=30)
    subprocess.run(["nsenter", net, "nft", COUNTER], check=True, timeout=30)
    words = ("setpriv", "--reuid=1337", "--regid=1337", "--clear-groups")
    argv = [*inside, *words, "/usr/bin/python3", "-I", "-S", "-c", SERVER]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout and server.stdout.readline() == "ready\n"
        table = subprocess.run(
            [*inside, "nft", "list", "table", "ip", "t"], capture_output=True, text=True, timeout=30
        ).stdout
        assert "skuid 1337" in table and "packets 1 " in table
        _, uids, _ = owner_of(f"/proc/{pod}/ns/net")

        def job() -> Any:
            found, _ = read_sockets(listening_only=True, uids=uids)
            return [[s.uid, s.inode] for s in found if s.lport == 8080]

        ((uid, number),) = run_child(job, netns=f"/proc/{pod}/ns/net")
        record = read_process(server.pid)
        assert record is not None and uids.inside(record.uids[3]) == uid == 1337
        assert socket_owners([pod, server.pid])[number] == (server.pid,)
    finally:
        server.kill()
        server.communicate()
