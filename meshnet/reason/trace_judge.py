"""The kernel's trace of a packet held against the walk: the same rules, the same end?

What cannot be held against each other is said to be so, and why: a packet of a connection that
conntrack knew meets no nat rule, rules that changed under way are not those of the dump, and
between two hooks the kernel may have its own reasons to let a packet go no further.
"""

from __future__ import annotations

from meshnet.errors import printable
from meshnet.model.address import read_address
from meshnet.model.frozen import replace
from meshnet.model.packet import TCP, Family, Field, Packet
from meshnet.model.rule import Kind
from meshnet.model.trace import Agreement, Sighting, TracedPacket, TracedRule
from meshnet.model.verdict import Journey, Place, Step, Verdict
from meshnet.reason.routing import Routing
from meshnet.reason.trace_because import Becauses
from meshnet.reason.trace_rules import RuleBook
from meshnet.reason.walk import Walker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshnet.model.snapshot import Snapshot

_FAMILIES = {"ip": Family.IP, "ip6": Family.IP6}
_SYN, _ACK = 2, 16
#: TPROXY drops what no socket takes (net/netfilter/xt_TPROXY.c).
_REFUSES = (Kind.DROP, Kind.RESET, Kind.REJECT, Kind.TPROXY)
_ASK_ENTRY = (Kind.SAVE_MARK, Kind.RESTORE_MARK)
_LET_GO = (Verdict.BYPASSED, Verdict.DIRECT)
#: NF_DROP of include/uapi/linux/netfilter.h.
_DROP = 0
_OUTCOME = tuple[Verdict, int]
#: Parts of a snapshot whose changes this trace does not hear of.
_SILENT = ("links", "addresses", "routes", "policies")


