"""Collecting without a capability: which one is missing is said, and what can be had is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cases import DEFAULT
from tests.support.namespaces import Namespace

ROOT = Path(__file__).parents[2]
#: Collects, and prints what came of it: the error's class and words, or the gaps.
SCRIPT = """
import json, os, sys
from meshnet.errors import MeshnetError
from meshnet.host.target import Target
from meshnet.ops.collect import collect
path, *sections = sys.argv[1:]
if path == "self":
    target = Target(path, None, os.stat("/proc/self/ns/net").st_ino, "x")
else:
    target = Target(path, path, os.stat(path).st_ino, "x")
try:
    found = collect(target, tuple(sections))
except MeshnetError as e:
    print(json.dumps([type(e).__name__, e.exit_code, str(e)]))
else:
    shown = [[g.section, g.reason] for g in found.gaps]
    print(json.dumps(["ok", 0, "", shown, len(found.sockets), [s.pids for s in found.sockets]]))
"""


def collected(*arguments: str, without: str = "", wrap: tuple[str, ...] = (), **options) -> list:
    """What SCRIPT says of ``arguments``, run without the capabilities ``without`` ("a,b")."""
    argv = [*wrap]
    if without:
        drop = ",".join(f"-{name}" for name in without.split(","))
        argv += ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"]
    argv += [sys.executable, "-c", SCRIPT, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=60, **options)
    assert done.stderr == "" and done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def enter(netns: Namespace) -> tuple[str, ...]:
    """The way into a namespace while one still may."""
    return ("nsenter", f"--net={netns.path}")


def test_entering_needs_cap_sys_admin(netns: Namespace) -> None:
    kind, code, said, *_ = collected(netns.path, "routes", without="sys_admin")
    assert (kind, code) == ("NotPermitted", 5)
    assert "CAP_SYS_ADMIN" in said and netns.name in said


@pytest.mark.parametrize("backend", ["nft", "nft-compat", "legacy"])
def test_reading_rules_needs_cap_net_admin(netns: Namespace, backend: str) -> None:
    netns.init(*DEFAULT, "--backend", backend)
    kind, code, said, *_ = collected(netns.path, "rules", without="net_admin")
    assert (kind, code) == ("NotPermitted", 5)
    assert "CAP_NET_ADMIN" in said


def test_one_s_own_namespace_is_read_without_any_capability(netns: Namespace) -> None:
    nobody = (*enter(netns), "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    sections = ("routes", "sysctls", "processes", "sockets")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    python = ("/usr/bin/python3", "-c", "import msgspec")
    readable = not subprocess.run([*nobody, *python], capture_output=True, env=env).returncode
    if not readable and not _may_read(nobody):
        pytest.skip("cannot run here: the interpreter with msgspec is readable by root alone")
    assert collected("self", *sections, wrap=nobody)[0] == "ok"
    kind, code, said, *_ = collected("self", "rules", wrap=nobody)
    assert (kind, code) == ("NotPermitted", 5) and "CAP_NET_ADMIN" in said


def _may_read(nobody: tuple[str, ...]) -> bool:
    script = "import msgspec, meshnet.ops.collect"
    argv = [*nobody, sys.executable, "-c", script]
    return not subprocess.run(argv, capture_output=True, cwd=ROOT).returncode


def test_without_cap_sys_ptrace_sockets_have_no_owners_and_a_gap_says_so(netns: Namespace) -> None:
    script = (
        "import os, socket, time; s = socket.create_server(('127.0.0.1', 15001));"
        "os.setgid(1337); os.setuid(1337); print('ready', flush=True); time.sleep(60)"
    )
    argv = [*enter(netns), "/usr/bin/python3", "-c", script]
    listener = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert listener.stdout is not None and listener.stdout.readline() == "ready\n"
        whole = collected(netns.path, "sockets")
        assert whole[3:] == [[], 1, [[listener.pid]]]
        kind, _, _, gaps, count, pids = collected(netns.path, "sockets", without="sys_ptrace")
        assert (kind, count, pids) == ("ok", 1, [[]])
        assert [section for section, _ in gaps] == ["sockets"]
        assert (
            "the owners of 1 sockets cannot be seen" in gaps[0][1]
            and "CAP_SYS_PTRACE" in gaps[0][1]
        )
        gaps = collected(netns.path, "processes", without="sys_ptrace")[3]
        assert [section for section, _ in gaps] == ["processes"]
        assert "CAP_SYS_PTRACE" in gaps[0][1]
    finally:
        listener.kill()
        listener.communicate()


def test_a_process_s_namespace_that_may_not_be_opened_names_the_capability(
    netns: Namespace,
) -> None:
    sleeper = subprocess.Popen([*enter(netns), "setpriv", "--reuid=1337", "sleep", "60"])
    try:
        path = f"/proc/{sleeper.pid}/ns/net"
        while os.stat(path).st_ino != os.stat(netns.path).st_ino:
            pass
        script = SCRIPT.replace("os.stat(path).st_ino", "0", 1)
        argv = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
        done = subprocess.run(
            [*argv, sys.executable, "-c", script, path, "routes"],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        kind, code, said = json.loads(done.stdout)[:3]
        assert (kind, code) == ("NotPermitted", 5) and "CAP_SYS_PTRACE" in said
    finally:
        sleeper.kill()
        sleeper.wait()
