"""Arguments by the table of flags, in the grammar of Istio's tool (Go's pflag).

``--flag=value``, ``--flag value``, ``-f value``, ``-fvalue``, ``-f=value``; a boolean flag takes a
value only behind ``=``, and short ones may be bundled (``-nb '*'``). argparse would cost more than
everything else that happens before the first rule is read (docs/performance.md).
"""

from __future__ import annotations

from meshnet.cli.flags import FLAGS, OWN, Flag
from meshnet.errors import UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LONG = {flag.name: flag for flag in FLAGS if not flag.hidden}
_SHORT = {flag.short: flag for flag in FLAGS if flag.short}
#: Words that ask for something else than a run.
ASKS = {"-h": "help", "--help": "help", "--version": "version"}


def read_arguments(argv: Sequence[str], prog: str) -> dict[str, list[str]]:
    """The texts given to each flag, by its long name, in order; "help" or "version" if asked for.

    Raises UsageError for a word that is no flag, and for a flag that lacks its value.
    """
    given: dict[str, list[str]] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if word in ASKS:
            return {ASKS[word]: []}
        name, equals, value = word.partition("=")
        if word.startswith("--") and name[2:] in _LONG:
            flag = _LONG[name[2:]]
            texts = given.setdefault(flag.name, [])
            texts.append(_value(flag, value if equals else None, words, prog))
        elif word.startswith("-") and word[1:2] in _SHORT:
            _read_short(word[1:], words, given, prog)
        else:
            raise UsageError(f"unrecognized arguments: {printable(word)}", f"{prog} --help")
    return given


def _read_short(cluster: str, words: list[str], given: dict[str, list[str]], prog: str) -> None:
    """``b*``, ``b=*``, ``b`` with its value in the next word, or ``nb*``."""
    flag = _SHORT.get(cluster[0])
    if flag is None:
        raise UsageError(f"unrecognized arguments: -{printable(cluster)}", f"{prog} --help")
    rest = cluster[1:]
    texts = given.setdefault(flag.name, [])
    if flag.kind == "bool" and rest and not rest.startswith("="):
        texts.append("true")
        _read_short(rest, words, given, prog)
    else:
        texts.append(_value(flag, rest.removeprefix("=") if rest else None, words, prog))


def _value(flag: Flag, value: str | None, words: list[str], prog: str) -> str:
    if value is not None:
        return value
    if flag.kind == "bool":
        return "true"
    if not words:
        named = f"-{flag.short} --{flag.name}" if flag.short else f"--{flag.name}"
        raise UsageError(f"{named}: expected a value", f"{prog} --help")
    return words.pop(0)


def usage(prog: str) -> str:
    """The help text, at most 100 columns wide."""
    lines = [f"usage: {prog} [FLAGS]", "", "Hand this pod's traffic to its sidecar proxy.", ""]
    lines += ["as Istio's init tool has them:"]
    lines += [_help(flag) for flag in FLAGS if flag.name not in OWN and not flag.hidden]
    lines += ["", "of our own:"]
    lines += [_help(flag) for flag in FLAGS if flag.name in OWN and not flag.hidden]
    lines += ["      --version                              say the version", ""]
    lines += ["A boolean flag takes =true or =false. Each flag has a variable: docs/flags.md."]
    return "\n".join(lines) + "\n"


def _help(flag: Flag) -> str:
    short = f"-{flag.short}, " if flag.short else "    "
    named = f"  {short}--{flag.name} {flag.metavar}".rstrip()
    gap = f"\n{'':45}" if len(named) > 43 else " " * (45 - len(named))
    import textwrap

    text = textwrap.wrap(flag.help, 54)
    return f"{named}{gap}" + f"\n{'':45}".join(text)
