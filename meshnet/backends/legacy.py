"""Backend legacy: the x_tables of the kernel, written by python-iptables.

A child a family reads nothing and writes its tables, one commit each; the parent holds
the xtables lock from reading to the last commit, as the iptables programs do while they
write. What python-iptables does not write right goes through ``iptables-legacy-restore``,
table by table: docs/backends.md says what and why. Every table is read back.
"""

from __future__ import annotations

import os

from meshnet.backends import iptables
from meshnet.backends.base import Plan, Step
from meshnet.backends.edits import TableEdit, print_edits
from meshnet.compile.ownership import OWN_CHAINS
from meshnet.errors import MeshnetError, ToolFailed, printable
from meshnet.host.capabilities import require
from meshnet.host.locks import XtablesLock
from meshnet.host.netns import run_child
from meshnet.host.process import run_tool
from meshnet.model.packet import Family
from meshnet.model.rule import Kind
from meshnet.model.ruleset import Ruleset
from meshnet.model.spec import Form

_NAMES = {
    Family.IP: "/proc/thread-self/net/ip_tables_names",
    Family.IP6: "/proc/thread-self/net/ip6_tables_names",
}
#: The order in which tables come to be: a dump lists the newest first, so that a dump of
#: ours and one made by Istio's init tool list them alike.
_CREATION = ("mangle", "nat", "raw", "filter")


class Legacy:
    """See the module. ``lock_wait`` is in seconds."""

    name = "legacy"
    form = Form.IPTABLES

    def __init__(self, lock_wait: float) -> None:
        self.lock_wait = lock_wait

    def probe(self) -> str:
        """Why it cannot work here; "" where it can."""
        if not os.path.exists(_NAMES[Family.IP]):
            return "this kernel has no legacy tables (CONFIG_IP_NF_IPTABLES_LEGACY)"
        return iptables.missing_tools("legacy")

    def read(self) -> Ruleset:
        """The tables that exist; asking for another would create it."""
        tables = [
            table
            for family in iptables.PREFIX
            if existing_tables(family) & set(iptables.TABLES)
            for table in iptables.save("legacy", family).tables
        ]
        return Ruleset(tuple(tables))

    def holds_own(self, held: Ruleset) -> bool:
        """Whether something of ours is there."""
        return iptables.holds_own(held)

    def may_hold_own(self) -> bool:
        """Whether a chain of ours is there, asked of the library; True where that is not there."""
        for family in iptables.PREFIX:
            tables = sorted(existing_tables(family) & set(iptables.TABLES))
            if tables and _has_own_chain(family, tables):
                return True
        return False

    def plan(self, held: Ruleset, wanted: Ruleset) -> Plan:
        """One step a family that changes."""
        return iptables.plan(self.name, "legacy", held, wanted)

    def remove(self, held: Ruleset) -> Plan:
        """Everything of ours away; tables that came to be stay, empty: the kernel keeps them."""
        return self.plan(held, Ruleset())

    def apply(self, plan: Plan) -> None:
        """Look again under the xtables lock, write each family's tables, read them back."""
        require("CAP_NET_RAW")
        with XtablesLock(self.lock_wait):
            for step in self.plan(self.read(), plan.wanted).steps:
                (family,) = step.families
                _write(step, family)
            left = self.plan(self.read(), plan.wanted)
            if left:
                missing = printable(left.steps[0].text)
                raise ToolFailed(f"legacy: read back, the kernel still lacks: {missing}")


def _has_own_chain(family: Family, tables: list[str]) -> bool:
    from meshnet.backends.libiptc import has_chain

    try:
        return bool(run_child(lambda: has_chain(family, tables, sorted(OWN_CHAINS))))
    except MeshnetError:
        return True


def existing_tables(family: Family) -> frozenset[str]:
    """The legacy tables that this namespace has; none where the kernel has no such thing."""
    try:
        with open(_NAMES[family], encoding="ascii") as f:
            return frozenset(f.read().split())
    except OSError:
        return frozenset()


def _write(step: Step, family: Family) -> None:
    names = [t for t in _CREATION if any(edit.table == t for edit in step.edits)]
    direct = [edit for edit in step.edits if not _needs_restore(edit)]
    if len(direct) == len(step.edits):
        _write_directly(family, names, direct)
        return
    for edit in step.edits:
        if _needs_restore(edit):
            _restore(step.tool, edit)
        else:
            _write_directly(family, names, [edit])


def _needs_restore(edit: TableEdit) -> bool:
    """python-iptables loses the mark of an IPv6 TPROXY: it writes 0x0/0x0."""
    return edit.family is Family.IP6 and any(
        e.rule is not None and e.rule.target is not None and e.rule.target.kind is Kind.TPROXY
        for e in edit.edits
    )


def _write_directly(family: Family, names: list[str], edits: list[TableEdit]) -> None:
    from meshnet.backends.libiptc import write_tables

    run_child(lambda: write_tables(family, names, edits))


def _restore(tool: str, edit: TableEdit) -> None:
    # The lock is ours already; the program is pointed at one that nobody else uses.
    env = {"XTABLES_LOCKFILE": "/dev/null"}
    done = run_tool([tool, "--noflush"], print_edits((edit,), edit.family), env=env)
    iptables.check(done, tool)
