"""The language of ``meshnet prove``, read; docs/prove.md has it for people."""

from __future__ import annotations

from meshnet.errors import UsageError, printable
from meshnet.model.frozen import dataclass
from meshnet.reason.claims import FIELDS, FLAGS, Claim, Formula, read_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MARKS = ("==", "!=", "(", ")", "{", "}", ",")
_RANGE = "a range: in 1000-1999"
#: What nobody means, and what is meant.
_MISTAKEN = {"=": "==", "&&": "and", "&": "and", "||": "or", "|": "or", "!": "not", "=>": "implies"}
_MISTAKEN |= {"->": "implies", "<": _RANGE, ">": _RANGE, "<=": _RANGE, ">=": _RANGE}
_WORDS = ("and", "or", "not", "implies", "in")
#: So deep may parentheses and "not" go.
DEEPEST = 100


@dataclass(frozen=True)
class Token:
    """A word or a mark, and the column, from 1, where it begins."""

    text: str
    column: int


def read_expression(text: str) -> Formula:
    """The formula that ``text`` says; UsageError with the column where it says none."""
    reader = _Reader(text)
    found = reader.implication(0)
    if reader.here.text:
        raise reader.wrong("and, or, implies or the end")
    return found


def _tokens(text: str) -> Iterator[Token]:
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        mark = next((m for m in _MARKS if text.startswith(m, at)), "")
        if mark:
            yield Token(mark, at + 1)
            at += len(mark)
            continue
        start = at
        while at < len(text) and (text[at].isalnum() or text[at] in "_.:/+-*@"):
            # "-" belongs to ranges and names; an arrow is a mistake.
            if text.startswith("->", at):
                break
            at += 1
        if at == start:
            while at < len(text) and not text[at].isspace() and not text[at].isalnum():
                at += 1
        yield Token(text[start:at], start + 1)
    yield Token("", len(text) + 1)


class _Reader:
    """Reads from left to right: implies binds least, then or, and, not."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    @property
    def here(self) -> Token:
        return self._tokens[self._at]

    def take(self) -> Token:
        token = self.here
        self._at += 1
        return token

    def wrong(self, expected: str) -> UsageError:
        """The error that says what stands here, and what should."""
        token = self.here
        found = f"'{printable(token.text, 40)}'" if token.text else "the end"
        hint = f"write {_MISTAKEN[token.text]}" if token.text in _MISTAKEN else ""
        message = f"the expression, column {token.column}: {found} where {expected} is expected"
        return UsageError(message, hint)

    def implication(self, deep: int) -> Formula:
        left = self._chain("or", deep)
        if self.here.text == "implies":
            self.take()
            return Formula("implies", (left, self.implication(deep + 1)))
        return left

    def _chain(self, word: str, deep: int) -> Formula:
        parts = [self._chain("and", deep) if word == "or" else self._negation(deep)]
        while self.here.text == word:
            self.take()
            parts.append(self._chain("and", deep) if word == "or" else self._negation(deep))
        return parts[0] if len(parts) == 1 else Formula(word, tuple(parts))

    def _negation(self, deep: int) -> Formula:
        if deep > DEEPEST:
            raise UsageError(f"the expression, column {self.here.column}: nested too deep")
        if self.here.text == "not":
            self.take()
            return Formula("not", (self._negation(deep + 1),))
        if self.here.text == "(":
            self.take()
            found = self.implication(deep + 1)
            if self.here.text != ")":
                raise self.wrong("')'")
            self.take()
            return found
        return self._atom()

    def _atom(self) -> Formula:
        token = self.here
        if token.text in FLAGS:
            self.take()
            return Formula(token.text)
        if token.text not in FIELDS:
            raise self._unknown(token)
        self.take()
        negated = self._operator()
        many = self._tokens[self._at - 1].text == "in"
        words = self._values(many)
        return Formula("claim", claim=_claim(token, words, negated))

    def _unknown(self, token: Token) -> UsageError:
        if not token.text or token.text in (*_MARKS, *_MISTAKEN, *_WORDS):
            return self.wrong("a field or a verdict")
        import difflib

        close = difflib.get_close_matches(token.text, [*FIELDS, *FLAGS], 1, 0.6)
        known = f"fields: {', '.join(FIELDS)}; verdicts: {', '.join(FLAGS)}"
        name = printable(token.text, 40)
        message = f"the expression, column {token.column}: there is no field '{name}'"
        return UsageError(message, f"the nearest is {close[0]}" if close else known)

    def _operator(self) -> bool:
        """Whether it says that the value is not in what follows."""
        text = self.here.text
        if text in ("==", "in", "!="):
            self.take()
            return text == "!="
        if text == "not" and self._tokens[self._at + 1].text == "in":
            self.take()
            self.take()
            return True
        raise self.wrong("==, !=, in or not in")

    def _values(self, many: bool) -> list[Token]:
        if self.here.text != "{":
            return [self._value()]
        if not many:
            raise self.wrong("one value (sets follow in)")
        self.take()
        found = [self._value()]
        while self.here.text == ",":
            self.take()
            found.append(self._value())
        if self.here.text != "}":
            raise self.wrong("',' or '}'")
        self.take()
        return found

    def _value(self) -> Token:
        text = self.here.text
        if not text or text in _MARKS or text in _MISTAKEN or text in _WORDS:
            raise self.wrong("a value")
        return self.take()


def _claim(field: Token, words: list[Token], negated: bool) -> Claim:
    read = []
    for word in words:
        try:
            read.append(read_values(field.text, word.text))
        except ValueError as e:
            message = f"the expression, column {word.column}: {printable(str(e))}"
            raise UsageError(message, FIELDS[field.text]) from e
    return Claim.of(field.text, read, negated)
