"""A finding from its code and what was seen."""

from __future__ import annotations

from meshnet.model.address import show_address
from meshnet.model.codes import BY_CODE
from meshnet.model.finding import Finding, Severity
from meshnet.model.match import PROTO_NAMES
from meshnet.model.packet import Packet
from meshnet.model.snapshot import Process
from meshnet.model.verdict import Step
from meshnet.reason.words import rule_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: More lines of evidence than this are counted and not shown.
MOST_LINES = 8


def report(
    code: str,
    summary: str,
    evidence: Iterable[str],
    *,
    pids: Iterable[int] = (),
    severity: Severity | None = None,
    mend: str = "",
) -> Finding:
    """A finding of ``code``; severity and mend are the catalogue's where none are given."""
    known = BY_CODE[code]
    lines = tuple(dict.fromkeys(evidence))
    if len(lines) > MOST_LINES:
        lines = (*lines[: MOST_LINES - 1], f"and {len(lines) - MOST_LINES + 1} more")
    unique = tuple(dict.fromkeys(pids))
    return Finding(code, severity or known.severity, summary, lines, mend or known.mend, unique)


def process_in_words(process: Process) -> str:
    """``pid 4231 (sh) in container debug: UID 1337, GID 0``."""
    inside = f" in container {process.container}" if process.container else ""
    return f"pid {process.pid} ({process.command}){inside}: UID {process.uid}, GID {process.gid}"


def packet_in_words(packet: Packet) -> str:
    """``TCP 10.9.0.1 to 203.0.113.77 port 443 by UID 1000, GID 1000``."""
    name = PROTO_NAMES.get(packet.proto, f"protocol {packet.proto}").upper()
    source, to = (show_address(packet.family, n) for n in (packet.src, packet.dst))
    port = "" if packet.dport is None else f" port {packet.dport}"
    by = "" if packet.uid is None else f" by UID {packet.uid}, GID {packet.gid}"
    return f"{name} {source} to {to}{port}{by}"


def step_in_words(step: Step | None) -> str:
    """``nft-compat ip nat OUTPUT 1: dst 10.0.0.0/8: return``; "no rule" where there is none."""
    if step is None:
        return "no rule takes it"
    if step.rule is None:
        return f"{step.place}: {step.action}"
    return f"{step.place}: {rule_in_words(step.rule, step.place.family)}"
