"""Processes by /proc: hostile names, processes that vanish, and what is never opened."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import ToolFailed
from meshnet.host import processes
from meshnet.host.processes import (
    parse_cgroup,
    parse_stat,
    parse_status,
    pids_by_netns,
    read_process,
    read_processes,
    socket_owners,
)

PR_SET_NAME = 15
#: Names that try to be something else: fields of stat, lines of status, escapes, markup.
HOSTILE = (
    b"a) S 1 (b",
    b") R 1 1 1 (",
    b"x\nUid:\t0\t0\t0",
    b"\x1b[31mred\x1b[0m",
    b"[bold]x[/bold]",
    b"\xff\xfe\x80",
    b"\\x41",
    b" ",
    b"",
)
STAT = b"%d (%s) S %d 1 1 0 -1 %d " + b"0 " * 12 + b"%d 1 2 3\n"


@contextmanager
def child(name: bytes = b"child") -> Iterator[int]:
    """A process that waits under ``name``."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            ctypes.CDLL(None).prctl(PR_SET_NAME, name + b"\0", 0, 0, 0)
            os.write(writer, b"x")
            signal.pause()
        finally:
            os._exit(0)
    os.read(reader, 1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


@given(
    name=st.binary(max_size=64).map(lambda b: b.replace(b"\0", b"")),
    parent=st.integers(0, 2**22),
    flags=st.integers(0, 2**32 - 1),
    start=st.integers(0, 2**63),
)
def test_a_name_cannot_shift_the_fields_behind_it(
    name: bytes, parent: int, flags: int, start: int
) -> None:
    command, *numbers = parse_stat(STAT % (7, name, parent, flags, start))
    assert numbers == [parent, flags, start]
    assert command == name.decode("utf-8", "backslashreplace")
    command.encode("utf-8")


@given(st.binary())
def test_other_bytes_are_told_apart_from_a_process(data: bytes) -> None:
    for parse in (parse_stat, parse_status):
        with pytest.raises((ValueError, IndexError)):
            parse(data)
    assert isinstance(parse_cgroup(data), str)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"0::/a/b\n", "/a/b"),
        (b"0::/\n", "/"),
        (b"", ""),
        (b"12:cpu,cpuacct:/kube/x\n1:name=systemd:/kube/x/long\n0::/\n", "/kube/x/long"),
        (b"1:name=systemd:/very/long/one\n0::/short\n", "/short"),
        (b"0::/gone (deleted)\n", "/gone"),
        (b"0::/a:b\n", "/a:b"),
        (b"0::/\xff\n", "/\\xff"),
    ],
)
def test_the_cgroup_that_says_most(text: bytes, wanted: str) -> None:
    assert parse_cgroup(text) == wanted


@pytest.mark.parametrize("name", HOSTILE)
def test_a_process_with_a_hostile_name(name: bytes) -> None:
    with child(name) as pid:
        found = read_process(pid)
        assert found is not None
        assert found.command == name[:15].decode("utf-8", "backslashreplace")
        assert (found.pid, found.parent, found.kernel) == (pid, os.getpid(), False)
        assert found.uids == (os.getuid(), os.geteuid(), os.geteuid(), os.geteuid())
        assert found.gids[1] == os.getegid()
        assert found.netns == os.stat("/proc/self/ns/net").st_ino
        assert found.userns == os.stat("/proc/self/ns/user").st_ino
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        assert found.started == int(fields[19])
        assert pid in pids_by_netns()[found.netns]


def test_one_pass_finds_every_process_once() -> None:
    with child() as pid:
        found = list(read_processes())
    pids = [record.pid for record in found]
    assert pids == sorted(set(pids))
    assert {pid, os.getpid()} <= set(pids)
    mine = next(record for record in found if record.pid == os.getpid())
    assert read_process(os.getpid()) == mine


def test_kernel_threads_are_marked() -> None:
    record = read_process(2)
    if record is None or record.command != "kthreadd":
        pytest.skip("cannot run here: kernel threads are not in this pid namespace")
    assert record.kernel
    assert all(r.kernel for r in read_processes() if r.parent == 2)


def test_a_process_that_is_gone_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with child() as pid:
        pass
    assert read_process(pid) is None
    assert socket_owners([pid]) == {}
    listed = os.listdir("/proc")
    monkeypatch.setattr(processes.os, "listdir", lambda path: [*listed, str(pid)])
    assert pid not in {record.pid for record in read_processes()}
    assert all(pid not in pids for pids in pids_by_netns().values())


def test_a_zombie_is_nowhere() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        found = read_process(pid)
        assert found is not None and found.netns == 0
        assert all(pid not in pids for pids in pids_by_netns().values())
        assert socket_owners([pid]) == {}
    finally:
        os.waitpid(pid, 0)


def test_without_proc_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> list[str]:
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(processes.os, "listdir", refuse)
    for read in (lambda: list(read_processes()), pids_by_netns):
        with pytest.raises(ToolFailed, match="cannot read /proc"):
            read()


def test_a_socket_has_all_its_holders() -> None:
    one, other = socket.socketpair()
    alone = socket.socket()
    inodes = [os.fstat(s.fileno()).st_ino for s in (one, other, alone)]
    with child() as pid:
        twice = os.dup(one.fileno())
        alone.close()
        owners = socket_owners([os.getpid(), pid])
        os.close(twice)
    assert owners[inodes[0]] == owners[inodes[1]] == (os.getpid(), pid)
    assert owners[inodes[2]] == (pid,)
    one.close()
    other.close()


#: Fails when a file is opened that may hold secrets, wherever below /proc.
WATCH = """
import os, sys
opened = []
def hook(event, args):
    if event in ("open", "os.listdir", "os.readlink"):
        opened.append(str(args[0]))
sys.addaudithook(hook)
from meshnet.host import processes
found = list(processes.read_processes())
processes.pids_by_netns()
processes.socket_owners([record.pid for record in found])
names = {name.rpartition("/")[2] for name in opened}
assert {"stat", "status"} <= names, names
print(*sorted(names & {"cmdline", "environ", "mem", "maps", "auxv", "exe", "cwd"}))
"""


def test_no_arguments_and_no_environment_are_read() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCH], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
