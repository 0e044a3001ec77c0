"""An inspection in one line, for ``inspect all``."""

from __future__ import annotations

from meshnet.model.inspection import Inspection
from meshnet.model.node import NodeLine


def line_of(inspection: Inspection) -> NodeLine:
    """The line of a namespace that could be read."""
    ports: dict[str, list[int]] = {"inbound": [], "outbound": []}
    for line in inspection.capture:
        if line.direction in ports:
            ports[line.direction] += line.ports
    return NodeLine(
        name=inspection.namespace.name,
        inode=inspection.namespace.inode,
        capturing=inspection.capturing,
        inbound=tuple(sorted(set(ports["inbound"]))),
        outbound=tuple(sorted(set(ports["outbound"]))),
        backends=inspection.backends,
        proxy=inspection.proxy.name,
        findings=inspection.findings,
    )


def failed_line(name: str, inode: int, error: str) -> NodeLine:
    """The line of a namespace that could not be read, with the reason."""
    return NodeLine(name, inode, error=error)
