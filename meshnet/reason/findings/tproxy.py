"""MN160: TPROXY without what it needs beside rules."""

from __future__ import annotations

from meshnet.model.finding import Finding
from meshnet.model.frozen import dataclass
from meshnet.model.packet import Family
from meshnet.model.rule import Kind
from meshnet.model.snapshot import PolicyRoute, Route
from meshnet.reason.findings.listeners import served_as
from meshnet.reason.findings.report import report
from meshnet.reason.findings.scene import PREROUTING, Scene

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAIN = 254
_EVERYWHERE = {Family.IP: "0.0.0.0/0", Family.IP6: "::/0"}
_VERSION = {Family.IP: "IPv4", Family.IP6: "IPv6"}
_IP = {Family.IP: "ip", Family.IP6: "ip -6"}
#: What a policy rule can do that is not looking up a table.
_NO_LOOKUP = frozenset({"goto", "nop", "blackhole", "unreachable", "prohibit"})


@dataclass(frozen=True)
class Handing:
    """What TPROXY rules of one family ask for: the port, and the mark that must route to lo."""

    family: Family
    port: int
    mark: int
    mask: int
    where: str

    def __str__(self) -> str:
        return f"{self.where} hands to :{self.port} with mark {self.mark}"


def unsupported(scene: Scene) -> Iterator[Finding]:
    """MN160: no policy rule, no route, a sysctl that drops, or a socket that cannot take it."""
    lacks: list[str] = []
    handings = _handings(scene)
    for handing in handings:
        if scene.whole("routes"):
            lacks += _routing(scene, handing)
        if handing.family is Family.IP and scene.whole("sysctls"):
            lacks += _sysctls(scene)
        if scene.whole("sockets"):
            lacks += _sockets(scene, handing)
    if lacks:
        said = lacks[0] if len(lacks) == 1 else f"{lacks[0]}, and {len(lacks) - 1} more"
        yield report(
            "MN160",
            f"TPROXY lacks what it needs: {said}",
            [*dict.fromkeys(lacks), *dict.fromkeys(str(handing) for handing in handings)],
        )


def _handings(scene: Scene) -> list[Handing]:
    """Each of ours once; IPv6's only where there is IPv6."""
    found: dict[tuple[Family, int, int], Handing] = {}
    for standing in scene.standings:
        if PREROUTING not in standing.hooks:
            continue
        for position, rule in enumerate(standing.chain.rules):
            target = rule.target
            if target is None or target.kind is not Kind.TPROXY or not standing.owns(position):
                continue
            for family in (Family.IP, Family.IP6):
                asked = rule.family or standing.table.family
                if asked.covers(family) and scene.is_up(family):
                    handing = Handing(family, target.port, target.mark, target.mask, standing.where)
                    found.setdefault((family, target.port, target.mark), handing)
    return list(found.values())


def _routing(scene: Scene, handing: Handing) -> list[str]:
    """The policy rule or the route that is missing; nothing where no mark is set."""
    family, mark = handing.family, handing.mark
    if not mark:
        return []
    asking = [p for p in scene.snapshot.policies if _asks(p, handing)]
    if not asking:
        return [f"no policy rule of {_VERSION[family]} looks up mark {mark} (`{_IP[family]} rule`)"]
    if any(_goes_to_lo(r, p, family) for p in asking for r in scene.snapshot.routes):
        before = [p for p in scene.snapshot.policies if _is_main(p, family)]
        if before and all(p.priority > before[0].priority for p in asking):
            return [f"the policy rule for mark {mark} stands behind the one for table main"]
        return []
    tables = ", ".join(str(p.table) for p in asking)
    return [f"no route `local default dev lo` of {_VERSION[family]} in table {tables}"]


def _asks(policy: PolicyRoute, handing: Handing) -> bool:
    """Whether ``policy`` looks up a table for whatever bears the mark."""
    narrow = policy.source or policy.destination or policy.iif or policy.oif or policy.other
    return (
        policy.family == handing.family.value
        and policy.action not in _NO_LOOKUP
        and policy.mark is not None
        and not policy.inverted
        and not narrow
        and handing.mark & policy.mask == policy.mark & policy.mask
    )


def _is_main(policy: PolicyRoute, family: Family) -> bool:
    return policy.family == family.value and policy.table == MAIN and policy.mark is None


def _goes_to_lo(route: Route, policy: PolicyRoute, family: Family) -> bool:
    return (
        route.family == family.value
        and route.table == policy.table
        and route.kind == "local"
        and route.destination in (_EVERYWHERE[family], "default")
    )


def _sysctls(scene: Scene) -> list[str]:
    """src_valid_mark, where the sender would be looked up by the mark and found to be local.

    net/ipv4/fib_frontend.c: a packet whose source is local is dropped unless accept_local is on.
    """
    values = scene.snapshot.sysctls or {}
    links = [link.name for link in scene.snapshot.links if not link.loopback]
    found = []
    for link in links:
        if _either(values, link, "src_valid_mark") and not _either(values, link, "accept_local"):
            name = "all" if _is_on(values, "all", "src_valid_mark") else link
            found.append(f"net.ipv4.conf.{name}.src_valid_mark is 1: marked packets are dropped")
    return list(dict.fromkeys(found))


def _either(values: dict[str, str], link: str, name: str) -> bool:
    return _is_on(values, "all", name) or _is_on(values, link, name)


def _is_on(values: dict[str, str], link: str, name: str) -> bool:
    # sysctl(8) shows a dot in an interface's name as a slash.
    value = values.get(f"net.ipv4.conf.{link.replace('.', '/')}.{name}", "0")
    return value.strip() not in ("0", "")


def _sockets(scene: Scene, handing: Handing) -> list[str]:
    """The listener, where the kernel said of all there are that they are not transparent."""
    there = [
        s
        for s in scene.listening
        if (s.proto, s.lport) == ("tcp", handing.port) and served_as(s, handing.family) is not None
    ]
    if there and all(s.transparent is False for s in there):
        return [f"the listener on :{handing.port} is not transparent (IP_TRANSPARENT)"]
    return []
