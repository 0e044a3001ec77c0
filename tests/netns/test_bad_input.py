"""Bad input ends with one line that says what and where, and changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshnet.cli.flags import BY_NAME, FLAGS
from tests.support.bad_values import TABLE, Bad
from tests.support.namespaces import Namespace, Namespaces

NO_VARIABLES = {name: "" for flag in FLAGS for name in flag.sources()}
#: Stands in for each tool: says that it was called, and with what, then lets it work.
SPY = """#!/bin/sh
echo "$0 $*" >> {log}
tee -a {log} | exec {tool} "$@"
"""
TOOLS = ("iptables-nft-restore", "ip6tables-nft-restore", "iptables-nft-save", "nft")
Held = tuple[Namespace, dict[str, str], dict[str, str], Path]


@pytest.fixture
def held(shared: Held) -> Iterator[Held]:
    """The shared namespace; where a test changed it, the next one finds it as it was."""
    yield shared
    netns, before, _, _ = shared
    if netns.everything() != before:
        restore(netns)
        assert netns.everything() == before


def restore(netns: Namespace) -> None:
    """Our rules as :func:`shared` made them."""
    netns.init("--cleanup-only", env=NO_VARIABLES)
    netns.init("-b", "*", "-i", "*", "--backend", "nft-compat", env=NO_VARIABLES)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    """A namespace with rules of ours and of others, what it holds, and spies for tools."""
    place = tmp_path_factory.mktemp("spies")
    log = place / "log"
    for tool in TOOLS:
        real = subprocess.run(["which", tool], capture_output=True, text=True, check=True).stdout
        (place / tool).write_text(SPY.format(log=log, tool=real.strip()))
        (place / tool).chmod(0o755)
    made = Namespaces("bad-input")
    try:
        netns = made.make()
        netns.run("iptables-nft", "-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.1", "-j", "RETURN")
        netns.init("-b", "*", "-i", "*", "--backend", "nft-compat", env=NO_VARIABLES)
        env = {**NO_VARIABLES, "PATH": f"{place}:{os.environ['PATH']}"}
        yield netns, netns.everything(), env, log
    finally:
        made.remove()


def refused(held: Held, argv: list[str], code: int = 2, env: dict[str, str] | None = None) -> str:
    """The one line that ``argv`` ends with; nothing else was said, done or changed."""
    netns, before, plain, log = held
    log.unlink(missing_ok=True)
    done = netns.init(*argv, check=False, env={**plain, **(env or {})})
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("meshnet-init: error: ")
    assert line.isprintable()
    assert "Traceback" not in line
    assert not log.exists(), f"a tool was started: {log.read_text()}"
    assert netns.everything() == before
    return line


#: Runs many command lines in one process inside the namespace; none is to get as far as a tool.
BATCH = """
import contextlib, io, json, sys, traceback
from meshnet.cli.init import run
answers = []
for argv, environment in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run(argv, environment)
        except BaseException:
            code = traceback.format_exc()
    answers.append((code, out.getvalue(), err.getvalue()))
