"""What effects make of all packets that meet them: :mod:`meshnet.reason.action` in terms.

Each function is told for which packets, and says for which of them the rule goes on.
"""

from __future__ import annotations

from meshnet.model.address import show_address
from meshnet.model.packet import Field
from meshnet.model.rule import FULL_MASK, Kind, Target
from meshnet.reason.action import LOOPBACK
from meshnet.reason.action import is_loopback as is_loopback_number
from meshnet.reason.effects import Beyond, Effect, Foreign
from meshnet.reason.lines import Code
from meshnet.reason.symbolic.moving import Moving
from meshnet.reason.symbolic.names import BITS as NAME_BITS
from meshnet.reason.symbolic.terms import (
    Bit,
    Number,
    both,
    either,
    engine,
    equal,
    every,
    masked,
    no,
    number,
    pick,
)
from meshnet.reason.symbolic.world import INVALID, UNTRACKED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshnet.model.packet import Family

_TRANSLATIONS = (Beyond.DNAT, Beyond.SNAT, Beyond.REDIRECT)
REFUSALS = (Kind.DROP, Kind.REJECT, Kind.RESET)
_BITS = {Field.SPORT: 16, Field.DPORT: 16, Field.MARK: 32, Field.CTMARK: 32}


class Effects:
    """Carries out effects on ``moving``.

    ``addresses`` are the primary ones of interfaces, ``marks_route`` whether a changed mark may
    mean another route; see :class:`meshnet.reason.walk.Walker`.
    """

    def __init__(
        self,
        moving: Moving,
        addresses: Mapping[tuple[str, Family], int],
        marks_route: bool,
    ) -> None:
        self.moving, self._addresses, self._marks_route = moving, addresses, marks_route

    def change(self, effect: Effect, at: str, held: Bit, base: Code) -> Bit:
        """Carry out an ``effect`` that goes to no other chain, for the packets ``held``.

        ``at`` names the visit, for what is undecided. Gives those that the rule keeps: the others
        are behind the base chain, or gone.
        """
        if isinstance(effect, Foreign):
            return self._change_foreign(effect, at, held, base)
        kind = effect.kind
        if kind in REFUSALS:
            self.moving.put("gone", held, True)
            return False
        if kind in (Kind.ACCEPT, Kind.RETURN):
            return False
        if kind is Kind.REDIRECT:
            self._redirect(effect.port, at, both(held, no(self.moving.read("zoned"))))
            return False
        if kind is Kind.TPROXY:
            return self._hand(effect, at, held, base)
        if kind is Kind.MARK:
            self._turn_mark(effect, held, base)
        elif kind is Kind.ZONE:
            self._zone(held, base)
        elif kind is Kind.RESTORE_MARK:
            self._restore(held, base)
        elif kind is Kind.SAVE_MARK:
            self.moving.put("ctmark", both(held, self.moving.connected), self.moving.read("mark"))
        return held

    def _change_foreign(self, effect: Foreign, at: str, held: Bit, base: Code) -> Bit:
        moving, world, what = self.moving, self.moving.world, effect.what
        if effect.family is not None and effect.family is not world.family:
            return held
        if what in _TRANSLATIONS:
            self._translate_foreign(effect, at, both(held, no(moving.read("zoned"))), base)
            return False
        if what is Beyond.NOTRACK:
            fresh = every((held, no(moving.read("tracked")), no(moving.read("zoned"))))
            moving.put("ctstate", fresh, UNTRACKED)
            moving.put("tracked", fresh, True)
            return held
        if what is Beyond.FORGET:
            self._forget(effect.fields, at, held, base)
            return held
        if what is Beyond.HAND:
            self._capture(held, effect.port or moving.read("dport"))
            self._forget_owner(held)
            return held
        refused = world.doubt(f"whether {at} refuses")
        if what is Beyond.QUEUE:
            moving.put("gone", both(held, refused), True)
            return False
        stays = world.doubt(f"whether {at} goes on")
        moving.put("gone", every((held, no(stays), refused)), True)
        self._forget((Field.MARK, Field.CTMARK), at, both(held, stays), base)
        return both(held, stays)

    def _translate_foreign(self, effect: Foreign, at: str, held: Bit, base: Code) -> None:
        """A template is not translated: ``held`` has none."""
        if effect.what is Beyond.DNAT:
            self._translate(effect, at, held)
        elif effect.what is Beyond.REDIRECT:
            self._redirect(None, at, held)
        else:
            self._forget((Field.SRC, Field.SPORT), at, held, base)
            self.moving.put("sourced", held, True)

    # -- captures ---------------------------------------------------------------------------

    def _capture(self, held: Bit, port: Number) -> None:
        """Handed to ``port``; a socket that TPROXY gave is kept."""
        first = both(held, no(self.moving.captured))
        self.moving.put("port", first, port)
        self.moving.put("captured", held, True)

    def _redirect(self, port: int | None, at: str, held: Bit) -> None:
        """To ``port`` of this namespace; 0 keeps the packet's, None is not known."""
        moving = self.moving
        to: Number = LOOPBACK[moving.world.family]
        if moving.hook != "output":
            to = self._primary()
        before = moving.read("dport")
        aimed = port
        if port is None:
            aimed = moving.world.unknown(f"the port that {at} draws", 16)
        self._aim(held, to, aimed or None)
        moving.put("local", held, True)
        self._capture(held, aimed or before)

    def _primary(self) -> Number:
        """The first address of the interface that the packet came in by."""
        moving, world = self.moving, self.moving.world
        found: Number = world.unknown(
            "the first address of the interface it came in by", world.bits
        )
        for at, name in enumerate(world.names.members):
            address = self._addresses.get((name, world.family))
            if address is not None:
                found = pick(equal(moving.iif, at), address, found, world.bits)
        return found

    def _aim(self, held: Bit, address: Number | None, port: Number | None) -> None:
        """To another destination; None keeps what the packet has."""
        moving = self.moving
        dst = moving.read("dst") if address is None else address
        dport = moving.read("dport") if port is None else port
        moved = no(both(equal(dst, moving.read("dst")), equal(dport, moving.read("dport"))))
        moving.put("dst", held, dst)
        moving.put("dport", held, dport)
        moving.put("settled", held, True)
        moving.put("dnat", held, moved)

    def _translate(self, effect: Foreign, at: str, held: Bit) -> None:
        """DNAT; what leaves for a loopback address is handed to a port of this namespace."""
        moving, world, address = self.moving, self.moving.world, effect.address
        to: Number = address
        if address is None:
            to = world.unknown(f"the address that {at} translates to", world.bits)
        port: Number | None = effect.port or None
        if effect.port is None:
            port = world.unknown(f"the port that {at} translates to", 16)
        self._aim(held, to, port)
        inside = address is not None and is_loopback_number(world.family, address)
        if inside and moving.hook == "output":
            self._capture(held, moving.dport if port is None else port)
        else:
            moving.put("elsewhere", held, True)
            moving.put("aim", held, world.aim(_aim_in_words(world.family, effect)))

    def _hand(self, target: Target, at: str, held: Bit, base: Code) -> Bit:
        """TPROXY: the packet gets a socket and a mark (net/netfilter/xt_TPROXY.c, nft_tproxy.c)."""
        self._capture(held, target.port)
        self._forget_owner(held)
        self.moving.put("local", held, True)
        if not (base.native and target.mark == 0 and target.mask == FULL_MASK):
            self._turn_mark(target, held, base)
            return False
        leaves = self.moving.world.doubt(f"whether {at} accepts what it hands over")
        self._turn_mark(target, both(held, leaves), base)
        return both(held, no(leaves))

    # -- marks and what is known ------------------------------------------------------------

    def _turn_mark(self, target: Target, held: Bit, base: Code) -> None:
        """The bits of the mask are cleared, then the value is turned in (xt_mark.c)."""
        value: Number = target.mark
        if target.mask != FULL_MASK:
            value = number(masked(self.moving.read("mark"), ~target.mask, 32), 32) ^ target.mark
        self._set_mark(held, value, base)

    def _set_mark(self, held: Bit, value: Number, base: Code) -> None:
        moving = self.moving
        if base.kind == "route" and self._marks_route:
            changed = both(held, no(equal(value, moving.read("mark"))))
            moving.put("marked", changed, True)
        moving.put("mark", held, value)

    def _zone(self, held: Bit, base: Code) -> None:
        moving = self.moving
        state = moving.read("ctstate")
        apart = equal(state, UNTRACKED)
        # What has no entry after all gets a template all the same (nft_ct.c).
        late = either(apart, equal(state, INVALID)) if base.native else False
        early = either(no(moving.read("tracked")), late)
        fresh = every((held, no(moving.read("zoned")), early))
        again = both(fresh, apart)
        if again is not False:
            # Looked at again, it is tracked; as what, it was never asked.
            self.moving.put("ctstate", again, moving.world.any_state())
            mark = moving.world.unknown("the mark of a connection that is looked at again", 32)
            self.moving.put("ctmark", again, mark)
        moving.put("zoned", fresh, True)
        moving.put("stained", fresh, base.native or base.saves)

    def _restore(self, held: Bit, base: Code) -> None:
        """The connection's mark; of a template, that of the template (xt_connmark.c)."""
        moving = self.moving
        connected = moving.connected
        zone = both(no(connected), moving.read("zoned")) if not base.native else False
        value = pick(connected, moving.read("ctmark"), moving.early, 32)
        self._set_mark(both(held, either(connected, zone)), value, base)

    def _forget(self, fields: tuple[Field, ...], at: str, held: Bit, base: Code) -> None:
        world = self.moving.world
        for field in fields:
            value = world.unknown(
                f"the {field.label} that {at} makes", _BITS.get(field, world.bits)
            )
            if field is Field.MARK:
                self._set_mark(held, value, base)
            else:
                self.moving.put(field.label, held, value)

    def _forget_owner(self, held: Bit) -> None:
        world = self.moving.world
        self.moving.put(
            "socket", held, world.doubt("whether the socket that TPROXY gives has a file")
        )
        for name in ("uid", "gid"):
            self.moving.put(name, held, world.unknown(f"the {name} of TPROXY's socket", 32))


def _aim_in_words(family: Family, effect: Foreign) -> str:
    """Where DNAT sends to; another address of the rule's choice where no dump tells it."""
    if effect.address is None:
        return "an address that no dump tells"
    address = show_address(family, effect.address)
    if not effect.port:
        return address if effect.port == 0 else f"{address}, a port that no dump tells"
    return f"[{address}]:{effect.port}" if ":" in address else f"{address}:{effect.port}"


def reroute(moving: Moving, leaving: Bit) -> None:
    """Another destination or mark means another look for a route; see ``progress._routed``."""
    world = moving.world
    looped = both(moving.dnat, world.is_loopback(moving.dst))
    again = either(moving.dnat, both(moving.marked, no(equal(moving.oif, 1))))
    again = every((leaving, again, no(looped)))
    if again is not False and not (engine().is_bool(again) and engine().is_false(again)):
        moving.put("oif", again, world.route(moving.dst, moving.mark))
    moving.put("oif", both(leaving, looped), 1)


__all__ = ["NAME_BITS", "REFUSALS", "Effects", "reroute"]
