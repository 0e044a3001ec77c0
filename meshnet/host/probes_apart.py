"""Probes that do the thing itself, in a network namespace of their own (``host/apart.py``)."""

from __future__ import annotations

import os
import struct

from meshnet.errors import MeshnetError, printable
from meshnet.host import nfnetlink, rtnetlink
from meshnet.host.features_netfilter import (
    CHAIN_NAT,
    COMPAT_MODULE,
    COUNTER,
    IP_TABLES,
    NF_TABLES,
    NFNETLINK,
)
from meshnet.host.modules import KernelParts
from meshnet.host.netlink import DUMP, exchange
from meshnet.host.process import Finished, find_tool, run_tool
from meshnet.model.feature import Answer, Feature, Module, degraded, missing, ok, untold
from meshnet.model.packet import Family
from meshnet.model.plumbing import PolicyRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Probe = Callable[[Feature, KernelParts], Answer]

_PATIENCE = 5.0
#: The lock file of the machine is not ours to make: an empty namespace needs none.
_NO_LOCK = {"XTABLES_LOCKFILE": "/dev/null"}
_NETFILTER, _SOCK_DIAG = 12, 4
_TCP_DIAG_BY_FAMILY, _CT_GET = 20, 1 << 8 | 1
_DONE = "was accepted"


def _nf_tables(feature: Feature, parts: KernelParts) -> Answer:
    reason = nfnetlink.missing()
    return missing(reason) if reason else ok("answers over netlink")


def _nft(feature: Feature, parts: KernelParts) -> Answer:
    _, family, chain, rule = feature.probe
    lines = (
        f"add table {family} probe",
        f"delete table {family} probe",
        f"add table {family} probe",
        f"add chain {family} probe c {{ {chain}; }}",
        f"add rule {family} probe c {rule}",
    )
    return _by_nft("\n".join(lines) + "\n", f"the rule `{rule}`")


def _owner_table(feature: Feature, parts: KernelParts) -> Answer:
    return _by_nft("table ip owned {\n flags owner;\n}\n", "a table with `flags owner`")


def _by_nft(text: str, what: str) -> Answer:
    if not find_tool("nft"):
        return untold("the program nft is not installed", "install it (Debian: nftables)")
    done = run_tool(["nft", "-f", "-"], text, timeout=_PATIENCE)
    if done.code and "syntax error" in done.err:
        return untold(f"this nft does not know {what}", "install a newer nftables")
    return _answer(done, what)


def _iptables(feature: Feature, parts: KernelParts) -> Answer:
    _, program, *words = feature.probe
    return _by_iptables(program, words)


def _xt(feature: Feature, parts: KernelParts) -> Answer:
    """By the legacy program, or by iptables-nft where only that can be used without loading."""
    _, table, *words = feature.probe
    by_legacy = (IP_TABLES, Module(f"iptable_{table}", f"IP_NF_{table.upper()}"))
    by_nft = (NFNETLINK, NF_TABLES, COMPAT_MODULE) + ((CHAIN_NAT,) if table == "nat" else ())
    wanting = parts.unsafe(by_legacy)
    legacy = find_tool("iptables-legacy") and not wanting
    if legacy and os.path.exists("/proc/thread-self/net/ip_tables_names"):
        return _by_iptables("iptables-legacy", ["-t", table, *words])
    if find_tool("iptables-nft") and not parts.unsafe(by_nft, (COUNTER,)):
        return _by_iptables("iptables-nft", ["-t", table, *words])
    if wanting:
        return untold(f"trying would load the module {wanting.name}", f"modprobe {wanting.name}")
    return untold("no iptables program is installed", "install it (Debian: iptables)")


def _by_iptables(program: str, words: list[str]) -> Answer:
    if not find_tool(program):
        return untold(f"the program {program} is not installed", "install it (Debian: iptables)")
    # iptables itself runs modprobe where it finds no table; here it runs something harmless.
    argv = [program, "--modprobe=/bin/true", *words]
    done = run_tool(argv, timeout=_PATIENCE, env=_NO_LOCK)
    return _answer(done, f"`{program} {' '.join(words)}`")


def _answer(done: Finished, what: str) -> Answer:
    if done.code == 0:
        return ok(f"{what} {_DONE}")
    lines = [line for line in done.err.splitlines() if line.strip()] or ["no word why"]
    words = printable(next((x for x in lines if "rror" in x), lines[0]).strip(), 120)
    words = words.rpartition("Error: ")[2]
    if "ermission denied" in words or "not permitted" in words:
        return untold(f"{what} was refused: {words}")
    return missing(f"{what} was refused: {words}")


def _write(feature: Feature, parts: KernelParts) -> Answer:
    _, path, value = feature.probe
    try:
        with open(f"/proc/sys/{path}", "w", encoding="ascii") as f:
            f.write(value)
    except FileNotFoundError:
        return missing(f"there is no /proc/sys/{path}, or nothing that it could be set to")
    except OSError as e:
        mend = "mount /proc/sys writable" if e.errno == 30 else ""
        return degraded(f"/proc/sys/{path} cannot be written here: {e.strerror}", mend)
    return ok(f"setting {path.replace('/', '.')} {_DONE}")


def _dump(feature: Feature, parts: KernelParts) -> Answer:
    if feature.probe[1] == "sock_diag":
        body = struct.pack("=BBBBI48x", 2, 6, 0, 0, 0xFFFFFFFF)
        exchange(_SOCK_DIAG, _TCP_DIAG_BY_FAMILY, DUMP, body, "sockets")
    else:
        exchange(_NETFILTER, _CT_GET, DUMP, struct.pack("=BBH", 2, 0, 0), "connections")
    return ok("answers over netlink")


def _policy_rule(feature: Feature, parts: KernelParts) -> Answer:
    for family in (Family.IP, Family.IP6):
        try:
            rtnetlink.add_part(PolicyRule(family, 1337, 133))
        except MeshnetError as e:
            return degraded(e.message) if family is Family.IP6 else missing(e.message)
    return ok(f"a rule for a mark {_DONE}")


def _veth(feature: Feature, parts: KernelParts) -> Answer:
    if not find_tool("ip"):
        return untold("the program ip is not installed", "install it (Debian: iproute2)")
    words = ["link", "add", "probe0", "type", "veth", "peer", "name", "probe1"]
    return _answer(run_tool(["ip", *words], timeout=_PATIENCE), "a pair of links")


#: By the first word of a feature's probe.
APART: dict[str, Probe] = {
    "nf_tables": _nf_tables,
    "nft": _nft,
    "owner-table": _owner_table,
    "iptables": _iptables,
    "xt": _xt,
    "write": _write,
    "dump": _dump,
    "policy-rule": _policy_rule,
    "veth": _veth,
}
