"""MN120 and MN121: who bears the proxy's ID and is not it, and a proxy that does not bear it."""

from __future__ import annotations

from collections import Counter

from meshnet.model.finding import Finding, Severity
from meshnet.model.frozen import replace
from meshnet.model.intervals import IntervalSet
from meshnet.model.packet import Field
from meshnet.model.rule import Kind, Rule
from meshnet.model.snapshot import UNMAPPED, Process
from meshnet.model.verdict import Journey, Verdict
from meshnet.reason.findings.proxy import family_of, is_sidecar_name
from meshnet.reason.findings.report import (
    packet_in_words,
    process_in_words,
    report,
    step_in_words,
)
from meshnet.reason.findings.scene import OUTPUT, Captured, Scene

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LETS_PASS = frozenset({Kind.RETURN, Kind.ACCEPT})
_OWNERS = (Field.UID, Field.GID)
#: What a rule that exempts the proxy as such may ask beside the owner.
_BESIDE = frozenset({Field.PROTO})
#: Processes that are named by pid, and packets that are walked for a port, at the most.
MOST_PIDS, MOST_WALKED = 1000, 5


class Ids:
    """The UIDs and GIDs that the rules let pass because they are the proxy's."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        calls = [r for r in rules if _is_self_call(r)]
        # Rules without self-calls (Istio 0.2's, other meshes') exempt nobody but the proxy.
        chosen = calls or [r for r in rules if _exempts_owner(r)]
        self.uids = _owners(chosen, Field.UID)
        self.gids = _owners(chosen, Field.GID)

    def borne_by(self, process: Process) -> list[str]:
        """Which of them ``process`` has, in words; none where its ids are not mapped."""
        found = []
        if process.uid in self.uids and not _unmapped(process.uid, process.host_uid):
            found.append(f"UID {process.uid}")
        if process.gid in self.gids and not _unmapped(process.gid, process.host_gid):
            found.append(f"GID {process.gid}")
        return found


def _unmapped(inside: int, outside: int) -> bool:
    return inside == UNMAPPED and outside != UNMAPPED


def _is_self_call(rule: Rule) -> bool:
    """Whether it is the rule for the proxy calling its own pod: on lo, by owner, to a redirect."""
    fields = {match.field for match in rule.matches if not match.negated}
    return (
        rule.target is not None
        and rule.target.kind is Kind.JUMP
        and Field.OIF in fields
        and not fields.isdisjoint(_OWNERS)
    )


def _exempts_owner(rule: Rule) -> bool:
    """Whether it lets an owner pass whatever the destination."""
    fields = {match.field for match in rule.matches}
    return (
        rule.target is not None
        and rule.target.kind in _LETS_PASS
        and not any(match.negated for match in rule.matches)
        and not fields.isdisjoint(_OWNERS)
        and fields <= _BESIDE | set(_OWNERS)
    )


def _owners(rules: list[Rule], field: Field) -> IntervalSet:
    return IntervalSet.union(
        m.values
        for rule in rules
        for m in rule.matches
        if m.field is field and not m.negated and isinstance(m.values, IntervalSet)
    )


def impostors(scene: Scene) -> Iterator[Finding]:
    """MN120: processes that the rules take for the proxy."""
    outbound = [c for c in scene.captured if c.hook == OUTPUT][: 2 * MOST_WALKED]
    if not outbound or _is_hidden(scene):
        return
    ids = Ids(scene.selecting)
    proxy = frozenset(scene.proxy.pids) | _by_name(scene)
    found: list[tuple[Process, list[str], Journey]] = []
    walked: dict[tuple[int, int], Journey | None] = {}
    for process in scene.snapshot.processes:
        borne = ids.borne_by(process) if process.pid not in proxy else []
        if not borne:
            continue
        owner = (process.uid, process.gid)
        if owner not in walked:
            walked[owner] = _passes(scene, outbound, *owner)
        journey = walked[owner]
        if journey is not None:
            found.append((process, borne, journey))
    if found:
        yield _impostors(scene, found)


def _is_hidden(scene: Scene) -> bool:
    """Whether somebody listens on a redirect port, and nobody can be seen to hold the socket."""
    ports = set(scene.proxy.ports)
    at_ports = [s for s in scene.listening if s.lport in ports]
    return bool(at_ports) and not any(s.pids for s in at_ports)


def _by_name(scene: Scene) -> frozenset[int]:
    """Sidecars by their names, listening or not: one that is starting is no impostor."""
    named = [p.pid for p in scene.snapshot.processes if is_sidecar_name(p.command)]
    return family_of(scene.snapshot.processes, named)


def _passes(scene: Scene, outbound: list[Captured], uid: int, gid: int) -> Journey | None:
    """The way of the first captured packet that would go free if this owner sent it."""
    for captured in outbound:
        packet = replace(captured.packet, uid=uid, gid=gid)
        journey = scene.walker.walk(packet, OUTPUT)
        if journey.verdict in (Verdict.BYPASSED, Verdict.DIRECT):
            return journey
    return None


def _impostors(scene: Scene, found: list[tuple[Process, list[str], Journey]]) -> Finding:
    first, borne, _ = found[0]
    inside = f" in container {first.container}" if first.container else ""
    more = "" if len(found) == 1 else f", and {len(found) - 1} more like it"
    lines = [process_in_words(process) for process, _, _ in found]
    places = dict.fromkeys(f"let pass by {step_in_words(j.decider)}" for _, _, j in found)
    who = "the proxy is " + (
        f"{scene.proxy.name} (pid {scene.proxy.pids[0]})" if scene.proxy else "not running"
    )
    return report(
        "MN120",
        f"{first.command} (pid {first.pid}){inside} has the proxy's {' and '.join(borne)}{more}",
        [*lines[:5], *_rest(lines), *list(places)[:2], who],
        pids=[process.pid for process, _, _ in found[:MOST_PIDS]],
        severity=None if scene.proxy else Severity.WARNING,
    )


def _rest(lines: list[str]) -> list[str]:
    return [f"and {len(lines) - 5} more processes"] if len(lines) > 5 else []


def loops(scene: Scene) -> Iterator[Finding]:
    """MN121: what the proxy sends is handed to a port that the proxy itself listens on."""
    if scene.proxy.by_name:
        return
    asked: Counter[int] = Counter()
    told: set[int] = set()
    for captured in scene.captured:
        port = captured.journey.port
        if captured.hook != OUTPUT or port in told or asked[port] >= MOST_WALKED:
            continue
        asked[port] += 1
        found = _loop(scene, captured)
        if found is not None:
            told.add(port)
            yield found


def _loop(scene: Scene, captured: Captured) -> Finding | None:
    """The loop of one captured packet: no holder of its port may send it without being captured."""
    journey, packet = captured.journey, captured.packet
    holders = [
        scene.processes[pid]
        for socket in scene.proxy.listens
        if socket.lport == journey.port
        for pid in socket.pids
        if pid in scene.processes
    ]
    back: Journey | None = None
    for process in holders:
        sent = replace(packet, uid=process.uid, gid=process.gid)
        back = scene.walker.walk(sent, OUTPUT)
        if back.verdict is not Verdict.CAPTURED or back.port != journey.port:
            return None
    if back is None:
        return None
    first = holders[0]
    return report(
        "MN121",
        f"what {first.command} (pid {first.pid}) sends is redirected to itself, on :{journey.port}",
        [
            *dict.fromkeys(process_in_words(process) for process in holders),
            f"captured: {packet_in_words(replace(packet, uid=first.uid, gid=first.gid))}",
            f"by {step_in_words(back.decider)}",
            _let_pass(Ids(scene.selecting)),
        ],
        pids=[process.pid for process in holders],
    )


def _let_pass(ids: Ids) -> str:
    named = [
        f"{name} {', '.join(str(a) if a == b else f'{a}-{b}' for a, b in values)}"
        for name, values in (("UID", ids.uids), ("GID", ids.gids))
        if values
    ]
    return "the rules let pass " + (" and ".join(named) or "nobody")
