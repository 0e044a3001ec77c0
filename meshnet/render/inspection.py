"""An inspection on a terminal: sentences first, then tables, then what is wrong."""

from __future__ import annotations

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from meshnet.errors import printable
from meshnet.model.inspection import Inspection, ShownChain, ShownProcess, ShownTable
from meshnet.model.snapshot import InterfaceAddress
from meshnet.render.console import safe, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import RenderableType

#: How bad a finding is, as a style.
STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
#: What ``--section`` chooses from, in the order in which it is shown.
SHOWN = ("capture", "processes", "rules", "sockets", "routes", "sysctls", "findings")
#: What is shown where nothing was chosen: who listens is in the processes already.
USUAL = ("capture", "processes", "rules", "routes", "findings")
#: The settings that change what rules do, by the ends of their names: shown with the routes.
_SETTINGS = ("route_localnet", "disable_ipv6", ".ip_forward", "nf_log_all_netns")
_FAMILIES = {"ip": "IPv4", "ip6": "IPv6", "inet": "IPv4 and IPv6"}
_STANDARD = {0: "local", 32766: "main", 32767: "default"}


def show_inspection(
    console: Console, inspection: Inspection, sections: tuple[str, ...], limit: int
) -> None:
    """Print the chosen ``sections``; of each list at most ``limit`` rows, the rest as a count."""
    console.print(_title(inspection))
    views: dict[str, Callable[[Inspection, int], Iterable[RenderableType]]] = {
        "capture": _capture,
        "processes": _processes,
        "rules": _rules,
        "sockets": _sockets,
        "routes": _routes,
        "sysctls": _sysctls,
        "findings": _findings,
    }
    for name in SHOWN:
        if name not in sections:
            continue
        if name != "capture":
            console.print()
        for part in views[name](inspection, limit):
            console.print(part)
    if inspection.findings and "findings" not in sections:
        codes = " ".join(dict.fromkeys(finding.code for finding in inspection.findings))
        console.print(Text(f"\nfindings: {codes} (--section findings)", style="dim"))
    for gap in inspection.gaps:
        line = f"not seen: {gap.section}: {printable(gap.reason, 400)}"
        console.print(Text(line, style="yellow"), soft_wrap=False)


def _title(inspection: Inspection) -> Text:
    space = inspection.namespace
    parts = [safe(space.name, "bold"), Text(f"netns {space.inode}", style="dim")]
    if space.path and not space.name.startswith("netns"):
        parts.append(safe(space.path, "dim"))
    parts.append(safe(f"kernel {inspection.kernel}", "dim"))
    return Text("   ").join(parts)


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2), expand=False)


def _capture(inspection: Inspection, limit: int) -> Iterable[RenderableType]:
    rows = table("", "", "~")
    for line in inspection.capture:
        style = "bold" if line.ports else ""
        sentence = safe(line.sentence, style, 400)
        rows.add_row(line.direction, line.family, sentence)
    rows.show_header = False
    rows.add_row("rules", "", safe(_holders(inspection)))
    rows.add_row("proxy", "", _proxy(inspection))
    yield _indented(rows)


def _holders(inspection: Inspection) -> str:
    counts = []
    for backend in inspection.backends:
        chains = [c for t in inspection.tables if t.backend == backend for c in t.chains]
        ours = sum(rule.ours for chain in chains for rule in chain.rules)
        others = sum(len(chain.rules) for chain in chains) - ours
        counted = [f"{n} {whose}" for n, whose in ((ours, "ours"), (others, "foreign")) if n]
        profile = dict(inspection.profiles).get(backend, "")
        counted += [f"profile {profile}"] if profile else []
        counts.append(f"{backend} ({', '.join(counted) or 'tables without rules'})")
    return ", ".join(counts) or "none in any backend"


def _proxy(inspection: Inspection) -> Text:
    proxy = inspection.proxy
    if not proxy:
        return Text("none seen", style="yellow" if inspection.capturing != "-" else "")
    listens = [word for s in inspection.processes if s.proxy for word in s.listens]
    where = " ".join(dict.fromkeys(listens)) or "nothing"
    pids = ",".join(str(pid) for pid in proxy.pids[:4])
    known = ", known by its name" if proxy.by_name else ""
    words = f"{proxy.name}/{pids}, uid {proxy.uid}, gid {proxy.gid}, listens on {where}{known}"
    return safe(words, limit=400)