class Judge:
    """Judges packets by one read of the rules. Raises ParseError where no packet can be walked.

    ``blind``: there are legacy tables whose trace somebody else gets.
    """

    def __init__(self, snapshot: Snapshot, book: RuleBook, blind: bool = False) -> None:
        self.snapshot, self.book, self.blind = snapshot, book, blind
        self.routing = Routing(snapshot)
        marks = any(policy.mark is not None for policy in snapshot.policies)
        addresses = self.routing.primaries(snapshot)
        self.walker = Walker(book.rulesets, addresses, marks_route=marks)
        self._becauses = Becauses(self.walker, book.reasons)

    def of_now(self, now: Snapshot) -> Judge | None:
        """A judge by what changes without a word from the kernel, as it is in ``now``.

        That is legacy tables, addresses, routes. None where they are what they were.
        """
        same = all(getattr(self.snapshot, name) == getattr(now, name) for name in _SILENT)
        if same and RuleBook(now).rulesets.get("legacy") == self.book.rulesets.get("legacy"):
            return None
        dumps = [dump for dump in self.snapshot.dumps if dump.backend != "legacy"]
        dumps += [dump for dump in now.dumps if dump.backend == "legacy"]
        mixed = replace(
            self.snapshot, dumps=tuple(dumps), **{name: getattr(now, name) for name in _SILENT}
        )
        book = RuleBook(mixed, self.book.handles)
        # Of a family that had no legacy tables at the beginning the trace hears no lines.
        unheard = _legacy_families(book) - _legacy_families(self.book)
        return Judge(mixed, book, self.blind or bool(unheard))

    def judge(self, seen: Sighting) -> TracedPacket:
        """The packet with its rules, its fate and what the walk says of it."""
        rules, places = self._resolve(seen)
        verdict, port = self._fate(seen, places)
        taken = _taken(seen, verdict, port)
        if why := self._obstacle(seen, places):
            return TracedPacket(seen, rules, verdict, port, Agreement.UNCHECKED, why, taken=taken)
        packet, local, unknown = self._packet(seen)
        journey = self.walker.walk(packet, seen.hook, unknown, local)
        walked = [p for p in places if p is not None and not self.book.lets_pass(p)]
        agreement, reason = self._compare(seen, journey, walked, (verdict, port))
        if agreement is Agreement.DISAGREES and self._is_forked(seen, packet, unknown, local):
            agreement, reason = self._by_outcome(journey, (verdict, port))
        if agreement is Agreement.DISAGREES and seen.lossy:
            # All that the walk says was met: then nothing is missing. Else something may be.
            agreement, reason = Agreement.UNCHECKED, "events of this packet may have been lost"
        expected = self.book.tell_steps(journey.steps) if agreement is Agreement.DISAGREES else ()
        because = None
        if agreement is Agreement.AGREES:
            verdict = _let_go(journey) if verdict in _LET_GO else verdict
            because = self._becauses.of(packet, journey, seen.hook, unknown, local)
        words, setting = (because.words, because.setting) if because is not None else ("", "")
        return TracedPacket(
            seen, rules, verdict, port, agreement, reason, in_words(journey), expected, taken,
            words, setting,
        )  # fmt: skip

    def _resolve(self, seen: Sighting) -> tuple[tuple[TracedRule, ...], list[Place | None]]:
        """The rules that were met, and their places; None for those that are not in the dumps."""
        rules, places = [], []
        for met in seen.met:
            place = self.book.place(met)
            if place is not None and self.book.is_return(place):
                continue
            places.append(place)
            rules.append(self.book.unknown(met) if place is None else self.book.tell(place))
        return tuple(rules), places

    # -- what the kernel did --------------------------------------------------------------

    def _fate(self, seen: Sighting, places: Sequence[Place | None]) -> _OUTCOME:
        """Captured (by which port), dropped or let go, by what was seen of it."""
        if self._dropped(seen, places):
            return Verdict.DROPPED, 0
        for place in reversed(places):
            rule = self.book.rule(place) if place is not None else None
            if rule is not None and rule.target is not None and rule.target.kind is Kind.TPROXY:
                return Verdict.CAPTURED, rule.target.port
        if seen.points:
            last = seen.points[-1]
            moved = (last.dst, last.dport) != (seen.dst, seen.dport)
            if moved and (self.routing.is_own(last.dst) or last.where == "end-of-input"):
                return Verdict.CAPTURED, last.dport
        return Verdict.DIRECT, 0

    def _dropped(self, seen: Sighting, places: Sequence[Place | None]) -> bool:
        if not seen.met:
            return False
        last, place = seen.met[-1], places[-1] if places else None
        if not last.legacy:
            return last.verdict == _DROP
        if place is None or self._ended(seen):
            return False
        rule = self.book.rule(place)
        if rule is None:
            return not self.book.lets_pass(place)
        return rule.target is not None and rule.target.kind in _REFUSES

    def _ended(self, seen: Sighting) -> bool:
        """Whether the packet got to the end of its last hook."""
        if not seen.points:
            return False
        last = seen.points[-1]
        if last.where == "end-of-input":
            return True
        return last.where == "end-of-postrouting" and last.oif != "lo"

    # -- what keeps it from being held against the walk ------------------------------------

    def _obstacle(self, seen: Sighting, places: Sequence[Place | None]) -> str:
        if self.blind:
            return "legacy rules are not traced"
        if not seen.generation:
            return "the rules changed about the time of this packet"
        if seen.proto == TCP and seen.flags & (_SYN | _ACK) != _SYN:
            return "it is in the middle of a connection: nat rules see the first packet only"
        if seen.known:
            return "conntrack knew its connection: nat rules see the first packet only"
        if seen.known is None and seen.again:
            return "sent again: nat rules see the first packet of a connection only"
        if None in places:
            return "a rule that it met is not in the dumps"
        return ""

    # -- what the walk says ---------------------------------------------------------------

    def _packet(self, seen: Sighting) -> tuple[Packet, bool, frozenset[Field]]:
        """The packet as it began, whether it is for this namespace, and what is not known of it."""
        unknown = set()
        if seen.uid is not None and seen.gid is None:
            unknown.add(Field.GID)
        local = seen.hook == "output" or self._is_local(seen)
        oif = seen.oif or None
        if not local:
            left = [p.oif for p in seen.points if p.where == "end-of-postrouting"]
            oif = left[-1] if left else None
            if oif is None:
                unknown.add(Field.OIF)
        packet = Packet(
            _FAMILIES[seen.family], seen.proto, read_address(seen.src)[1],
            read_address(seen.dst)[1], seen.sport, seen.dport, seen.iif or None, oif,
            seen.uid, seen.gid, seen.mark,
        )  # fmt: skip
        return packet, local, frozenset(unknown)

    def _is_local(self, seen: Sighting) -> bool:
        if self.routing.is_own(seen.dst):
            return True
        wheres = {point.where for point in seen.points}
        # Broadcast and multicast, and addresses that are local by a route.
        return "end-of-input" in wheres and (seen.points[-1].dst == seen.dst)

    def _is_forked(
        self, seen: Sighting, packet: Packet, unknown: frozenset[Field], local: bool
    ) -> bool:
        """Whether the dumps leave open which way a packet goes, even where all end alike."""
        return self.walker.follow(packet, seen.hook, unknown, local).forked

    def _compare(
        self, seen: Sighting, journey: Journey, places: Sequence[Place], fate: _OUTCOME
    ) -> tuple[Agreement, str]:
        journeys = journey.fates or (journey,)
        stopped = not self._ended(seen) and fate[0] is not Verdict.DROPPED
        if any(_same_path(one, places, whole=True) and _same_end(one, fate) for one in journeys):
            return Agreement.AGREES, _open(journey)
        if stopped and any(_same_path(one, places, whole=False) for one in journeys):
            return Agreement.UNCHECKED, (
                "the same rules as far as it went: between two hooks the kernel let it go no "
                "further (no route, rp_filter, a martian address)"
            )
        if why := self._assumed(journey, places):
            return Agreement.UNCHECKED, why
        return Agreement.DISAGREES, _difference(journeys, places, fate)

    def _assumed(self, journey: Journey, places: Sequence[Place]) -> str:
        """Where they part at a TPROXY rule: the walk takes for granted that somebody listens."""
        held = [s for s in journey.steps if s.held is not False and not _accepts(s)]
        pairs = enumerate(zip(held, places, strict=False))
        at = next((n for n, (s, p) in pairs if s.place != p), min(len(held), len(places)))
        step = held[at] if at < len(held) else None
        before = held[at - 1] if at and at - 1 < len(held) else None
        for one in (step, before):
            target = one.rule.target if one is not None and one.rule is not None else None
            if target is not None and target.kind is Kind.TPROXY:
                return f"explain takes for granted that a transparent socket has :{target.port}"
        return ""

    def _by_outcome(self, journey: Journey, fate: _OUTCOME) -> tuple[Agreement, str]:
        """Agreement about the end, where the dumps do not tell the way."""
        journeys = journey.fates or (journey,)
        if any(_same_end(one, fate) for one in journeys):
            return Agreement.AGREES, "in its end: the dumps leave more than one way open"
        return Agreement.DISAGREES, _difference(journeys, (), fate)


