"""What the effects of a rule make of a packet, and where it goes on.

What the kernel does is told with each: net/netfilter/ is meant where no path is given.
"""

from __future__ import annotations

from meshnet.model.frozen import replace
from meshnet.model.packet import Family, Field
from meshnet.model.rule import FULL_MASK, Kind, Target
from meshnet.reason.effects import Beyond, Effect, Foreign
from meshnet.reason.evaluate import has_connection
from meshnet.reason.lines import Line
from meshnet.reason.state import Cursor, Ending, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: What REDIRECT makes of the destination at output (nf_nat_redirect.c).
LOOPBACK = {Family.IP: 0x7F000001, Family.IP6: 1}
_OWNERS = frozenset((Field.UID, Field.GID))
_MARKS = frozenset((Field.MARK, Field.CTMARK))
_TRANSLATIONS = (Beyond.DNAT, Beyond.SNAT, Beyond.REDIRECT)
_REFUSALS = (Kind.DROP, Kind.REJECT, Kind.RESET)

Way = Cursor | Ending


class Actions:
    """Carries out effects. ``addresses`` are the primary ones, by interface and family.

    ``marks_route``: whether a changed mark may mean another route.
    """

    def __init__(self, addresses: Mapping[tuple[str, Family], int], marks_route: bool) -> None:
        self._addresses = addresses
        self._marks_route = marks_route

    def act(self, line: Line, at: Cursor) -> tuple[Way, ...]:
        """Where a packet may go on for which ``line`` holds; ``at`` is behind the line."""
        staying: list[Cursor] = [at]
        gone: list[Way] = []
        for effect in line.effects:
            now, staying = staying, []
            for cursor in now:
                stays, goes = self._apply(effect, line, cursor)
                staying += stays
                gone += goes
        if not self._marks_route and line.effects:
            return tuple(_unmarked(way) for way in (*staying, *gone))
        return (*staying, *gone)

    def _apply(self, effect: Effect, line: Line, at: Cursor) -> tuple[list[Cursor], list[Way]]:
        """The ways that go on with the next effect, and those that leave the rule."""
        if isinstance(effect, Foreign):
            return self._apply_foreign(effect, line, at)
        kind = effect.kind
        if kind in _REFUSALS:
            return [], [Ending(at.state, (line, at.state.hook))]
        if kind is Kind.ACCEPT:
            return [], [_leave(line, at)]
        if kind is Kind.RETURN:
            return [], [_return(line, at)]
        if kind in (Kind.JUMP, Kind.GOTO):
            return [], [_go(line, at, kind is Kind.GOTO)]
        if kind is Kind.REDIRECT:
            if at.state.zoned:
                return [], [_done(at)]
            return [], [_done(self._redirected(effect.port, line, at))]
        if kind is Kind.TPROXY:
            return _handed(effect, line, at)
        return [at._replace(state=_marked(effect, at))], []

    def _apply_foreign(
        self, effect: Foreign, line: Line, at: Cursor
    ) -> tuple[list[Cursor], list[Way]]:
        state, what = at.state, effect.what
        if effect.family is not None and effect.family is not state.packet.family:
            return [at], []
        if state.zoned and what in _TRANSLATIONS:
            # A template is not translated (nf_nat_core.c, nf_nat_setup_info).
            return [], [_done(at)]
        if what is Beyond.NOTRACK:
            if not state.tracked and not state.zoned:
                packet = replace(state.packet, ctstate="untracked")
                wrote = state.wrote | {"ctstate"}
                state = state._replace(packet=packet, tracked=True, wrote=wrote)
            return [at._replace(state=state)], []
        if what is Beyond.FORGET:
            return [at._replace(state=_forget(at, frozenset(effect.fields)))], []
        if what is Beyond.HAND:
            state = _captured(state, line, effect.port or state.packet.dport or 0)
            state = state._replace(unknown=state.unknown | _OWNERS)
            return [at._replace(state=state)], []
        if what is Beyond.DNAT:
            return [], [_done(at._replace(state=_translated(effect, line, state)))]
        if what is Beyond.SNAT:
            unknown = state.unknown | {Field.SRC, Field.SPORT}
            state = state._replace(unknown=unknown, sourced=True)
            return [], [_done(at._replace(state=state))]
        if what is Beyond.REDIRECT:
            return [], [_done(self._redirected(None, line, at))]
        ways: list[Way] = [_leave(line, at), Ending(state, (line, state.hook))]
        if what is Beyond.QUEUE:
            return [], ways
        return [at._replace(state=_forget(at, _MARKS))], ways

    def _redirected(self, port: int | None, line: Line, at: Cursor) -> Cursor:
        """To ``port`` of this namespace; 0 keeps the packet's, None is not known."""
        state = at.state
        to: int | None = LOOPBACK[state.packet.family]
        if state.hook != "output":
            to = self._addresses.get((state.packet.iif or "", state.packet.family))
        before = state.packet.dport or 0
        state = _aimed(state, to, port)._replace(local=True)
        got = 0 if port is None or Field.DPORT in state.unknown else port or before
        return at._replace(state=_captured(state, line, got))


