"""Proving a running pod's capture by connections, beside a living proxy, and by counters.

Nothing is put into the pod: the proxy holds its ports, so what tells where a connection went is
the counter of the rule that the walk says decides, before and after a known number of
connections, and the socket of the pod that has the other end.
"""

from __future__ import annotations

from collections import Counter

from meshnet.errors import NotPermitted
from meshnet.host.dialling import Dial, find_receivers, run_dials
from meshnet.host.probe import open_sockets
from meshnet.model.address import show_address
from meshnet.model.frozen import dataclass, replace
from meshnet.model.packet import TCP
from meshnet.model.verdict import Journey, Place, Verdict
from meshnet.model.verification import (
    FAILED,
    NOT_TESTED,
    OK,
    WARNING,
    Verification,
    VerifiedCell,
)
from meshnet.ops.cells import NAMES, Cell, Expect
from meshnet.ops.collect import collect
from meshnet.ops.probing import NEGATIVE, probe_bare
from meshnet.ops.verdicts import as_row, expected
from meshnet.ops.verify_plan import Plan, PlannedCell, plan_verification
from meshnet.reason.trace_judge import Judge
from meshnet.reason.trace_rules import RuleBook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.host.target import Target

SECTIONS = ("rules", "routes", "sysctls", "processes", "sockets")
_LET_GO = (Verdict.BYPASSED, Verdict.DIRECT)


@dataclass(frozen=True)
class Seen:
    """What became of a cell's connections. ``grown`` is None where nothing counts them.

    ``met``: a rule on their way counted any, or the pod has the other end of one.
    """

    ends: Counter[str]
    ports: Counter[int]
    grown: int | None
    met: bool = True


def verify(target: Target, patience: float = 5.0, timeout: float = 20.0) -> Verification:
    """Dial, in and into the namespace of ``target``, what its capture decides about.

    ``patience`` bounds one connection, ``timeout`` a look at the namespace, in seconds. Nothing
    changes in it but the counters. Raises MeshnetError where nothing of ours is there, and
    what collecting raises.
    """
    snapshot = collect(target, SECTIONS, timeout=timeout)
    judge = Judge(snapshot, RuleBook(snapshot))
    plan = plan_verification(target, snapshot, judge)
    runner = _Runner(target, plan, patience, timeout)
    cells = runner.run()
    for cell, outcome in probe_bare(plan.spec, list(plan.families), patience):
        cells.append(_control(cell, as_row(cell, outcome)))
    proxy = f"{plan.proxy.name}/{plan.proxy.pids[0]}" if plan.proxy else ""
    profile = plan.spec.profile.value
    return Verification(target.name, target.inode, plan.backend, profile, proxy, tuple(cells))


def _control(cell: Cell, row: dict[str, str]) -> VerifiedCell:
    """The same probe where no rule is: it has to be able to fail."""
    return VerifiedCell(
        NAMES[cell.family], cell.direction, cell.who, row["dialled"], 1, "direct",
        row["verdict"], row["happened"], reason=row["reason"],
    )  # fmt: skip


