"""A source of rules by one word: a target, or a file of any kind."""

from __future__ import annotations

import os
import stat

from meshnet.cli.source_options import named_source
from meshnet.errors import MeshnetError, NotPermitted, printable
from meshnet.model.frozen import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.ops.sources import Source

_SPECS = (".yaml", ".yml")


def any_source(
    word: str | None,
    from_file: str | None = None,
    ruleset: str | None = None,
    spec: str | None = None,
    timeout: float = 20.0,
) -> Source:
    """The one source that was named; ``word`` is a file where there is such a file.

    A file is a snapshot, a dump of iptables-save or ``nft -j list ruleset``, or (\\*.yaml) a
    configuration; "-" is a dump on standard input. What else begins with "-" is a configuration
    in flags. Raises as
    :func:`~meshnet.cli.source_options.named_source`.
    """
    if word is None or from_file or ruleset or spec:
        return named_source(word, from_file, ruleset, spec, timeout)
    if word == "-":
        return named_source(None, None, word, None, timeout)
    if word.startswith("-") or word.endswith(_SPECS):
        return named_source(None, None, None, word, timeout)
    if _is_file(word):
        if _is_snapshot(word):
            source = named_source(None, word, None, None, timeout)
            return replace(source, name=f"{source.name}, as in {printable(word, 60)}")
        return named_source(None, None, word, None, timeout)
    try:
        return named_source(word, None, None, None, timeout)
    except MeshnetError as e:
        raise _of_a_word(word, e) from e


def _of_a_word(word: str, error: MeshnetError) -> MeshnetError:
    """``error``, or what is the matter with a word that is no target and looks like a file."""
    if isinstance(error, NotPermitted):
        return error
    name = printable(word, 60)
    if "/" not in word and os.path.lexists(word):
        what = "a directory" if os.path.isdir(word) else "an empty file"
        return MeshnetError(f"{name} is {what}, and no pod or container has that name")
    if word.endswith((".json", ".txt", ".save", ".rules")):
        return MeshnetError(f"there is no file {name}, and no pod or container of that name")
    return error


def _is_file(word: str) -> bool:
    """Whether ``word`` is a file that holds something: a namespace's is empty."""
    try:
        found = os.stat(word)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def _is_snapshot(path: str) -> bool:
    """Whether the file is JSON that names our schema near its beginning."""
    try:
        with open(path, "rb") as f:
            start = f.read(4096)
    except OSError:
        return False
    return start.lstrip()[:1] == b"{" and b"meshnet/v1/snapshot" in start
