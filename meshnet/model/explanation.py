"""Why one packet goes where it goes: every rule it met, the verdict, and what would change it.

All texts that came from outside (rules, names) are escaped by whoever shows them. What is
here is plain data, so that a JSON document is this value and nothing else:
``docs/explanation.schema.json`` is made from these types.
"""

from __future__ import annotations

from meshnet.model.frozen import dataclass

SCHEMA = "meshnet/v1/explanation"


@dataclass(frozen=True)
class ShownPacket:
    """A packet in words. ``src`` and ``dst`` are addresses, "" where not known.

    Ports are None where the protocol has none, or where they are not known; ``uid`` and ``gid``
    None for a packet without a socket, or not known: ``unknown`` has the names of the fields
    that nobody told. ``iif`` and ``oif`` are "" where there is none.
    """

    family: str
    proto: str
    src: str
    sport: int | None
    dst: str
    dport: int | None
    iif: str
    oif: str
    uid: int | None
    gid: int | None
    mark: int
    state: str
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Way:
    """How a packet is routed. ``origin``: kernel, snapshot, told (by the user) or assumed.

    ``local`` says that it is for this namespace. ``words`` are the same as a sentence.
    """

    origin: str
    link: str
    words: str
    gateway: str = ""
    source: str = ""
    table: int = 0
    local: bool = False


@dataclass(frozen=True)
class MetRule:
    """A rule that the packet met, or a run of them that did not hold for one reason.

    ``first`` and ``last`` are positions from 1; a policy's is behind the last rule, and its
    ``kind`` is "policy". ``held`` is "yes", "no" or "maybe". ``text`` is the rule in words, ""
    for a run. ``note`` says what it did or why it did not hold; ``id``, ``why`` and ``setting`` are
    those of a rule of ours that a profile makes. ``priority`` is the base chain's, ``depth`` how
    many chains deep the rule is.
    """

    hook: str
    priority: int
    backend: str
    family: str
    table: str
    chain: str
    first: int
    last: int
    kind: str
    text: str
    held: str
    note: str
    ours: bool
    depth: int = 0
    id: str = ""
    why: str = ""
    setting: str = ""


@dataclass(frozen=True)
class Because:
    """What decided: the reason in words, the setting's key in the configuration file ("" where no
    setting did), and the rule's id."""

    words: str
    setting: str = ""
    id: str = ""


@dataclass(frozen=True)
class Condition:
    """What all packets of a class have for one field."""

    field: str
    words: str


@dataclass(frozen=True)
class SameFate:
    """The class of packets that goes the very same way: all ``conditions`` hold.

    ``free`` are the fields that may be anything. ``whole`` False: more was undecided than
    could be followed, and no class is told.
    """

    family: str
    conditions: tuple[Condition, ...]
    free: tuple[str, ...]
    whole: bool = True


@dataclass(frozen=True)
class Nearest:
    """The least change that would capture the packet, tried by a walk.

    ``rule`` is the one that would then hold, or hold no more; ``changes`` are the packet's
    changes in words, ``packet`` the changed one, ``port`` who captures it. ``advice`` is what to
    change in the settings, "" where no setting does it alone; ``setting`` its key.
    """

    changes: tuple[str, ...]
    rule: str
    packet: ShownPacket
    port: int
    advice: str = ""
    setting: str = ""


@dataclass(frozen=True)
class PossibleFate:
    """One of the fates of a MAYBE, and the rule that decides it ("" where none does)."""

    verdict: str
    port: int
    rule: str


@dataclass(frozen=True)
class Leg:
    """One leg of a journey: a packet, its way, the rules it met, and the verdict.

    ``who`` sends it. ``port`` is who captures it, 0 where nobody or unknown; ``rule`` is the one
    that decided. ``undecided`` is what makes it a MAYBE, and ``fates`` what it may come to.
    ``unmodelled`` is what was met and not modelled, although the verdict stands. ``leaves`` is
    the packet as it leaves the hooks, in words.
    """

    who: str
    hook: str
    packet: ShownPacket
    way: Way
    rules: tuple[MetRule, ...]
    verdict: str
    port: int
    rule: str
    leaves: str
    because: Because
    same_fate: SameFate
    nearest: Nearest | None = None
    undecided: tuple[str, ...] = ()
    fates: tuple[PossibleFate, ...] = ()
    unmodelled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """The whole journey. ``source`` is whose rules these are, ``backends`` those that hold any.

    ``legs`` is one, unless the proxy's were followed; ``end`` says how those ended. ``expected``
    is the verdict that was asked for, "" where none was; ``met`` whether it is so.
    """

    schema: str
    source: str
    backends: tuple[str, ...]
    legs: tuple[Leg, ...]
    notes: tuple[str, ...] = ()
    end: str = ""
    expected: str = ""
    met: bool = True
