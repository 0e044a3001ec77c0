"""Where a packet is on its way, as a value: two ways that meet in one state go on alike."""

from __future__ import annotations

from typing import NamedTuple

from meshnet.model.packet import Field, Packet
from meshnet.reason.hooks import Group
from meshnet.reason.lines import Code, Line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class State(NamedTuple):
    """A packet at a hook, and what was decided so far.

    ``first`` is where it began, ``local`` whether it is addressed to this namespace.
    ``tracked``: connection tracking has seen it; ``zoned``: it has a template with a zone
    in place of an entry, whose mark earlier packets may have ``stained``. ``settled``
    and ``sourced``: nat has settled its destination, its source. ``dnat``: the destination
    became another. ``marked``: the mark was changed where the kernel then looks for another route.
    ``over_lo``: it left by lo and is coming in again; ``left`` is how it left. ``port`` is
    where it was handed to, None where nowhere, 0 where the port is not known. ``wrote`` are
    the attributes of the packet that rules have set.
    """

    hook: str
    packet: Packet
    first: str
    local: bool = True
    unknown: frozenset[Field] = frozenset()
    tracked: bool = False
    zoned: bool = False
    stained: bool = False
    settled: bool = False
    sourced: bool = False
    dnat: bool = False
    elsewhere: bool = False
    marked: bool = False
    over_lo: bool = False
    left: Packet | None = None
    port: int | None = None
    captor: tuple[Line, str] | None = None
    ours: tuple[Line, str] | None = None
    foreign: tuple[Line, str] | None = None
    wrote: frozenset[str] = frozenset()


class Cursor(NamedTuple):
    """What is still to be asked: groups of stages, chains (innermost last), for a state."""

    todo: tuple[Group, ...]
    frames: tuple[tuple[Code, int], ...]
    state: State


class Ending(NamedTuple):
    """The end of a way. ``line`` dropped the packet; None where nothing did."""

    state: State
    line: tuple[Line, str] | None = None


class Fork(NamedTuple):
    """Ways that cannot be told apart offline; ``name`` says why, once it is asked."""

    name: Callable[[], str]
    ways: tuple[Cursor | Ending, ...]
