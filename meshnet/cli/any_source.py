"""A source of rules by one word: a target, or a file of any kind."""

from __future__ import annotations

import os
import stat

from meshnet.cli.source_options import named_source

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
    configuration. What begins with "-" is a configuration in flags. Raises as
    :func:`~meshnet.cli.source_options.named_source`.
    """
    if word is not None and not (from_file or ruleset or spec):
        if word.startswith("-") or word.endswith(_SPECS):
            return named_source(None, None, None, word, timeout)
        if _is_file(word):
            if _is_snapshot(word):
                return named_source(None, word, None, None, timeout)
            return named_source(None, None, word, None, timeout)
    return named_source(word, from_file, ruleset, spec, timeout)


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
