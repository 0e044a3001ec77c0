"""The catalogue: complete, printable, and the same wherever it is shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshnet.cli.codes import code_of, command
from meshnet.cli.main import main
from meshnet.errors import UsageError
from meshnet.model.codes import BY_CODE, CODES
from meshnet.render.codes import as_explanation, as_list, as_page

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_the_page_is_current() -> None:
    assert (ROOT / "docs/codes.md").read_text() == as_page()


def test_codes_are_unique_and_in_order() -> None:
    names = [code.code for code in CODES]
    assert names == sorted(set(names))
    assert all(re.fullmatch(r"MN\d{3}", name) for name in names)
    wanted = "101 102 103 110 112 113 120 121 130 131 140 150 160"
    assert {f"MN{number}" for number in wanted.split()} <= set(names)


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.code)
def test_each_is_told_in_full(code) -> None:
    assert code.title and not code.title.endswith(".")
    for text in (code.cause, code.evidence, code.mend):
        assert len(text) > 60 and text[-1] in ".)`" and "  " not in text
    shown = as_explanation(code)
    assert all(len(line) <= 100 for line in shown.splitlines())
    for text in (code.cause, code.evidence, code.mend):
        assert text in " ".join(shown.split())


def test_every_code_is_reported_somewhere() -> None:
    """No code is promised that no check has, and none is reported that has no entry."""
    folders = [ROOT / "meshnet/reason" / name for name in ("findings", "lint")]
    files = [path for folder in folders for path in folder.glob("*.py")]
    said = "".join(path.read_text() for path in files)
    assert set(re.findall(r'"(MN\d{3})"', said)) == set(BY_CODE)


def test_list() -> None:
    done = run()
    assert done.exit_code == 0
    assert done.output == as_list() + "\n"
    assert [line.split()[0] for line in done.output.splitlines()] == [c.code for c in CODES]
    assert all(len(line) <= 100 for line in done.output.splitlines())


def test_one() -> None:
    for text in ("MN120", "mn120", "120"):
        assert run(text).output == as_explanation(BY_CODE["MN120"]) + "\n"
    both = run("MN120", "MN121").output
    assert both.index("MN120") < both.index("MN121")


def test_json() -> None:
    document = json.loads(run("-o", "json").output)
    assert document["schema"] == "meshnet/v1/codes"
    assert [code["code"] for code in document["codes"]] == [code.code for code in CODES]
    (one,) = json.loads(run("MN140", "-o", "json").output)["codes"]
    assert set(one) == {"code", "severity", "title", "cause", "evidence", "mend"}
    assert one["severity"] == "warning"


@pytest.mark.parametrize(
    ("text", "nearest"), [("MN122", "MN12"), ("MN1400", "MN140"), ("proxy", "MN"), ("", "MN")]
)
def test_unknown(text: str, nearest: str) -> None:
    with pytest.raises(UsageError, match="there is no code") as e:
        code_of(text)
    assert f"the nearest is {nearest}" in str(e.value)


def test_unknown_text_is_escaped() -> None:
    done = CliRunner().invoke(main, ["codes", "\x1b[31mMN999\n"])
    assert done.exit_code == 2
    assert "\x1b" not in done.output