class _Runner:
    """Dials the cells of a plan, in rounds in which no two have the same deciding rule."""

    def __init__(self, target: Target, plan: Plan, patience: float, timeout: float) -> None:
        self.target, self.plan = target, plan
        self.patience, self.timeout = patience, timeout

    def run(self) -> list[VerifiedCell]:
        """Each cell with what became of it, in the plan's order."""
        done: dict[int, VerifiedCell] = {}
        live = []
        for number, planned in enumerate(self.plan.cells):
            if planned.cell.obstacle:
                done[number] = _row(planned, None, self.plan)
            else:
                live.append(number)
        while live:
            this = self._round(live)
            done |= self._dial(this)
            # A source port may have met conntrack's entry of an earlier connection: once more.
            failed = [n for n in this if done[n].verdict == FAILED]
            if failed:
                done |= self._dial(failed)
            live = [n for n in live if n not in this]
        return [done[number] for number in range(len(self.plan.cells))]

    def _round(self, live: list[int]) -> list[int]:
        """The first cells whose connections no counter mixes up."""
        taken: list[int] = []
        rules: set[Place | None] = set()
        for number in live:
            rule = _place(self.plan.cells[number].journey)
            if rule is None or rule not in rules:
                taken.append(number)
                rules.add(rule)
        return taken

    def _dial(self, numbers: list[int]) -> dict[int, VerifiedCell]:
        cells = {n: self.plan.cells[n] for n in numbers}
        before = self._counters()
        dials: dict[int, list[Dial]] = {}
        refused: dict[int, str] = {}
        try:
            for number, planned in cells.items():
                try:
                    dials[number] = self._dials(planned)
                except NotPermitted as e:
                    refused[number] = e.message
            every = [dial for some in dials.values() for dial in some]
            run_dials(every, ())
            find_receivers([d for d in every if d.transport == TCP], self.target.path)
        finally:
            for some in dials.values():
                for dial in some:
                    dial.socket.close()
        after = self._counters()
        rows = {}
        for number, planned in cells.items():
            if number in refused:
                cell = replace(planned.cell, obstacle=refused[number])
                rows[number] = _row(replace(planned, cell=cell), None, self.plan)
                continue
            seen = _seen(dials[number], planned.journey, before, after)
            rows[number] = _row(planned, seen, self.plan)
        return rows

    def _dials(self, planned: PlannedCell) -> list[Dial]:
        cell = planned.cell
        shapes = [(cell.family, cell.transport)] * planned.count
        netns = None if cell.direction == "inbound" else self.target.path
        sockets = open_sockets(shapes, netns=netns, uid=cell.uid, gid=cell.gid)
        quick = cell.expect is Expect.LEFT or cell.transport != TCP
        patience = min(self.patience, NEGATIVE) if quick else self.patience
        to = (show_address(cell.family, cell.address), cell.port)
        dials = [Dial(sock, cell.family, cell.transport, to, patience) for sock in sockets]
        for dial in dials:
            dial.leave_common_ports()
        return dials

    def _counters(self) -> dict[Place, int]:
        """The packets of every rule now."""
        book = RuleBook(collect(self.target, ("rules",), timeout=self.timeout))
        return {
            Place(backend, table.family, table.name, chain.name, at): rule.packets
            for backend, held in book.rulesets.items()
            for table in held.tables
            for chain in table.chains
            for at, rule in enumerate(chain.rules, 1)
        }


def _place(journey: Journey | None) -> Place | None:
    """Where the rule stands that decides; None where none does, or it is a policy."""
    decider = journey.decider if journey is not None else None
    return decider.place if decider is not None and decider.rule is not None else None


def _seen(
    dials: list[Dial], journey: Journey | None, before: dict[Place, int], after: dict[Place, int]
) -> Seen:
    grown, place = None, _place(journey)
    if place is not None and place in before and place in after:
        grown = after[place] - before[place]
        if place.backend == "nft" and not after[place]:
            # Rules of others need not count.
            grown = None
    ends = Counter(dial.end for dial in dials)
    ports = Counter(dial.port for dial in dials if dial.port)
    way = [step.place for step in journey.steps if step.held] if journey is not None else []
    more = any(after.get(place, 0) > before.get(place, 0) for place in way)
    return Seen(ends, ports, grown, bool(ports) or more)


def _row(planned: PlannedCell, seen: Seen | None, plan: Plan) -> VerifiedCell:
    cell, journey = planned.cell, planned.journey
    rule, words = "", ""
    place = _place(journey)
    if journey is not None and journey.decider is not None and place is not None:
        rule = f"{place.chain} {place.position}"
        words = journey.decider.action
    end = show_address(cell.family, cell.address)
    end = f"[{end}]:{cell.port}" if ":" in end else f"{end}:{cell.port}"
    kind = "tcp" if cell.transport == TCP else "udp"
    row = VerifiedCell(
        NAMES[cell.family], cell.direction, cell.who, f"{kind} {end}" if cell.port else "",
        planned.count, expected(cell) if cell.address else "", NOT_TESTED, "", rule, words,
    )  # fmt: skip
    if seen is None or journey is None:
        return replace(row, reason=cell.obstacle or "was not dialled")
    if cell.direction == "inbound" and not seen.met and seen.grown is not None:
        # Somebody else may have that address here: then nothing is known of the pod.
        need = f"needs a peer that reaches {show_address(cell.family, cell.address)}"
        return replace(row, reason=f"{need}: no rule of the pod counted any of these connections")
    happened = _happened(journey, seen)
    wrong, code = _wrong(planned, journey, seen, plan)
    verdict = FAILED if wrong else OK
    if planned.warns:
        # The capture makes no promise for IPv6; that it passes is worth a word.
        passed = journey.verdict in _LET_GO
        verdict, wrong, code = (WARNING, "", "MN130") if passed else (OK, "", "")
    return replace(
        row, verdict=verdict, happened=happened, counted=seen.grown, reason=wrong, code=code
    )


