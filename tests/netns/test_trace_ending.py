"""How traces end, and what else is in a namespace with them: nothing of them stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cases import BACKENDS
from tests.support.cli import run_cli
from tests.support.conversations import Conversations, talk
from tests.support.namespaces import Namespace
from tests.support.probe import WEB, WEB6
from tests.support.tracing import Tracer, await_gone, loggers, tables

__all__ = ["talk"]

ALL = ("-p", "15001", "-z", "15006", "-u", "1337", "-g", "1337", "--ipv6", "on", "-i", "*")
#: Binds an NFLOG group and waits for its standard input to end.
LISTENER = """
import socket, struct, sys
sock = socket.socket(16, socket.SOCK_RAW, 12)
sock.bind((0, 0))
body = struct.pack("!BBH", 0, 0, int(sys.argv[1])) + struct.pack("=HHBxxx", 5, 1, 1)
sock.send(struct.pack("=IHHII", 16 + len(body), 0x401, 5, 1, 0) + body)
assert struct.unpack_from("=i", sock.recv(4096), 16)[0] == 0
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=BACKENDS)
def tracer(talk: Conversations, request: pytest.FixtureRequest) -> Iterator[Tracer]:
    """A trace under way, with a packet told, of a pod whose rules a backend holds."""
    talk.start_proxy()
    talk.pod.init(*ALL, "--backend", request.param)
    before = loggers(talk.pod)
    made = Tracer(talk.pod)
    made.before = before  # type: ignore[attr-defined]
    try:
        made.packet(port=talk.client.dial(WEB, 80)[1])
        switched = loggers(talk.pod) != before
        assert switched is (request.param == "legacy") and len(tables(talk.pod)) == 1
        yield made
    finally:
        made.kill()


def test_the_tracer_is_killed(talk: Conversations, tracer: Tracer) -> None:
    tracer.process.kill()
    await_gone(talk.pod, tracer.before)  # type: ignore[attr-defined]
    assert not _left(talk.pod)


def test_its_child_is_killed(talk: Conversations, tracer: Tracer) -> None:
    (child,) = tracer.children()
    os.kill(child, signal.SIGKILL)
    error = tracer.process.communicate(timeout=20)[1]
    assert tracer.process.returncode == 1 and "the trace broke off" in error
    # The guard had done its work before that was told.
    assert not tables(talk.pod)
    assert loggers(talk.pod) == tracer.before  # type: ignore[attr-defined]
    assert not _left(talk.pod)


def test_all_of_its_group_is_killed(talk: Conversations, tracer: Tracer) -> None:
    (child,) = tracer.children()
    os.kill(tracer.process.pid, signal.SIGSTOP)
    os.killpg(child, signal.SIGKILL)
    os.kill(tracer.process.pid, signal.SIGKILL)
    await_gone(talk.pod, tracer.before)  # type: ignore[attr-defined]


def test_interrupted_and_terminated(talk: Conversations, tracer: Tracer) -> None:
    tracer.process.send_signal(signal.SIGTERM)
    end = tracer.finish()
    assert end["left"] == "" and not tables(talk.pod) and not _left(talk.pod)
    assert loggers(talk.pod) == tracer.before  # type: ignore[attr-defined]


def test_a_foreign_flush_leaves_the_trace(talk: Conversations, tracer: Tracer) -> None:
    backend = tracer.events[0]["backends"]
    talk.pod.run("nft", "flush", "ruleset")
    if backend != ["legacy"]:
        # Legacy rules are no part of what is flushed: nothing changed.
        told = tracer.until(lambda events: any(e["event"] == "changed" for e in events))
        assert any("nft" in e["text"] for e in told if e["event"] == "changed")
    assert len(tables(talk.pod)) == 1
    time.sleep(0.7)
    packet = tracer.packet(port=talk.client.dial(WEB6, 80)[1])
    end = tracer.end()
    assert end["disagreed"] == 0 and packet["agreement"] == "agrees", packet
    assert packet["verdict"] == ("captured" if backend == ["legacy"] else "direct")


def test_rules_that_change_meanwhile(talk: Conversations, tracer: Tracer) -> None:
    """What is met after a change is resolved by the rules of after it."""
    (backend,) = tracer.events[0]["backends"]
    talk.pod.init(*ALL, "-o", "443", "--backend", backend)
    time.sleep(0.7)
    packets = [
        tracer.packet(port=talk.client.dial(WEB, 443)[1]),
        tracer.packet(port=talk.client.dial(WEB, 80)[1]),
    ]
    end = tracer.end()
    assert end["disagreed"] == 0
    assert [p["agreement"] for p in packets] == ["agrees", "agrees"]
    assert [p["verdict"] for p in packets] == ["bypassed", "captured"]
    assert any("443" in rule["text"] for rule in packets[0]["rules"])


