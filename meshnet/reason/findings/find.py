"""All findings of a snapshot."""

from __future__ import annotations

from meshnet.errors import ParseError
from meshnet.model.finding import Finding, Severity
from meshnet.model.frozen import dataclass
from meshnet.model.ruleset import Ruleset
from meshnet.model.snapshot import Snapshot
from meshnet.reason.findings import (
    connections,
    drifted,
    foreign,
    listeners,
    owners,
    reach,
    rules,
    tproxy,
)
from meshnet.reason.findings.scene import Scene

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_RANK = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


@dataclass(frozen=True)
class Check:
    """A question, and the sections that it reads.

    ``needs`` must have been asked for; of ``whole`` nothing may be missing either, because
    the absence of something there is what is reported.
    """

    ask: Callable[[Scene], Iterable[Finding]]
    needs: tuple[str, ...]
    whole: tuple[str, ...] = ()


#: Every check; a snapshot without what it reads is not blamed for it.
CHECKS = (
    Check(rules.unredirected, ("processes", "sockets"), ("rules",)),
    Check(rules.twice, ("rules",)),
    Check(rules.unreached, ("rules",)),
    Check(foreign.overruling, ("rules",)),
    Check(drifted.moved, ("rules",)),
    Check(drifted.changed, ("rules",)),
    Check(owners.impostors, ("rules", "processes", "sockets")),
    Check(owners.loops, ("rules", "processes", "sockets")),
    Check(reach.ipv6, ("routes",), ("rules",)),
    Check(reach.quic, ("routes",), ("rules",)),
    Check(connections.older, ("rules", "sockets", "connections")),
    Check(listeners.deaf_ports, ("rules",), ("sockets",)),
    Check(tproxy.unsupported, ("rules",)),
)


def find(snapshot: Snapshot, rulesets: Mapping[str, Ruleset]) -> tuple[Finding, ...]:
    """What is wrong, most severe first, then by code.

    ``rulesets`` are the snapshot's dumps as read, by backend. Nothing is reported that a
    section which was not collected, or not wholly, leaves open.
    """
    scene = Scene(snapshot, rulesets)
    found = [
        finding
        for check in CHECKS
        if scene.has(*check.needs) and scene.whole(*check.whole)
        for finding in _ask(check, scene)
    ]
    return tuple(sorted(found, key=lambda f: (_RANK[f.severity], f.code, f.summary)))


def _ask(check: Check, scene: Scene) -> tuple[Finding, ...]:
    """What one check finds; nothing where the rules are such as no kernel can hold.

    A file can hold chains that go round; whoever walks rules for its own sake says so.
    """
    try:
        return tuple(check.ask(scene))
    except ParseError:
        return ()
