"""MN140: connections that were there before the rules."""

from __future__ import annotations

from meshnet.model.connection import Connection, Path
from meshnet.model.finding import Finding
from meshnet.reason.findings.report import report
from meshnet.reason.findings.scene import Scene

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: What becomes of them, by Connection.fate.
_FATES = {
    "direct": "goes past the proxy for as long as it lives",
    "reset": "will be taken for new by its next packet, handed to the proxy midway, and reset",
    "": "is not captured",
}


def older(scene: Scene) -> Iterator[Finding]:
    """MN140, one for each fate."""
    # The join of connections asks who the proxy is, and so imports this package.
    from meshnet.reason.connections import join

    living = any(s.proto == "tcp" and s.state != "listen" for s in scene.snapshot.sockets)
    if not living or not any(standing.leads for standing in scene.standings):
        return
    by_fate: dict[str, list[Connection]] = {}
    for connection in join(scene.snapshot, scene.rulesets):
        # One that nobody accepted yet has no owner: TPROXY's look like anybody's then.
        owned = any(socket.inode for socket in connection.sockets)
        if connection.path is Path.OLDER and connection.proto == "tcp" and owned:
            by_fate.setdefault(connection.fate, []).append(connection)
    for fate, found in sorted(by_fate.items()):
        yield _older(fate, found)


def _older(fate: str, found: list[Connection]) -> Finding:
    first = found[0]
    words = f"{_by(first)}{first.source} to {first.dialled}"
    more = "" if len(found) == 1 else f" (and {len(found) - 1} more)"
    return report(
        "MN140",
        f"a connection older than the rules{more}, {words}: it {_FATES.get(fate, _FATES[''])}",
        [f"{_by(c)}{c.source} to {c.dialled}: {c.reason}" for c in found],
        pids=[pid for c in found[:100] for pid in c.pids],
    )


def _by(connection: Connection) -> str:
    owner = connection.owner
    return f"{owner.command} (pid {owner.pid}) " if owner and owner.pid else ""
