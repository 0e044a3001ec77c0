"""Words of an iptables-save line, with the quoting that iptables itself uses."""

from __future__ import annotations

from meshnet.errors import ParseError, printable

_BLANKS = " \t"
_NEEDS_NO_QUOTES = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:/+-,@%="
)


def split_words(line: str) -> list[str]:
    """The words of one line; ``"…"`` keeps blanks, a backslash in it keeps the next character.

    Raises ParseError for a quotation without end.
    """
    if '"' not in line:
        return [word for word in line.replace("\t", " ").split(" ") if word]
    words: list[str] = []
    word: list[str] | None = None
    quoted = False
    chars = iter(line)
    for c in chars:
        if quoted and c == "\\":
            c = next(chars, "")
        elif c == '"':
            quoted = not quoted
            word = word or []
            continue
        elif not quoted and c in _BLANKS:
            if word is not None:
                words.append("".join(word))
            word = None
            continue
        word = word if word is not None else []
        word.append(c)
    if quoted:
        raise ParseError(f"a quotation without end: {printable(line)}")
    if word is not None:
        words.append("".join(word))
    return words


def quote_word(word: str) -> str:
    """``word`` so that iptables-restore reads it back as one word.

    Raises ValueError for a line break or NUL: no quoting keeps those in one line.
    """
    if any(c in word for c in "\n\r\0"):
        raise ValueError("a word of a rule cannot hold a line break")
    if word and all(c in _NEEDS_NO_QUOTES for c in word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("'", "\\'")
    return f'"{escaped}"'
