"""What traces, inside the target's network namespace: it switches the trace on, and tells.

A line each: ``S`` how it began, ``R`` the rules (a snapshot, and the handles of nf_tables), ``P``
a packet, ``N`` a note; JSON behind the letter. Its result is a count of everything.
"""

from __future__ import annotations

import os
import secrets
import select
import time

from meshnet.errors import LockBusy
from meshnet.host import nftrace
from meshnet.host.nf_log_switch import LogSwitch
from meshnet.host.nflog import LEGACY_GROUP, PACKET, listener_of, read_logged
from meshnet.host.nftrace import NEW_GENERATION, TRACE, Overrun, TraceSocket, read_traced
from meshnet.host.opener import Openers
from meshnet.host.owner_table import (
    DELETE_TABLE,
    NEW_TABLE,
    PREFIX,
    TRACED,
    TraceTable,
    table_named,
)
from meshnet.host.userns import owner_of
from meshnet.model.frozen import dataclass, replace
from meshnet.model.packet import Family
from meshnet.model.snapshot import Snapshot
from meshnet.model.trace import Sighting, TraceNote, TraceStart
from meshnet.model.trace_filter import TraceFilter
from meshnet.ops.observation import Limits, Order, observe
from meshnet.reason.trace_assembly import Assembly, Headers
from meshnet.reason.trace_rules import RuleBook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.host.streaming import Voice
    from meshnet.host.target import Target

#: Rules that change are read again at most so often, and losses told, in seconds.
PAUSE = 0.5
#: A read of the rules that change meanwhile is begun anew so often.
_TRIES = 5
#: So many messages are read before anything else is looked at.
_AT_ONCE = 2000
_NAMES = {
    Family.IP: "/proc/thread-self/net/ip_tables_names",
    Family.IP6: "/proc/thread-self/net/ip6_tables_names",
}


@dataclass(frozen=True)
class TraceOrder:
    """What is to be traced. ``rate`` is in packets a second, 0 for no limit."""

    filter: TraceFilter
    rate: int = 200
    every: bool = False
    timeout: float = 20.0


def trace_here(target: Target, order: TraceOrder, voice: Voice) -> dict[str, int]:
    """Trace in this process's network namespace until ``voice`` says stop; what was counted.

    Everything that was switched on is off when this returns or raises, and when the process
    dies. Raises NotPermitted, KernelLacks; LockBusy where nothing but legacy rules are here
    and somebody else hears their trace.
    """
    tracer = _Tracer(target, order, voice)
    try:
        tracer.begin()
        tracer.run()
        return tracer.counts()
    finally:
        tracer.close()


