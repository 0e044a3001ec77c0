"""Sweeps: a child a namespace, bounded in number, time and handles; nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meshnet.errors import MeshnetError, NotPermitted, ToolFailed
from meshnet.host.netns import Door, run_child
from meshnet.host.process import run_tool
from meshnet.host.sweep import sweep
from tests.support.namespaces import Namespace, Namespaces

ROOT = Path(__file__).parents[2]


def door(netns: Namespace) -> Door:
    """The way into a namespace of a test."""
    return Door(netns.path)


def inode(_: object = None) -> int:
    """The network namespace that this process is in."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def children() -> str:
    """The children of this process, zombies too."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


@pytest.fixture(autouse=True)
def _nothing_leaks():
    before = len(os.listdir("/proc/self/fd")), children()
    yield
    assert (len(os.listdir("/proc/self/fd")), children()) == before


def running(mark: str) -> list[str]:
    """The processes whose command line holds ``mark``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes() and path.parent.name != str(os.getpid()):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def gone(mark: str) -> bool:
    """Whether the processes with ``mark`` end within two seconds."""
    ends = time.monotonic() + 2
    while running(mark) and time.monotonic() < ends:
        time.sleep(0.02)
    return not running(mark)


def test_each_job_runs_in_its_own_namespace(namespaces: Namespaces) -> None:
    made = [namespaces.make(up=False) for _ in range(5)]
    here = inode()
    found = dict(sweep(made, inode, door=door, workers=2))
    assert found == {netns: os.stat(netns.path).st_ino for netns in made}
    assert inode() == here


def test_a_sweep_of_nothing_is_empty() -> None:
    assert list(sweep([], inode, door=door)) == []


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_forty_namespaces_take_few_handles_and_children(
    namespaces: Namespaces, workers: int
) -> None:
    made = [namespaces.make(up=False) for _ in range(40)]
    before = len(os.listdir("/proc/self/fd"))
    most, at_once, seen = 0, 0, []
    for netns, found in sweep(made, inode, door=door, workers=workers):
        most = max(most, len(os.listdir("/proc/self/fd")) - before)
        at_once = max(at_once, len(children().split()))
        seen.append((netns, found))
    assert len(seen) == 40 and len({found for _, found in seen}) == 40
    assert most <= workers + 1
    assert at_once <= workers


def test_items_are_taken_only_as_there_is_room(namespaces: Namespaces) -> None:
    netns, taken = namespaces.make(up=False), []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = sweep(items(), lambda n: n, door=lambda _: door(netns), workers=2)
    for _ in range(10):
        next(results)
    assert len(taken) <= 16
    results.close()
    assert len(taken) <= 16


def test_what_cannot_be_entered_is_an_item_of_its_own(namespaces: Namespaces, tmp_path) -> None:
    made = [namespaces.make(up=False) for _ in range(3)]
    file = tmp_path / "file"
    file.touch()
    doors = [Door(n.path) for n in made]
    doors += [Door("/run/netns/is-not-there"), Door(str(file)), Door("/proc/4194305/ns/net")]
    doors.append(Door(made[0].path, inode=1))
    found = dict(sweep(range(7), inode, door=lambda n: doors[n], workers=2))
    assert [found[n] for n in range(3)] == [os.stat(n.path).st_ino for n in made]
    for number, said in enumerate(
        ["there is no network namespace at", "cannot be entered", "there is no", "is gone"], 3
    ):
        assert isinstance(found[number], MeshnetError)
        assert said in str(found[number])


def test_a_namespace_that_vanishes_midway_is_reported(namespaces: Namespaces) -> None:
    made = [namespaces.make(up=False) for _ in range(6)]
    results = sweep(made, inode, door=door, workers=1)
    first = next(results)
    for netns in made[3:]:
        subprocess.run(["ip", "netns", "del", netns.name], check=True)
    found = [first, *results]
    assert [n for n, r in found if isinstance(r, int)] == made[:3]
    assert all("no network namespace" in str(r) for _, r in found[3:]) and len(found) == 6


def test_one_that_hangs_costs_its_own_time_and_goes_with_its_tools(
    namespaces: Namespaces,
) -> None:
    made = [namespaces.make(up=False) for _ in range(8)]
    seconds = f"77{os.getpid()}"

    def job(netns: Namespace) -> int:
        if netns is made[2]:
            run_tool(["sleep", seconds], timeout=60)
        return inode()

    began = time.monotonic()
    found = dict(sweep(made, job, door=door, workers=2, timeout=0.7))
    assert time.monotonic() - began < 4
    assert isinstance(found[made[2]], ToolFailed)
    assert "did not answer within 0.7 s" in str(found[made[2]])
    assert all(isinstance(found[n], int) for n in made if n is not made[2])
    assert gone(seconds)


