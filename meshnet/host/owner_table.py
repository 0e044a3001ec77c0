"""The nf_tables table that switches the kernel's packet trace on, and goes away with its holder.

``flags owner`` ties a table to the netlink socket that made it: nobody else can change or
delete it, a foreign ``flush ruleset`` leaves it, and the kernel removes it when the socket is
closed, however that happened (net/netfilter/nf_tables_api.c, nft_rcv_nl_event). A forked
child keeps the socket open, and so the table.
"""

from __future__ import annotations

import struct

from meshnet.host.netlink import ACK, CREATE, REQUEST, attribute, attributes
from meshnet.model.frozen import dataclass
from meshnet.model.packet import TCP, Family
from meshnet.model.trace_filter import PortTerm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshnet.model.trace_filter import HostTerm, TraceFilter

#: What every table of ours is called, with the number of the process behind it.
PREFIX = "meshnet-trace-"
#: Before every chain that rule languages have a name for (raw before defrag: -450), and behind.
FIRST, LAST = -1000, 1000
SUBSYSTEM = 10 << 8
NEW_TABLE, NEW_CHAIN, NEW_RULE = SUBSYSTEM, SUBSYSTEM | 3, SUBSYSTEM | 6
DELETE_TABLE, GET_RULE = SUBSYSTEM | 2, SUBSYSTEM | 7
_BEGIN, _END = 16, 17
_APPEND = 0x800
_OWNER = 2
_INET = 1
_NESTED = 0x8000
_REGISTER = 8
#: NF_INET_PRE_ROUTING and on, of include/uapi/linux/netfilter.h.
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
#: Chains that no rule is in: the event of their policy shows a packet that got so far.
ENDS = {"end-of-input": 1, "end-of-output": 3, "end-of-postrouting": 4}
#: Where tracing begins, by chain; and what is jumped to.
BEGINS = {"begin-of-prerouting": 0, "begin-of-output": 3}
TRACED = "traced"
_META = {"mark": 3, "iifname": 6, "skuid": 10, "nftrace": 12, "nfproto": 15, "l4proto": 16}
_NFPROTO = {Family.IP: 2, Family.IP6: 10}
#: Offset of the source and of the destination address, and their length, by family.
_ADDRESS = {Family.IP: (12, 16, 4), Family.IP6: (8, 24, 16)}
_ACCEPT, _GOTO = 1, -4
_NETWORK, _TRANSPORT = 1, 2


@dataclass(frozen=True)
class TraceTable:
    """What the table shall do. ``rate`` is in packets a second, 0 for no limit.

    ``group`` is the NFLOG group that gets each traced packet, with ``prefix`` on it; ``every``
    traces packets in the middle of connections too.
    """

    name: str
    filter: TraceFilter
    group: int
    prefix: str
    rate: int = 200
    burst: int = 50
    every: bool = False


def batch(table: TraceTable, first: int) -> tuple[bytes, int]:
    """The messages that make ``table``, numbered from ``first``, and how many want an answer."""
    named = attribute(1, _text(table.name))
    bodies = [(NEW_TABLE, named + attribute(2, _be32(_OWNER)))]
    bodies += [(NEW_CHAIN, named + _base(name, hook, FIRST)) for name, hook in BEGINS.items()]
    bodies += [(NEW_CHAIN, named + _base(name, hook, LAST)) for name, hook in ENDS.items()]
    bodies.append((NEW_CHAIN, named + attribute(3, _text(TRACED))))
    for chain, expressions in _rules(table):
        rule = attribute(2, _text(chain)) + _nested(4, *expressions)
        bodies.append((NEW_RULE, named + rule))
    return _joined(bodies, first), len(bodies)


def removal(name: str, first: int) -> bytes:
    """The messages that delete the table called ``name``."""
    return _joined([(DELETE_TABLE, attribute(1, _text(name)))], first)


def table_named(body: bytes) -> str:
    """The name in the body of a message about a table."""
    return attributes(body[4:]).get(1, b"").rstrip(b"\0").decode("utf-8", "backslashreplace")


def _rules(table: TraceTable) -> Iterator[tuple[str, list[bytes]]]:
    """Each rule's chain and expressions: what is asked, counted, limited, marked and logged."""
    prefix = attribute(2, _text(table.prefix))
    group = attribute(1, struct.pack("!H", table.group))
    switch = [_immediate(b"\1\0\0\0"), _expression("meta", _key("nftrace"), _from(3))]
    limit = [_limit(table.rate, table.burst)] if table.rate else []
    yield TRACED, [_counter()]
    yield TRACED, [*limit, *switch, _expression("log", group, prefix), _verdict(_ACCEPT)]
    # What is over lo was seen on its way out: it stays traced, and counts once.
    yield "begin-of-prerouting", [*_equals(_meta("iifname"), _name("lo")), _verdict(_ACCEPT)]
    for matches in _alternatives(table.filter, table.every):
        yield "begin-of-output", [*matches, _verdict(_GOTO, TRACED)]
        if table.filter.uid is None:
            yield "begin-of-prerouting", [*matches, _verdict(_GOTO, TRACED)]


