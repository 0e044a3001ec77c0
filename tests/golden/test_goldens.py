"""What a dry run prints, to the letter: ``tests/support/golden_cases.py`` has the cases.

The goldens are written anew by ``MESHNET_UPDATE_GOLDENS=1 make test ARGS=tests/golden``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.golden_cases import BACKENDS, CASES, FOLDER, PLAIN, header, parts_of, path_of
from tests.support.namespaces import meshnet_init

UPDATE = bool(os.environ.get("MESHNET_UPDATE_GOLDENS"))
ROWS = [(name, backend) for name in CASES for backend in BACKENDS]


def dry_run(name: str, backend: str) -> str:
    """What a run would send where there is nothing yet; as root in a namespace of its own."""
    bare = ["unshare", "--net"] if os.geteuid() == 0 else []
    argv = [*bare, meshnet_init(), "--dry-run", *CASES[name].arguments(backend)]
    env = {**os.environ, **PLAIN, **CASES[name].env}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def _tools() -> None:
    if sys.platform != "linux":
        pytest.skip("cannot run here: needs Linux")
    for tool in ("nft", "iptables-nft-restore"):
        if not shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            pytest.skip(f"cannot run here: needs the program {tool}")


@pytest.mark.parametrize(("name", "backend"), ROWS)
def test_a_dry_run_prints_its_golden(name: str, backend: str) -> None:
    found = header(CASES[name], backend) + dry_run(name, backend)
    path = path_of(name, backend)
    if UPDATE:
        path.write_text(found)
    assert found == path.read_text()


def test_every_golden_belongs_to_a_case() -> None:
    wanted = {path_of(name, backend).name for name, backend in ROWS}
    if UPDATE:
        for path in FOLDER.glob("*.txt"):
            if path.name not in wanted:
                path.unlink()
    assert {path.name for path in FOLDER.glob("*.txt")} == wanted


@pytest.mark.parametrize(("name", "backend"), ROWS)
def test_a_golden_has_nothing_but_what_is_sent(name: str, backend: str) -> None:
    commands, first, second = parts_of(path_of(name, backend).read_text())
    assert first
    assert all(command.startswith("ip ") for command in commands)
    if backend == "nft":
        assert not second
        assert all(line.startswith("add ") for line in first.splitlines())
    else:
        assert all(line[0] in "*:-C" for line in (first + second).splitlines())
        both = CASES[name].argv
        assert bool(second) is ("--ipv6 on" in both or ("strict" in both and "allow" not in both))
