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
_SYN = 2
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

    ``verbose`` shows each rule in its backend's own language, why it is there, and policies.
    """

    def __init__(self, console: Console, target: str, verbose: bool = False) -> None:
        self._console = console
        self._target = printable(target)
        self._verbose = verbose
        self._several = self._new = False

    def start(self, start: TraceStart) -> None:
        """How the trace began."""
        self._several = len(start.backends) > 1
        held = ", ".join(start.backends)
        head = Text(printable(start.namespace), style="bold")
        head.append(f"   rules in {held}" if held else "   no rules", style="")
        self._wrapped(head)
        rate = f"at most {start.rate:,} a second" if start.rate else "without a limit"
        said = f"tracing {start.what}, {rate}, by table inet {start.table}"
        self._wrapped(Text(f"{said}: gone with this process", style="dim"))
        if start.switched:
            names = " and ".join(start.switched)
            self._wrapped(Text(f"{names} set to nfnetlink_log, to be put back", style="dim"))
        self._new = start.what.startswith("new ")
        for note in start.notes:
            self._wrapped(Text(printable(note, 400), style="magenta"))

    def note(self, note: TraceNote) -> None:
        """Something that happened beside the packets."""
        self._wrapped(Text(f"-- {printable(note.text, 400)}", style="magenta"))

    def packet(self, packet: TracedPacket) -> None:
        """One packet: who and whither, the rules that it met, what became of it and why."""
        seen = packet.seen
        head = Text(f"{_clock(seen.at)}  #{seen.number}", style="bold")
        head.append(f"  {who(seen)}", style="")
        way = _way(seen)
        if head.cell_len + 3 + len(way) > self._console.width:
            self._wrapped(head)
            self._wrapped(Text(way), _INDENT)
        else:
            self._wrapped(head.append(f"   {way}"))
        self._rules([rule for rule in packet.rules if self._verbose or not rule.policy])
        self._wrapped(self._judgement(packet), _INDENT)
        if packet.agreement is Agreement.DISAGREES:
            self._defect(packet)

    def _judgement(self, packet: TracedPacket) -> Text:
        """``CAPTURED by :15001, agrees with explain: all other TCP goes to the proxy``."""
        word, style = _AGREED[packet.agreement]
        said = Text(fate(packet), style=_STYLES.get(packet.verdict, ""))
        said.append(f", {word}", style=style)
        if packet.agreement is Agreement.DISAGREES:
            said.append(f", which says {packet.predicted}", style=style)
        reasons = [printable(one, 500) for one in (packet.because, packet.reason) if one]
        if reasons:
            said.append(f": {'; '.join(reasons)}", style="")
        if packet.setting not in ("", "profile"):
            said.append(f" [{packet.setting}]", style="dim")
        return said

    def _defect(self, packet: TracedPacket) -> None:
        self._wrapped(Text("what explain expects it to meet:", style="bold red"), _INDENT)
        self._rules([rule for rule in packet.expected if self._verbose or not rule.policy])
        said = "this is a defect of meshnet, not of the pod: please report it with "
        if packet.report:
            report = printable(packet.report, 300)
            said += (
                f"{report}, which has the packet and the rules (addresses are in it: "
                f"meshnet snapshot --from {report}/snapshot-1.json --redact)"
            )
        else:
            said += f"this output and what meshnet snapshot {self._target} writes"
        self._wrapped(Text(said, style="bold red"), _INDENT)

    def _rules(self, rules: Sequence[TracedRule]) -> None:
        wide = max((len(self._where(rule)) for rule in rules), default=0)
        wide = min(wide, _PLACE_WIDE)
        for rule in rules:
            text = printable(rule.source if self._verbose and rule.source else rule.text, 300)
            if rule.why and self._verbose:
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
        """How it ended, in one line; and what was not shown or not put back, each in its own."""
        packets = "1 packet" if end.shown == 1 else f"{end.shown:,} packets"
        fates = f"{end.captured:,} captured, {end.passed:,} not captured, {end.dropped:,} dropped"
        parts = "1 disagreement" if end.disagreed == 1 else f"{end.disagreed:,} disagreements"
        parts += " with explain" + (f", {end.unchecked:,} not compared" if end.unchecked else "")
        self._wrapped(Text(f"{packets}: {fates}; {parts}", style="bold"))
        if not end.matched:
            hint = ": open connections are not seen without --every-packet" if self._new else ""
            self._wrapped(Text(f"no packet matched{hint}"))
        for text in losses(end):
            self._wrapped(Text(text, style="bold magenta"))

    def _wrapped(self, text: Text, indent: str = "") -> None:
        """Print ``text``; what does not fit goes on below, two columns further in."""
        room = self._console.width - len(indent)
        first, *rest = text.wrap(self._console, room, overflow="fold")
        lines = [Text(indent) + first]
        if rest:
            # Only the first line may be as wide as this; what is behind it is wrapped anew.
            below = text[len(first.plain.rstrip()) :]
            below = below[len(below.plain) - len(below.plain.lstrip()) :]
            more = below.wrap(self._console, room - 2, overflow="fold")
            lines += [Text(f"{indent}  ") + line for line in more]
        for line in lines:
            line.rstrip()
            self._console.print(line, soft_wrap=True)


def losses(end: TraceEnd) -> list[str]:
    """What a trace did not show, and what it left behind, a sentence each."""
    found = []
    if end.skipped:
        found.append(f"{end.skipped:,} of {end.matched:,} packets that matched were over the limit "
                     "and not traced (--rate)")  # fmt: skip
    if end.lost:
        found.append(
            f"{end.lost:,} events were lost, more than could be read in time: {end.incomplete:,} "
            f"packets may lack rules, {end.orphans:,} events belong to packets that were not shown"
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
    # What begins a connection is the usual case.
    flags = f" [{_flags(seen.flags)}]" if seen.proto == 6 and seen.flags != _SYN else ""
    return f"{source} > {to} {proto}{flags}   {link}"


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _flags(flags: int) -> str:
    return "".join(letter for bit, letter in enumerate(_FLAGS) if flags >> bit & 1)


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03}"


def fate(packet: TracedPacket) -> str:
    """What became of the packet, as the kernel's trace shows it."""
    if packet.verdict is Verdict.CAPTURED:
        return f"CAPTURED by :{packet.port}"
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
        "what": start.what,
        "rate": start.rate,
        "switched": list(start.switched),
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
        "taken": packet.taken,
        "agreement": packet.agreement.value,
        "reason": packet.reason,
        "because": packet.because,
        "setting": packet.setting,
        "explain": packet.predicted,
        "expected": [_rule(rule) for rule in packet.expected],
        "report": packet.report,
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
