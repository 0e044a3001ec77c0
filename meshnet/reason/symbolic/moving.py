"""A packet on its way, as terms: the state of :mod:`meshnet.reason.state` for all packets."""

from __future__ import annotations

from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match
from meshnet.model.packet import Field
from meshnet.reason.evaluate import NAMELESS
from meshnet.reason.symbolic.fate import OUTCOME_BITS
from meshnet.reason.symbolic.names import BITS as NAME_BITS
from meshnet.reason.symbolic.terms import (
    Bit,
    Number,
    both,
    choose,
    either,
    equal,
    every,
    masked,
    no,
    pick,
    some,
    within,
)
from meshnet.reason.symbolic.world import INVALID, NEW, STATE_BITS, STATES, UNTRACKED, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STATE_FIELDS = ("iif", "oif")


class Moving:
    """What a :class:`~meshnet.reason.state.State` says, of all packets of ``world``.

    ``gone`` are those that were dropped. Every change says for which packets it is made. What
    was done to packets that have left a chain since is no matter for those that are still in it:
    :meth:`read` gives what these have, which is simpler.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.hook = world.hook
        #: Whether the chain is of nft's own language.
        self.native = False
        self.src, self.dst = world.src, world.dst
        self.sport, self.dport = world.sport, world.dport
        self.socket, self.uid, self.gid = world.socket, world.uid, world.gid
        self.mark, self.ctmark, self.ctstate = world.mark, world.ctmark, world.ctstate
        self.iif, self.oif = world.iif, world.oif
        self.local = world.local
        self.tracked: Bit = False
        self.zoned: Bit = False
        self.stained: Bit = False
        self.settled: Bit = False
        self.sourced: Bit = False
        self.dnat: Bit = False
        self.elsewhere: Bit = False
        #: Where it is sent instead, as :meth:`World.aim` numbers it; 0 where it was aimed at.
        self.aim: Number = 0
        self.marked: Bit = False
        self.captured: Bit = False
        self.port: Number = 0
        self.ours: Bit = False
        self.gone: Bit = False
        self._widths = {
            **dict.fromkeys(("src", "dst"), world.bits),
            **dict.fromkeys(("sport", "dport", "port"), 16),
            **dict.fromkeys(("uid", "gid", "mark", "ctmark"), 32),
            **dict.fromkeys(_STATE_FIELDS, NAME_BITS),
            "ctstate": STATE_BITS,
            "aim": OUTCOME_BITS,
        }
        self._seen: dict[str, Any] = {}
        self._journal: list[tuple[str, Any]] = []
        self._answers: dict[tuple[int, ...], tuple[object, ...]] = {}

    def put(self, name: str, condition: Bit, value: Any) -> None:
        """``name`` becomes ``value`` where ``condition`` holds."""
        if condition is False:
            return
        before, seen = getattr(self, name), self.read(name)
        self._journal.append((name, seen))
        setattr(self, name, self._chosen(name, condition, value, before))
        if name in self._seen:
            self._seen[name] = self._chosen(name, condition, value, seen)

    def _chosen(self, name: str, condition: Bit, value: Any, before: Any) -> Any:
        bits = self._widths.get(name)
        if bits is None:
            return choose(condition, value, before)
        return pick(condition, value, before, bits)

    def read(self, name: str) -> Any:
        """What the packets that are still in the chain have."""
        return self._seen.get(name, getattr(self, name))

    def enter(self) -> None:
        """At the beginning of a base chain: nobody has left it yet."""
        self._seen.clear()
        self._journal.clear()

    @property
    def changes(self) -> int:
        """How often something was changed in this base chain."""
        return len(self._journal)

    def forget_since(self, changes: int) -> None:
        """All packets that were changed since then have left the chain."""
        while len(self._journal) > changes:
            name, seen = self._journal.pop()
            self._seen[name] = seen

    @property
    def connected(self) -> Bit:
        """Whether the packet has an entry in connection tracking."""
        state = self.read("ctstate")
        lost = either(equal(state, INVALID), equal(state, UNTRACKED))
        return every((self.read("tracked"), no(self.read("zoned")), no(lost)))

    def holds(self, match: Match) -> Bit:
        """Whether ``match`` holds: :meth:`Match.holds` of what the hook shows of the packet."""
        if match.field is Field.CTSTATE:
            return self._state_holds(match)
        present, value = self._shown(match.field)
        key = (id(match), id(present), id(value))
        found = self._answers.get(key)
        if found is None:
            held = choose(present, self._asked(match, value), match.absent)
            # What is remembered by its address has to stay where it is.
            found = self._answers[key] = (held, match, present, value)
        return found[0]

    def _asked(self, match: Match, value: Number) -> Bit:
        if isinstance(match.values, IntervalSet):
            bits = self._widths.get(match.field.label, 8)
            if match.mask is not None:
                value = masked(value, match.mask, bits)
            found = within(value, match.values, bits)
        else:
            found = some(equal(value, n) for n in self.world.names.numbers_in(match.values))
        return no(found) if match.negated else found

    def _shown(self, field: Field) -> tuple[Bit, Number]:
        """Whether the packet has ``field`` at this hook, and what it is."""
        if field in (Field.UID, Field.GID):
            return self._owner(field)
        if field is Field.CTMARK:
            zoned = self.read("zoned")
            present = choose(zoned, not self.native, self.connected)
            return present, pick(zoned, self.early, self.read("ctmark"), 32)
        if field.label in NAMELESS.get(self.hook, ()):
            return True, 0
        if field is Field.PROTO:
            return True, self.world.proto
        return True, self.read(field.label)

    @property
    def early(self) -> Number:
        """The mark of a zone's template, which is there in place of an entry."""
        if self.read("stained") is False:
            return 0
        return pick(
            self.read("stained"), self.world.unknown("the mark of a zone's template", 32), 0, 32
        )

    def _owner(self, field: Field) -> tuple[Bit, Number]:
        """The socket may be known already at input (net/ipv4/tcp_ipv4.c, tcp_v4_early_demux)."""
        value, socket = self.read(field.label), self.read("socket")
        if self.hook != "input":
            return socket, value
        early = both(no(socket), no(equal(self.read("ctstate"), NEW)))
        if early is False:
            return socket, value
        found = self.world.doubt("whether the socket is known at input already")
        number = self.world.unknown(f"{field.label} of a socket that is known at input", 32)
        return either(socket, both(early, found)), pick(early, number, value, 32)

    def _state_holds(self, match: Match) -> Bit:
        """As :meth:`meshnet.reason.evaluate.View._ask_state`: "dnat" and "snat" are states too."""
        values, dnat = match.values, self.read("dnat")
        state, zoned = self.read("ctstate"), self.read("zoned")
        placed = pick(self.read("tracked"), state, INVALID, STATE_BITS)
        seen = pick(zoned, NEW, placed, STATE_BITS)
        inside = some(equal(seen, at) for at, name in enumerate(STATES) if name in values)
        older = every((self.connected, no(equal(state, NEW)), no(dnat)))
        if "dnat" in values:
            inside = either(inside, dnat)
            doubt = self.world.doubt("whether the connection's destination was translated")
            inside = either(inside, both(older, doubt))
        if "snat" in values:
            doubt = self.world.doubt("whether the connection's source was translated")
            inside = either(inside, both(older, doubt))
        return no(inside) if match.negated else inside
