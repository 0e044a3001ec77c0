"""``python -m meshnet.cli``: the same as ``meshnet``."""

from __future__ import annotations

from meshnet.cli.main import main

main(prog_name="meshnet")
