"""What a validation asks about inbound connections: they need a peer outside of the pod."""

from __future__ import annotations

from meshnet.model.address import show_address
from meshnet.model.frozen import replace
from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.packet import TCP, Family
from meshnet.model.spec import CaptureSpec, Profile
from meshnet.ops.cells import ALL_PORTS, PORT, Cell, Expect, Scene, captured, limited, minus, pick


def plan_inbound(spec: CaptureSpec, scene: Scene, family: Family, probe_port: int) -> list[Cell]:
    """A port that is captured, each one that is not, and excluded sources."""
    peer, target = scene.peer_of(family), scene.first(family)
    if isinstance(peer, str) or target is None:
        need = peer if isinstance(peer, str) else "needs an address that a peer can dial"
        return [Cell(family, "inbound", "a peer", obstacle=need)]
    address, link = target
    who = f"peer {show_address(family, peer)}"
    left = Cell(family, "inbound", who, TCP, address, probe_port, Expect.LEFT)
    by = spec.proxy_port if spec.profile is Profile.CLASSIC else spec.inbound_port
    port = _captured_port(spec, probe_port)
    if port is None:
        return [replace(left, why="this spec captures nothing inbound")]
    if link in NameSet.of(*spec.virtual_interfaces):
        need = f"needs a peer that comes by another link: {link} is a virtual machine's"
        return [replace(left, obstacle=need)]
    if link in NameSet.of(*spec.interfaces_excluded):
        return [replace(left, port=port, why=f"interface {link} is excluded")]
    sources = [c for c in spec.in_sources_excluded.of(family) if peer in c.values()]
    if sources:
        return [replace(left, port=port, why=f"source {sources[0]} is excluded")]
    expect, by = captured(spec, family, by)
    cells = [replace(left, port=port, expect=expect, by=by)]
    cells += _exclusions(spec, left)
    cells += [
        replace(left, who=f"a peer in {c}", port=port, obstacle=f"needs a peer in {c}")
        for c in spec.in_sources_excluded.of(family)
    ]
    return cells


def _captured_port(spec: CaptureSpec, probe_port: int) -> int | None:
    if spec.profile is Profile.CLASSIC:
        wanted, taken = ALL_PORTS, [spec.proxy_port]
    else:
        wanted = spec.in_ports.values()
        taken = [spec.proxy_port, spec.inbound_port, spec.tunnel_port]
    ports = minus(wanted, IntervalSet.of(0, *taken), _excluded(spec))
    return pick(ports, probe_port, PORT, 8080)


def _excluded(spec: CaptureSpec) -> IntervalSet:
    # As in Istio, where ports are listed the excluded ones count for nothing.
    return spec.in_ports_excluded.values()


def _exclusions(spec: CaptureSpec, left: Cell) -> list[Cell]:
    if spec.profile is Profile.CLASSIC:
        return []
    ports = [first for first, _ in spec.in_ports_excluded.items]
    cells = limited(left, [replace(left, port=p, why=f"port {p} is excluded") for p in ports])
    # Istio's TPROXY form does not exempt the tunnel, its nat form does; strict does both.
    if spec.profile is Profile.STRICT or not spec.tproxy:
        cells.append(replace(left, port=spec.tunnel_port, why="the tunnel is the proxy's own"))
    return cells
