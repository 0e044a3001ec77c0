"""One view of a namespace: what is captured, by which rules, for whom, and what is wrong."""

from __future__ import annotations

from meshnet.compile.ownership import OWN_CHAINS, OWN_TABLES, owned_rules
from meshnet.dialects import iptables_rule, nft_text
from meshnet.dialects.dumps import rulesets
from meshnet.model.frozen import dataclass
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
from meshnet.reason.findings.dormant import awake
from meshnet.reason.findings.proxy import proxy_of
from meshnet.reason.words import rule_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meshnet.model.capture import CaptureLine
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
    judged = judge(snapshot)
    return Inspection(
        schema=SCHEMA,
        namespace=snapshot.namespace,
        kernel=snapshot.kernel,
        taken=snapshot.taken,
        capturing=judged.capturing,
        capture=judged.capture,
        backends=judged.backends,
        profiles=judged.profiles,
        proxy=judged.proxy,
        findings=judged.findings,
        processes=shown_processes(snapshot, judged.proxy, judged.findings),
        tables=shown_tables(judged.held, frozenset(judged.asleep)),
        sockets=tuple(s for s in snapshot.sockets if is_listening(s)),
        links=snapshot.links,
        addresses=snapshot.addresses,
        routes=snapshot.routes,
        policies=snapshot.policies,
        sysctls=snapshot.sysctls or {},
        gaps=snapshot.gaps,
    )


@dataclass(frozen=True)
class Judgement:
    """What a snapshot means, without its lists. ``asleep`` are its dormant tables."""

    held: dict[str, Ruleset]
    asleep: tuple[tuple[str, tuple[str, str]], ...]
    proxy: Proxy
    findings: tuple[Finding, ...]
    capture: tuple[CaptureLine, ...]
    capturing: str
    backends: tuple[str, ...]
    profiles: tuple[tuple[str, str], ...]


def judge(snapshot: Snapshot) -> Judgement:
    """What ``inspect all`` tells in a line; raises as :func:`examine` does."""
    held = rulesets(snapshot)
    running, asleep = awake(snapshot, held)
    proxy = proxy_of(snapshot, held)
    findings = find(snapshot, held)
    return Judgement(
        held,
        asleep,
        proxy,
        findings,
        describe(running),
        _capturing(held, findings),
        tuple(name for name, ruleset in held.items() if ruleset.tables),
        tuple(_profiles(held)),
    )


def _profiles(held: Mapping[str, Ruleset]) -> Iterator[tuple[str, str]]:
    for backend, ruleset in held.items():
        found = drift(ruleset, _form(backend))
        if found is not None:
            yield backend, found.profile.value


def _form(backend: str) -> Form:
    return Form.NFT if backend == "nft" else Form.IPTABLES


def _capturing(held: Mapping[str, Ruleset], findings: tuple[Finding, ...]) -> str:
    codes = {finding.code for finding in findings if finding.severity.value != "note"}
    if any(finding.code == "MN101" for finding in findings):
        return "none"
    if not any(_is_ours(t, c) for r in held.values() for t in r.tables for c in t.chains):
        return "-"
    if codes & _LEAKS:
        return "leaking"
    return "partial" if codes else "full"


def _is_ours(table: Table, chain: Chain) -> bool:
    return chain.name in OWN_CHAINS or (table.family is Family.INET and table.name in OWN_TABLES)


def shown_tables(
    held: Mapping[str, Ruleset], asleep: frozenset[tuple[str, tuple[str, str]]] = frozenset()
) -> tuple[ShownTable, ...]:
    """Every table of every backend, with what each rule means.

    ``asleep`` are (backend, (family, table)) of those that are dormant.
    """
    shown = []
    for backend, ruleset in held.items():
        form = _form(backend)
        found = drift(ruleset, form)
        explained: Mapping[Place, Rule] = {} if found is None else found.explained
        owned = owned_rules(ruleset) if form is Form.IPTABLES else {}
        for table in ruleset.tables:
            chains = tuple(_chain(table, c, form, explained, owned) for c in table.chains)
            family = table.family.value
            dormant = (backend, (family, table.name)) in asleep
            shown.append(ShownTable(backend, family, table.name, chains, dormant))
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
                comment=rule.comment,
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
    """The rule in its backend's own language; "" where that has no words for it.

    A comment may hold what netlink carries and no tool could be told: a quote, an escape.
    """
    if rule.opaque:
        return rule.opaque
    try:
        if form is Form.IPTABLES:
            return iptables_rule.print_rule(rule, family)
        return nft_text.print_rule(rule, family)
    except ValueError:
        return ""


def shown_processes(
    snapshot: Snapshot, proxy: Proxy, findings: tuple[Finding, ...]
) -> tuple[ShownProcess, ...]:
    """Each process with what it listens on; the proxy's first, then those that findings name."""
    listens: dict[int, list[str]] = {}
    for socket in snapshot.sockets:
        if is_listening(socket):
            for pid in socket.pids:
                listens.setdefault(pid, []).append(socket.endpoint)
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
