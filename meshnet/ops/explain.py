"""Explaining a packet: its route, its rules, the proxy's leg behind it."""

from __future__ import annotations

from meshnet.errors import MeshnetError, UsageError, printable
from meshnet.model.address import read_address, show_address
from meshnet.model.explanation import SCHEMA, Explanation, Leg, Way
from meshnet.model.frozen import dataclass, replace
from meshnet.model.packet import Family, Field, Packet
from meshnet.model.plumbing import PolicyRule
from meshnet.ops.sources import Source
from meshnet.reason.action import LOOPBACK, is_loopback
from meshnet.reason.ask import Question
from meshnet.reason.explanation import Explainer
from meshnet.reason.findings.proxy import proxy_of
from meshnet.reason.proxy_leg import MOST_LEGS, next_question, proxy_ids
from meshnet.reason.routing import Routing
from meshnet.reason.way_out import NoRoute, Undecided, snapshot_way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.proxy import Proxy
    from meshnet.model.snapshot import Snapshot
    from meshnet.model.spec import CaptureSpec

_FAMILIES = {Family.IP: "IPv4", Family.IP6: "IPv6"}


@dataclass(frozen=True)
class Wanted:
    """What to explain beside the packet: the proxy's legs too, each rule, a verdict that is due."""

    follow: bool = False
    every: bool = False
    expected: str = ""
    timeout: float = 20.0


def explain(source: Source, question: Question, wanted: Wanted) -> Explanation:
    """Where the packet of ``question`` goes by the rules of ``source``, and why.

    Raises UsageError where by which interface it leaves is neither told nor known,
    MeshnetError where it has no way at all, ParseError for rules that no kernel can hold.
    """
    return _Desk(source, wanted).explain(question)


class _Desk:
    """One source, made ready to answer."""

    def __init__(self, source: Source, wanted: Wanted) -> None:
        self._source = source
        self._wanted = wanted
        self._notes: dict[str, None] = dict.fromkeys(source.notes)
        snapshot = source.snapshot
        addresses, outward = {}, ""
        if snapshot is not None:
            addresses = Routing(snapshot).primaries(snapshot)
            outward = next((link.name for link in snapshot.links if not link.loopback), "")
        self._explainer = Explainer(source.rulesets, addresses, _marks_route(source), outward)

    def explain(self, question: Question) -> Explanation:
        """The first leg, and those behind it where they are wanted."""
        legs, end = [self._leg(question)], ""
        if self._wanted.follow:
            end = self._follow(question, legs)
        expected = self._wanted.expected
        source = self._source
        return Explanation(
            SCHEMA,
            source.name,
            tuple(self._explainer.rulesets),
            tuple(legs),
            tuple(self._notes),
            end,
            expected,
            not expected or _is(legs[0], expected),
        )

    def _follow(self, question: Question, legs: list[Leg]) -> str:
        """Add the proxy's legs to ``legs``; how the journey ends."""
        spec, proxy = self._spec, self._proxy
        ids = proxy_ids(spec, proxy)
        while legs[-1].verdict == "captured":
            port = legs[-1].port
            if ids is None:
                return f"who listens on :{port} is not known here: its leg is not followed"
            if len(legs) == MOST_LEGS or (len(legs) > 1 and port == legs[-2].port):
                return f"captured by :{port} again: what the proxy sends comes back to it"
            question = next_question(question, port, spec, ids)
            legs.append(self._leg(question, "the proxy"))
        return "" if len(legs) > 1 else "nothing hands it to a proxy: there is no second leg"

    @property
    def _spec(self) -> CaptureSpec | None:
        if self._source.spec is not None:
            return self._source.spec
        return next((found.spec for found in self._explainer.drifts.values()), None)

    @property
    def _proxy(self) -> Proxy | None:
        snapshot = self._source.snapshot
        return None if snapshot is None else proxy_of(snapshot, self._source.rulesets)

    def _leg(self, question: Question, who: str = "") -> Leg:
        _check_links(self._source.snapshot, question)
        way = self._way(question)
        if who and way.origin == "told":
            way = replace(way, words=f"{way.link}   where the proxy sends it")
        packet, unknown = _packet(question, way)
        hook = "prerouting" if question.inbound else "output"
        local = way.local or not question.inbound
        leg = self._explainer.explain(
            packet,
            hook,
            unknown,
            local,
            way,
            who or self._who(question),
            self._wanted.every,
        )
        self._say_more(question, leg)
        return leg

    def _who(self, question: Question) -> str:
        """Who sends such a packet: the processes with that user."""
        snapshot = self._source.snapshot
        if question.inbound:
            return "elsewhere"
        if not question.socket:
            return "the kernel itself"
        if snapshot is None or question.uid is None:
            return ""
        named = [f"{p.command}/{p.pid}" for p in snapshot.processes if p.uid == question.uid]
        more = f" and {len(named) - 2} more" if len(named) > 2 else ""
        return printable(", ".join(named[:2]), 60) + more

    def _say_more(self, question: Question, leg: Leg) -> None:
        """Notes: nobody listens, no rules for this family, ids that nobody told."""
        snapshot, family = self._source.snapshot, question.family
        if not any(
            table.family.covers(family)
            for ruleset in self._source.rulesets.values()
            for table in ruleset.tables
        ):
            self._notes[f"there is no table for {_FAMILIES[family]} here"] = None
        if leg.verdict != "captured" or not leg.port or snapshot is None:
            return
        gaps = {gap.section for gap in snapshot.gaps}
        if "sockets" not in snapshot.sections or "sockets" in gaps:
            return
        if not any(s.lport == leg.port and s.state != "established" for s in snapshot.sockets):
            self._notes[f"nobody listens on :{leg.port}: the connection is refused (MN150)"] = None

    # -- routes -------------------------------------------------------------------------------

    def _way(self, question: Question) -> Way:
        """How the packet goes: the kernel's answer, the snapshot's, or what was told."""
        where = show_address(question.family, question.dst)
        try:
            found = self._look_up(question)
        except NoRoute as e:
            if question.inbound:
                said = f"behind prerouting the kernel has no way for {where}: {e.message}"
                self._notes[f"{said}; unless a rule takes it, it is dropped"] = None
                return Way("assumed", "", "none")
            if not question.oif:
                raise MeshnetError(
                    f"{where}: {e.message}: connect() fails before any rule is asked",
                    "--out IF asks the rules all the same",
                ) from e
            return Way("told", question.oif, f"{question.oif}   as told; {e.message}")
        except Undecided as e:
            return self._assume(question, e.message)
        return self._assume(question, "") if found is None else found

    def _look_up(self, question: Question) -> Way | None:
        target, snapshot = self._source.target, self._source.snapshot
        # The kernel answers about what comes in only for a source.
        if target is not None and (question.src is not None or not question.inbound):
            from meshnet.host.route import Request, kernel_route

            size = 4 if question.family is Family.IP else 16
            foreign = not question.inbound and not self._is_own(question)
            request = Request(
                question.dst.to_bytes(size, "big"),
                b"" if question.src is None or foreign else question.src.to_bytes(size, "big"),
                question.proto,
                question.sport or 0,
                question.dport or 0,
                -1 if question.uid is None else question.uid,
                question.mark,
                question.iif,
                question.oif,
            )
            return kernel_route(target, request, self._wanted.timeout)
        return None if snapshot is None else snapshot_way(snapshot, question)

    def _is_own(self, question: Question) -> bool:
        snapshot, source = self._source.snapshot, question.src
        if source is None or snapshot is None or is_loopback(question.family, source):
            return source is not None
        return Routing(snapshot).is_own(show_address(question.family, source))

    def _assume(self, question: Question, why: str) -> Way:
        """What was told, or what follows from the address alone."""
        where = show_address(question.family, question.dst)
        if question.inbound:
            self._notes[f"{where} is taken for an address of this namespace"] = None
            words = "for this namespace   assumed: no routes are known"
            return Way("assumed", question.iif, words, local=True)
        if question.oif:
            return Way("told", question.oif, f"{question.oif}   as told by --out")
        if is_loopback(question.family, question.dst):
            own = show_address(question.family, LOOPBACK[question.family])
            return Way("assumed", "lo", "lo   it is loopback's", source=own, local=True)
        raise UsageError(
            f"{why or 'no routes are known here'}: by which interface does {where} leave?",
            "say it with --out IF",
        )