def _unmarked(way: Way) -> Way:
    if isinstance(way, Cursor) and way.state.marked:
        return way._replace(state=way.state._replace(marked=False))
    return way


def _captured(state: State, line: Line, port: int) -> State:
    """Handed to ``port``; a socket that TPROXY gave is kept (include/net/inet_hashtables.h)."""
    if state.port is not None:
        return state
    return state._replace(port=port, captor=(line, state.hook))


def _handed(target: Target, line: Line, at: Cursor) -> tuple[list[Cursor], list[Way]]:
    """TPROXY: the packet gets a socket and a mark, and the chain is done (xt_TPROXY.c).

    nft's own ``tproxy`` goes on; the dialect tells "tproxy" alone and "tproxy, mark 0, accept"
    not apart.
    """
    before = at.state
    state = _captured(before, line, target.port)
    state = state._replace(unknown=state.unknown | _OWNERS, local=True)
    native = bool(at.frames) and at.frames[0][0].native
    alone = at._replace(state=state)
    handed = at._replace(state=_set_mark(alone, target))
    leaving = _done(handed)
    if native and target.mark == 0 and target.mask == FULL_MASK:
        return [alone], [leaving]
    return [], [leaving]


def _set_mark(at: Cursor, target: Target) -> State:
    """The bits of the mask are cleared, then the value is turned in (xt_mark.c)."""
    mark = (at.state.packet.mark & ~target.mask & FULL_MASK) ^ target.mark
    return _with_mark(at, mark, Field.MARK in at.state.unknown and target.mask != FULL_MASK)


def _with_mark(at: Cursor, mark: int, unknown: bool) -> State:
    state = at.state
    if not unknown and mark == state.packet.mark and Field.MARK not in state.unknown:
        return state
    changed = unknown or mark != state.packet.mark or Field.MARK in state.unknown
    route = bool(at.frames) and at.frames[0][0].kind == "route"
    fields = state.unknown | {Field.MARK} if unknown else state.unknown - {Field.MARK}
    return state._replace(
        packet=state.packet if unknown else replace(state.packet, mark=mark),
        unknown=fields,
        marked=state.marked or (changed and route),
        wrote=state.wrote | {"mark"},
    )


def _marked(target: Target, at: Cursor) -> State:
    """MARK, the two of CONNMARK, and CT's zone."""
    state, kind = at.state, target.kind
    native = bool(at.frames) and at.frames[0][0].native
    if kind is Kind.MARK:
        return _set_mark(at, target)
    if kind is Kind.ZONE:
        # What has no entry after all gets a template all the same (nft_ct.c).
        late = native and state.packet.ctstate in ("invalid", "untracked")
        if state.zoned or (state.tracked and not late):
            return state
        if state.packet.ctstate == "untracked":
            # Looked at again, it is tracked; as what, it was never asked.
            packet = replace(state.packet, ctstate="new")
            unknown = state.unknown | {Field.CTSTATE, Field.CTMARK}
            state = state._replace(packet=packet, unknown=unknown)
        # Nobody knows what xtables' rules of another table have written to nft's templates.
        stained = native or (bool(at.frames) and at.frames[0][0].saves)
        return state._replace(zoned=True, stained=stained)
    if not has_connection(state):
        # A template has a mark of its own, 0 unless xtables wrote to it (xt_connmark.c).
        if kind is Kind.RESTORE_MARK and state.zoned and not native:
            return _with_mark(at, 0, state.stained)
        return state
    if kind is Kind.RESTORE_MARK:
        return _with_mark(at, state.packet.ctmark, Field.CTMARK in state.unknown)
    unknown = state.unknown - {Field.CTMARK}
    if Field.MARK in state.unknown:
        unknown |= {Field.CTMARK}
    packet = replace(state.packet, ctmark=state.packet.mark)
    return state._replace(packet=packet, unknown=unknown, wrote=state.wrote | {"ctmark"})


