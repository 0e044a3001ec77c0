"""Proving, by connections, that a capture works; and that the proof could have failed.

All probes of a validation are under way at once, so it takes about as long as its slowest
one. What has to be captured, or refused, is waited for as long as the caller says. What has
to be left alone is waited for one second at most: a redirect to a port of the same
namespace happens before connect() returns, so nothing more comes later.
"""

from __future__ import annotations

from meshnet.errors import MeshnetError
from meshnet.host import probe
from meshnet.host.capabilities import held
from meshnet.host.netns import run_child
from meshnet.model.address import show_address
from meshnet.model.frozen import replace
from meshnet.model.intent import Intent
from meshnet.model.intervals import NameSet
from meshnet.model.packet import Family
from meshnet.model.spec import PASSTHROUGH, CaptureSpec, IPv6
from meshnet.ops.cells import FAMILIES, NAMES, Cell, Scene, plan_dns, plan_outbound
from meshnet.ops.inbound_cells import plan_inbound
from meshnet.ops.probing import NEGATIVE, Probed, captor, probe_bare, probe_cells
from meshnet.ops.program import settle
from meshnet.ops.verdicts import FAILED, NOT_TESTED, OK, as_row, family_of, judge, sentence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def validate(intent: Intent, netns: str | None, port: int, timeout: float) -> dict[str, Any]:
    """Probe the capture of ``intent`` in the namespace at ``netns`` (None: this one).

    ``port`` is what a peer dials where every inbound port is captured; a listener of ours
    waits there for the connection that is not. ``timeout`` bounds each probe, in seconds.

    The report is plain data: ``failed``, ``cause`` (one sentence, None unless failed),
    ``counts`` by verdict and ``cells``, the rows in the order of the families. Nothing
    is left behind: no process, no socket, no change of a namespace or an id. Raises
    NotPermitted where the namespace may not be entered.
    """
    spec, scene = _look(intent, netns)
    cells = _routed(plan(spec, scene, port), spec, netns)
    rows = [as_row(cell, seen) for cell, seen in _probe(cells, spec, scene, netns, timeout)]
    rows += [as_row(cell, seen) for cell, seen in probe_bare(spec, _up(spec, scene), timeout)]
    rows.sort(key=lambda row: str(row["family"]))
    failed = [row for row in rows if row["verdict"] == FAILED]
    cause = sentence(failed[0], _likely(failed[0], spec, netns)) if failed else None
    return {
        "failed": bool(failed),
        "cause": cause,
        "counts": {v: sum(r["verdict"] == v for r in rows) for v in (OK, FAILED, NOT_TESTED)},
        "cells": rows,
    }


def _probe(
    cells: list[Cell], spec: CaptureSpec, scene: Scene, netns: str | None, timeout: float
) -> Probed:
    """Each cell with what became of it; one that failed is asked again before it counts.

    nat is asked for the first packet of a conntrack entry only. Where a source port comes
    round again, the entry of an earlier connection decides, made by rules of that time
    (an unanswered SYN stays for two minutes). The second time the port is another one.
    """
    probed = probe_cells(cells, spec, scene, netns, timeout)
    failed = [cell for cell, seen in probed if judge(cell, seen)[0] == FAILED]
    if not failed:
        return probed
    quick = min(timeout, NEGATIVE)
    second = iter(probe_cells(failed, spec, scene, netns, quick, again=True))
    return [next(second) if cell in failed else (cell, seen) for cell, seen in probed]


def _look(intent: Intent, netns: str | None) -> tuple[CaptureSpec, Scene]:
    """The settled spec, and the scene: the target's part of it seen by a child inside."""

    def look() -> tuple[str, list[tuple[str, int, str]]]:
        found = [(f.value, number, link) for f, number, link in probe.own_addresses()]
        return settle(intent).ipv6.value, found

    policy, found = run_child(look, netns=netns)
    spec = intent.spec.with_ipv6(IPv6(policy))
    # The address that we put on lo ourselves is nobody's to dial.
    ours = set(PASSTHROUGH.items())
    addresses = tuple(
        (Family(family), number, link)
        for family, number, link in found
        if (Family(family), show_address(Family(family), number)) not in ours
    )
    uids, gids = probe.reachable_ids()
    scene = Scene(addresses, uids, gids, probe.own_ids(), held())
    return spec, replace(scene, peer=tuple((f, _peer(scene, f, netns)) for f in FAMILIES))


