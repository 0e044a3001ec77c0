"""What ``meshnet lint``, ``diff`` and ``prove`` print, to the letter, at 100 columns.

The goldens are written anew by ``MESHNET_UPDATE_GOLDENS=1 make test ARGS=tests/golden``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshnet.cli.diff import command as diff
from meshnet.cli.lint import command as lint
from meshnet.cli.prove import command as prove

pytest.importorskip("z3", reason="cannot run here: z3 is not installed (the extra prove)")

DATA = Path("tests/golden/data")
LEAKING = str(DATA / "snapshots" / "leaking.json")
SOUND = str(DATA / "snapshots" / "sound.json")
FOREIGN = str(DATA / "rulesets" / "foreign.save")
USUAL = "-p 15001 -u 1337 -b * -i *"
SAMPLE = "uid != 1337 and proto == tcp and oif != lo implies captured"
COMMANDS = {"lint": lint, "diff": diff, "prove": prove}
#: Each: the arguments, the exit code; the command is the beginning of the name.
ROWS: dict[str, tuple[tuple[str, ...], int]] = {
    "lint.istio": (("--spec", USUAL), 3),
    "lint.two-proxies": (("--spec", f"{USUAL} -u 1337,1338 --ipv6 on"), 3),
    "lint.leaking": ((LEAKING,), 3),
    "lint.foreign": ((FOREIGN,), 3),
    "lint.strict": (("--spec", f"{USUAL} --profile strict"), 0),
    "diff.profiles": (("--profile", "istio", "strict"), 3),
    "diff.backends": (("--backend", "legacy", "nft", "--spec", f"{USUAL} --profile strict"), 0),
    "diff.text": (("--profile", "istio", "strict", "--text"), 3),
    "diff.snapshots": ((LEAKING, SOUND), 3),
    "diff.foreign": ((FOREIGN, "--spec", f"{USUAL} --backend legacy --ipv6 off"), 3),
    "prove.sample": (("--spec", USUAL, SAMPLE), 3),
    "prove.strict": (("--spec", f"{USUAL} --profile strict", f"gid != 1337 and {SAMPLE}"), 0),
    "prove.leaking": ((LEAKING,), 0),
    "prove.foreign": ((FOREIGN, "hook == output implies direct"), 3),
}  # fmt: skip


def printed(name: str, *more: str) -> str:
    """What a row prints; it has to end as it says."""
    arguments, code = ROWS[name]
    done = CliRunner().invoke(COMMANDS[name.partition(".")[0]], [*arguments, *more])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of files are printed: they must not hang on where this is."""
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize("name", ROWS)
def test_to_the_letter(name: str) -> None:
    found = printed(name)
    golden = DATA / "proofs" / f"{name}.txt"
    if os.environ.get("MESHNET_UPDATE_GOLDENS"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found)
    assert found == golden.read_text()
    assert all(len(line) <= 100 and line == line.rstrip() for line in found.splitlines())
    assert "report it" not in found


@pytest.mark.parametrize("name", ["lint.leaking", "diff.profiles", "prove.sample"])
def test_the_documents_have_what_is_documented(name: str) -> None:
    document = json.loads(printed(name, "-o", "json"))
    text = (Path("docs") / f"{name.partition('.')[0]}.md").read_text()
    assert document["schema"] in text
    for key in _keys(document):
        assert f"`{key}`" in text, key


def _keys(value: object) -> set[str]:
    """Every key of a document, of the values inside it too."""
    if isinstance(value, dict):
        return {*value, *(key for each in value.values() for key in _keys(each))}
    if isinstance(value, list):
        return {key for each in value for key in _keys(each)}
    return set()