def _forget(at: Cursor, fields: frozenset[Field]) -> State:
    state = at.state
    if Field.MARK in fields:
        state = _with_mark(at, state.packet.mark, unknown=True)
    return state._replace(unknown=state.unknown | fields)


def _translated(effect: Foreign, line: Line, state: State) -> State:
    """DNAT: to another address; what is not known of it is forgotten.

    What leaves for a loopback address is handed to a port of this namespace, as by REDIRECT.
    """
    aimed = _aimed(state, effect.address, effect.port)
    here = effect.address is not None and is_loopback(state.packet.family, effect.address)
    if here and state.hook == "output":
        return _captured(aimed, line, 0 if effect.port is None else aimed.packet.dport or 0)
    return aimed._replace(elsewhere=True, foreign=(line, state.hook))


def is_loopback(family: Family, address: int) -> bool:
    """Whether ``address`` is of 127/8 or ::1."""
    return address >> 24 == 127 if family is Family.IP else address == 1


def _aimed(state: State, address: int | None, port: int | None) -> State:
    """To another destination; None is one that is not known, port 0 the packet's own."""
    packet, unknown, wrote = state.packet, state.unknown, state.wrote
    if address is None:
        unknown |= {Field.DST}
    else:
        packet, unknown = replace(packet, dst=address), unknown - {Field.DST}
        wrote |= {"dst"}
    if port is None:
        unknown |= {Field.DPORT}
    elif port:
        packet, unknown = replace(packet, dport=port), unknown - {Field.DPORT}
        wrote |= {"dport"}
    before = (state.packet.dst, state.packet.dport)
    dnat = before != (packet.dst, packet.dport) or bool(unknown & {Field.DST, Field.DPORT})
    return state._replace(packet=packet, unknown=unknown, wrote=wrote, settled=True, dnat=dnat)


def _decided(line: Line, at: Cursor, whole: bool) -> State:
    """Note a rule that lets the packet go; ``whole``: its base chain ends with it."""
    state = at.state
    if line.ours:
        if not state.over_lo or state.ours is None:
            return state._replace(ours=(line, state.hook))
        return state
    base, position = at.frames[0] if at.frames else (None, 0)
    if whole and base is not None and base.last_ours >= position and state.foreign is None:
        return state._replace(foreign=(line, state.hook))
    return state


def _leave(line: Line, at: Cursor) -> Cursor:
    """Let go by ``line``: the base chain is done; of nat's chains the next one is asked."""
    return _done(at._replace(state=_decided(line, at, True)))


def _done(at: Cursor) -> Cursor:
    """Behind the base chain."""
    return at._replace(frames=())


def _return(line: Line, at: Cursor) -> Cursor:
    """Back to the calling chain; a base chain goes on with its policy."""
    state = _decided(line, at, len(at.frames) == 1)
    code, _ = at.frames[-1]
    return Cursor(at.todo, (*at.frames[:-1], (code, len(code.lines))), state)


def _go(line: Line, at: Cursor, for_good: bool) -> Cursor:
    """Into the rule's chain; by goto its end is the end of this chain too."""
    assert line.to is not None
    frames, state = at.frames, at.state
    if for_good:
        code, _ = frames[-1]
        if len(frames) == 1 and not line.ours:
            state = _decided(line, at, True)
        frames = (*frames[:-1], (code, len(code.lines)))
    return Cursor(at.todo, (*frames, (line.to, 0)), state)
