"""One view of a namespace: what is captured, by which rules, for whom, and what is wrong."""

from __future__ import annotations

from meshnet.compile.ownership import OWN_CHAINS, OWN_TABLES, owned_rules
from meshnet.dialects import iptables_rule, nft_text
from meshnet.dialects.dumps import rulesets
from meshnet.model.inspection import (
    SCHEMA,
    Inspection,
    ShownChain,
    ShownProcess,
    ShownRule,
    ShownTable,
)
from meshnet.model.packet import Family
from meshnet.model.rule import Rule
from meshnet.model.ruleset import Chain, Ruleset, Table
from meshnet.model.spec import Form
from meshnet.reason.capture import describe
from meshnet.reason.drift import drift
from meshnet.reason.findings import find
from meshnet.reason.findings.proxy import proxy_of
from meshnet.reason.words import rule_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshnet.model.finding import Finding
    from meshnet.model.proxy import Proxy
    from meshnet.model.snapshot import Snapshot, Socket

    Place = tuple[Family, str, str, int]

#: Findings that say that something passes the proxy by.
_LEAKS = frozenset({"MN110", "MN120", "MN130", "MN131", "MN140"})


def examine(snapshot: Snapshot) -> Inspection:
    """Everything that ``inspect`` shows of ``snapshot``.

    Raises ParseError where a dump in it cannot be read.
    """
    held = rulesets(snapshot)
    proxy = proxy_of(snapshot, held)
    findings = find(snapshot, held)
    capture = describe(held)
    return Inspection(
        schema=SCHEMA,
        namespace=snapshot.namespace,
        kernel=snapshot.kernel,
        taken=snapshot.taken,
        capturing=_capturing(held, proxy, findings),
        capture=capture,
        backends=tuple(name for name, ruleset in held.items() if ruleset.tables),
        proxy=proxy,
        findings=findings,
        processes=shown_processes(snapshot, proxy, findings),
        tables=shown_tables(held),
        sockets=tuple(s for s in snapshot.sockets if is_listening(s)),
        links=snapshot.links,
        addresses=snapshot.addresses,
        routes=snapshot.routes,
        policies=snapshot.policies,
        sysctls=snapshot.sysctls or {},
        gaps=snapshot.gaps,
    )


def _capturing(held: Mapping[str, Ruleset], proxy: Proxy, findings: tuple[Finding, ...]) -> str:
    codes = {finding.code for finding in findings}
    if "MN101" in codes:
        return "none"
    if not any(_is_ours(t, c) for r in held.values() for t in r.tables for c in t.chains):
        return "-"
    if codes & _LEAKS:
        return "leaking"
    broken = any(finding.severity.value == "error" for finding in findings)
    return "partial" if broken or not proxy else "full"


def _is_ours(table: Table, chain: Chain) -> bool:
    return chain.name in OWN_CHAINS or (table.family is Family.INET and table.name in OWN_TABLES)


def shown_tables(held: Mapping[str, Ruleset]) -> tuple[ShownTable, ...]:
    """Every table of every backend, with what each rule means."""
    shown = []
    for backend, ruleset in held.items():
        form = Form.NFT if backend == "nft" else Form.IPTABLES
        found = drift(ruleset, form)
        explained: Mapping[Place, Rule] = {} if found is None else found.explained
        owned = owned_rules(ruleset) if form is Form.IPTABLES else {}
        for table in ruleset.tables:
            chains = tuple(_chain(table, c, form, explained, owned) for c in table.chains)
            shown.append(ShownTable(backend, table.family.value, table.name, chains))
    return tuple(shown)


def _chain(
    table: Table,
    chain: Chain,
    form: Form,
    explained: Mapping[Place, Rule],
    owned: Mapping[tuple[Family, str, str], frozenset[int]],
) -> ShownChain:
    whole = _is_ours(table, chain)
    positions = owned.get((table.family, table.name, chain.name), frozenset())
    rules = []
    for number, rule in enumerate(chain.rules, 1):
        known = explained.get((table.family, table.name, chain.name, number))
        rules.append(
            ShownRule(
                number=number,
                text=rule_in_words(rule, table.family),
                source=_source(rule, table.family, form),
                packets=rule.packets,
                bytes=rule.bytes,
                meaning=known.why if known else "",
                ours=known is not None or whole or number - 1 in positions,
                id=known.id if known else "",
                setting=known.setting if known else "",
            )
        )
    return ShownChain(
        name=chain.name,
        hook=chain.hook,
        priority=chain.priority,
        policy=chain.policy,
        packets=chain.packets,
        bytes=chain.bytes,
        ours=whole,
        rules=tuple(rules),
    )


def _source(rule: Rule, family: Family, form: Form) -> str:
    """The rule in its backend's own language."""
    if rule.opaque:
        return rule.opaque
    if form is Form.IPTABLES:
        return iptables_rule.print_rule(rule, family)
    return nft_text.print_rule(rule, family)


def shown_processes(
    snapshot: Snapshot, proxy: Proxy, findings: tuple[Finding, ...]
) -> tuple[ShownProcess, ...]:
    """Each process with what it listens on; the proxy's first, then those that findings name."""
    listens: dict[int, list[str]] = {}
    for socket in snapshot.sockets:
        if is_listening(socket):
            for pid in socket.pids:
                listens.setdefault(pid, []).append(endpoint(socket))
    named: dict[int, list[str]] = {}
    for finding in findings:
        for pid in finding.pids:
            named.setdefault(pid, []).append(finding.code)
    proxies = frozenset(proxy.pids)
    shown = [
        ShownProcess(
            process,
            tuple(dict.fromkeys(listens.get(process.pid, ()))),
            process.pid in proxies,
            tuple(dict.fromkeys(named.get(process.pid, ()))),
        )
        for process in snapshot.processes
    ]
    shown.sort(key=lambda s: (not s.proxy, not s.codes, not s.listens, s.process.pid))
    return tuple(shown)


def is_listening(socket: Socket) -> bool:
    """Whether a socket takes what strangers send: a TCP listener, a bound UDP socket."""
    if socket.proto == "tcp":
        return socket.state == "listen"
    return socket.state != "established" and socket.lport > 0


def endpoint(socket: Socket) -> str:
    """What a socket listens on: "*:15001", "[::1]:8080", "127.0.0.1:53/udp"."""
    unspecified = socket.local in ("0.0.0.0", "::")
    host = f"[{socket.local}]" if ":" in socket.local else socket.local
    if unspecified:
        host = "*" if socket.local == "0.0.0.0" or not socket.only6 else "[::]"
    return f"{host}:{socket.lport}" + ("/udp" if socket.proto == "udp" else "")
