"""In which order the base chains of all tables are asked at one hook.

A chain of nat does not stand at its own priority. The kernel has one dispatcher for all of
them, at -100 (destinations: prerouting, output) and at 100 (sources: postrouting, input),
and asks them there in the order of their priorities (net/netfilter/nf_nat_core.c).
"""

from __future__ import annotations

from meshnet.errors import ParseError, printable
from meshnet.model.packet import Family
from meshnet.reason.lines import NATIVE, Code, TableCode

#: include/uapi/linux/netfilter_ipv4.h; nat's is the dispatcher's.
PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
CONNTRACK = -200
#: Where the translation of destinations is set up; the other hooks translate sources.
DESTINATION = ("prerouting", "output")


class Stage:
    """One thing that is asked at a hook: a chain, connection tracking, or all of nat.

    ``series`` and ``rank`` tell the order of chains of one table and priority: the one that was
    registered last runs first, and a dump has them in the order of registration.
    """

    __slots__ = ("code", "kind", "name", "nat", "priority", "rank", "series")

    def __init__(self, kind: str, name: str, priority: int) -> None:
        self.kind = kind
        self.name = name
        self.priority = priority
        self.code: Code | None = None
        self.nat: tuple[Group, ...] = ()
        self.series: object = self
        self.rank = 0


#: Stages of one priority: nothing but their series tells their order.
Group = tuple[Stage, ...]


def order(tables: list[TableCode], family: Family, hook: str) -> tuple[Group, ...]:
    """The stages of ``hook`` for packets of ``family`` (ip or ip6), first group first.

    Chains without rules that accept are left out. Raises ParseError for an iptables table
    that the kernel does not have.
    """
    chains: list[Stage] = []
    nat: list[Stage] = []
    for table in tables:
        if not table.table.family.covers(family):
            continue
        for rank, code in enumerate(table.codes.values()):
            if code.chain.hook != hook or not (code.lines or code.chain.policy == "drop"):
                continue
            stage = Stage("chain", code.name, _place_chain(table, code, hook))
            stage.code, stage.series, stage.rank = code, table, rank
            (nat if code.kind == "nat" else chains).append(stage)
    if hook in DESTINATION:
        chains.append(Stage("conntrack", "connection tracking", CONNTRACK))
    if nat:
        dispatcher = Stage("nat", "address translation", _nat_priority(hook))
        dispatcher.nat = _grouped(nat)
        chains.append(dispatcher)
    return _grouped(chains)


def _nat_priority(hook: str) -> int:
    return -100 if hook in DESTINATION else 100


def _place_chain(table: TableCode, code: Code, hook: str) -> int:
    """The priority of a base chain; iptables' chains get theirs, and their kind, from the table."""
    if table.backend == NATIVE:
        return code.priority
    name = table.table.name
    if name == "nat":
        code.kind = "nat"
        return _nat_priority(hook)
    if name not in PRIORITIES:
        raise ParseError(f"{code.name}: the kernel has no table {printable(name)}")
    code.kind = "route" if name == "mangle" and hook == "output" else "filter"
    return PRIORITIES[name]


def _grouped(stages: list[Stage]) -> tuple[Group, ...]:
    found: dict[int, list[Stage]] = {}
    for stage in stages:
        found.setdefault(stage.priority, []).append(stage)
    return tuple(tuple(found[priority]) for priority in sorted(found))


def first_of(group: Group) -> tuple[Stage, ...]:
    """The stages of ``group`` that may run first: of each table the chain registered last."""
    last: dict[object, Stage] = {}
    for stage in group:
        if stage.series not in last or last[stage.series].rank < stage.rank:
            last[stage.series] = stage
    return tuple(last.values())
