"""A disagreement is told as a defect of meshnet; what merely changed meanwhile is not."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest

from tests.support.cases import BACKENDS
from tests.support.cli import run_cli
from tests.support.conversations import Conversations, talk
from tests.support.probe import NEAR, WEB
from tests.support.tracing import Tracer

__all__ = ["talk"]

ALL = ("-p", "15001", "-z", "15006", "-u", "1337", "-g", "1337", "-i", "*", "-b", "*")
REDIRECT = ("-j", "REDIRECT", "--to-ports", "15001")
#: The walk takes everybody for the proxy.
WRONG = """
from meshnet.model.frozen import replace
from meshnet.reason.walk import Walker
walk, follow = Walker.walk, Walker.follow
Walker.walk = lambda self, packet, *rest: walk(self, replace(packet, uid=1337), *rest)
Walker.follow = lambda self, packet, *rest: follow(self, replace(packet, uid=1337), *rest)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_disagreement_is_our_defect(
    talk: Conversations, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    talk.start_proxy()
    talk.pod.init(*ALL, "--backend", backend)
    tracer = Tracer(talk.pod, "uid 1000", spoilt=WRONG)
    try:
        packets = [tracer.packet(port=talk.client.dial(WEB, 80)[1]) for _ in range(2)]
        end = tracer.end(code=3)
    finally:
        tracer.kill()
    assert end["disagreed"] == 2
    for packet in packets:
        assert (packet["agreement"], packet["verdict"]) == ("disagrees", "captured")
        assert packet["explain"] == "bypassed" and packet["reason"].startswith("the kernel met ")
        assert packet["expected"] != packet["rules"] and packet["because"] == ""
    (folder,) = {Path(packet["report"]) for packet in packets}
    assert folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(entry.name for entry in folder.iterdir()) == ["packets.jsonl", "snapshot-1.json"]
    lines = [json.loads(line) for line in (folder / "packets.jsonl").read_text().splitlines()]
    assert [line["snapshot"] for line in lines] == ["snapshot-1.json"] * 2
    assert lines[0]["packet"]["seen"]["met"] and lines[0]["packet"]["agreement"] == "disagrees"
    # The sound explain says of it what the kernel did.
    snapshot = ("--from", str(folder / "snapshot-1.json"))
    told = run_cli("explain", *snapshot, "--uid", "1000", "tcp", f"{WEB}:80").stdout
    assert "CAPTURED" in told and "by :15001" in told


def test_text_of_a_disagreement(
    talk: Conversations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    talk.start_proxy()
    talk.pod.init(*ALL)
    tracer = Tracer(talk.pod, "uid 1000", "-o", "text", "--count", "1", spoilt=WRONG, wait=False)
    try:
        assert tracer.process.stdout is not None
        head = tracer.process.stdout.readline()
        while "gone with" not in head:
            line = tracer.process.stdout.readline()
            assert line, (head, tracer.process.communicate()[1])
            head += line
        talk.client.dial(WEB, 80)
        text, error = tracer.process.communicate(timeout=30)
    finally:
        tracer.kill()
    assert tracer.process.returncode == 3 and error == ""
    assert "DISAGREES with explain, which says bypassed" in text
    said = " ".join(text.split())
    (folder,) = tmp_path.iterdir()
    assert "a defect of meshnet, not of the pod: please report it with" in said
    assert folder.name in said
    assert max(map(len, text.splitlines())) <= 100


def test_addresses_that_come_later_are_no_defect(talk: Conversations) -> None:
    """The kernel says nothing of them to the trace: they are looked at before we are blamed."""
    talk.start_proxy()
    talk.pod.init(*ALL)
    tracer = Tracer(talk.pod)
    try:
        talk.pod.run("ip", "addr", "add", "10.77.0.1/32", "dev", "eth0")
        talk.world.run("ip", "route", "add", "10.77.0.1", "dev", "eth0", "src", NEAR)
        sport = talk.caller.dial("10.77.0.1", 8080)[1]
        packet = tracer.packet(port=sport)
        end = tracer.end()
    finally:
        tracer.kill()
    assert packet["verdict"] == "captured" and packet["agreement"] == "agrees", packet
    assert end["disagreed"] == 0


def test_legacy_rules_that_change_are_no_defect(talk: Conversations) -> None:
    """Legacy tables tell nobody that they changed, and are read again when it matters."""
    talk.start_proxy()
    talk.pod.init(*ALL, "--backend", "legacy")
    tracer = Tracer(talk.pod, "uid 1000")
    try:
        tracer.packet(port=talk.client.dial(WEB, 80)[1])
        rule = ("-t", "nat", "-I", "OUTPUT", "-p", "tcp", "--dport", "443", "-j", "ACCEPT")
        talk.pod.run("iptables-legacy", *rule)
        changed = tracer.packet(port=talk.client.dial(WEB, 443)[1])
        talk.pod.run("iptables-legacy", "-t", "nat", "-D", "OUTPUT", "1")
        back = tracer.packet(port=talk.client.dial(WEB, 443)[1])
        end = tracer.end()
    finally:
        tracer.kill()
    assert (changed["verdict"], changed["agreement"]) == ("direct", "agrees")
    assert "tcp, dport 443: accept" in changed["rules"][0]["text"]
    # Changed again so soon: either read again, or not blamed on anybody.
    assert back["verdict"] == "captured" and back["agreement"] in ("agrees", "unchecked")
    assert end["disagreed"] == 0


def test_legacy_tables_that_are_made_meanwhile_are_no_defect(talk: Conversations) -> None:
    """Their lines do not come; what they do is seen, and not compared."""
    talk.start_proxy()
    talk.pod.init(*ALL, "-o", "443", "--backend", "nft")
    tracer = Tracer(talk.pod, "uid 1000")
    try:
        before = tracer.packet(port=talk.client.dial(WEB, 443)[1])
        rule = ("-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "443")
        talk.pod.run("iptables-legacy", *rule, "-m", "owner", "--uid-owner", "1000", *REDIRECT)
        after = [tracer.packet(port=talk.client.dial(WEB, 443)[1])]
        # Later than it would be looked at again.
        time.sleep(1.2)
        after.append(tracer.packet(port=talk.client.dial(WEB, 443)[1]))
        end = tracer.end()
    finally:
        tracer.kill()
    assert (before["verdict"], before["agreement"]) == ("bypassed", "agrees")
    for packet in after:
        assert (packet["verdict"], packet["agreement"]) == ("captured", "unchecked"), packet
    assert after[1]["reason"] == "legacy rules are not traced"
    assert end["disagreed"] == 0
