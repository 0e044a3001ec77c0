"""A trace as it comes: a few lines a packet for people, a line of JSON an event for programs."""

from __future__ import annotations

import textwrap
import time

from rich.text import Text

from meshnet.errors import printable
from meshnet.model.trace import (
    SCHEMA,
    Agreement,
    Sighting,
    TracedPacket,
    TracedRule,
    TraceEnd,
    TraceNote,
    TraceStart,
)
from meshnet.model.verdict import Place, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    Json = dict[str, object]

_PROTOCOLS = {6: "tcp", 17: "udp"}
#: TCP's flags as tcpdump writes them, lowest bit first.
_FLAGS = "FSRP.UEW"
_INDENT = "      "
#: The widest that the places of rules are, before the rules go on below.
_PLACE_WIDE = 36
_STYLES = {
    Verdict.CAPTURED: "green",
    Verdict.BYPASSED: "cyan",
    Verdict.DIRECT: "yellow",
    Verdict.DROPPED: "bold red",
}
_AGREED = {
    Agreement.AGREES: ("agrees with explain", "dim"),
    Agreement.DISAGREES: ("DISAGREES with explain", "bold red"),
    Agreement.UNCHECKED: ("not compared", "magenta"),
}


class TraceWriter:
    """Prints a trace to ``console``. ``target`` is how the user named the namespace.

    ``verbose`` shows each rule in its backend's own language too, and every policy.
    """

    def __init__(self, console: Console, target: str, verbose: bool = False) -> None:
        self._console = console
        self._target = printable(target)
        self._verbose = verbose
        self._several = False

    def start(self, start: TraceStart) -> None:
        """How the trace began."""
        self._several = len(start.backends) > 1
        rate = f"at most {start.rate} packets/s" if start.rate else "every packet"
        held = ", ".join(start.backends) or "no rules"
        self._line(printable(start.namespace), "bold")
        self._wrapped(
            f"tracing by table inet {start.table}, gone with this process; {rate}; {held}"
        )
        for note in start.notes:
            self._wrapped(printable(note, 400), style="magenta")

    def note(self, note: TraceNote) -> None:
        """Something that happened beside the packets."""
        self._wrapped(f"-- {printable(note.text, 400)}", style="magenta")

    def packet(self, packet: TracedPacket) -> None:
        """One packet: who and whither, the rules that it met, what became of it."""
        seen = packet.seen
        head = Text(f"{_clock(seen.at)}  #{seen.number}", style="bold")
        head.append(f"  {who(seen)}  {_way(seen)}", style="")
        self._console.print(head, soft_wrap=True)
        self._rules([rule for rule in packet.rules if self._verbose or not rule.policy])
        word, style = _AGREED[packet.agreement]
        verdict = Text(_INDENT + fate(packet), style=_STYLES.get(packet.verdict, ""))
        verdict.append(f"   {word}", style=style)
        self._console.print(verdict, soft_wrap=True)
        if packet.reason:
            self._wrapped(printable(packet.reason, 500), _INDENT, style)
        if packet.agreement is Agreement.DISAGREES:
            self._defect(packet)

    def _defect(self, packet: TracedPacket) -> None:
        self._wrapped(f"explain says {packet.predicted}, by", _INDENT, "bold red")
        self._rules([rule for rule in packet.expected if self._verbose or not rule.policy])
        self._wrapped(
            "this is a defect of meshnet: please report it with what follows and with "
            f"`meshnet snapshot {self._target} --to FILE`",
            _INDENT,
            "bold red",
        )
        self._wrapped(printable(repr(packet.seen), 4000), _INDENT)

    def _rules(self, rules: Sequence[TracedRule]) -> None:
        wide = max((len(self._where(rule)) for rule in rules), default=0)
        wide = min(wide, _PLACE_WIDE)
        for rule in rules:
            text = printable(rule.source if self._verbose and rule.source else rule.text, 300)
            if rule.why:
                text += f"   ({printable(rule.why)})"
            start = f"{_INDENT}{self._where(rule):{wide}}  "
            lines = textwrap.wrap(text, max(self._console.width - len(start), 30)) or [""]
            self._console.print(Text(start + lines[0]), soft_wrap=True)
            for more in lines[1:]:
                self._console.print(Text(" " * len(start) + more), soft_wrap=True)

    def _where(self, rule: TracedRule) -> str:
        return printable(rule.where) if rule.place is None else self._named(rule.place, rule.policy)

    def _named(self, place: Place, policy: bool) -> str:
        # Families are told by the packet, backends by the head where there is but one.
        name = f"{place.table} {place.chain}" + ("" if policy else f" {place.position}")
        return printable(f"{place.backend} {name}" if self._several else name)

    def end(self, end: TraceEnd) -> None:
        """How it ended, in one line; and what was lost, each in its own."""
        packets = "1 packet" if end.shown == 1 else f"{end.shown:,} packets"
        fates = f"{end.captured:,} captured, {end.passed:,} not captured, {end.dropped:,} dropped"
        agreed = f"{end.disagreed:,} disagreements"
        if end.unchecked:
            agreed += f", {end.unchecked:,} not compared"
        self._wrapped(f"{packets}: {fates}; {agreed}", style="bold")
        for text in losses(end):
            self._wrapped(text, style="bold magenta")

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)

    def _wrapped(self, text: str, indent: str = "", style: str = "") -> None:
        lines = textwrap.wrap(
            text, self._console.width, initial_indent=indent, subsequent_indent=indent + "  ",
            break_on_hyphens=False,
        )  # fmt: skip
        self._line("\n".join(lines), style)


