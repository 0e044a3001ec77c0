"""A snapshot in one line, for ``inspect all``."""

from __future__ import annotations

from meshnet.errors import MeshnetError
from meshnet.model.node import NodeLine
from meshnet.model.snapshot import Snapshot
from meshnet.reason.inspection import judge


def line_of(snapshot: Snapshot) -> NodeLine:
    """The line of a namespace that could be read; raises ParseError where a dump cannot be."""
    judged = judge(snapshot)
    ports: dict[str, list[int]] = {"inbound": [], "outbound": []}
    for line in judged.capture:
        if line.direction in ports:
            ports[line.direction] += line.ports
    return NodeLine(
        name=snapshot.namespace.name,
        inode=snapshot.namespace.inode,
        capturing=judged.capturing,
        inbound=tuple(sorted(set(ports["inbound"]))),
        outbound=tuple(sorted(set(ports["outbound"]))),
        backends=judged.backends,
        proxy=judged.proxy.name,
        findings=judged.findings,
    )


def failed_line(name: str, inode: int, error: MeshnetError) -> NodeLine:
    """The line of a namespace that could not be read, with the reason."""
    return NodeLine(name, inode, error=error.message, exit_code=error.exit_code)
