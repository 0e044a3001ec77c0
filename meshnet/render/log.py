"""One-line messages on standard error, as text or as JSON."""

from __future__ import annotations

import sys


class Log:
    """Messages of ``prog``. ``detail`` is said only where ``verbose``."""

    def __init__(self, prog: str, as_json: bool = False, verbose: bool = False) -> None:
        self.prog = prog
        self.as_json = as_json
        self.verbose = verbose

    def error(self, message: str) -> None:
        """Something failed."""
        self._write("error", message)

    def warn(self, message: str) -> None:
        """Something was not done as one might expect."""
        self._write("warning", message)

    def info(self, message: str) -> None:
        """What was done."""
        self._write("info", message)

    def detail(self, message: str) -> None:
        """Why it was done so."""
        if self.verbose:
            self._write("debug", message)

    def _write(self, level: str, message: str) -> None:
        if self.as_json:
            import json
            import time

            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            line = json.dumps({"time": now, "level": level, "scope": self.prog, "msg": message})
        else:
            mark = "" if level in ("info", "debug") else f"{level}: "
            line = f"{self.prog}: {mark}{message}"
        # A closed standard error is None, and print(file=None) would mean standard output.
        if sys.stderr is not None:
            print(line, file=sys.stderr)


def as_json(document: object) -> str:
    """A document as indented JSON."""
    import json

    return json.dumps(document, indent=2)
