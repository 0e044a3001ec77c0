"""Pages that are made from the program's own data are what the program would make now."""

from __future__ import annotations

from pathlib import Path

from meshnet.cli.manual import manual

ROOT = Path(__file__).parents[2]


def test_the_flags_page_is_current() -> None:
    assert (ROOT / "docs/flags.md").read_text() == manual()


def test_the_readme_keeps_to_its_size() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