def _marks_route(source: Source) -> bool:
    """Whether a mark may lead elsewhere: not where every policy rule is known, and none asks."""
    if source.spec is not None:
        return any(isinstance(part, PolicyRule) for part in source.plumbing)
    snapshot = source.snapshot
    if snapshot is None or "routes" not in snapshot.sections or not snapshot.policies:
        return True
    return any(policy.mark is not None for policy in snapshot.policies)


def _check_links(snapshot: Snapshot | None, question: Question) -> None:
    name = question.iif or question.oif
    if snapshot is None or not snapshot.links or not name:
        return
    names = [link.name for link in snapshot.links]
    if name not in names:
        known = printable(", ".join(names[:8]))
        raise MeshnetError(f"there is no interface {printable(name)} here", f"there are {known}")


def _packet(question: Question, way: Way) -> tuple[Packet, frozenset[Field]]:
    """The packet, and the fields that nobody knows."""
    unknown: set[Field] = set()
    src = question.src
    if src is None and way.source and not question.inbound:
        src = read_address(way.source)[1]
    if src is None:
        unknown.add(Field.SRC)
    if question.dport is not None and question.sport is None:
        unknown.add(Field.SPORT)
    if question.socket and not question.inbound:
        unknown |= {Field.UID} if question.uid is None else set()
        unknown |= {Field.GID} if question.gid is None else set()
    if question.state in ("established", "related"):
        unknown.add(Field.CTMARK)
    link = way.link or question.oif
    packet = Packet(
        question.family,
        question.proto,
        src or 0,
        question.dst,
        None if question.dport is None else question.sport or 0,
        question.dport,
        question.iif or None,
        link if not question.inbound or not way.local else None,
        question.uid,
        question.gid,
        question.mark,
        0,
        question.state,
    )
    return packet, frozenset(unknown)


def _is(leg: Leg, expected: str) -> bool:
    """Whether the verdict is the one that was due; a MAYBE is it where every fate is."""
    if leg.verdict != "maybe":
        return leg.verdict == expected
    if any(name.startswith("more that is undecided") for name in leg.undecided):
        return False
    return bool(leg.fates) and all(fate.verdict == expected for fate in leg.fates)
