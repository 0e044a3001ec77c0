"""From stage to stage and from hook to hook, as packets go in the kernel."""

from __future__ import annotations

from meshnet.model.frozen import replace
from meshnet.model.match import PROTO_NUMBERS
from meshnet.model.packet import Family, Field
from meshnet.reason.action import is_loopback
from meshnet.reason.hooks import DESTINATION, Group, Stage, first_of
from meshnet.reason.state import Cursor, Ending, Fork, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    #: The stages of a hook for packets of a family.
    Program = Callable[[str, Family], tuple[Group, ...]]

_ICMP = (PROTO_NUMBERS["icmp"], PROTO_NUMBERS["ipv6-icmp"])
_OWNERS = frozenset((Field.UID, Field.GID))


def next_stage(cursor: Cursor) -> Cursor | Fork:
    """Begin the next stage of a hook that has some left."""
    group, rest, state = cursor.todo[0], cursor.todo[1:], cursor.state
    awake = tuple(stage for stage in group if not _sleeps(stage, state))
    if not awake:
        return Cursor(rest, (), state)
    ways = []
    candidates = first_of(awake)
    for stage in candidates:
        left = tuple(other for other in awake if other is not stage)
        todo = (left, *rest) if left else rest
        if stage.kind == "nat" and _knows_not(state):
            ways.append(Cursor(todo, (), state))
        ways.append(_begin(stage, todo, state))
    if len(candidates) > 1:
        return Fork(lambda: _names(candidates), tuple(ways))
    if len(ways) > 1:
        return Fork(lambda: "whether nat is asked about this packet", tuple(ways))
    return ways[0]


def _names(stages: tuple[Stage, ...]) -> str:
    names = " and ".join(sorted(stage.name for stage in stages))
    return f"the order of {names}, all at priority {stages[0].priority}"


def _sleeps(stage: Stage, state: State) -> bool:
    """Whether ``stage`` has nothing to do with this packet."""
    if stage.kind == "conntrack":
        return state.tracked and not state.zoned
    if stage.kind == "nat" or (stage.code is not None and stage.code.kind == "nat"):
        return not _asks_nat(state)
    return False


def _asks_nat(state: State) -> bool:
    """Only for the first packet of a connection, until the translation is settled.

    net/netfilter/nf_nat_core.c, nf_nat_inet_fn.
    """
    packet = state.packet
    if state.tracked and state.zoned:
        # A template counts as new, and nothing settles it.
        return True
    if not state.tracked or (state.settled if state.hook in DESTINATION else state.sourced):
        return False
    if Field.CTSTATE in state.unknown:
        return packet.ctstate not in ("invalid", "untracked")
    return packet.ctstate == "new" or (packet.ctstate == "related" and packet.proto not in _ICMP)


def _knows_not(state: State) -> bool:
    """A related connection may have been translated by its helper, and by its first packet."""
    if state.zoned:
        return False
    return state.packet.ctstate == "related" or Field.CTSTATE in state.unknown


def _begin(stage: Stage, todo: tuple[Group, ...], state: State) -> Cursor:
    if stage.kind == "conntrack":
        return Cursor(todo, (), state._replace(tracked=True, zoned=False, stained=False))
    if stage.kind == "nat":
        return Cursor((*stage.nat, *todo), (), state)
    assert stage.code is not None
    return Cursor(todo, ((stage.code, 0),), state)


def start(state: State, program: Program) -> Cursor:
    """At the first stage of the hook of ``state``."""
    return Cursor(program(state.hook, state.packet.family), (), state)


def next_hook(state: State, program: Program) -> Cursor | Ending | Fork:
    """Behind the last stage of a hook."""
    if state.hook == "output":
        return start(_routed(state)._replace(hook="postrouting", settled=True), program)
    if state.hook == "postrouting":
        return _after_postrouting(state._replace(sourced=True), program)
    if state.hook == "prerouting":
        state = state._replace(settled=True)
        inside = start(state._replace(hook="input"), program)
        through = start(state._replace(hook="forward"), program)
        if state.elsewhere and state.port is None:
            # The route is looked for with the new destination.
            unknown = state.unknown | {Field.OIF}
            through = start(state._replace(hook="forward", unknown=unknown), program)
            return Fork(lambda: "where the packet goes after its translation", (inside, through))
        return inside if state.local else through
    if state.hook == "forward":
        return start(state._replace(hook="postrouting"), program)
    return Ending(state)


def _routed(state: State) -> State:
    """Another destination or mark means another look for a route (net/netfilter/nf_nat_proto.c,
    net/ipv4/netfilter.c, ip_route_me_harder).

    The hook itself has shown the old interface to its end. A packet that was on lo is for an
    address of this namespace, and the table of those is asked before any mark.
    """
    packet, unknown = state.packet, state.unknown
    if state.dnat and Field.DST not in unknown and is_loopback(packet.family, packet.dst):
        packet = replace(packet, oif="lo")
        return state._replace(packet=packet, wrote=state.wrote | {"oif"})
    if state.dnat or (state.marked and packet.oif != "lo"):
        return state._replace(unknown=unknown | {Field.OIF})
    return state


def _after_postrouting(state: State, program: Program) -> Cursor | Ending | Fork:
    """What leaves by lo comes in again: without a socket, its connection known."""
    done = Ending(state._replace(left=state.packet))
    if state.first != "output" or state.over_lo:
        return done
    packet = replace(state.packet, iif="lo", oif=None, uid=None, gid=None)
    again = state._replace(
        hook="prerouting",
        packet=packet,
        left=state.packet,
        over_lo=True,
        local=True,
        # What conntrack could not place is looked at again.
        tracked=state.tracked and not state.zoned and state.packet.ctstate != "invalid",
        settled=True,
        elsewhere=False,
        unknown=state.unknown - {Field.OIF} - _OWNERS,
    )
    if Field.OIF in state.unknown:
        name = "by which interface the packet leaves, now that its route was looked for again"
        return Fork(lambda: name, (done, start(again, program)))
    return start(again, program) if state.packet.oif == "lo" else done
