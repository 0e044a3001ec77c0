"""What stands in a namespace cannot break what shows it: odd comments, names, streams."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import run_cli
from tests.support.namespaces import Namespace, Namespaces

MESHNET = str(Path(sys.executable).parent / "meshnet")
#: A comment that netlink carries, and that no tool could be told again: an escape, a letter.
COMMENT = "look \x1b[2J é"
VIEWS = ((), ("--section", "rules"), ("-o", "json"), ("--raw",), ("--watch", "--count", "1"))


@pytest.fixture
def odd(netns: Namespace) -> Namespace:
    """A namespace with a rule whose comment holds a terminal's escape sequence."""
    rule = f'add rule inet odd out counter comment "{COMMENT}"\n'
    netns.run("nft", "-f", "-", text="add table inet odd\nadd chain inet odd out\n" + rule)
    return netns


@pytest.mark.parametrize("view", VIEWS, ids=" ".join)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_an_odd_comment_stands_in_nobodys_way(
    odd: Namespace, view: tuple[str, ...], encoding: str
) -> None:
    done = run_cli("inspect", odd.path, *view, prefix=("env", f"PYTHONIOENCODING={encoding}"))
    assert "\x1b" not in done.stdout and "odd" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.fixture
def nameless(namespaces: Namespaces) -> Iterator[bytes]:
    """The path of a namespace whose name is no UTF-8."""
    path = f"/run/netns/{namespaces.stem}-".encode() + b"\xff"
    subprocess.run([b"ip", b"netns", b"add", os.path.basename(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run([b"ip", b"netns", b"del", os.path.basename(path)], check=True)


@pytest.mark.parametrize("command", ["inspect", "conns", "snapshot"])
def test_a_name_that_is_no_utf8(nameless: bytes, command: str) -> None:
    done = run_cli(command, os.fsdecode(nameless))
    assert "\\xff" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["inspect", "conns", "snapshot"])
def test_a_full_disk_is_one_line(netns: Namespace, command: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [MESHNET, command, netns.path], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("meshnet: ") and "space" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["inspect", "conns", "snapshot"])
def test_no_standard_output_at_all(netns: Namespace, command: str) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", MESHNET, command, netns.path],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_raw_leaves_no_tool_behind(netns: Namespace, tmp_path: Path) -> None:
    """A tool that hangs is said to, in its place, and is gone afterwards."""
    marks = tmp_path / "pids"
    for tool in ("ss", "netstat"):
        path = tmp_path / tool
        path.write_text(f"#!/bin/sh\necho $$ >> {marks}\nexec sleep 986\n")
        path.chmod(0o755)
    path = f"PATH={tmp_path}:{os.environ['PATH']}"
    done = run_cli("inspect", netns.path, "--raw", "--timeout", "1", prefix=("env", path))
    assert "was killed" in done.stdout
    (pid,) = marks.read_text().split()
    assert not os.path.exists(f"/proc/{pid}")


def test_a_file_that_cannot_be_put_in_place_leaves_none(netns: Namespace, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    done = run_cli("snapshot", netns.path, "--to", str(there), code=1)
    assert done.stderr.splitlines()[-1].startswith("meshnet: cannot write")
    assert sorted(tmp_path.iterdir()) == [there]


@pytest.mark.parametrize(
    "arguments", [("--timeout", "nan"), ("--watch", "--interval", "nan", "--count", "1")]
)
def test_nan_is_no_number_of_seconds(arguments: tuple[str, ...]) -> None:
    done = run_cli("inspect", "self", *arguments, code=2)
    assert "Traceback" not in done.stderr
