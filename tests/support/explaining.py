"""``meshnet explain`` in this process, and what tests of it begin with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from meshnet.cli.main import COMMANDS, main

COMMANDS.setdefault("explain", ("meshnet.cli.explain", "Why a packet goes where it goes."))
SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "explanation.schema.json"


def explained(*arguments: str, code: int | None = 0, text: str | None = None) -> Result:
    """What ``meshnet explain`` prints with ``arguments``; ``code`` None accepts any exit code."""
    done = CliRunner().invoke(main, ["explain", *arguments], input=text, prog_name="meshnet")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if code is not None and done.exit_code != code:
        raise AssertionError(f"{arguments} gave {done.exit_code}:\n{done.output}")
    return done


def document(*arguments: str, code: int | None = 0) -> Any:
    """The JSON document of an explanation, valid by its schema."""
    import jsonschema

    found = json.loads(explained(*arguments, "-o", "json", code=code).stdout)
    jsonschema.validate(found, json.loads(SCHEMA_FILE.read_text()))
    return found
