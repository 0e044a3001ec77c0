"""The kernel's own trace of a packet, and what it is held against."""

from __future__ import annotations

from meshnet.model.choices import Enum
from meshnet.model.frozen import dataclass
from meshnet.model.verdict import Place, Verdict

#: The version of a line of ``meshnet trace -o json``.
SCHEMA = "meshnet/v1/trace-event"


@dataclass(frozen=True)
class Logged:
    """One packet as NFLOG hands it over.

    Interfaces are indices, 0 for none; ``uid`` and ``gid`` are those of the reader's user
    namespace. ``hook`` is the kernel's number, ``prefix`` what the rule, or the trace of a
    legacy table, put before it. ``sequence`` counts the messages of the group.
    """

    group: int
    sequence: int
    prefix: str
    hook: int
    iif: int
    oif: int
    mark: int
    uid: int | None
    gid: int | None
    packet: bytes


@dataclass(frozen=True)
class Traced:
    """One event of nf_tables: a packet met a rule, or the end of a chain.

    ``family`` is the table's ("inet", "ip", "ip6", else ""). ``kind`` is the kernel's number
    (NFT_TRACETYPE_*: 1 policy, 2 return, 3 rule), ``handle`` the rule's, 0 for none, ``verdict``
    the code (0 drop, 1 accept, -1 continue, -3 jump, ...). ``network`` and ``transport`` are the
    headers as they are at this moment, in the first event of each base chain, else empty;
    ``iif``, ``oif`` (indices) and ``mark`` go with them. ``known`` says that conntrack had
    confirmed the connection before, None where this kernel does not tell.
    """

    id: int
    family: str
    table: str
    chain: str
    kind: int
    handle: int = 0
    verdict: int = 1
    network: bytes = b""
    transport: bytes = b""
    iif: int = 0
    oif: int = 0
    mark: int = 0
    known: bool | None = None


@dataclass(frozen=True)
class Met:
    """A rule that the kernel says a packet met, or the policy of a base chain.

    ``number`` is a rule's handle in nf_tables, 0 for a policy; in a ``legacy`` table its position
    from 1, behind the last rule for a policy. ``verdict`` is nf_tables' code, None in a
    legacy table, which does not tell.
    """

    legacy: bool
    family: str
    table: str
    chain: str
    number: int
    verdict: int | None = None


@dataclass(frozen=True)
class Point:
    """A packet at one moment: ``where`` names a chain of the trace's own table."""

    where: str
    src: str
    sport: int
    dst: str
    dport: int
    iif: str = ""
    oif: str = ""
    mark: int = 0


@dataclass(frozen=True)
class Sighting:
    """All that the kernel said of one packet.

    ``at`` is when it was read (seconds of the epoch). ``hook`` is where it began: "output",
    "prerouting". ``uid`` and ``gid`` are those that rules mean, None without a socket. ``pid``
    is 0 where nobody is known to hold its socket (``inode``). ``points`` say where it got to.
    ``generation`` is the number of the rules that it met, 0 where they changed under way or could
    not be read. ``known`` says that conntrack knew its connection, None where the kernel does
    not tell; ``again``: a packet with the same sequence number was traced before.
    ``lossy``: events of it may be missing. ``flags`` are TCP's.
    """

    number: int
    at: float
    hook: str
    family: str
    proto: int
    src: str
    sport: int
    dst: str
    dport: int
    flags: int = 0
    iif: str = ""
    oif: str = ""
    uid: int | None = None
    gid: int | None = None
    mark: int = 0
    inode: int = 0
    pid: int = 0
    command: str = ""
    met: tuple[Met, ...] = ()
    points: tuple[Point, ...] = ()
    generation: int = 0
    known: bool | None = None
    again: bool = False
    lossy: bool = False


class Agreement(Enum):
    """Whether the walk of a packet and the kernel's trace say the same.

    ``unchecked``: they could not be held against each other; the reason is told.
    """

    AGREES = "agrees"
    DISAGREES = "disagrees"
    UNCHECKED = "unchecked"


@dataclass(frozen=True)
class TracedRule:
    """A rule that was met, found in the dumps.

    ``place`` is None where it was not found: ``where`` is then what the kernel said.
    ``text`` is the rule in words, ``source`` in its backend's own language; ``why``, ``setting``
    and ``id`` say why it is there, "" for rules of others. ``policy``: the end of a chain.
    """

    where: str
    text: str
    place: Place | None = None
    source: str = ""
    why: str = ""
    setting: str = ""
    id: str = ""
    ours: bool = False
    policy: bool = False


@dataclass(frozen=True)
class TracedPacket:
    """A packet, the rules that it met, and whether that is what the walk says.

    ``verdict`` and ``port`` are what the kernel did; ``predicted`` is what the walk says, in
    words, with its own rules in ``expected`` where they are others. ``taken`` is where a captured
    packet was handed to. ``because`` is explain's reason where the two agree, ``setting`` what
    it hangs on, "" where it is no setting. ``report`` is the folder that has everything about a
    disagreement, "" where there is none.
    """

    seen: Sighting
    rules: tuple[TracedRule, ...]
    verdict: Verdict
    port: int
    agreement: Agreement
    reason: str = ""
    predicted: str = ""
    expected: tuple[TracedRule, ...] = ()
    taken: str = ""
    because: str = ""
    setting: str = ""
    report: str = ""


@dataclass(frozen=True)
class TraceStart:
    """What is traced, and how: ``table`` is the one that switches it on, ``backends`` hold rules.

    ``what`` says in words which packets. ``switched`` are the sysctls that are set meanwhile.
    ``notes`` are sentences about what cannot be traced, or is set and was so before. ``rate``
    is in packets a second, 0 for no limit.
    """

    namespace: str
    inode: int
    table: str
    backends: tuple[str, ...]
    rate: int
    what: str = ""
    switched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TraceNote:
    """Something that happened beside the packets: rules changed, events were lost.

    ``kind`` is "changed", "lost", "warning".
    """

    kind: str
    text: str


@dataclass(frozen=True)
class TraceEnd:
    """How a trace ended.

    ``matched`` packets met the filter, ``skipped`` of them were over the limit, ``shown``
    were told. ``lost`` are messages of the kernel that did not fit into the buffer, ``incomplete``
    the packets that this may concern, ``orphans`` events of packets whose beginning was lost.
    ``left`` is what could not be put back, "" where all was.
    """

    matched: int
    skipped: int
    shown: int
    captured: int
    dropped: int
    passed: int
    agreed: int
    disagreed: int
    unchecked: int
    lost: int = 0
    incomplete: int = 0
    orphans: int = 0
    left: str = ""