def _processes(inspection: Inspection, limit: int) -> Iterable[RenderableType]:
    rows = table(
        "PID", "COMMAND", "CONTAINER", "UID", "GID", "~LISTENS", "", right=("PID", "UID", "GID")
    )
    names = {c.id: c.name or c.id[:12] for c in inspection.namespace.containers}
    for shown in inspection.processes[:limit]:
        rows.add_row(*_process(shown, names))
    yield rows if inspection.processes else Text("no processes")
    yield from _rest(len(inspection.processes), limit, "processes")


def _process(shown: ShownProcess, names: dict[str, str]) -> list[Text]:
    process = shown.process
    name = names.get(process.container, process.container[:12]) or "-"
    style = "bold" if shown.proxy else ""
    return [
        Text(str(process.pid)),
        safe(process.command, style, 24),
        safe(name, limit=24),
        Text(str(process.uid)),
        Text(str(process.gid)),
        safe(" ".join(shown.listens) or "-", limit=400),
        Text(" ".join(shown.codes), style="bold red"),
    ]


def _rules(inspection: Inspection, limit: int) -> Iterable[RenderableType]:
    if not any(chain.rules for t in inspection.tables for chain in t.chains):
        yield Text("no rules in any backend")
        return
    for number, one in enumerate(t for t in inspection.tables if any(c.rules for c in t.chains)):
        if number:
            yield Text()
        yield from rules_of(one, limit)


def rules_of(one: ShownTable, limit: int) -> Iterable[RenderableType]:
    """A table's chains that hold rules, with counters and what each rule means."""
    yield Text.assemble(
        safe(f"{one.backend} {one.family} {one.name}", "bold"),
        Text("   dormant: none of its rules is run" if one.dormant else "", style="yellow"),
    )
    rows = table("CHAIN", "#", "PKTS", "BYTES", "~RULE", "~MEANING", right=("#", "PKTS", "BYTES"))
    rows.columns[4].ratio, rows.columns[5].ratio = 6, 5
    rows.expand = True
    count = sum(len(chain.rules) for chain in one.chains)
    left = limit
    # Where not all can be shown, what is of the capture comes first.
    chains = sorted(one.chains, key=lambda c: not any(r.ours for r in c.rules))
    for chain in one.chains if count <= limit else chains:
        if left and (chain.rules or chain.policy != "accept"):
            _chain_rows(rows, chain, left)
            left -= min(left, len(chain.rules))
    if count > limit:
        rest = Text(f"... and {count - limit:,} more rules (--limit)", style="dim")
        rows.add_row("", "", "", "", rest, "")
    # As wide as the console: by its own width the columns would be divided too narrowly.
    yield Padding(rows, (0, 0, 0, 2))


def _chain_rows(rows: Table, chain: ShownChain, limit: int) -> None:
    """The first ``limit`` rules of a chain, and its policy."""
    for rule in chain.rules[:limit]:
        foreign = f'foreign: "{rule.comment}"' if rule.comment else "foreign"
        rows.add_row(
            safe(chain.name, "bold" if rule.ours else "dim", 29),
            Text(str(rule.number)),
            Text(str(rule.packets)),
            Text(str(rule.bytes), style="dim"),
            safe(rule.text, "" if rule.ours else "dim", 300),
            safe(rule.meaning) if rule.ours else safe(foreign, "dim"),
        )
    if chain.hook and len(chain.rules) <= limit:
        policy = Text(f"policy {chain.policy}", style="dim")
        counts = (Text(str(chain.packets)), Text(str(chain.bytes), style="dim"))
        rows.add_row(safe(chain.name, "dim", 29), "", *counts, policy, "")


