"""The demo, run for real: it says what it saw, and whatever ends it, nothing of it stays."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshnet.lab.envoy import await_envoy, one_port_bootstrap, read_counters, start_envoy
from meshnet.lab.leftovers import find_stale, identify, processes_of
from meshnet.lab.processes import fetch, find_meshnet_init, run_in, serve_http
from meshnet.lab.topology import Topology

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "meshnet.lab.demo"]
NAMESPACES = Path("/run/netns")

#: Where a run is interrupted: as soon as it has printed this.
MOMENTS = ["1. ", "app, an HTTP server", "2. ", "3. ", "4. ", "5. ", "6. ", "7. "]


def namespaces_of(pid: int) -> list[str]:
    """The namespaces that the demo with this pid has now."""
    names = os.listdir(NAMESPACES) if NAMESPACES.is_dir() else []
    return sorted(name for name in names if name.startswith(f"meshnet-demo-{pid}-"))


def links() -> set[str]:
    """The interfaces of the namespace that the tests run in: the demo adds none, ever."""
    return set(os.listdir("/sys/class/net"))


@pytest.fixture
def demo() -> Iterator[subprocess.Popen[str]]:
    """A running demo, its output in a pipe; ended when the test has not done so."""
    process = subprocess.Popen(
        [DEMO[0], "-u", *DEMO[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    with process:
        yield process
        process.terminate()  # not kill: then it would leave its namespaces to the next run


def read_until(demo: subprocess.Popen[str], text: str) -> str:
    """Read the demo's output up to the first line that holds ``text``."""
    assert demo.stdout is not None
    seen = ""
    for line in demo.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} never came; the demo said:\n{seen}")


def test_it_says_what_it_saw_and_leaves_nothing(demo: subprocess.Popen[str]) -> None:
    before = links()
    start = time.monotonic()
    assert demo.stdout is not None
    said = demo.stdout.read()
    assert demo.wait() == 0, said
    assert time.monotonic() - start < 20
    assert " NO " not in said
    for claim in (
        "app b answered 200",
        "Envoy a took it on its outbound listener and passed it on (connections: +1, +1)",
        "Envoy b took it on its inbound listener and passed it on (connections: +1, +1)",
        "app b saw its peer at 127.0.0.6",
        "7 rules, the 7 of Istio 0.2 in their order",
        "connections that the kernel handed to Envoy's inbound port here: 1",
        "left of this run: no namespace and no process",
    ):
        assert claim in said
    assert re.search(r"All \d+ claims were seen to hold, in \d+\.\d s\.", said)
    assert "\x1b" not in said, "colour without a terminal"
    assert max(map(len, said.splitlines())) <= 100
    assert namespaces_of(demo.pid) == []
    assert links() == before


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_interrupted_it_leaves_nothing(
    demo: subprocess.Popen[str], moment: str, number: signal.Signals
) -> None:
    read_until(demo, moment)
    made = {name: identify(NAMESPACES / name) for name in namespaces_of(demo.pid)}
    demo.send_signal(number)
    assert demo.stdout is not None
    said = demo.stdout.read()
    assert demo.wait(timeout=20) == 128 + number, said
    assert f"interrupted by {number.name}; everything it made is removed" in said
    assert namespaces_of(demo.pid) == []
    assert [pid for identity in made.values() for pid in processes_of(identity)] == []


def test_a_second_interrupt_does_not_cut_the_cleaning_short(demo: subprocess.Popen[str]) -> None:
    read_until(demo, "5. ")
    for _ in range(20):
        demo.send_signal(signal.SIGINT)
        time.sleep(0.005)
    assert demo.wait(timeout=20) == 130
    assert namespaces_of(demo.pid) == []


def test_the_next_run_removes_what_a_killed_one_left() -> None:
    with subprocess.Popen(
        [DEMO[0], "-u", *DEMO[1:]], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as killed:
        read_until(killed, "5. ")
        left = namespaces_of(killed.pid)
        made = [identify(NAMESPACES / name) for name in left]
        killed.kill()
    assert len(left) == 2
    assert {path.name for path in find_stale("meshnet-demo")} >= set(left)
    # Applications and Envoys die with the one that started them, before any next run.
    deadline = time.monotonic() + 5
    while any(processes_of(identity) for identity in made) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [pid for identity in made for pid in processes_of(identity)] == []

    done = subprocess.run(DEMO, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout
    printed = " ".join(done.stdout.split())
    assert "left by a run that was killed" in printed
    assert all(name in printed for name in left)
    assert find_stale("meshnet-demo") == []


def test_a_running_demo_is_nobodys_leftover(demo: subprocess.Popen[str]) -> None:
    read_until(demo, "3. ")
    mine = namespaces_of(demo.pid)
    assert len(mine) == 2
    assert not {path.name for path in find_stale("meshnet-demo")} & set(mine)


def test_without_root_it_says_so_in_one_line() -> None:
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    source = "import sys, meshnet.lab.demo as demo; sys.exit(demo.main())"
    look = [
        *as_nobody,
        sys.executable,
        "-c",
        f"import rich, os; os.stat({str(ROOT / 'meshnet')!r})",
    ]
    probe = subprocess.run(look, capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("cannot run here: another user cannot run this Python")
    done = subprocess.run(
        [*as_nobody, sys.executable, "-c", source],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 5, done.stdout + done.stderr
    assert done.stdout.count("\n") == 1
    assert "run as root" in done.stdout


def test_one_port_serves_both_directions_under_classic_rules() -> None:
    with Topology("meshnet-test-one-port") as topology:
        one, other = topology.add_pod("a", "10.77.0.1"), topology.add_pod("b", "10.77.0.2")
        topology.connect(one, other)
        for pod in (one, other):
            serve_http(pod, 8080)
            await_envoy(start_envoy(pod, one_port_bootstrap(pod.name, pod.address, 8080)))
            done = run_in(pod, [str(find_meshnet_init()), "-p", "15001", "-u", "1337"])
            assert done.returncode == 0, done.stderr
        before = {pod.name: read_counters(pod) for pod in (one, other)}
        answer = fetch(one, f"http://{other.address}:8080/")
        after = {pod.name: read_counters(pod) for pod in (one, other)}
        assert answer["body"] == '{"app": "b", "saw": "127.0.0.1"}'
        for pod, way in ((one, "outbound"), (other, "inbound")):
            counter = f"cluster.{way}.upstream_cx_total"
            assert after[pod.name][counter] - before[pod.name][counter] == 1
    assert topology.find_survivors() == []
