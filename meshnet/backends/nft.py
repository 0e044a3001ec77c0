"""Backend nft: whole inet tables of ours, replaced in one transaction."""

from __future__ import annotations

from meshnet.backends.base import Plan, Step
from meshnet.compile.ownership import OWN_TABLES
from meshnet.dialects.nft_text import print_deletion, print_table
from meshnet.errors import KernelLacks, NotPermitted, ToolFailed, printable
from meshnet.host.capabilities import unmapped_ids_hint
from meshnet.host.nfnetlink import missing, table_names
from meshnet.host.process import Finished, find_tool, run_tool
from meshnet.model.packet import Family
from meshnet.model.ruleset import Ruleset, Table, same_chain
from meshnet.model.spec import Form


class Nft:
    """See the module."""

    name = "nft"
    form = Form.NFT

    def probe(self) -> str:
        """Why it cannot work here; "" where it can."""
        return missing() if find_tool("nft") else "the program nft is not installed"

    def read(self) -> Ruleset:
        """Our tables, and no others; without any it costs no process."""
        ours = sorted(n for f, n in table_names() if f is Family.INET and n in OWN_TABLES)
        if not ours:
            return Ruleset()
        # nft 1.0.6 cannot list two tables by name in one run.
        what = ["table", "inet", ours[0]] if len(ours) == 1 else ["ruleset", "inet"]
        done = run_tool(["nft", "-j", "list", *what])
        _check(done)
        from meshnet.dialects.nft_json import parse_listing

        return Ruleset(tuple(t for t in parse_listing(done.out).tables if t.name in ours))

    def holds_own(self, held: Ruleset) -> bool:
        """Whether one of our tables is there."""
        return bool(held.tables)

    def may_hold_own(self) -> bool:
        """Whether a table of ours is there, by netlink alone."""
        return any(f is Family.INET and n in OWN_TABLES for f, n in table_names())

    def plan(self, held: Ruleset, wanted: Ruleset) -> Plan:
        """One transaction over all tables and both families, or nothing."""
        if _same(held, wanted):
            return Plan(self.name, (), wanted)
        lines: list[str] = []
        for table in wanted.tables:
            now = held.table(table.family, table.name)
            if _same_table(table, now):
                continue
            lines += print_deletion(table) if now is not None else []
            lines += print_table(table)
        stale = [t for t in held.tables if wanted.table(t.family, t.name) is None]
        lines += [line for table in stale for line in print_deletion(table)]
        text = "".join(f"{line}\n" for line in lines)
        return Plan(self.name, (Step("nft", text, (Family.IP, Family.IP6)),), wanted)

    def remove(self, held: Ruleset) -> Plan:
        """Our tables away."""
        return self.plan(held, Ruleset())

    def apply(self, plan: Plan) -> None:
        """Send each transaction; the kernel takes the whole of it or nothing."""
        for step in plan.steps:
            _check(run_tool(["nft", "-f", "-"], step.text))


def _same(held: Ruleset, wanted: Ruleset) -> bool:
    return len(held.tables) == len(wanted.tables) and all(
        _same_table(table, held.table(table.family, table.name)) for table in wanted.tables
    )


def _same_table(wanted: Table, held: Table | None) -> bool:
    if held is None or {c.name for c in held.chains} != {c.name for c in wanted.chains}:
        return False
    pairs = ((chain, held.chain(chain.name)) for chain in wanted.chains)
    return all(now is not None and same_chain(chain, now) for chain, now in pairs)


def _check(done: Finished) -> None:
    if done.code == 0:
        return
    words = printable(" ".join(done.err.split()), 300)
    if "Operation not permitted" in words or "Permission denied" in words:
        raise NotPermitted("needs CAP_NET_ADMIN in this network namespace", f"nft: {words}")
    for sign in ("No such file or directory", "not supported", "JSON support not compiled"):
        if sign in words:
            raise KernelLacks(
                f"nft: this kernel or this nft lacks something: {words}",
                "another --backend may work",
            )
    raise ToolFailed(f"nft refused: {words}", unmapped_ids_hint(words))
