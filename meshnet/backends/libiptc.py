"""Writing legacy tables with python-iptables. Lives in a child that does nothing else.

One family a process: the library registers an extension once, and ends the process when
a second family asks for it. It keeps table handles by name, and prints to standard error
about extensions that it skipped; so the child's standard error is not the caller's.
"""

from __future__ import annotations

import os

from meshnet.backends.edits import Edit, TableEdit
from meshnet.dialects.iptables_rule import print_rule
from meshnet.dialects.tokens import split_words
from meshnet.errors import KernelLacks, ToolFailed, printable
from meshnet.host import gate
from meshnet.host.capabilities import unmapped_ids_hint
from meshnet.model.packet import Family
from meshnet.model.rule import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ADDRESS = {"-s": "src", "-d": "dst", "-i": "in_interface", "-o": "out_interface", "-p": "protocol"}


def write_tables(family: Family, names: list[str], edits: list[TableEdit]) -> None:
    """Make the ``edits`` of one family, one commit a table, in their order.

    ``names`` are opened first, in that order. Raises KernelLacks for a table that cannot
    be opened, ToolFailed for an edit or a commit that the library or the kernel refuses.
    """
    _silence()
    import iptc

    kind = iptc.Table if family is Family.IP else iptc.Table6
    tables = {}
    for name in names:
        try:
            tables[name] = kind(name, autocommit=False)
        except iptc.IPTCError as e:
            raise KernelLacks(
                f"legacy: this kernel lacks the table {name} of {family.value}: {e}",
                "another --backend may work",
            ) from e
    for edit in edits:
        table = tables[edit.table]
        table.refresh()
        try:
            for part in edit.edits:
                _make(iptc, table, part, family)
            gate.touch(f"legacy {family.value} {edit.table}", table.commit)
        except (iptc.IPTCError, iptc.xtables.XTablesError, ValueError, AttributeError) as e:
            # The library shows the kernel's words as bytes: b'Invalid argument'.
            said = printable(str(e).replace("b'", "").rstrip("'"))
            raise ToolFailed(
                f"legacy: table {edit.table} of {family.value}: {said}", unmapped_ids_hint(said)
            ) from e


def has_chain(family: Family, tables: list[str], names: list[str]) -> bool:
    """Whether one of ``tables``, which must exist, has a chain of one of ``names``.

    Raises KernelLacks where the library is not there or cannot open a table.
    """
    _silence()
    try:
        import iptc

        kind = iptc.Table if family is Family.IP else iptc.Table6
        return any(kind(t, autocommit=False).is_chain(n) for t in tables for n in names)
    except Exception as e:  # the library raises plain exceptions, at import too
        raise KernelLacks(f"legacy: the tables of {family.value} cannot be opened") from e


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _make(iptc: Any, table: Any, edit: Edit, family: Family) -> None:
    chain = iptc.Chain(table, edit.chain)
    if edit.verb == "flush":
        if table.is_chain(edit.chain):
            table.flush_entries(edit.chain)
        else:
            table.create_chain(edit.chain)
    elif edit.verb == "drop":
        table.delete_chain(edit.chain)
    elif edit.verb == "delete":
        _delete(iptc, table, edit, family)
    elif edit.rule is not None:
        rule = _build(iptc, table, edit.rule, family)
        if edit.verb == "append":
            chain.append_rule(rule)
        else:
            chain.insert_rule(rule, edit.position - 1)


def _delete(iptc: Any, table: Any, edit: Edit, family: Family) -> None:
    """By position: the lock keeps others from moving rules meanwhile."""
    import ctypes

    module = iptc.ip4tc if family is Family.IP else iptc.ip6tc
    prefix = "iptc" if family is Family.IP else "ip6tc"
    function = getattr(module._libiptc, f"{prefix}_delete_num_entry")
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.c_char_p, ctypes.c_uint, ctypes.c_void_p]
    if function(edit.chain.encode(), edit.position - 1, table._handle) != 1:
        raise ToolFailed(f"legacy: rule {edit.position} of {edit.chain} cannot be deleted")


def _build(iptc: Any, table: Any, rule: Rule, family: Family) -> Any:
    """The library's rule for ours, by way of the words that iptables has for it."""
    # The library looks for a target's chain in every table, and so creates every table.
    kind = iptc.Rule if family is Family.IP else iptc.Rule6
    built = type(kind.__name__, (kind,), {"tables": [table]})()
    part: Any = None
    negation = ""
    words = split_words(print_rule(rule, family))
    while words:
        word = words.pop(0)
        if word == "!":
            negation = "!"
            continue
        if word in _ADDRESS:
            setattr(built, _ADDRESS[word], negation + words.pop(0))
        elif word == "-m":
            part = built.create_match(words.pop(0))
        elif word in ("-j", "-g"):
            part = built.create_target(words.pop(0), goto=word == "-g")
        else:
            value = words.pop(0) if words and not words[0].startswith("--") else ""
            part.set_parameter(word[2:], negation + value)
        negation = ""
    return built
