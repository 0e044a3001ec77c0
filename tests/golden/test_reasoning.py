"""What diff, lint and prove print, to the letter, at 100 columns.

The goldens are written anew by ``MESHNET_UPDATE_GOLDENS=1 make test ARGS=tests/golden``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshnet.cli.diff import command as diff
from meshnet.cli.lint import command as lint
from meshnet.cli.prove import command as prove

pytest.importorskip("z3", reason="cannot run here: z3 is not installed (the extra prove)")

DATA = Path(__file__).parent / "data"
LEAKING = str(DATA / "snapshots" / "leaking.json")
SOUND = str(DATA / "snapshots" / "sound.json")
ISTIO = "-p 15001 -u 3,4 -b '*' -i '*' --ipv6 on"
#: Each: the command, its arguments, the exit code.
ROWS = {
    "diff.profiles": (diff, ("--profile", "istio", "strict"), 3),
    "diff.backends": (diff, ("--backend", "iptables", "nft", "--spec", ISTIO), 3),
    "diff.same": (diff, ("--profile", "strict", "strict", "--backend", "iptables", "nft"), 0),
    "diff.text": (diff, ("--profile", "istio", "strict", "--text"), 3),
    "diff.json": (diff, ("--backend", "iptables", "nft", "--spec", ISTIO, "-o", "json"), 3),
    "lint.istio": (lint, ("--spec", ISTIO), 3),
    "lint.leaking": (lint, ("--from", LEAKING), 3),
    "prove.leaking": (prove, ("--from", LEAKING), 0),
    "prove.sound": (prove, ("--from", SOUND, "proto == tcp and oif != lo implies captured"), 3),
}


@pytest.mark.parametrize("name", ROWS)
def test_an_answer_prints_its_golden(name: str) -> None:
    command, arguments, code = ROWS[name]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == code, done.output
    found = done.output.replace(str(DATA), "data")
    golden = DATA / "reasoning" / f"{name}.txt"
    if os.environ.get("MESHNET_UPDATE_GOLDENS"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found)
    assert found == golden.read_text()
    if "json" not in name:
        assert max(len(line) for line in found.splitlines()) <= 100
