"""An explanation on a terminal: the packet, the rules that it met, the verdict, and why."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from meshnet.model.explanation import Explanation, Leg, MetRule, Nearest, SameFate, ShownPacket
from meshnet.render.console import safe, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from rich.console import RenderableType
    from rich.table import Table

STYLES = {
    "captured": "bold green",
    "bypassed": "bold cyan",
    "direct": "bold yellow",
    "dropped": "bold red",
    "maybe": "bold magenta",
}
#: What each verdict says, behind its word.
_MEANING = {
    "bypassed": "a rule of ours lets it go",
    "direct": "no rule of ours decides",
    "dropped": "thrown away",
    "maybe": "it hangs on what no dump shows",
}
_HELD = {"yes": "", "no": "dim", "maybe": "magenta"}
_STATES = {"new": "first of its connection"}
_UNKNOWN = {"uid": "--uid", "gid": "--gid", "src": "--src", "sport": "--src ADDR:PORT"}


def show_explanation(
    console: Console, explanation: Explanation, flags: Mapping[str, str] | None = None
) -> None:
    """Print ``explanation``; ``flags`` are meshnet-init's, by the keys of settings."""
    several = len(explanation.legs) > 1
    for number, leg in enumerate(explanation.legs, 1):
        if number > 1:
            console.print()
        if several:
            console.print(Text(f"leg {number} of {len(explanation.legs)}", style="bold underline"))
        for part in _leg(leg, _rules(explanation), flags or {}):
            console.print(part)
    if explanation.end:
        console.print()
        console.print(safe(explanation.end, "bold", 300))
    notes = [f"note: {note}" for note in explanation.notes]
    if notes:
        console.print()
    for note in notes:
        console.print(safe(note, "yellow", 400))
    if explanation.expected and not explanation.met:
        found = explanation.legs[0].verdict
        said = f"expected {explanation.expected}, and it is {found}"
        console.print(Text(said, style="bold red"))


def _rules(explanation: Explanation) -> str:
    held = ", ".join(explanation.backends) or "none"
    return f"{held}   of {explanation.source}"


def _leg(leg: Leg, rules: str, flags: Mapping[str, str]) -> Iterator[RenderableType]:
    facts = _facts()
    facts.add_row(_name("packet"), safe(_packet(leg.packet, leg.hook), limit=300))
    if leg.who:
        facts.add_row(_name("from"), safe(leg.who))
    facts.add_row(_name("route"), safe(leg.way.words or "not known", limit=300))
    facts.add_row(_name("rules"), safe(rules))
    yield facts
    yield Text()
    yield from _met(leg.rules)
    yield Text()
    yield from _verdict(leg, flags)


def _facts() -> Table:
    facts = table("", "~")
    facts.show_header = False
    facts.columns[0].min_width = 13
    return facts


def _name(word: str) -> Text:
    return Text(word, style="bold")


def _packet(packet: ShownPacket, hook: str) -> str:
    """``tcp 10.0.0.2:* -> 93.184.216.34:443   uid 1000   gid 1000   first of its connection``."""
    source = _endpoint(packet.src, packet.sport, packet.dport is not None)
    to = _endpoint(packet.dst, packet.dport, packet.dport is not None)
    said = [f"{packet.proto} {source} -> {to}"]
    if hook == "prerouting":
        said.append(f"in by {packet.iif}")
    else:
        for name, value in (("uid", packet.uid), ("gid", packet.gid)):
            if name in packet.unknown:
                said.append(f"{name} not told")
            elif value is not None:
                said.append(f"{name} {value}")
        if packet.uid is None and "uid" not in packet.unknown:
            said.append("no socket")
    said += [f"mark {packet.mark}"] if packet.mark else []
    said.append(_STATES.get(packet.state, f"connection {packet.state}"))
    return "   ".join(said)


def _endpoint(address: str, port: int | None, ported: bool) -> str:
    shown = address or "*"
    if not ported:
        return shown
    shown = f"[{shown}]" if ":" in shown else shown
    return f"{shown}:{'*' if port is None else port}"


def _met(rules: tuple[MetRule, ...]) -> Iterator[RenderableType]:
    """One table for all rules, with a line where a hook or a table begins."""
    if not rules:
        yield Text("no rule is asked about such a packet", style="dim")
        return
    before: tuple[str, ...] = ()
    tables: list[tuple[tuple[str, ...], Table]] = []
    rows = _rows()
    for row in rules:
        where = (row.hook, str(row.priority), row.backend, row.family, row.table)
        if where != before:
            before = where
            rows = _rows()
            tables.append((where, rows))
        _row(rows, row)
    for (hook, priority, *names), filled in tables:
        title = safe(f"{hook} {priority}: {' '.join(names)}", "bold")
        yield title
        yield filled


