"""Every error that meshnet raises on purpose.

::

    MeshnetError            exit 1   something failed; the message names it
    ├── UsageError          exit 2   the request makes no sense; nothing was tried
    ├── ParseError          exit 1   a dump that is not what it claims to be
    ├── RulesElsewhere      exit 1   rules of ours live in another backend
    ├── LockBusy            exit 1   somebody holds a lock longer than we wait
    ├── ToolFailed          exit 1   the kernel or a tool refused a change
    ├── KernelLacks         exit 4   this kernel, or this machine, cannot
    └── NotPermitted        exit 5   a capability is missing

A message is one line that names the object; ``hint`` is the way out, shown
behind it. Text that came from outside is escaped before it gets here.
"""

from __future__ import annotations


class MeshnetError(Exception):
    """Root of the tree. ``exit_code`` is what a command ends with."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(MeshnetError):
    """A flag, variable or file asks for something that is not allowed."""

    exit_code = 2


class ParseError(MeshnetError):
    """A ruleset text cannot be read; the message has the line."""


class RulesElsewhere(MeshnetError):
    """Rules of ours stand in a backend other than the one asked for."""


class LockBusy(MeshnetError):
    """A lock was not given within the time that we wait; names its holder."""


class ToolFailed(MeshnetError):
    """A kernel interface or a tool refused; the message has its own words."""


class KernelLacks(MeshnetError):
    """A table, module, option or program is missing on this machine."""

    exit_code = 4


class NotPermitted(MeshnetError):
    """The caller lacks a capability in the namespace concerned."""

    exit_code = 5


#: By name, so that an error can cross the pipe from a child.
BY_NAME: dict[str, type[MeshnetError]] = {
    kind.__name__: kind
    for kind in (
        MeshnetError,
        UsageError,
        ParseError,
        RulesElsewhere,
        LockBusy,
        ToolFailed,
        KernelLacks,
        NotPermitted,
    )
}


def unforeseen(error: Exception) -> str:
    """One line about an exception that is a defect of ours: what, and in which file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else trace.tb_frame.f_code.co_filename.rpartition("/meshnet/")[2]
    line = "" if trace is None else f":{trace.tb_lineno}"
    return f"{type(error).__name__}: {printable(str(error))} ({where}{line}); please report it"


def printable(text: str, limit: int = 200) -> str:
    """``text`` with control and other unprintable characters escaped, cut at ``limit`` characters.

    For everything that came from outside and ends in a message or a table.
    """
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"