json.dump(answers, sys.stdout)
"""
ROWS = [
    *((bad, "flag") for bad in TABLE if not BY_NAME[bad.setting].hidden),
    *((bad, "variable") for bad in TABLE if bad.value),
]
Answers = list[tuple[int, str, str]]


@pytest.fixture(scope="module")
def answers(shared: Held) -> Answers:
    """What came of each row, all of them run in a row; the namespace is as it was before."""
    netns, before, env, log = shared
    given: list[tuple[list[str], dict[str, str]]] = []
    for bad, by in ROWS:
        if by == "flag":
            given.append(([*bad.beside, f"--{bad.setting}={bad.value}"], {}))
        else:
            given.append(([*bad.beside], {bad.variable: bad.value}))
    log.unlink(missing_ok=True)
    found = netns.run(sys.executable, "-c", BATCH, text=json.dumps(given), env=env).stdout
    tools, after = log.exists(), netns.everything()
    restore(netns)
    assert netns.everything() == before
    results: Answers = json.loads(found)
    if all(code == 2 for code, _, _ in results):
        assert not tools and after == before
    return results


def shown(value: str) -> list[str]:
    """How a value, or the entry of it that is wrong, may be shown."""
    whole = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    parts = [part[:60] for part in (whole, *whole.split(","), *whole.split(":"))]
    return [form for part in parts if part or not value for form in (part, repr(part)[1:-1])]


@pytest.mark.parametrize("row", range(len(ROWS)), ids=lambda n: f"{ROWS[n][1]}-{ROWS[n][0]}")
def test_a_bad_value_is_named_with_its_place_and_what_is_allowed(
    answers: Answers, row: int
) -> None:
    bad, by = ROWS[row]
    code, out, err = answers[row]
    assert (code, out) == (2, ""), err
    (line,) = err.splitlines()
    assert line.startswith("meshnet-init: error: ") and line.isprintable()
    head = line.removeprefix("meshnet-init: error: ")
    if by == "flag":
        assert head.startswith(bad.origin)
    else:
        assert head.startswith(f"${bad.variable}")
        assert f"--{bad.setting}" not in head.partition("(")[0]
    assert bad.allowed in line
    if "needs --profile strict" not in line:
        assert any(form in line for form in shown(bad.value))
        assert line.endswith(")")


FIRST = {bad.setting: bad for bad in reversed(TABLE) if bad.value and "\n" in bad.value}


@pytest.mark.parametrize("bad", FIRST.values(), ids=str)
def test_the_program_itself_refuses_what_is_smuggled(held: Held, bad: Bad) -> None:
    line = refused(held, [*bad.beside], env={bad.variable: bad.value})
    assert f"${bad.variable}" in line


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["-b", "80,90", "-d", "70,90"], ("-b --istio-inbound-ports", "'90'", "-d --istio-local")),
        (["-q", "443", "-o", "443"], ("-q --istio-outbound-ports", "'443'", "-o --istio-local")),
        (["--profile", "strict", "-q", "80-90", "-o", "85"], ("-q --istio", "'85'", "-o --istio")),
        (["--profile", "classic", "-b", "80"], ("-b --istio-inbound-ports", "-p and -u")),
        (["--profile", "classic", "--drop-invalid"], ("--drop-invalid", "-p and -u")),
        (
            ["--profile", "strict", "-i", "10.0.0.0/8", "-x", "10.0.0.0/8"],
            ("10.0.0.0/8", "-i", "-x"),
        ),
        (["--backend", "legacy", "--native-nftables"], ("two backends", "legacy", "nft")),
        (
            ["--backend", "nft", "--force-iptables-binary", "iptables-legacy"],
            ("two backends", "--force-iptables-binary", "legacy", "nft"),
        ),
        (["--target", "self", "--network-namespace", "/proc/self/ns/net"], ("--target", "both")),
        (["--frobnicate"], ("--frobnicate", "--help")),
        (["--istio-inbound-port", "80"], ("--istio-inbound-port", "--help")),
        (["80"], ("80", "--help")),
        (["-p"], ("-p", "expected a value")),
        (["-p", "15001", "-y"], ("-y",)),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_contradictions_and_strangers(held: Held, argv: list[str], words: tuple[str, ...]) -> None:
    line = refused(held, argv)
    for word in words:
        assert word in line


def test_groups_are_included_or_excluded(held: Held) -> None:
    env = {"ISTIO_OUTBOUND_OWNER_GROUPS": "5", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "6"}
    line = refused(held, [], env=env)
    assert "$ISTIO_OUTBOUND_OWNER_GROUPS:" in line
    assert "$ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE" in line


def dead_pid() -> str:
    """The number of a process that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    return str(child.pid)


@pytest.mark.parametrize("flag", ["--target", "--network-namespace"])
def test_a_namespace_that_is_not_there(held: Held, flag: str) -> None:
    line = refused(held, [flag, "/run/netns/no such\nplace"], code=1)
    assert flag in line and "no such\\nplace" in line


