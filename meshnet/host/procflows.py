"""Connection tracking by ``/proc/net/nf_conntrack``: what is left where ctnetlink is not there.

A line (``net/netfilter/nf_conntrack_standalone.c``, ct_seq_show)::

    ipv4     2 tcp      6 431999 ESTABLISHED src=… dst=… sport=1 dport=2 src=… dst=… … [ASSURED] …
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from meshnet.errors import NotPermitted, ToolFailed
from meshnet.model.snapshot import Flow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: The kernel's names (``net/netfilter/nf_conntrack_proto_tcp.c``), lower case.
TCP_STATES = {
    1: "syn_sent",
    2: "syn_recv",
    3: "established",
    4: "fin_wait",
    5: "close_wait",
    6: "last_ack",
    7: "time_wait",
    8: "close",
    9: "syn_sent2",
}
_NAMES = frozenset(name.upper().encode() for name in TCP_STATES.values())
#: Status bits of include/uapi/linux/netfilter/nf_conntrack_common.h.
_SEEN_REPLY, _CONFIRMED, _SOURCE, _TARGET = 2, 8, 16, 32
_MARKS = {b"[ASSURED]": 4, b"[OFFLOAD]": 1 << 14, b"[HW_OFFLOAD]": 1 << 15}
_FAMILIES = {b"2": ("ip", AF_INET), b"10": ("ip6", AF_INET6)}
_PATH = "/proc/thread-self/net/nf_conntrack"


def read_table(limit: int) -> tuple[list[Flow], int] | None:
    """(entries, how many more there were) of the current namespace; None where there is no table.

    Raises NotPermitted where it may not be read, ToolFailed where it makes no sense.
    """
    try:
        with open(_PATH, "rb") as f:
            return collect_lines(f, limit)
    except FileNotFoundError:
        return None
    except PermissionError as e:
        raise NotPermitted(
            "connection tracking: needs CAP_NET_ADMIN in this network namespace"
        ) from e
    except OSError as e:
        raise ToolFailed(f"cannot read {_PATH}: {e.strerror}") from e


def collect_lines(lines: Iterable[bytes], limit: int) -> tuple[list[Flow], int]:
    """The entries of such a table, and how many were left out. Raises ToolFailed for other text."""
    flows: list[Flow] = []
    texts: dict[bytes, str] = {}
    cut = 0
    for number, line in enumerate(lines):
        if len(flows) >= limit:
            cut += 1
            continue
        try:
            flows.append(_flow(line, texts))
        except (LookupError, ValueError, OSError) as e:
            raise ToolFailed(f"{_PATH}: line {number + 1} makes no sense") from e
    return flows, cut


def _flow(line: bytes, texts: dict[bytes, str]) -> Flow:
    start, first, second = line.split(b" src=", 2)
    words, original, reply = start.split(), _fields(b"src=" + first), _fields(b"src=" + second)
    family, af = _FAMILIES[words[1]]
    there, back = _ends(original, af, texts), _ends(reply, af, texts)
    status = _CONFIRMED
    if b"[UNREPLIED]" not in original:
        status |= _SEEN_REPLY
    for word, bit in _MARKS.items():
        if word in reply:
            status |= bit
    if back[2:] != there[:2]:
        status |= _SOURCE
    if back[:2] != there[2:]:
        status |= _TARGET
    state = words[-1].decode("ascii").lower() if words[-1] in _NAMES else ""
    zone = int(reply.get(b"zone", original.get(b"zone-orig", b"0")))
    mark = int(reply.get(b"mark", b"0"))
    return Flow(family, int(words[3]), *there, *back, status, state, mark, zone)


def _fields(text: bytes) -> dict[bytes, bytes]:
    """``a=1 [B]`` as {a: 1, [B]: ""}; a name that comes twice keeps its first value."""
    fields: dict[bytes, bytes] = {}
    for word in text.split():
        name, _, value = word.partition(b"=")
        fields.setdefault(name, value)
    return fields


def _ends(
    fields: dict[bytes, bytes], af: int, texts: dict[bytes, str]
) -> tuple[str, int, str, int]:
    """(source, its port, target, its port) of one direction; no ports are 0."""
    source, target = fields[b"src"], fields[b"dst"]
    for raw in (source, target):
        if raw not in texts:
            texts[raw] = inet_ntop(af, inet_pton(af, raw.decode("ascii")))
    sport, dport = int(fields.get(b"sport", b"0")), int(fields.get(b"dport", b"0"))
    return texts[source], sport, texts[target], dport