def losses(end: TraceEnd) -> list[str]:
    """What a trace did not show, and what it left behind, a sentence each."""
    found = []
    if end.skipped:
        found.append(f"{end.skipped:,} packets were over the limit and not traced (--rate)")
    if end.lost:
        found.append(
            f"{end.lost:,} events were lost for want of room: {end.incomplete:,} packets may lack "
            f"rules, {end.orphans:,} events belong to packets that were not told"
        )
    if end.left:
        found.append(f"not put back: {printable(end.left, 400)}")
    return found


def who(seen: Sighting) -> str:
    """The process that opened the connection, or what is known of it."""
    ids = "" if seen.uid is None else f"uid {seen.uid}"
    if seen.gid is not None and seen.gid != seen.uid:
        ids += f" gid {seen.gid}"
    if seen.pid:
        return f"{printable(seen.command or '?', 40)}/{seen.pid} {ids}".rstrip()
    if seen.hook == "prerouting":
        return "from outside"
    return f"? {ids}".rstrip()


def _way(seen: Sighting) -> str:
    source, to = _end(seen.src, seen.sport), _end(seen.dst, seen.dport)
    link = f"out {printable(seen.oif)}" if seen.hook == "output" else f"in {printable(seen.iif)}"
    proto = _PROTOCOLS.get(seen.proto, f"proto {seen.proto}")
    flags = f" [{_flags(seen.flags)}]" if seen.proto == 6 else ""
    return f"{source} > {to} {proto}{flags}  {link}"


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _flags(flags: int) -> str:
    return "".join(letter for bit, letter in enumerate(_FLAGS) if flags >> bit & 1)


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03}"


def fate(packet: TracedPacket) -> str:
    """What became of the packet, as the kernel's trace shows it."""
    if packet.verdict is Verdict.CAPTURED:
        return f"CAPTURED by {packet.taken or ':' + str(packet.port)}"
    return packet.verdict.name


# JSON.


def start_document(start: TraceStart) -> Json:
    """The first line."""
    return {
        "schema": SCHEMA,
        "event": "start",
        "namespace": {"name": start.namespace, "inode": start.inode},
        "table": start.table,
        "backends": list(start.backends),
        "rate": start.rate,
        "notes": list(start.notes),
    }


def note_document(note: TraceNote) -> Json:
    """A line about something beside the packets."""
    return {"schema": SCHEMA, "event": note.kind, "text": note.text}


def packet_document(packet: TracedPacket) -> Json:
    """A packet's line."""
    seen = packet.seen
    return {
        "schema": SCHEMA,
        "event": "packet",
        "number": seen.number,
        "at": round(seen.at, 6),
        "hook": seen.hook,
        "family": seen.family,
        "proto": _PROTOCOLS.get(seen.proto, seen.proto),
        "source": {"address": seen.src, "port": seen.sport},
        "destination": {"address": seen.dst, "port": seen.dport},
        "flags": _flags(seen.flags),
        "iif": seen.iif,
        "oif": seen.oif,
        "mark": seen.mark,
        "uid": seen.uid,
        "gid": seen.gid,
        "pid": seen.pid or None,
        "command": seen.command,
        "rules": [_rule(rule) for rule in packet.rules],
        "points": [
            {"where": p.where, "address": p.dst, "port": p.dport, "iif": p.iif, "oif": p.oif}
            for p in seen.points
        ],
        "verdict": packet.verdict.value,
        "port": packet.port,
        "agreement": packet.agreement.value,
        "reason": packet.reason,
        "explain": packet.predicted,
        "expected": [_rule(rule) for rule in packet.expected],
        "lossy": seen.lossy,
    }


def _rule(rule: TracedRule) -> Json:
    place = rule.place
    return {
        "where": rule.where,
        "backend": place.backend if place else "",
        "family": place.family.value if place else "",
        "table": place.table if place else "",
        "chain": place.chain if place else "",
        "position": place.position if place else 0,
        "policy": rule.policy,
        "text": rule.text,
        "source": rule.source,
        "why": rule.why,
        "setting": rule.setting,
        "id": rule.id,
        "ours": rule.ours,
    }


def end_document(end: TraceEnd) -> Json:
    """The last line."""
    counts: Json = {name: getattr(end, name) for name in TraceEnd.__match_args__}
    return {"schema": SCHEMA, "event": "end", **counts}