def _legacy_families(book: RuleBook) -> set[Family]:
    held = book.rulesets.get("legacy")
    return {table.family for table in held.tables} if held is not None else set()


def in_words(journey: Journey) -> str:
    """What a walk says, in a few words."""
    if journey.verdict is Verdict.MAYBE:
        fates = " or ".join(dict.fromkeys(in_words(fate) for fate in journey.fates))
        return f"maybe: {fates}" if fates else "maybe"
    if journey.verdict is Verdict.CAPTURED:
        return f"captured by :{journey.port}"
    word: str = journey.verdict.value
    return word


def _taken(seen: Sighting, verdict: Verdict, port: int) -> str:
    """Where a captured packet was handed to."""
    if verdict is not Verdict.CAPTURED:
        return ""
    last = seen.points[-1] if seen.points else None
    if last is None or last.dport != port:
        return f":{port}"
    return f"[{last.dst}]:{port}" if ":" in last.dst else f"{last.dst}:{port}"


def _let_go(journey: Journey) -> Verdict:
    """By whom a packet was let go, as the walk says."""
    said = [one.verdict for one in (journey, *journey.fates) if one.verdict in _LET_GO]
    return said[0] if said else Verdict.DIRECT


def _same_path(journey: Journey, places: Sequence[Place], whole: bool) -> bool:
    """Whether ``places`` are the rules that held, in order; not to the end unless ``whole``.

    A rule of which the walk cannot say whether it held may be among them. Policies that
    accept are left out of both: a chain without rules has one that the walk does not visit.
    """
    at = 0
    for step in journey.steps:
        if step.held is False or _accepts(step):
            continue
        if at < len(places) and places[at] == step.place:
            at += 1
        elif step.held and not _may_break(step):
            return not whole and at == len(places)
    return at == len(places)


def _may_break(step: Step) -> bool:
    """Whether nf_tables may leave a rule behind its counter, and so not report it.

    ``ct mark`` breaks off where a packet has no entry (net/netfilter/nft_ct.c); what an opaque
    rule does behind its matches is not known.
    """
    rule = step.rule
    if rule is None or step.place.backend != "nft":
        return False
    return bool(rule.opaque) or (rule.target is not None and rule.target.kind in _ASK_ENTRY)


def _accepts(step: Step) -> bool:
    return step.rule is None and step.action == "policy accept"


def _same_end(journey: Journey, fate: _OUTCOME) -> bool:
    verdict, port = fate
    if journey.verdict is Verdict.CAPTURED:
        return verdict is Verdict.CAPTURED and journey.port == port
    if journey.verdict is Verdict.DROPPED:
        return verdict is Verdict.DROPPED
    if journey.verdict is Verdict.MAYBE:
        # Handed to a port that is drawn.
        return verdict is Verdict.CAPTURED
    return verdict in _LET_GO


def _open(journey: Journey) -> str:
    if journey.verdict is not Verdict.MAYBE:
        return ""
    return f"the dumps leave it open: {printable('; '.join(journey.maybe), 300)}"


def _difference(journeys: Sequence[Journey], places: Sequence[Place], fate: _OUTCOME) -> str:
    """Where the two part, in one sentence."""
    journey = journeys[0]
    held = [step.place for step in journey.steps if step.held and not _accepts(step)]
    for met, said in zip(places, held, strict=False):
        if met != said:
            return (
                f"the kernel met {printable(str(met))} where the walk meets {printable(str(said))}"
            )
    if len(places) > len(held):
        return f"only the kernel met {printable(str(places[len(held)]))}"
    if places and len(held) > len(places):
        return f"only the walk meets {printable(str(held[len(places)]))}"
    verdict, port = fate
    word = f"captured by :{port}" if verdict is Verdict.CAPTURED else verdict.value
    return f"the same rules, but the kernel's packet was {word}"
