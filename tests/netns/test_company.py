"""Several at once, locks that somebody holds, and rules in more than one backend."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.support.cases import BACKENDS, CASES, DEFAULT, DNS, ON
from tests.support.namespaces import Namespace, Namespaces, meshnet_init

HOLD_NAMESPACE = """
import socket, sys, time
s = socket.socket(socket.AF_UNIX); s.bind("\\0meshnet-apply"); s.listen()
print("held", flush=True); time.sleep(60)
"""
HOLD_XTABLES = """
import fcntl, os, sys, time
fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True); time.sleep(60)
"""


def spawn(netns: Namespace, *argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["nsenter", f"--net={netns.path}", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def hold(netns: Namespace, program: str, *arguments: str) -> subprocess.Popen[str]:
    process = spawn(netns, "/usr/bin/env", "python3", "-c", program, *arguments)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("backend", BACKENDS)
def test_eight_at_once(namespaces: Namespaces, backend: str) -> None:
    netns, alone = namespaces.make(), namespaces.make()
    arguments = (*DNS, *ON, "--backend", backend)
    alone.init(*arguments)
    started = [spawn(netns, meshnet_init(), *arguments) for _ in range(8)]
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 8, said
    assert sum("rules written" in text for text in said) == 1
    assert sum("nothing to change" in text for text in said) == 7
    assert netns.everything() == alone.everything()


def test_eight_different_ones_at_once(netns: Namespace) -> None:
    """Whoever is last wins whole: the result is one of the eight, and each said yes."""
    cases = ["classic", "default", "dns", "tproxy", "strict", "ports", "two-proxies", "nothing"]
    started = [spawn(netns, meshnet_init(), *CASES[c], "--backend", "nft") for c in cases]
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 8, said
    answers = [netns.init(*CASES[c], "--backend", "nft", "--dry-run").stdout for c in cases]
    assert sum("nothing to send" in answer for answer in answers) == 1


@pytest.mark.parametrize(
    ("backend", "tool"), [("nft", "nft"), ("nft-compat", "iptables-nft-restore")]
)
def test_a_tool_that_outlives_its_run_keeps_the_lock(
    netns: Namespace, tmp_path: Path, backend: str, tool: str
) -> None:
    """Killed while its tool works, a run leaves the tool: nobody gets between it and the kernel."""
    slow = tmp_path / tool
    began = tmp_path / "began"
    slow.write_text(f'#!/bin/sh\n: > {began}\nsleep 1.5\nexec /usr/sbin/{tool} "$@"\n')
    slow.chmod(0o755)
    argv = ["env", f"PATH={tmp_path}:/usr/sbin:/usr/bin:/bin", meshnet_init(), *DEFAULT]
    first = spawn(netns, *argv, "--backend", backend)
    deadline = time.monotonic() + 20
    while not began.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    first.kill()
    first.communicate()
    second = netns.init(*DEFAULT, "--backend", backend)
    assert "nothing to change" in second.stderr
    jumps = [row for row in netns.nft().splitlines() if "jump" in row and "output" in row.lower()]
    assert len(jumps) == 1


def test_a_held_namespace_lock_names_its_holder(netns: Namespace) -> None:
    holder = hold(netns, HOLD_NAMESPACE)
    try:
        before = netns.everything()
        done = netns.init(*DEFAULT, "--lock-wait", "200ms", check=False)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert f"(pid {holder.pid})" in done.stderr and "0.2 s" in done.stderr
        assert netns.everything() == before
    finally:
        holder.kill()
        holder.communicate()
    netns.init(*DEFAULT)


def test_a_held_xtables_lock_names_its_holder(netns: Namespace, tmp_path) -> None:
    path = str(tmp_path / "xtables.lock")
    holder = hold(netns, HOLD_XTABLES, path)
    try:
        began = time.monotonic()
        done = netns.init(
            *DEFAULT, "--backend", "legacy", "--lock-wait", "300ms",
            check=False, env={"XTABLES_LOCKFILE": path},
        )  # fmt: skip
        assert time.monotonic() - began < 20
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert path in done.stderr and f"pid {holder.pid} (python3)" in done.stderr
        assert "ISTIO" not in netns.run("iptables-legacy-save").stdout
    finally:
        holder.kill()
        holder.communicate()
    netns.init(*DEFAULT, "--backend", "legacy", env={"XTABLES_LOCKFILE": path})


def test_the_iptables_program_waits_for_us_and_we_for_it(netns: Namespace) -> None:
    """Both take the same lock: beside a busy iptables program every run of ours succeeds."""
    loop = (
        "for i in $(seq 60); do iptables-legacy -w 20 -t nat -A POSTROUTING -p tcp --dport $i; done"
    )
    busy = spawn(netns, "bash", "-c", loop)
    for case in ("default", "classic", "dns"):
        netns.init(*CASES[case], "--backend", "legacy")
    assert busy.communicate(timeout=60)[1] == ""
    dump = netns.dump("iptables-legacy-save")
    assert dump.count("-A POSTROUTING") == 60
    assert "ISTIO_OUTPUT_DNS" in dump


@pytest.mark.parametrize("other", BACKENDS)
@pytest.mark.parametrize("first", BACKENDS)
def test_rules_in_another_backend_are_refused_or_moved(
    namespaces: Namespaces, first: str, other: str
) -> None:
    if first == other:
        return
    netns, alone = namespaces.make(), namespaces.make()
    netns.init(*DEFAULT, "--backend", first)
    before = netns.everything()
    done = netns.init(*DEFAULT, "--backend", other, check=False)
    assert done.returncode == 1
    assert first in done.stderr and other in done.stderr and "--migrate" in done.stderr
    assert netns.everything() == before
    moved = netns.init(*DEFAULT, "--backend", other, "--migrate")
    assert f"moved from {first}" in moved.stderr
    alone.init(*DEFAULT, "--backend", other)
    after, expected = netns.everything(), alone.everything()
    assert {k: after[k] for k in expected} == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_auto_stays_where_rules_are(netns: Namespace, backend: str) -> None:
    netns.init(*DEFAULT, "--backend", backend)
    done = netns.init(*DEFAULT, "--verbose")
    assert f"backend {backend}: rules of ours are there already" in done.stderr
    assert "nothing to change" in done.stderr


def test_auto_follows_foreign_rules(netns: Namespace) -> None:
    netns.run("iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT")
    done = netns.init(*DEFAULT, "--verbose")
    assert "backend legacy: this namespace already has rules there" in done.stderr
