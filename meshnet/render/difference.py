"""What two rulesets do differently, on a terminal."""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.text import Text

from meshnet.errors import printable
from meshnet.model.difference import Difference, Divergence, TextChange, Treatment
from meshnet.model.explanation import ShownPacket
from meshnet.render.console import safe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SIGNS = {"-": "red", "+": "green", "~": "yellow"}
_FAMILIES = {"ip": "IPv4", "ip6": "IPv6"}
_HOOKS = {"output": "leaving", "prerouting": "coming in"}
_STYLES = {"captured": "bold green", "bypassed": "bold cyan", "direct": "bold yellow"}
_STYLES |= {"dropped": "bold red"}
#: Beside behaviour, more lines of text than this are counted.
MOST_CHANGES = 20


def show_difference(console: Console, difference: Difference, text_only: bool = False) -> None:
    """Print ``difference``: text first, then behaviour."""
    console.print(safe(f"one    {difference.one}", "bold"))
    console.print(safe(f"other  {difference.other}", "bold"))
    console.print()
    _show_text(console, difference.text, len(difference.text) if text_only else MOST_CHANGES)
    if not text_only:
        console.print()
        _show_behaviour(console, difference)
    show_notes(console, difference.notes, difference.undecided)


def show_notes(console: Console, notes: Iterable[str], undecided: Iterable[str] = ()) -> None:
    """What a reader must be told, behind the rest."""
    said = [f"note: {note}" for note in notes]
    said += [f"undecided offline, taken for any answer: {name}" for name in undecided]
    if said:
        console.print()
    for line in said:
        hanging(console, "", line, "yellow")


def _show_text(console: Console, changes: tuple[TextChange, ...], most: int) -> None:
    if not changes:
        console.print(Text("text       the same, in the same order"))
        return
    counts = [sum(change.sign == sign for change in changes) for sign in "-+~"]
    line = f"text       {counts[0]} only in one, {counts[1]} only in the other, {counts[2]} moved"
    console.print(Text(line, style="bold"))
    place = ""
    for change in changes[:most]:
        if change.place != place:
            place = change.place
            console.print(safe(f"  {place}", "bold"))
        moved = f" (there {change.moved})" if change.sign == "~" else ""
        position = str(change.position or ("head" if change.text.startswith("hook ") else ""))
        head = f"  {change.sign} {position:>4}  "
        hanging(console, head, f"{change.text}{moved}", _SIGNS[change.sign])
    if len(changes) > most:
        rest = len(changes) - most
        console.print(Text(f"  and {rest} more (--text shows all)", style="dim"))


def hanging(console: Console, head: str, text: str, style: str = "") -> None:
    """``head`` and ``text`` behind it; where that is long, further lines stand under the text."""
    room = max(console.width - len(head), 20)
    lines = textwrap.wrap(
        printable(text, 2000), room, break_on_hyphens=False, break_long_words=True
    )
    for number, line in enumerate(lines or [""]):
        start = head if number == 0 else " " * len(head)
        console.print(Text(start + line, style=style))


def _show_behaviour(console: Console, difference: Difference) -> None:
    if difference.same:
        same = "the same for every packet"
        if not difference.whole:
            hanging(console, "behaviour  ", f"{same}, by the rules that could be read", "bold red")
            return
        alike = ", where what is undecided is answered alike" if difference.undecided else ""
        console.print(Text(f"behaviour  {same}, proven{alike}", style="bold green"))
        return
    count = len(difference.classes)
    more = "at least " if difference.more else ""
    classes = "class" if count == 1 else "classes"
    verb = "is" if count == 1 and not difference.more else "are"
    line = f"behaviour  {more}{count} {classes} of packets {verb} treated differently"
    console.print(Text(line, style="bold"))
    for number, divergence in enumerate(difference.classes, 1):
        console.print()
        _show_class(console, number, divergence)


def _show_class(console: Console, number: int, divergence: Divergence) -> None:
    head = class_in_words(divergence.hook, divergence.families, divergence.conditions)
    hanging(console, f"{number:>3}  ", head, "bold")
    for name, treatment in (("one", divergence.one), ("other", divergence.other)):
        _show_treatment(console, name, treatment)
    show_example(console, divergence.packet, divergence.depends, divergence.confirmed)


def class_in_words(hook: str, families: Iterable[str], conditions: Iterable[str]) -> str:
    """``IPv4 leaving: tcp, uid 0, oif not lo``."""
    versions = " and ".join(_FAMILIES[family] for family in families)
    return f"{versions} {_HOOKS[hook]}: {', '.join(conditions) or 'every packet'}"


def _show_treatment(console: Console, name: str, treatment: Treatment) -> None:
    line = Text(f"     {name:<6} ")
    port = f" by :{treatment.port}" if treatment.port else ""
    line.append(f"{treatment.verdict}{port}", style=_STYLES.get(treatment.verdict, ""))
    if treatment.to:
        line.append(f", sent to {printable(treatment.to)}")
    console.print(line)
    for part in reasons(treatment) or ["no rule takes it"]:
        hanging(console, " " * 12, part, "dim")


def reasons(treatment: Treatment) -> list[str]:
    """The rule that decides and why, the rule's own words once."""
    rule = treatment.rule.partition(": ")[2]
    because = treatment.because.removesuffix(f": {rule}") if rule else treatment.because
    return [part for part in (treatment.rule, because) if part]


def show_example(
    console: Console, packet: ShownPacket, depends: Iterable[str], confirmed: bool
) -> None:
    """One packet of a class, and how sure it is."""
    hanging(console, "     packet ", packet_line(packet))
    for name in depends:
        hanging(console, " " * 12, name, "magenta")
    if not confirmed:
        line = "            the walk says otherwise: this is a defect of meshnet, please report it"
        console.print(Text(line, style="bold red"))


def packet_line(packet: ShownPacket) -> str:
    """``tcp 10.244.0.7:40000 -> 203.0.113.77:443  oif eth0, uid 1000, gid 1000``."""
    beside = [
        f"{name} {value}" for name, value in (("iif", packet.iif), ("oif", packet.oif)) if value
    ]
    if packet.uid is not None:
        beside += [f"uid {packet.uid}", f"gid {packet.gid}"]
    elif packet.oif and not packet.iif:
        beside.append("no socket")
    beside += [f"mark {packet.mark:#x}"] if packet.mark else []
    beside += [f"ct {packet.state}"] if packet.state != "new" else []
    ends = [_end(packet.src, packet.sport), _end(packet.dst, packet.dport)]
    return f"{packet.proto} {ends[0]} -> {ends[1]}  {', '.join(beside)}"


def _end(address: str, port: int | None) -> str:
    host = f"[{address}]" if ":" in address and port is not None else address
    return host if port is None else f"{host}:{port}"