class _Tracer:
    """One trace."""

    def __init__(self, target: Target, order: TraceOrder, voice: Voice) -> None:
        self.target, self.order, self.voice = target, order, voice
        self.name = f"{PREFIX}{os.getpid()}"
        self.switch: LogSwitch | None = None
        self.socket: TraceSocket
        self.group = _any_group()
        self.notes: list[str] = []
        _, self.uids, self.gids = owner_of(pids=target.pids)
        self.openers = Openers(target.inode)
        self.assembly = Assembly(
            self.name, self.name, PREFIX, nftrace.link_name, self._opener, self._done
        )
        self.waiting: list[Sighting] = []
        #: The number of the last read of the rules, of the generation that it read, and of the
        #: one that was heard of last.
        self.read = self.read_at = self.heard = 0
        self.current = True
        #: Whether legacy tables run that are not traced.
        self.blind = False
        #: Those that had legacy tables at the beginning.
        self.families: list[Family] = []
        self.last_read = 0.0
        self.kin = False
        self.matched = self.missed = self.lost_told = 0
        self.lost_at = 0.0
        self.sequence = 0

    # -- beginning ------------------------------------------------------------------------

    def begin(self) -> None:
        """Switch everything on, what outlives us first: its guard must not hold our socket."""
        families = self.families = _legacy_families()
        busy = self._switch_on(families) if families else ""
        self.socket = TraceSocket()
        while not self.socket.listen(self.group):
            self.group = _any_group()
        if families and not busy:
            busy = self._listen_to_legacy()
        self.blind = bool(busy)
        book = RuleBook(self._read_rules())
        backends = tuple(name for name, held in book.rulesets.items() if held.tables)
        if busy and set(backends) <= {"legacy"}:
            raise LockBusy(busy, "wait for it, or end it")
        if busy:
            self.notes.append(f"legacy rules are not traced, nor compared: {busy}")
        order = self.order
        table = TraceTable(
            self.name, order.filter, self.group, self.name, order.rate, order.rate // 4 or 1,
            order.every,
        )  # fmt: skip
        self.socket.begin(table)
        start = TraceStart(
            self.target.name, self.target.inode, self.name, backends, order.rate,
            order.filter.in_words(order.every), self.switch.changed if self.switch else (),
            tuple(self.notes),
        )  # fmt: skip
        self._tell(b"S", start)

    def _switch_on(self, families: list[Family]) -> str:
        """Send legacy tables' trace to NFLOG; why not, where somebody else has it."""
        try:
            self.switch = LogSwitch(families, self.voice.report)
        except LockBusy as e:
            return e.message
        for name in self.switch.already:
            self.notes.append(f"{name} was nfnetlink_log before, and stays so")
        return ""

    def _listen_to_legacy(self) -> str:
        """Hear the trace of legacy tables; why not, where somebody else does."""
        if self.socket.listen(LEGACY_GROUP):
            return ""
        who = listener_of(LEGACY_GROUP)
        return (
            "the trace of legacy tables goes to NFLOG group 0, which has one listener a "
            f"namespace, and has one: netlink port {who or 'unknown'}, mostly its pid"
        )

    # -- rules ----------------------------------------------------------------------------

    def _read_rules(self) -> Snapshot:
        """Read and tell the rules, with the handles that were theirs at the same moment."""
        for _ in range(_TRIES):
            before = nftrace.generation()
            sections = ("rules", "routes")
            look = Order(sections, Limits(), self.order.timeout, None, {})
            snapshot = observe(self.target, look)
            handles = [(*where, numbers) for where, numbers in nftrace.handles().items()]
            if nftrace.generation() == before:
                break
        else:
            self._tell(b"N", TraceNote("warning", "the rules change faster than they can be read"))
            before = 0
        # Lines of tables that were made since then do not come here.
        self.blind = self.blind or not set(_legacy_families()) <= set(self.families)
        self.read += 1
        self.read_at = before
        self.last_read = time.monotonic()
        told = {"read": self.read, "handles": handles, "blind": self.blind}
        self._tell(b"R", {**told, "snapshot": snapshot})
        return snapshot

    def _changed(self, body: bytes) -> None:
        """The rules of nf_tables are others: by ourselves, by another trace, or by anybody."""
        number, pid, name = nftrace.read_generation(body)
        ours, self.kin = self.kin, False
        self.heard = number
        if ours and self.current:
            self.read_at = number
            return
        self.current = number == self.read_at
        if not ours:
            self.assembly.changed()
            who = f" by {name} (pid {pid})" if name else ""
            self._tell(b"N", TraceNote("changed", f"the rules were changed{who}"))

    # -- running --------------------------------------------------------------------------

    def run(self) -> None:
        """Until we are told to stop."""
        poll = select.poll()
        poll.register(self.socket.fileno(), select.POLLIN)
        poll.register(self.voice.control, select.POLLIN)
        while True:
            ready = dict(poll.poll(50 if self.assembly.open or self.waiting else 500))
            if self.voice.control in ready:
                break
            self._pump()
            self._tell_lost()
            if not self.current and time.monotonic() - self.last_read > PAUSE:
                self._read_rules()
                self.current = self.read_at == self.heard
            self._flush()
        self.matched = nftrace.matched(self.name, TRACED)
        self.socket.end()
        # What is in the buffer may take long: whoever waits hears of it.
        while self._pump():
            self._flush()
        self._tell_lost(last=True)
        self.assembly.close()
        self._flush(last=True)

    def _pump(self) -> bool:
        """Read what is there, at most a share of it; whether there may be more."""
        for _ in range(_AT_ONCE):
            try:
                heard = self.socket.heard()
            except Overrun:
                self.assembly.overrun()
                continue
            if not heard:
                self.assembly.drained(time.time())
                return False
            for kind, body in heard:
                self._take(kind, body)
        return True

    def _take(self, kind: int, body: bytes) -> None:
        now = time.time()
        if kind == TRACE:
            self.assembly.traced(read_traced(body), now)
        elif kind == PACKET:
            event = read_logged(body)
            if event.group == LEGACY_GROUP:
                self.assembly.legacy(event, now)
            else:
                uid = None if event.uid is None else self.uids.shown(event.uid)
                gid = None if event.gid is None else self.gids.shown(event.gid)
                event = replace(event, uid=uid, gid=gid)
                self.missed += max(0, event.sequence - self.sequence)
                self.sequence = event.sequence + 1
                self.assembly.begin(event, now, self.read if self.current else 0)
        elif kind == NEW_GENERATION:
            self._changed(body)
        elif kind in (NEW_TABLE, DELETE_TABLE):
            self.kin = table_named(body).startswith(PREFIX)

    def _opener(self, found: Headers, link: int) -> int:
        ends = (found.src, found.sport, found.dst, found.dport)
        inode = self.openers.socket_of(found.proto, ends, link)
        if inode:
            # Now, if it is not too soon: the next moment it may be gone.
            self.openers.look_up((inode,))
        return inode

    def _done(self, seen: Sighting) -> None:
        self.waiting.append(seen)

    def _flush(self, last: bool = False) -> None:
        """Tell the packets that are over, with who sent them."""
        if not self.waiting:
            return
        if not self.openers.look_up((one.inode for one in self.waiting if one.inode), last):
            return
        told, self.waiting = self.waiting, []
        parts = []
        for one in told:
            pid, command = self.openers.holder(one.inode)
            parts.append(_line(b"P", replace(one, pid=pid, command=command)))
        self.voice.tell(b"".join(parts))

    def _tell(self, kind: bytes, value: object) -> None:
        self.voice.tell(_line(kind, value))

    def _tell_lost(self, last: bool = False) -> None:
        """Say what was lost since it was said, at most once in a while unless it is the last."""
        lost, now = self.socket.lost, time.monotonic()
        if lost > self.lost_told and (last or now - self.lost_at >= PAUSE):
            text = f"{lost - self.lost_told:,} events of the kernel were lost: too many at once"
            self._tell(b"N", TraceNote("lost", text))
            self.lost_told, self.lost_at = lost, now

    # -- ending ---------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """What was counted."""
        return {
            "matched": self.matched,
            "begun": self.assembly.begun,
            "missed": self.missed,
            "lost": self.socket.lost,
            "orphans": self.assembly.orphans,
        }

    def close(self) -> None:
        """Switch everything off."""
        try:
            if hasattr(self, "socket"):
                self.socket.close()
            self.openers.close()
        finally:
            if self.switch is not None:
                self.switch.put_back()


def _any_group() -> int:
    """An NFLOG group that people do not choose."""
    return 1024 + secrets.randbelow(60_000)


def _line(kind: bytes, value: object) -> bytes:
    import msgspec

    return kind + msgspec.json.encode(value) + b"\n"


def _legacy_families() -> list[Family]:
    return [family for family, path in _NAMES.items() if _content(path)]


def _content(path: str) -> str:
    try:
        with open(path, encoding="ascii") as f:
            return f.read().strip()
    except OSError:
        return ""