def _rows() -> Table:
    """An empty table of rules: every one as wide, so that they stand below each other."""
    rows = table("CHAIN", "#", "~RULE", "HELD", "~WHY", right=("#",))
    rows.show_header = False
    rows.expand = True
    for at, width in ((0, 22), (1, 5), (3, 5)):
        rows.columns[at].min_width = width
    rows.columns[2].ratio, rows.columns[4].ratio = 6, 5
    return rows


def _row(rows: Table, row: MetRule) -> None:
    style = _HELD[row.held]
    number = "" if row.kind == "policy" else str(row.first)
    text = row.text
    if row.kind == "run":
        number = f"{row.first}-{row.last}"
        text = f"{row.last - row.first + 1:,} rules"
    chain = safe(row.chain, "" if row.ours else "dim", 29 - 2 * min(row.depth, 3) - 2)
    rows.add_row(
        Text.assemble("  " * (min(row.depth, 3) + 1), chain),
        Text(number, style=style),
        safe(text, style, 300),
        Text(row.held, style=STYLES["captured"] if row.held == "yes" else style),
        safe(row.note, style, 400),
    )


def _verdict(leg: Leg, flags: Mapping[str, str]) -> Iterator[RenderableType]:
    facts = _facts()
    verdict = Text(leg.verdict.upper(), style=STYLES[leg.verdict])
    facts.add_row(verdict, Text.assemble(*_parted(_meaning(leg))))
    if leg.leaves:
        facts.add_row("", safe(leg.leaves, limit=300))
    for number, fate in enumerate(leg.fates):
        by = f" by :{fate.port}" if fate.port else ""
        rule = f"   {fate.rule}" if fate.rule else ""
        facts.add_row(_name("either" if number == 0 else "or"), safe(f"{fate.verdict}{by}{rule}"))
    for name in leg.undecided:
        facts.add_row(_name("undecided"), safe(_undecided(name), "magenta", 300))
    if leg.verdict != "maybe":
        facts.add_row(_name("because"), safe(_because(leg, flags), limit=300))
    for words in _class(leg.same_fate):
        facts.add_row(*words)
    if leg.nearest is not None:
        for words in _nearest(leg.nearest):
            facts.add_row(*words)
    elif leg.verdict not in ("captured", "maybe"):
        facts.add_row(_name("nearest"), Text("no small change has it captured", style="dim"))
    for name in leg.unmodelled:
        said = f"not modelled, and without effect here: {name}"
        facts.add_row(_name("beside"), safe(said, "dim", 300))
    yield facts


def _meaning(leg: Leg) -> tuple[str, str]:
    if leg.verdict == "captured":
        return (f"by :{leg.port}", leg.rule)
    if leg.undecided and all(name != _undecided(name) for name in leg.undecided):
        return ("it hangs on what was not told", "")
    if leg.verdict == "dropped" and leg.leaves != "its sender is not told":
        return ("refused", leg.rule)
    return (_MEANING[leg.verdict], leg.rule)


def _parted(parts: tuple[str, str]) -> list[Text]:
    first, second = parts
    found = [safe(first)]
    if second:
        found += [Text("   "), safe(second, "dim")]
    return found


def _undecided(name: str) -> str:
    """What is undecided, with the option that would decide it."""
    for label, option in _UNKNOWN.items():
        if name.endswith(f": {label} is not known"):
            return f"{name}; tell it by {option}"
    return name


def _because(leg: Leg, flags: Mapping[str, str]) -> str:
    because = leg.because
    return because.words + _setting(because.setting, flags)


def _setting(key: str, flags: Mapping[str, str]) -> str:
    if key in ("", "profile"):
        return ""
    flag = flags.get(key, "")
    return f"   [{key}{f', {flag}' if flag else ''}]"


def _class(found: SameFate) -> Iterable[tuple[Text, Text]]:
    if not found.whole:
        yield _name("same fate"), Text("not told: too much is undecided", style="dim")
        return
    conditions = "; ".join((found.family, *(c.words for c in found.conditions)))
    yield _name("same fate"), safe(conditions, limit=600)
    if found.free:
        yield Text(""), safe(f"whatever {', '.join(found.free)}", "dim", 300)


def _nearest(nearest: Nearest) -> Iterable[tuple[Text, Text]]:
    name = "nearest"
    if nearest.advice:
        said = f"captured, if you {nearest.advice}" if nearest.setting else ""
        yield _name(name), safe(said or f"captured {nearest.advice}", limit=300)
        name = ""
    if nearest.changes:
        wanted = " and ".join(nearest.changes)
        said = f"captured by :{nearest.port} with {wanted}   {nearest.rule}"
        yield _name(name), safe(said, limit=300)
