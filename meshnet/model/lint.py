"""What is wrong with rules as such."""

from __future__ import annotations

from meshnet.model.finding import Finding
from meshnet.model.frozen import dataclass

SCHEMA = "meshnet/v1/lint"


@dataclass(frozen=True)
class Lint:
    """The findings about the rules of ``source``, the most severe first.

    ``rules`` is how many were looked at; ``undecided`` names what no dump shows: what was found
    holds for every answer to it.
    ``whole`` False: some rules could not be read, and were not looked at.
    """

    schema: str
    source: str
    rules: int
    findings: tuple[Finding, ...]
    undecided: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    whole: bool = True
