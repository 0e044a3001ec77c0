"""The installed ``meshnet``, run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_cli(
    *arguments: str,
    code: int | None = 0,
    text: str = "",
    timeout: float = 60,
    prefix: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run ``meshnet`` with ``arguments``, without a terminal; ``code`` None accepts any exit code.

    ``prefix`` is put before the command: nsenter, setpriv.
    """
    program = str(Path(sys.executable).parent / "meshnet")
    done = subprocess.run(
        [*prefix, program, *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={k: v for k, v in os.environ.items() if k != "COLUMNS"},
    )
    if code is not None and done.returncode != code:
        raise AssertionError(f"{arguments} gave {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def run_json(*arguments: str, code: int | None = 0, timeout: float = 60) -> Any:
    """The JSON document that ``meshnet ... -o json`` prints."""
    return json.loads(run_cli(*arguments, "-o", "json", code=code, timeout=timeout).stdout)