def _lets_go(journey: Journey) -> bool:
    """Whether every way that the rules leave open lets it go."""
    return all(one.verdict in _LET_GO for one in journey.fates or (journey,))


def _happened(journey: Journey, seen: Seen) -> str:
    """What was seen, in a few words."""
    maybe = journey.verdict is Verdict.MAYBE
    parts = ["left alone" if maybe and _lets_go(journey) else journey.verdict.value]
    if journey.verdict is Verdict.CAPTURED:
        parts[0] += f" by :{journey.port}"
    words = {"elsewhere": "answered", "silent": "no answer"}
    parts += [f"{n} {words.get(end, end)}" for end, n in sorted(seen.ends.items())]
    if set(seen.ports) - {journey.port}:
        parts.append("ended at " + ", ".join(f":{port}" for port in sorted(seen.ports)))
    return ", ".join(parts)


def _wrong(planned: PlannedCell, journey: Journey, seen: Seen, plan: Plan) -> tuple[str, str]:
    """What is wrong with a cell, in one sentence, and the code of the finding; "" for nothing."""
    cell = planned.cell
    if journey.verdict is Verdict.MAYBE and not (cell.expect is Expect.LEFT and _lets_go(journey)):
        return f"the rules leave it open: {'; '.join(journey.maybe[:2])}", ""
    if cell.expect is Expect.CAPTURED:
        wrong = _wrong_captured(planned, journey, seen)
    elif cell.expect is Expect.REFUSED:
        refused = seen.ends["refused"] == planned.count
        wrong = ("", "") if refused else ("it was not refused", "MN130")
    else:
        wrong = _wrong_left(cell, journey, seen, plan)
    if wrong[0]:
        return wrong
    if seen.grown is not None and seen.grown < planned.count:
        return (
            f"the rule that decides counted {seen.grown} of {planned.count} connections: "
            "meshnet trace shows which rules they meet",
            "",
        )
    return "", ""


def _wrong_captured(planned: PlannedCell, journey: Journey, seen: Seen) -> tuple[str, str]:
    cell = planned.cell
    if journey.verdict is not Verdict.CAPTURED:
        place = _place(journey)
        by = f"{place.chain} {place.position} decides first" if place else "no rule takes it"
        return f"{journey.verdict.value}: {by}", "MN110" if place else ""
    if journey.port != cell.by:
        return f"captured by :{journey.port}, not by :{cell.by}", ""
    if cell.transport == TCP and seen.ends["refused"]:
        return f"nobody listens on :{cell.by}", "MN150"
    if cell.transport == TCP and seen.ends["elsewhere"] < planned.count:
        return f"{planned.count - seen.ends['elsewhere']} were not answered", ""
    strays = set(seen.ports) - {cell.by, cell.port}
    if strays:
        return f"they ended at {', '.join(f':{port}' for port in sorted(strays))}", ""
    return "", ""


def _wrong_left(cell: Cell, journey: Journey, seen: Seen, plan: Plan) -> tuple[str, str]:
    if not _lets_go(journey):
        return f"{journey.verdict.value}, and should be left alone", ""
    if caught := set(seen.ports) & (set(plan.proxy.ports) - {cell.port}):
        return f"the proxy got them at :{min(caught)}", ""
    return "", ""