def _peer(scene: Scene, family: Family, netns: str | None) -> int | str:
    """Where this process can dial the target from, or what is missing for that."""
    target = scene.first(family)
    if target is None:
        return f"needs an {NAMES[family]} address that a peer can dial"
    if probe.same_namespace(netns):
        return "needs a peer: run it from the node, with --target"
    source = probe.source_for(family, target[0])
    if source is None:
        return f"needs a peer: no route from here to {show_address(family, target[0])}"
    return source


def plan(spec: CaptureSpec, scene: Scene, port: int) -> list[Cell]:
    """The cells of every family, or the one that says why a family has none. Pure."""
    cells: list[Cell] = []
    for family in FAMILIES:
        lacking = _lacking(spec, scene, family)
        if lacking:
            cells.append(Cell(family, "outbound", "anybody", obstacle=lacking))
            continue
        cells += plan_outbound(spec, scene, family)
        cells += plan_dns(spec, scene, family)
        cells += plan_inbound(spec, scene, family, port)
    return cells


def _lacking(spec: CaptureSpec, scene: Scene, family: Family) -> str:
    if scene.first(family) is None:
        return f"needs an {NAMES[family]} address in this namespace"
    if family is Family.IP6 and spec.ipv6 is IPv6.OFF:
        return "needs IPv6 to be on: this spec makes no promise for it"
    return ""


def _up(spec: CaptureSpec, scene: Scene) -> list[Family]:
    return [f for f in FAMILIES if not _lacking(spec, scene, f)]


def _routed(cells: list[Cell], spec: CaptureSpec, netns: str | None) -> list[Cell]:
    """The cells with what the routes of the target's namespace make of them."""
    asked = [c for c in cells if c.direction in ("outbound", "dns") and not c.obstacle]

    def look() -> list[str | None]:
        return [probe.route_to(cell.family, cell.address, cell.uid) for cell in asked]

    links = iter(run_child(look, netns=netns) if asked else [])
    return [_by_link(c, spec, next(links)) if c in asked else c for c in cells]


def _by_link(cell: Cell, spec: CaptureSpec, link: str | None) -> Cell:
    if link is None:
        # connect() fails before OUTPUT runs (net/ipv4/tcp_ipv4.c, tcp_v4_connect).
        return replace(cell, obstacle=f"no route to {show_address(cell.family, cell.address)}")
    if link == "lo" and cell.direction == "outbound":
        return replace(
            cell, obstacle=f"{show_address(cell.family, cell.address)} is routed over lo"
        )
    if link in NameSet.of(*spec.interfaces_excluded):
        left = type(cell.expect).LEFT
        return replace(cell, expect=left, by=0, why=f"interface {link} is excluded")
    return cell


def _likely(row: dict[str, Any], spec: CaptureSpec, netns: str | None) -> str:
    """The likely reason of a failure, by what rules are there."""
    if row["direction"] == "control":
        return "the probe itself is wrong: believe none of the other rows"
    try:
        ports: dict[str, list[int]] = run_child(lambda: _redirects(family_of(row)), netns=netns)
    except MeshnetError as e:
        return f"the rules could not be read: {e.message}"
    if not ports:
        return "no backend holds rules of ours in this namespace"
    (name, found), *_ = ports.items()
    wanted = captor(row["direction"], spec)
    if row["expected"].startswith("captured") and wanted not in found:
        said = ", ".join(map(str, found)) or "no port"
        return f"our rules ({name}) redirect {row['family']} to {said}, not to {wanted}"
    return f"our rules ({name}) are there: a foreign one decides first, or they mean another spec"


def _redirects(family: Family) -> dict[str, list[int]]:
    """The ports that rules of ours hand ``family`` to, by the backend that holds them."""
    from meshnet.backends import load_backend
    from meshnet.compile.ownership import own_part
    from meshnet.model.spec import Form
    from meshnet.ops.choose import survey

    seen = survey(1.0)
    found = {}
    for name in seen.ours:
        iptables = load_backend(name).form is Form.IPTABLES
        held = own_part(seen.held[name]) if iptables else seen.held[name]
        ports = {
            rule.target.port
            for table, _, rule in held.rules()
            if rule.target is not None
            and rule.target.port
            and table.family.covers(family)
            and (rule.family or family).covers(family)
        }
        found[name] = sorted(ports)
    return found