@pytest.mark.parametrize("form", ["{}", "pid:{}"])
def test_a_process_that_is_not_there(held: Held, form: str) -> None:
    pid = dead_pid()
    line = refused(held, ["--target", form.format(pid)], code=1)
    assert "--target" in line and f"{pid}" in line


@pytest.mark.parametrize("flag", ["--target", "--network-namespace"])
def test_a_path_that_is_no_network_namespace(held: Held, flag: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (str(tmp_path / "file"), str(tmp_path), "/proc/self/ns/uts"):
        line = refused(held, [flag, path])
        assert flag in line and path in line


CONFIGS = {
    "inbound: {prots: [80]}": ("inbound.prots", "the nearest is inbound.ports"),
    "proxi: {port: 1}": ("proxi", "the nearest is proxy"),
    "dns: {capture: maybe}": ("dns.capture", "'maybe'", "off | servers | all"),
    "inbound: {ports: [80, 70000]}": ("inbound.ports", "'70000'", "1 to 65535"),
    "proxy: {uids: root}": ("proxy.uids", "'root'"),
    "proxy: 5": ("proxy", "is not a mapping"),
    "- 80": ("is not a mapping",),
    "inbound: {ports: {80: 90}}": ("inbound.ports", "neither a text, a number nor a list"),
    "drop_invalid: maybe": ("drop_invalid", "true, false"),
    'interfaces: {exclude: ["a b"]}': ("interfaces.exclude", "'a b'"),
    'inbound: {ports: "80\\n-A INPUT -j DROP"}': ("inbound.ports", "-A INPUT -j DROP"),
    "profile: nonsense": ("profile", "'nonsense'", "strict"),
    "backend: nonsense": ("backend", "'nonsense'", "nft-compat"),
    "ipv6: capture": ("ipv6", "'capture'", "auto, on, off"),
    "outbound: {exclude_ports_for_uids: [80]}": ("outbound.exclude_ports_for_uids", "uids"),
    "inbound: [": ("is no YAML",),
    "inbound: {ports: !!python/object:os.system {}}": ("inbound.ports",),
    "\x00": ("is no YAML",),
}


@pytest.mark.parametrize("text", CONFIGS, ids=repr)
@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_bad_file_is_named_with_the_key(held: Held, text: str, by: str, tmp_path: Path) -> None:
    path = tmp_path / "meshnet.yaml"
    path.write_text(text)
    if by == "flag":
        line = refused(held, ["--config", str(path)])
    else:
        line = refused(held, [], env={"MESHNET_CONFIG": str(path)})
        assert "--config" not in line
    for word in (str(path), *CONFIGS[text]):
        assert word in line


def test_a_file_that_is_not_there(held: Held, tmp_path: Path) -> None:
    line = refused(held, ["--config", str(tmp_path / "none.yaml")])
    assert "--config" in line and "none.yaml" in line and "No such file" in line
    line = refused(held, [], env={"MESHNET_CONFIG": str(tmp_path)})
    assert "$MESHNET_CONFIG" in line and str(tmp_path) in line


def test_a_bad_value_is_found_before_anything_is_programmed(held: Held) -> None:
    for argv in (
        ["--run-validation", "--iptables-probe-port", "99999"],
        ["--cleanup-only", "--lock-wait", "soon"],
        ["--migrate", "--backend", "iptables"],
        ["-b", "443", "--output", "xml"],
    ):
        assert argv[-1] in refused(held, argv)


def test_json_messages_are_one_line_too(held: Held) -> None:
    netns, before, env, _ = held
    done = netns.init("--log-as-json", "-p", "0", check=False, env=env)
    said = json.loads(done.stderr)
    assert (done.returncode, said["level"]) == (2, "error")
    assert "-p --envoy-port: '0'" in said["msg"]
    assert netns.everything() == before