def _alternatives(asked: TraceFilter, every: bool) -> Iterator[list[bytes]]:
    """The matches of each rule that the filter needs: a term for either side needs two."""
    matches = list(_equals(_meta("l4proto"), bytes([asked.protocol])))
    if asked.family is not None:
        matches += _equals(_meta("nfproto"), bytes([_NFPROTO[asked.family]]))
    if asked.protocol == TCP and not every:
        matches += [_payload(_TRANSPORT, 13, 1), _masked(b"\x12"), _compare(b"\x02")]
    if asked.uid is not None:
        matches += _equals(_meta("skuid"), struct.pack("=I", asked.uid))
    ways = [matches]
    terms: tuple[PortTerm | HostTerm, ...] = (*asked.ports, *asked.hosts)
    for term in terms:
        sides = [term.side] if term.side else ["src", "dst"]
        ways = [[*way, *_at_side(term, side)] for way in ways for side in sides]
    yield from ways


def _at_side(term: PortTerm | HostTerm, side: str) -> list[bytes]:
    if isinstance(term, PortTerm):
        port = term.port
        return [
            _payload(_TRANSPORT, 0 if side == "src" else 2, 2),
            _compare(struct.pack("!H", port)),
        ]
    source, destination, length = _ADDRESS[term.family]
    address = term.address.to_bytes(length, "big")
    at = source if side == "src" else destination
    return [_payload(_NETWORK, at, length), _compare(address)]


def _base(name: str, hook: int, priority: int) -> bytes:
    where = _nested(4, attribute(1, _be32(hook)), attribute(2, _be32(priority)))
    return attribute(3, _text(name)) + where + attribute(7, _text("filter"))


# Expressions: numbers of include/uapi/linux/netfilter/nf_tables.h.


def _expression(name: str, *fields: bytes) -> bytes:
    return _nested(1, attribute(1, _text(name)), _nested(2, *fields))


def _key(name: str) -> bytes:
    return attribute(2, _be32(_META[name]))


def _from(kind: int) -> bytes:
    """The register that is read or written, as attribute ``kind``."""
    return attribute(kind, _be32(_REGISTER))


def _meta(name: str) -> bytes:
    return _expression("meta", _from(1), _key(name))


def _payload(base: int, offset: int, length: int) -> bytes:
    where = (base, offset, length)
    return _expression(
        "payload", _from(1), *(attribute(n, _be32(v)) for n, v in enumerate(where, 2))
    )


def _masked(mask: bytes) -> bytes:
    length = attribute(3, _be32(len(mask)))
    both = _nested(4, attribute(1, mask)) + _nested(5, attribute(1, bytes(len(mask))))
    return _expression("bitwise", _from(1), _from(2), length, both)


def _compare(value: bytes) -> bytes:
    return _expression("cmp", _from(1), attribute(2, _be32(0)), _nested(3, attribute(1, value)))


def _equals(load: bytes, value: bytes) -> list[bytes]:
    return [load, _compare(value)]


def _immediate(value: bytes) -> bytes:
    return _expression("immediate", _from(1), _nested(2, attribute(1, value)))


def _verdict(code: int, chain: str = "") -> bytes:
    to = attribute(2, _text(chain)) if chain else b""
    verdict = _nested(2, attribute(1, _be32(code)), to)
    return _expression("immediate", attribute(1, _be32(0)), _nested(2, verdict))


def _counter() -> bytes:
    return _expression("counter", attribute(1, bytes(8)), attribute(2, bytes(8)))


def _limit(rate: int, burst: int) -> bytes:
    rates = attribute(1, struct.pack("!Q", rate)) + attribute(2, struct.pack("!Q", 1))
    return _expression("limit", rates, attribute(3, _be32(burst)), attribute(4, _be32(0)))


def _name(text: str) -> bytes:
    """An interface's name as a register of sixteen bytes holds it."""
    return text.encode().ljust(16, b"\0")


# Messages.


def _nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(parts))


def _be32(number: int) -> bytes:
    return struct.pack("!I", number & 0xFFFFFFFF)


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape") + b"\0"


def message(kind: int, flags: int, number: int, family: int, resource: int, body: bytes) -> bytes:
    """One nfnetlink message."""
    head = struct.pack("=IHHII", 20 + len(body), kind, flags | REQUEST, number, 0)
    return head + struct.pack("!BBH", family, 0, resource) + body


def _joined(bodies: list[tuple[int, bytes]], first: int) -> bytes:
    """One transaction of all: either every message takes effect or none."""
    parts = [message(_BEGIN, 0, first, 0, SUBSYSTEM >> 8, b"")]
    for number, (kind, body) in enumerate(bodies, first + 1):
        flags = ACK | CREATE | (_APPEND if kind == NEW_RULE else 0)
        if kind == DELETE_TABLE:
            flags = 0
        parts.append(message(kind, flags, number, _INET, 0, body))
    parts.append(message(_END, 0, first + len(bodies) + 1, 0, SUBSYSTEM >> 8, b""))
    return b"".join(parts)