def _sockets(inspection: Inspection, limit: int) -> Iterable[RenderableType]:
    rows = table("PROTO", "FAMILY", "~LISTENS ON", "PIDS", "UID", "", right=("UID",))
    for socket in inspection.sockets[:limit]:
        local = f"[{socket.local}]" if ":" in socket.local else socket.local
        where = f"{local}%{socket.link}" if socket.link else local
        notes = ["transparent"] if socket.transparent else []
        both = socket.local == "::" and not socket.only6
        rows.add_row(
            Text(socket.proto),
            Text("IPv4+IPv6" if both else _FAMILIES.get(socket.family, "?")),
            safe(f"{where}:{socket.lport}"),
            safe(" ".join(str(pid) for pid in socket.pids) or "-", limit=40),
            Text(str(socket.uid)),
            Text(", ".join(notes)),
        )
    yield rows
    yield from _rest(len(inspection.sockets), limit, "sockets")


def _routes(inspection: Inspection, limit: int) -> Iterable[RenderableType]:
    rows = table("", "~")
    rows.show_header = False
    rows.add_row("addresses", safe(_addresses(inspection.addresses, limit), limit=2000))
    special = [p for p in inspection.policies if _STANDARD.get(p.priority, "") == ""]
    words = []
    for policy in special[:limit]:
        mark = "" if policy.mark is None else f"mark {policy.mark} "
        other = f" ({', '.join(policy.other)})" if policy.other else ""
        words.append(f"{policy.family} {mark}{policy.action} {policy.table}{other}")
    rows.add_row("policy routes", safe("; ".join(words) or "only the standard ones", limit=2000))
    tables = {policy.table for policy in special}
    shown = [r for r in inspection.routes if r.table in tables or r.destination in _ALL]
    lines = [
        f"{'' if r.kind == 'unicast' else f'{r.kind} '}{r.destination}"
        f"{f' via {r.gateway}' if r.gateway else ''}{f' dev {r.link}' if r.link else ''}"
        f"{'' if r.table == _MAIN else f' table {r.table}'}"
        for r in shown[:limit]
    ]
    rows.add_row("routes", safe("; ".join(lines) or "no default route", limit=2000))
    settings = [
        f"{name}={value}"
        for name, value in sorted(inspection.sysctls.items())
        if name.endswith(_SETTINGS) and (value != "0" or ".conf." not in name or ".all." in name)
    ]
    rows.add_row("settings", safe(" ".join(settings) or "not read", limit=2000))
    yield rows


_ALL = ("0.0.0.0/0", "::/0")
_MAIN = 254


def _addresses(addresses: tuple[InterfaceAddress, ...], limit: int) -> str:
    by_link: dict[str, list[str]] = {}
    for address in addresses[:limit]:
        by_link.setdefault(address.link, []).append(f"{address.address}/{address.length}")
    shown = "; ".join(f"{link} {', '.join(found)}" for link, found in by_link.items())
    rest = len(addresses) - limit
    return (shown or "none") + (f"; and {rest} more" if rest > 0 else "")


def _sysctls(inspection: Inspection, limit: int) -> Iterable[RenderableType]:
    words = [f"{name}={value}" for name, value in sorted(inspection.sysctls.items())]
    rows = table("NAME", "VALUE")
    for word in words[:limit]:
        name, _, value = word.partition("=")
        rows.add_row(safe(name), safe(value))
    yield rows
    yield from _rest(len(words), limit, "settings")


def _findings(inspection: Inspection, limit: int) -> Iterable[RenderableType]:
    if not inspection.findings:
        yield Text("no findings", style="green")
        return
    for finding in inspection.findings[:limit]:
        head = Text.assemble(
            (f"{finding.code} {finding.severity.value}", STYLES[finding.severity.value]),
            "  ",
            safe(finding.summary, limit=400),
        )
        facts = [safe(f"- {line}", limit=400) for line in finding.evidence[:limit]]
        mend = [Text.assemble(("mend: ", "bold"), safe(finding.mend, limit=400))]
        yield Group(head, *(_indented(line) for line in (*facts, *(mend if finding.mend else ()))))
    yield from _rest(len(inspection.findings), limit, "findings")
    first = inspection.findings[0].code
    count = len(inspection.findings)
    plural = "1 finding" if count == 1 else f"{count} findings"
    yield Text(f"{plural}; `meshnet codes {first}` explains one", style="dim")


def _rest(count: int, limit: int, what: str) -> Iterable[RenderableType]:
    if count > limit:
        words = {"processes": "process"}.get(what, what[:-1]) if count == limit + 1 else what
        yield Text(f"... and {count - limit:,} more {words} (--limit)", style="dim")