def test_one_that_dies_or_fails_is_an_item(namespaces: Namespaces, capfd) -> None:
    made = [namespaces.make(up=False) for _ in range(5)]

    def job(netns: Namespace) -> int:
        number = made.index(netns)
        if number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 1:
            raise OSError(5, "Input/output error")
        if number == 2:
            raise NotPermitted("needs CAP_SOMETHING", "try harder")
        if number == 3:
            raise MemoryError
        return inode()

    found = dict(sweep(made, job, door=door, workers=2))
    assert "ended without an answer" in str(found[made[0]])
    assert "Input/output error" in str(found[made[1]])
    assert isinstance(found[made[2]], NotPermitted) and found[made[2]].hint == "try harder"
    assert isinstance(found[made[3]], ToolFailed)
    assert isinstance(found[made[4]], int)
    assert capfd.readouterr().err == ""


def test_bytes_and_large_answers_come_back_as_they_are(namespaces: Namespaces) -> None:
    netns = namespaces.make(up=False)
    jobs: dict[str, Callable[[], object]] = {
        "bytes": lambda: bytes(range(256)) * 40_000,
        "none": lambda: None,
        "empty": lambda: b"",
        "text": lambda: "\0\ud800\n" * 1000,
    }
    found = dict(sweep(jobs, lambda n: jobs[n](), door=lambda _: door(netns), workers=2))
    assert found == {name: job() for name, job in jobs.items()}


def test_a_slow_reader_does_not_make_answers_late(namespaces: Namespaces) -> None:
    made = [namespaces.make(up=False) for _ in range(4)]
    found = []
    for _, result in sweep(made, lambda _: b"x" * 2_000_000, door=door, workers=2, timeout=0.5):
        time.sleep(0.8)
        found.append(result)
    assert [len(result) for result in found] == [2_000_000] * 4


def test_who_stops_reading_ends_the_children(namespaces: Namespaces) -> None:
    made = [namespaces.make(up=False) for _ in range(4)]
    seconds = f"78{os.getpid()}"

    def job(netns: Namespace) -> int:
        if netns is not made[0]:
            run_tool(["sleep", seconds], timeout=60)
        return 1

    results = sweep(made, job, door=door, workers=3)
    assert next(results) == (made[0], 1)
    results.close()
    assert gone(seconds)


SCRIPT = """
import os, sys
from meshnet.host.netns import Door
from meshnet.host.process import run_tool
from meshnet.host.sweep import sweep
print(os.getpid(), flush=True)
job = lambda n: run_tool(["sleep", sys.argv[1]], timeout=60).code
for _ in sweep(range(4), job, door=lambda _: Door(sys.argv[2]), workers=2):
    pass
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_parent_that_is_ended_takes_its_children_along(netns: Namespace, number: int) -> None:
    seconds = f"79{os.getpid()}{int(number)}"
    argv = [sys.executable, "-c", SCRIPT, seconds, netns.path]
    parent = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)
    try:
        ends = time.monotonic() + 10
        # The parent itself has the number in its arguments as well.
        while len(running(seconds)) < 3 and time.monotonic() < ends:
            time.sleep(0.02)
        parent.send_signal(number)
        parent.communicate(timeout=10)
    finally:
        parent.kill()
        parent.wait()
    assert gone(seconds)


def test_a_child_enters_mount_and_user_namespaces_only_where_asked(tmp_path) -> None:
    marker = tmp_path / "marker"
    marker.mkdir()
    inside = f"mount -t tmpfs none {marker} && touch {marker}/here && echo ready && exec sleep 60"
    argv = ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", inside]
    pod = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert pod.stdout is not None and pod.stdout.readline() == "ready\n"
        net, mnt, user = (f"/proc/{pod.pid}/ns/{kind}" for kind in ("net", "mnt", "user"))

        def look() -> list[object]:
            places = [
                os.stat(f"/proc/thread-self/ns/{kind}").st_ino for kind in ("net", "mnt", "user")
            ]
            return [*places, (marker / "here").exists(), os.getuid()]

        theirs = [os.stat(path).st_ino for path in (net, mnt, user)]
        ours = [os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("net", "mnt", "user")]
        assert run_child(look, netns=net) == [theirs[0], *ours[1:], False, 0]
        found = run_child(look, door=Door(net, mnt=mnt))
        assert found == [*theirs[:2], ours[2], True, 0]
        assert run_child(look, door=Door(net, mnt=mnt, user=user)) == [*theirs, True, 0]
        # One's own user namespace cannot be entered again, and need not be.
        own = Door(net, user="/proc/self/ns/user")
        assert run_child(look, door=own) == [theirs[0], *ours[1:], False, 0]
    finally:
        pod.kill()
        pod.communicate()
