"""What the two iptables variants have in common: dumps, tables, and how their tools fail."""

from __future__ import annotations

from meshnet.backends.base import Plan, Step
from meshnet.backends.edits import TableEdit, plan_edits, print_edits
from meshnet.compile.ownership import has_own
from meshnet.dialects.iptables import parse_save
from meshnet.errors import KernelLacks, NotPermitted, ToolFailed, printable
from meshnet.host.capabilities import unmapped_ids_hint
from meshnet.host.process import Finished, find_tool, run_tool
from meshnet.model.packet import Family
from meshnet.model.ruleset import Ruleset

TABLES = ("raw", "mangle", "nat", "filter")
PREFIX = {Family.IP: "iptables", Family.IP6: "ip6tables"}


def missing_tools(variant: str) -> str:
    """One sentence on the programs of ``variant`` that are missing; "" where none is."""
    for prefix in PREFIX.values():
        for suffix in ("save", "restore"):
            if not find_tool(f"{prefix}-{variant}-{suffix}"):
                return f"the program {prefix}-{variant}-{suffix} is not installed"
    return ""


def save(variant: str, family: Family) -> Ruleset:
    """The dump of one family, with counters; raises as :func:`check` does."""
    tool = f"{PREFIX[family]}-{variant}-save"
    done = run_tool([tool, "-c"])
    check(done, tool)
    for line in done.out.splitlines():
        if line.startswith("# Table") and "is incompatible" in line:
            said = printable(line.lstrip("# "))
            raise KernelLacks(f"{tool} cannot read this namespace: {said}", "--backend nft can")
    dump = parse_save(done.out, family)
    return Ruleset(tuple(t for t in dump.tables if t.name in TABLES))


def plan(name: str, variant: str, held: Ruleset, wanted: Ruleset) -> Plan:
    """The plan that turns ``held`` into ``wanted``: one step a family."""
    edits = plan_edits(held, wanted)
    steps = (_step(variant, edits, family) for family in PREFIX)
    return Plan(name, tuple(step for step in steps if step is not None), wanted)


def _step(variant: str, edits: tuple[TableEdit, ...], family: Family) -> Step | None:
    text = print_edits(edits, family)
    if not text:
        return None
    mine = tuple(edit for edit in edits if edit.family is family)
    return Step(f"{PREFIX[family]}-{variant}-restore", text, (family,), mine)


def holds_own(held: Ruleset) -> bool:
    """Whether a dump holds rules or chains of ours."""
    return has_own(held)


def check(done: Finished, tool: str) -> None:
    """Raise what a failed iptables program means; nothing for one that succeeded."""
    if done.code == 0:
        return
    words = printable(" ".join(done.err.split()), 300)
    if "Permission denied" in words or "Operation not permitted" in words:
        raise NotPermitted("needs CAP_NET_ADMIN in this network namespace", f"{tool}: {words}")
    for sign in (
        "does not exist",
        "No such file or directory",
        "initialize",
        "not supported",
        "Couldn't load",
        "missing kernel module",
    ):
        if sign in words:
            raise KernelLacks(
                f"{tool}: this kernel lacks a table or a module: {words}",
                "another --backend may work",
            )
    raise ToolFailed(f"{tool} refused: {words}", unmapped_ids_hint(words))
