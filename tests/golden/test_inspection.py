"""What inspect and conns print of a stored snapshot, to the letter, at 100 columns.

The goldens are written anew by ``MESHNET_UPDATE_GOLDENS=1 make test ARGS=tests/golden``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.cli import run_cli

DATA = Path(__file__).parent / "data"
#: Each: the snapshot, the command, the exit code.
ROWS = {
    "leaking.inspect": ("leaking", ("inspect",), 3),
    "leaking.sections": ("leaking", ("inspect", "--section", "sockets,sysctls", "--limit", "9"), 3),
    "leaking.json": ("leaking", ("inspect", "-o", "json"), 3),
    "leaking.raw": ("leaking", ("inspect", "--raw"), 0),
    "leaking.conns": ("leaking", ("conns",), 0),
    "leaking.conns.json": ("leaking", ("conns", "-o", "json"), 0),
    "sound.inspect": ("sound", ("inspect",), 0),
    "sound.conns": ("sound", ("conns",), 0),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_snapshot_prints_its_golden(name: str) -> None:
    snapshot, command, code = ROWS[name]
    path = DATA / "snapshots" / f"{snapshot}.json"
    found = run_cli(*command, "--from", str(path), code=code).stdout
    golden = DATA / "inspection" / f"{name}.txt"
    if os.environ.get("MESHNET_UPDATE_GOLDENS"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found)
    assert found == golden.read_text()
    if "json" not in name and "raw" not in name:
        assert max(len(line) for line in found.splitlines()) <= 100
