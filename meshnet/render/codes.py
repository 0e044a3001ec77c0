"""The catalogue of findings: as a list, as one explanation, as JSON and as docs/codes.md."""

from __future__ import annotations

import textwrap

from meshnet.model.codes import CODES, Code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SCHEMA = "meshnet/v1/codes"
WIDTH = 100
#: A part of an explanation: its heading, and the field of Code that it shows.
PARTS = (("cause", "cause"), ("how it is seen", "evidence"), ("mend", "mend"))

_HEAD = """\
# Codes of findings

A finding is a defect that `meshnet inspect` sees in a network namespace, or `meshnet lint` in its
rules. Its code is stable.
*error*: the interception is broken, or somebody goes past it; *warning*: some of it may; *note*:
worth knowing. `meshnet codes` lists them, `meshnet codes MN120` explains one.
This page is made by `python -m meshnet.render.codes`; a test holds it to the program.

| code | severity | |
|---|---|---|
"""


def as_list() -> str:
    """A line a code: code, severity, title."""
    wide = max(len(code.severity.value) for code in CODES)
    return "\n".join(f"{c.code}  {c.severity.value.ljust(wide)}  {c.title}" for c in CODES)


def as_explanation(code: Code) -> str:
    """One code, in paragraphs of at most 100 columns."""
    lines = [f"{code.code}  {code.severity.value}  {code.title}"]
    for heading, name in PARTS:
        lines += ["", heading]
        lines += textwrap.wrap(
            getattr(code, name),
            WIDTH,
            initial_indent="  ",
            subsequent_indent="  ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    return "\n".join(lines)


def as_document(codes: tuple[Code, ...]) -> dict[str, Any]:
    """``codes`` as a document of schema meshnet/v1/codes."""
    names = ("code", "title", "cause", "evidence", "mend")
    return {
        "schema": SCHEMA,
        "codes": [
            {**{n: getattr(code, n) for n in names}, "severity": code.severity.value}
            for code in codes
        ],
    }


def as_page() -> str:
    """docs/codes.md."""
    lines = [_HEAD]
    lines += [
        f"| [{c.code}](#{c.code.lower()}) | {c.severity.value} | {c.title} |\n" for c in CODES
    ]
    for code in CODES:
        title = code.title[:1].upper() + code.title[1:]
        lines.append(f"\n## {code.code}\n\n{title}. *{code.severity.value}*\n")
        for heading, name in PARTS:
            text = textwrap.fill(
                f"**{heading[:1].upper()}{heading[1:]}.** {getattr(code, name)}",
                108,
                break_on_hyphens=False,
                break_long_words=False,
            )
            lines.append(f"\n{text}\n")
    return "".join(lines)


if __name__ == "__main__":
    print(as_page(), end="")
