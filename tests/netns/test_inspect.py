"""``meshnet inspect`` on real rules: the same rules and counters that the kernel's tools show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from meshnet.host.target import resolve
from meshnet.ops.collect import collect
from meshnet.reason.inspection import examine
from tests.support.cases import BACKENDS, CASES, DEFAULT, ON
from tests.support.cli import run_cli, run_json
from tests.support.namespaces import Namespace, Namespaces

#: As the given UID, try to connect once: the first packet is counted, whoever answers.
KNOCK = """
import os, socket, sys
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
for address in sys.argv[2:]:
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.settimeout(0.05)
    try: s.connect((address, 80))
    except OSError: pass
    s.close()
"""
WORLD, WORLD6 = "93.184.216.34", "2001:db8::1"


@pytest.fixture
def pod(namespaces: Namespaces) -> Namespace:
    """A namespace with an address and a default route of each family."""
    pod, world = namespaces.make(), namespaces.make()
    namespaces.connect(pod, world)
    for where, last in ((pod, 2), (world, 1)):
        where.run("ip", "addr", "add", f"10.9.0.{last}/24", "dev", "eth0")
        where.run("ip", "addr", "add", f"fd09::{last}/64", "dev", "eth0", "nodad")
    pod.run("ip", "route", "add", "default", "via", "10.9.0.1")
    pod.run("ip", "-6", "route", "add", "default", "via", "fd09::1")
    return pod


def knock(pod: Namespace, uid: int, *addresses: str) -> None:
    pod.run("/usr/bin/python3", "-c", KNOCK, str(uid), *addresses)


def listed(pod: Namespace, tool: str) -> list[tuple[str, int, int]]:
    """(chain, packets, bytes) of each rule, as ``iptables -t nat -L -n -v -x`` shows them."""
    rows, chain = [], ""
    for line in pod.run(tool, "-t", "nat", "-L", "-n", "-v", "-x").stdout.splitlines():
        if line.startswith("Chain "):
            chain = line.split()[1]
        elif found := re.match(r"\s*(\d+)\s+(\d+)\s", line):
            rows.append((chain, int(found[1]), int(found[2])))
    return rows


def shown(document: dict, backend: str, family: str) -> list[tuple[str, int, int]]:
    """The same of an inspection."""
    return [
        (chain["name"], rule["packets"], rule["bytes"])
        for table in document["tables"]
        if (table["backend"], table["family"], table["name"]) == (backend, family, "nat")
        for chain in table["chains"]
        for rule in chain["rules"]
    ]


@pytest.mark.parametrize("backend", ["nft-compat", "legacy"])
def test_the_mission_documents_rules(pod: Namespace, backend: str) -> None:
    pod.init("-p", "15001", "-u", "1337", "--backend", backend)
    knock(pod, 1000, WORLD, WORLD)
    knock(pod, 1337, WORLD)
    before = pod.everything()
    text = run_cli("inspect", f"netns:{pod.path}", code=None).stdout
    tool = "iptables-nft" if backend == "nft-compat" else "iptables-legacy"
    document = run_json("inspect", f"netns:{pod.path}", code=None)
    assert pod.everything() == before
    rows = listed(pod, tool)
    assert sum(packets for _, packets, _ in rows) > 0
    assert sorted(shown(document, backend, "ip")) == sorted(rows)
    assert shown(document, backend, "ip")[0] == rows[0]
    lines = {line["direction"]: line for line in document["capture"] if "IPv4" in line["family"]}
    assert lines["outbound"]["ports"] == lines["inbound"]["ports"] == [15001]
    assert "1337" in lines["outbound"]["sentence"]
    assert lines["outbound"]["sentence"] in " ".join(text.split())
    assert max(len(line) for line in text.splitlines()) <= 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_families_and_their_counters(pod: Namespace, backend: str) -> None:
    pod.init(*DEFAULT, *ON, "--backend", backend)
    knock(pod, 1000, WORLD, WORLD6, WORLD6)
    before = pod.everything()
    document = run_json("inspect", pod.path, code=None)
    assert pod.everything() == before
    assert document["backends"] == [backend]
    redirects = [
        (table["family"], rule["packets"])
        for table in document["tables"]
        for chain in table["chains"]
        if chain["name"].upper().replace("-", "_") == "ISTIO_REDIRECT"
        for rule in chain["rules"]
    ]
    expected = [("inet", 3)] if backend == "nft" else [("ip", 1), ("ip6", 2)]
    assert sorted(redirects) == expected
    captured = {
        (line["direction"], line["family"]) for line in document["capture"] if line["ports"]
    }
    assert captured == {("outbound", "IPv4+IPv6"), ("inbound", "IPv4+IPv6")}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_every_rule_of_ours_has_a_meaning(netns: Namespace, case: str, backend: str) -> None:
    netns.init(*CASES[case], "--backend", backend)
    inspection = examine(collect(resolve(netns.path)))
    rules = [r for t in inspection.tables for c in t.chains for r in c.rules]
    assert rules or case == "nothing"
    assert [r.text for r in rules if not (r.ours and r.meaning)] == []
    drifted = [f for f in inspection.findings if f.code in ("MN103", "MN110", "MN112", "MN113")]
    assert drifted == []


@pytest.mark.parametrize("backend", ["nft-compat", "legacy"])
def test_raw_is_what_the_tool_prints(pod: Namespace, backend: str) -> None:
    pod.init("-p", "15001", "-u", "1337", "--backend", backend)
    knock(pod, 1000, WORLD)
    tool = "iptables-nft" if backend == "nft-compat" else "iptables-legacy"
    before = pod.everything()
    own = pod.run(tool, "-t", "nat", "-L", "-n", "-v").stdout
    raw = run_cli("inspect", pod.path, "--raw").stdout
    assert f"$ {tool} -t nat -L -n -v\n{own}" in raw
    assert "$ netstat -tulpn" in raw or "$ ss -tulpn" in raw
    assert pod.everything() == before


def test_raw_of_native_nft(pod: Namespace) -> None:
    pod.init(*DEFAULT, "--backend", "nft")
    raw = run_cli("inspect", pod.path, "--raw").stdout
    assert f"$ nft list ruleset\n{pod.run('nft', 'list', 'ruleset').stdout}" in raw


def test_watch_shows_what_moves(pod: Namespace) -> None:
    pod.init(*DEFAULT)
    program = str(Path(sys.executable).parent / "meshnet")
    argv = [program, "inspect", pod.path, "--watch", "--interval", "3", "--count", "2"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        first = list(iter(lambda: watching.stdout.readline().strip(), ""))
        knock(pod, 1000, WORLD, WORLD, WORLD)
        second = watching.stdout.read()
    assert [line for line in first if "redirect to :15001" in line and " 0 " in line]
    rows = [line for line in second.splitlines() if "redirect to :15001" in line]
    assert len(rows) == 1 and re.search(r"\s3\s+180\s+\d+\.\d\s", rows[0]), second


def test_sections_and_limits(pod: Namespace) -> None:
    pod.init(*DEFAULT)
    text = run_cli("inspect", pod.path, "--section", "rules", "--limit", "2", code=None).stdout
    assert "more rules" in text and "inbound   IPv4" not in text
    everything = run_cli(
        "inspect",
        pod.path,
        "--section",
        "capture,processes,rules,sockets,routes,sysctls,findings",
        code=None,
    ).stdout
    assert "net.ipv4.ip_forward" in everything and "10.9.0.2/24" in everything


WRONG = {
    ("inspect", "999999999"): (1, "there is no process 999999999"),
    ("inspect", "netns:/run/netns/mnt-nothing"): (1, "no network namespace"),
    ("inspect", "no-such-pod-anywhere"): (1, "no-such-pod-anywhere"),
    ("inspect", "self", "--section", "nonsense"): (2, "nonsense"),
    ("inspect", "self", "--section", ","): (2, "no section"),
    ("inspect", "self", "--from", "x"): (2, "either a TARGET or --from FILE"),
    ("inspect", "all", "--raw"): (2, "'all'"),
    ("inspect", "--from", "/nonexistent/file"): (1, "cannot read /nonexistent/file"),
    ("inspect", "--from", "/dev/null"): (1, "no JSON document"),
    ("inspect", "self", "--raw", "--watch"): (2, "exclude each other"),
    ("inspect", "--from", "x", "--watch"): (2, "does not change"),
    ("snapshot",): (2, "either a TARGET or --from FILE"),
    ("snapshot", "all"): (2, "'all' is no single namespace"),
    ("snapshot", "self", "--to", "/nonexistent/dir/file"): (1, "cannot write"),
}


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_input_is_one_sentence(arguments: tuple[str, ...]) -> None:
    code, words = WRONG[arguments]
    done = run_cli(*arguments, code=code)
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


HOSTILE = "[bold red]x[/] \x1b[31m\x1b]0;owned\x07 end"
PROCESS = """
import ctypes, time, socket
ctypes.CDLL(None).prctl(15, b"[b]\\x1b[2J\\n", 0, 0, 0)
s = socket.socket(); s.bind(("0.0.0.0", 8080)); s.listen()
print("ready", flush=True)
time.sleep(60)
"""


def test_hostile_names_print_harmlessly(pod: Namespace) -> None:
    pod.init(*DEFAULT)
    pod.run(
        "iptables-nft",
        "-t",
        "nat",
        "-A",
        "OUTPUT",
        "-m",
        "comment",
        "--comment",
        HOSTILE,
        "-j",
        "RETURN",
    )
    pod.run("iptables-nft", "-t", "nat", "-N", "[red]\x1b[31m")
    pod.run("ip", "link", "set", "eth0", "down")
    pod.run("ip", "link", "set", "eth0", "name", "[b]\x1b[5m")
    process = subprocess.Popen(
        ["nsenter", f"--net={pod.path}", sys.executable, "-c", PROCESS], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None and process.stdout.readline()
        snapshot = run_cli("snapshot", pod.path).stdout
        for arguments in (
            ["inspect", pod.path],
            ["inspect", pod.path, "--raw"],
            ["inspect", pod.path, "--watch", "--count", "1"],
            ["inspect", pod.path, "-o", "json"],
            ["conns", pod.path],
        ):
            done = run_cli(*arguments, code=None)
            assert done.returncode in (0, 3), done.stderr
            assert "\x1b" not in done.stdout + done.stderr and "\x07" not in done.stdout
        assert "\x1b" not in snapshot
        text = run_cli("inspect", pod.path, code=None).stdout
        assert "[b]\\x1b[2J" in text and "8080" in text
        offline = run_cli("inspect", "--from", "-", text=snapshot, code=None).stdout
        assert "\x1b" not in offline and "[b]\\x1b[2J" in offline
    finally:
        process.kill()
        process.communicate()


def test_a_snapshot_tells_the_same_offline_and_without_privileges(pod: Namespace, tmp_path) -> None:
    pod.init(*DEFAULT)
    knock(pod, 1000, WORLD)
    path = tmp_path / "pod.json"
    run_cli("snapshot", pod.path, "--to", str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    live = run_json("inspect", pod.path, code=None)
    stored = run_json("inspect", "--from", str(path), code=None)
    for key in stored.keys() - {"taken", "routes"}:
        assert stored[key] == live[key]
    assert sorted(stored["routes"], key=str) == sorted(live["routes"], key=str)
    path.chmod(0o644)
    with path.open() as f:
        alone = run_cli(
            "inspect",
            "--from",
            "-",
            "-o",
            "json",
            code=None,
            text=f.read(),
            prefix=("unshare", "--net", "setpriv", "--bounding-set", "-all"),
        )
    assert alone.stdout and "Traceback" not in alone.stderr


def test_inspect_all_has_a_line_for_each(namespaces: Namespaces) -> None:
    ours = [namespaces.make() for _ in range(3)]
    ours[1].init(*DEFAULT)
    document = run_json("inspect", "all", code=None)
    names = {line["name"]: line for line in document["namespaces"]}
    for namespace in ours:
        assert any(namespace.name in name for name in names), names
    line = next(line for name, line in names.items() if ours[1].name in name)
    assert (line["inbound"], line["outbound"]) == ([15006], [15001])
    text = run_cli("inspect", "all", code=None).stdout
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "15006/15001" in text
