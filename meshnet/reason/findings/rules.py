"""MN101, MN102 and MN103: no rules, rules twice, rules that no packet comes to."""

from __future__ import annotations

from meshnet.model.finding import Finding, Severity
from meshnet.model.packet import Family
from meshnet.model.verdict import Verdict
from meshnet.reason.findings.packets import incoming, outgoing
from meshnet.reason.findings.proxy import USUAL_PORTS
from meshnet.reason.findings.reached import HANDS, Standing, captures, may_capture
from meshnet.reason.findings.report import process_in_words, report
from meshnet.reason.findings.scene import FAMILIES, OUTPUT, PREROUTING, Scene
from meshnet.reason.walk import Walker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where a chain of ours is gone to from, by what its name ends in.
_FROM = {"INBOUND": "PREROUTING", "OUTPUT": "OUTPUT"}


def unredirected(scene: Scene) -> Iterator[Finding]:
    """MN101: a proxy, and no redirect that a packet can come to."""
    proxy = scene.proxy
    if not proxy or _redirects(scene):
        return
    ports = sorted({socket.lport for socket in proxy.listens})
    usual = not proxy.by_name or bool(USUAL_PORTS & set(ports))
    evidence = [
        process_in_words(scene.processes[pid]) for pid in proxy.pids if pid in scene.processes
    ]
    evidence.append("it listens on " + ", ".join(f":{port}" for port in ports[:MOST_PORTS]))
    dead = sum(captures(rule) for r in scene.held.values() for _, _, rule in r.rules())
    evidence.append(
        f"{dead} redirect rules are there, and no hook leads to them"
        if dead
        else f"no redirect rule in {', '.join(scene.held) or 'any backend'}"
    )
    yield report(
        "MN101",
        f"{proxy.name} runs (pid {proxy.pids[0]}) and nothing is redirected to it",
        evidence,
        pids=proxy.pids,
        severity=None if usual else Severity.NOTE,
    )


#: How many ports are named.
MOST_PORTS = 8


def twice(scene: Scene) -> Iterator[Finding]:
    """MN102: captures in more than one backend, one of them ours."""
    leading = [s for s in scene.standings if s.leads and s.hooks]
    own = {s.backend: s for s in leading if s.ours or s.positions}
    others = {s.backend: s for s in leading if s.backend not in own and s.chain.hook}
    others = {name: s for name, s in others.items() if own and _captures_anything(scene, name)}
    if not own or len(own) + len(others) < 2:
        return
    evidence = [f"{s.where} leads to a redirect of ours" for s in own.values()]
    evidence += [f"{s.where} leads to a redirect of others" for s in others.values()]
    evidence.append("the kernel runs both, in an order that no dump shows")
    named = [*sorted(own), *(f"{name} (not ours)" for name in sorted(others))]
    yield report("MN102", f"{' and '.join(named)} both redirect", evidence)


def _redirects(scene: Scene) -> bool:
    """Whether any rule that is reached redirects, or may; by DNAT, what nobody names."""
    rules = (rule for s in scene.standings if s.hooks for rule in s.chain.rules)
    if any(may_capture(rule) for rule in rules):
        return True
    return bool(_fates(scene, scene.walker) & {Verdict.CAPTURED, Verdict.MAYBE})


def _captures_anything(scene: Scene, backend: str) -> bool:
    """Whether the rules of one backend alone take what no rule names."""
    walker = scene.walker_of({backend: scene.rulesets[backend]})
    return Verdict.CAPTURED in _fates(scene, walker)


def _fates(scene: Scene, walker: Walker) -> set[Verdict]:
    """What becomes of packets that no rule names, each way."""
    return {
        walker.walk(packet, hook).verdict
        for family in FAMILIES
        for hook, packet in (
            (OUTPUT, outgoing(scene.ground(family))),
            (PREROUTING, incoming(scene.ground(family))),
        )
    }


def unreached(scene: Scene) -> Iterator[Finding]:
    """MN103: chains that select traffic for the proxy and that no hook leads to; dormant tables."""
    for backend, (family, name) in scene.dormant:
        table = scene.held[backend].table(Family(family), name)
        rules = sum(len(chain.rules) for chain in table.chains) if table else 0
        if table is None or not any(captures(r) for c in table.chains for r in c.rules):
            continue
        yield report(
            "MN103",
            f"table {family} {name} ({backend}) is dormant: none of its {rules} rules are run",
            [f"the table {family} {name} has the flag dormant"],
            mend=f"`nft add table {family} {name}` wakes it up.",
        )
    lost = [s for s in scene.standings if _is_lost(s)]
    if lost:
        names = ", ".join(dict.fromkeys(s.chain.name for s in lost))
        yield report("MN103", f"no hook leads to {names}", [_why_lost(s) for s in lost])


def _is_lost(standing: Standing) -> bool:
    """Whether a chain selects traffic for a redirect, and nothing goes to it.

    Chains that only carry a redirect out are made whether they are used or not.
    """
    if standing.hooks or not standing.leads or not standing.root:
        return False
    if standing.ours:
        return standing.chain.name not in HANDS
    return len(standing.chain.rules) > 1


def _why_lost(standing: Standing) -> str:
    name, table = standing.chain.name, standing.table
    ending = name.upper().rpartition("_")[2].rpartition("-")[2]
    base = _FROM.get(ending, "")
    where = f"{standing.backend} {table.family.value} {table.name}"
    if base and not any(c.hook == base.lower() for c in table.chains):
        return (
            f"{where}: there is no chain at the hook {base.lower()}, which {name} was gone to from"
        )
    return f"{where}: no rule goes to {name} ({len(standing.chain.rules)} rules)"
