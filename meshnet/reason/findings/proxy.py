"""Who the sidecar proxy is: whoever takes what the rules redirect."""

from __future__ import annotations

from meshnet.model.proxy import Proxy
from meshnet.model.ruleset import Ruleset
from meshnet.model.snapshot import Process, Snapshot, Socket
from meshnet.reason.findings.reached import captures, standings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Commands of sidecars, as /proc/PID/comm has them: at most fifteen letters.
NAMES = frozenset(
    {
        *("envoy", "pilot-agent", "istio-proxy", "linkerd2-proxy", "linkerd-proxy"),
        *("kuma-dp", "consul-dataplan"),
    }
)
#: Istio's outbound and inbound, Linkerd's.
USUAL_PORTS = frozenset({15001, 15006, 4140, 4143})
#: The UID that Istio reserves for its proxy.
USUAL_UID = 1337


def proxy_of(snapshot: Snapshot, rulesets: Mapping[str, Ruleset]) -> Proxy:
    """The proxy of the namespace; one without pids where nobody was seen.

    It is who listens on the ports that rules of ours redirect to (rules of anybody where
    none are ours), whether or not a packet can get to these rules. Where nobody listens
    there, or no rule redirects, it is who has a sidecar's name, or the UID 1337 and one of
    the usual ports, and listens at all.
    """
    ports = redirect_ports(rulesets)
    listening = [s for s in snapshot.sockets if listens(s)]
    at_ports = [s for s in listening if s.lport in ports]
    if at_ports:
        return _of(snapshot, ports, listening, [pid for s in at_ports for pid in s.pids], False)
    by_pid: dict[int, set[int]] = {}
    for socket in listening:
        for pid in socket.pids:
            by_pid.setdefault(pid, set()).add(socket.lport)
    likely = [p.pid for p in snapshot.processes if p.pid in by_pid and _usual(p, by_pid[p.pid])]
    return _of(snapshot, ports, listening, likely, True)


def redirect_ports(rulesets: Mapping[str, Ruleset]) -> frozenset[int]:
    """The ports that rules of ours hand connections to; anybody's where none are ours."""
    ours: set[int] = set()
    others: set[int] = set()
    for standing in standings(rulesets):
        for position, rule in enumerate(standing.chain.rules):
            if captures(rule) and rule.target is not None and rule.target.port:
                (ours if standing.owns(position) else others).add(rule.target.port)
    return frozenset(ours or others)


def listens(socket: Socket) -> bool:
    """Whether a socket takes what strangers send: a TCP listener, an unconnected UDP socket."""
    if socket.proto == "tcp":
        return socket.state == "listen"
    return socket.proto == "udp" and socket.lport > 0 and socket.rport == 0


def is_sidecar_name(command: str) -> bool:
    """Whether a command is a sidecar's by its name alone."""
    return command in NAMES


def _usual(process: Process, ports: set[int]) -> bool:
    if is_sidecar_name(process.command):
        return True
    return process.uid == USUAL_UID and bool(ports & USUAL_PORTS)


def _of(
    snapshot: Snapshot,
    ports: frozenset[int],
    listening: list[Socket],
    first: list[int],
    by_name: bool,
) -> Proxy:
    pids = family_of(snapshot.processes, first)
    holds = tuple(s for s in listening if not pids.isdisjoint(s.pids))
    known = {process.pid: process for process in snapshot.processes}
    leader = next((known[pid] for pid in sorted(first) if pid in known), None)
    return Proxy(
        tuple(sorted(pids)),
        leader.uid if leader else -1,
        leader.gid if leader else -1,
        leader.command if leader else "",
        tuple(sorted(ports)),
        holds,
        by_name and bool(pids),
    )


def family_of(processes: Iterable[Process], first: Iterable[int]) -> frozenset[int]:
    """``first``, with their ancestors and descendants as long as the UID stays the same."""
    known = {process.pid: process for process in processes}
    children: dict[int, list[Process]] = {}
    for process in known.values():
        children.setdefault(process.parent, []).append(process)
    found = set(first)
    for pid in tuple(found):
        if pid in known:
            found |= _ancestors(known[pid], known)
            found |= _descendants(known[pid], children)
    return frozenset(found)


def _ancestors(process: Process, known: Mapping[int, Process]) -> set[int]:
    found: set[int] = set()
    above = known.get(process.parent)
    # A file may hold parents that go round.
    while above is not None and above.uid == process.uid and above.pid not in found:
        found.add(above.pid)
        above = known.get(above.parent)
    return found


def _descendants(process: Process, children: Mapping[int, list[Process]]) -> set[int]:
    found: set[int] = set()
    left = [process]
    while left:
        for child in children.get(left.pop().pid, ()):
            if child.uid == process.uid and child.pid not in found:
                found.add(child.pid)
                left.append(child)
    return found