def test_two_at_once(talk: Conversations, tracer: Tracer) -> None:
    """Two tables trace beside each other; lines of legacy tables have one listener."""
    (backend,) = tracer.events[0]["backends"]
    if backend == "legacy":
        done = run_cli("trace", talk.pod.path, "--for", "1s", code=1)
        assert "NFLOG group 0" in done.stderr and "one listener" in done.stderr
        (child,) = tracer.children()
        # The lock is made by the tracer's child and held by its guard.
        assert f"(pid {child})" in done.stderr
        tracer.packet(port=talk.client.dial(WEB, 443)[1])
        assert tracer.end()["disagreed"] == 0
        return
    second = Tracer(talk.pod)
    try:
        sport = talk.client.dial(WEB, 443)[1]
        for one in (tracer, second):
            packet = one.packet(port=sport)
            assert (packet["agreement"], packet["verdict"]) == ("agrees", "captured")
            assert not any("meshnet-trace" in rule["where"] for rule in packet["rules"])
            assert one.end()["disagreed"] == 0
    finally:
        second.kill()
    assert not tables(talk.pod)


def test_somebody_else_hears_the_legacy_trace(talk: Conversations) -> None:
    talk.pod.init(*ALL, "--backend", "legacy")
    before = loggers(talk.pod)
    with subprocess.Popen(
        ["nsenter", f"--net={talk.pod.path}", "/usr/bin/python3", "-c", LISTENER, "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "ready\n"
        done = run_cli("trace", talk.pod.path, "--for", "1s", code=1)
        assert "NFLOG group 0" in done.stderr and str(other.pid) in done.stderr
        assert loggers(talk.pod) == before and not tables(talk.pod)
        other.kill()


def test_legacy_rules_that_cannot_be_traced_are_told_beside_others(talk: Conversations) -> None:
    """With rules in nf_tables too, the trace goes on without the legacy ones, and says so."""
    talk.start_proxy()
    talk.pod.init(*ALL, "--backend", "legacy")
    chain = "type filter hook output priority 10\ntcp dport 80 counter\n"
    talk.pod.run("nft", "-f", "-", text=f"table inet mine {{\nchain out {{\n{chain}}}\n}}\n")
    first = Tracer(talk.pod)
    try:
        second = Tracer(talk.pod)
        try:
            assert any("legacy rules are not traced" in n for n in second.events[0]["notes"])
            packet = second.packet(port=talk.client.dial(WEB, 443)[1])
            assert packet["agreement"] == "unchecked" and "legacy" in packet["reason"]
            assert second.end()["disagreed"] == 0
        finally:
            second.kill()
        first.end()
    finally:
        first.kill()


def test_a_read_only_proc_is_said(talk: Conversations) -> None:
    """The sysctl cannot be set: nothing is traced, nothing is left."""
    talk.pod.init(*ALL, "--backend", "legacy")
    script = (
        "mount --bind -o ro /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys; exec $0 $@"
    )
    prefix = ("unshare", "-m", "sh", "-c", script)
    done = run_cli("trace", talk.pod.path, "--for", "1s", code=5, prefix=prefix)
    assert "net.netfilter.nf_log.2 cannot be set" in done.stderr
    assert not tables(talk.pod) and not _left(talk.pod)


def test_what_cannot_be_put_back_is_said(talk: Conversations) -> None:
    talk.pod.init(*ALL, "--backend", "legacy")
    before = loggers(talk.pod)
    script = "mount --bind /proc/sys /proc/sys; exec $0 $@"
    tracer = Tracer(talk.pod, prefix=("unshare", "-m", "sh", "-c", script))
    try:
        enter = ("nsenter", "-t", str(tracer.process.pid), "-m")
        subprocess.run([*enter, "mount", "-o", "remount,ro,bind", "/proc/sys"], check=True)
        end = tracer.end(code=1)
    finally:
        tracer.kill()
    assert "net.netfilter.nf_log.2 is not " in end["left"] and "Read-only" in end["left"]
    assert loggers(talk.pod) != before


def test_a_sysctl_that_somebody_sets_meanwhile_is_theirs(talk: Conversations) -> None:
    talk.pod.init(*ALL, "--backend", "legacy")
    tracer = Tracer(talk.pod)
    try:
        talk.pod.run("sysctl", "-qw", "net.netfilter.nf_log.2=NONE")
        end = tracer.end()
    finally:
        tracer.kill()
    assert end["left"] == "" and loggers(talk.pod)["net.netfilter.nf_log.2"] == "NONE"


def test_whoever_reads_has_seen_enough(talk: Conversations) -> None:
    program = str(Path(sys.executable).parent / "meshnet")
    with subprocess.Popen(
        ["sh", "-c", f"{program} trace {talk.pod.path} | head -n 3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while process.poll() is None:
            talk.client.dial(WEB, 80)
            time.sleep(0.01)
        assert process.stderr.read() == ""
    await_gone(talk.pod, loggers(talk.pod))


def test_without_rights(talk: Conversations) -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
    done = run_cli("trace", talk.pod.path, code=5, prefix=nobody)
    assert "CAP_SYS_ADMIN" in done.stderr and done.stderr.count("\n") == 1


def _left(namespace: Namespace) -> list[str]:
    """The processes of a trace that are still in ``namespace``."""
    pids = subprocess.run(
        ["ip", "netns", "pids", namespace.name], capture_output=True, text=True
    ).stdout.split()
    commands = []
    for pid in pids:
        try:
            commands.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [command for command in commands if "meshnet" in command and "trace" in command]
