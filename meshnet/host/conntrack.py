"""Connection tracking of this network namespace, asked of the kernel by ctnetlink.

Where asking would load a module, ``/proc`` tells the same (host/procflows.py). Reading
registers no hook: tracking goes on or stays off as it was. pyroute2 has ctnetlink too, and
takes twenty times as long for ten thousand entries.
"""

from __future__ import annotations

import errno
from _socket import AF_INET, AF_INET6, inet_ntop

from meshnet.errors import NotPermitted, ToolFailed
from meshnet.host.autoload import loads_nothing
from meshnet.host.layout import Layouts, Wanted
from meshnet.host.netlink import DUMP, Changed, NetlinkError, stream
from meshnet.host.procflows import TCP_STATES, read_table
from meshnet.model.feature import Module
from meshnet.model.snapshot import Flow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

#: How many entries are kept unless told otherwise.
LIMIT = 50_000
_MODULE = Module("nf_conntrack_netlink", "NF_CT_NETLINK")
_NETFILTER, _GET = 12, 1 << 8 | 1
_WHAT = "connection tracking"
#: What a kernel answers that lacks nfnetlink, or ctnetlink in it.
_LACKS = (errno.ENOENT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL)
#: Behind struct nfgenmsg; numbers of include/uapi/linux/netfilter/nfnetlink_conntrack.h.
_WANTED = Wanted(
    4,
    frozenset({(1,), (1, 1), (1, 2), (2,), (2, 1), (2, 2), (4,), (4, 1)}),
    {
        **{(way, 1, end): "s" for way in (1, 2) for end in (1, 2, 3, 4)},
        **{(way, 2, end): "H" for way in (1, 2) for end in (2, 3)},
        (1, 2, 1): "B",
        (3,): "I",
        (4, 1, 1): "B",
        (8,): "I",
        (18,): "H",
        (1, 3): "H",
    },
)
_TCP = 6
_TRIES = 3


def read_flows(limit: int = LIMIT) -> tuple[list[Flow], int] | str:
    """(entries, how many more there were), or why they cannot be had, in one sentence.

    Entries of every protocol; one without ports has 0 for them. Nothing is loaded and nothing
    changes, and where nothing is tracked nothing is asked. From ``/proc`` the status has only
    the bits seen-reply, assured, confirmed and the two of translation. Raises NotPermitted
    where CAP_NET_ADMIN is needed, ToolFailed where an answer cannot be read.
    """
    if _count() == 0:
        return [], 0
    refusal = None
    if loads_nothing(_MODULE):
        try:
            return _ask(limit)
        except NotPermitted as e:
            refusal = e
        except NetlinkError as e:
            if e.code not in _LACKS:
                raise
    try:
        found = read_table(limit)
    except NotPermitted:
        if refusal is not None:
            raise refusal from None
        raise
    if found is not None:
        return found
    if refusal is not None:
        raise refusal
    if _count() is None and not _tracks():
        return [], 0
    return (
        "tracked connections cannot be seen: nf_conntrack_netlink is not in the kernel, "
        "and there is no /proc/net/nf_conntrack"
    )


def _count() -> int | None:
    """How many entries this namespace has; None where the kernel does not say."""
    try:
        with open("/proc/sys/net/netfilter/nf_conntrack_count", encoding="ascii") as f:
            return int(f.read())
    except (OSError, ValueError):
        return None


def _tracks() -> bool:
    """Whether connection tracking is in the kernel now."""
    return loads_nothing(Module("nf_conntrack", "NF_CONNTRACK"))


def _ask(limit: int) -> tuple[list[Flow], int]:
    for left in range(_TRIES, -1, -1):
        try:
            return collect(stream(_NETFILTER, _GET, DUMP, b"\0\0\0\0", _WHAT), limit)
        except Changed:
            if not left:
                raise
    return [], 0


def collect(bodies: Iterable[bytes], limit: int = LIMIT) -> tuple[list[Flow], int]:
    """The entries in ctnetlink's answers, and how many were left out.

    Raises ToolFailed where one is not what it should be.
    """
    flows: list[Flow] = []
    texts: dict[bytes, str] = {}
    layouts = Layouts(_WANTED)
    cut = 0
    for body in bodies:
        if len(flows) >= limit:
            cut += 1
            continue
        try:
            flows.append(_flow(layouts.read(body), texts))
        except ValueError as e:
            raise ToolFailed(f"{_WHAT}: the kernel's answer makes no sense: {e}") from e
    return flows, cut


def _flow(fields: tuple[Any, ...], texts: dict[bytes, str]) -> Flow:
    """An entry by the fields of _WANTED, in their order."""
    # One name a field and no loop: this runs for every entry.
    (
        src4, dst4, src6, dst6, back_src4, back_dst4, back_src6, back_dst6,
        sport, dport, back_sport, back_dport, proto, status, state, mark, zone, own_zone,
    ) = fields  # fmt: skip
    if src4:
        family, src, dst, back_src, back_dst = "ip", src4, dst4, back_src4, back_dst4
    else:
        family, src, dst, back_src, back_dst = "ip6", src6, dst6, back_src6, back_dst6
    return Flow(
        family,
        proto or 0,
        texts.get(src) or _text(src, texts),
        sport or 0,
        texts.get(dst) or _text(dst, texts),
        dport or 0,
        texts.get(back_src) or _text(back_src, texts),
        back_sport or 0,
        texts.get(back_dst) or _text(back_dst, texts),
        back_dport or 0,
        status or 0,
        TCP_STATES.get(state, "") if proto == _TCP else "",
        mark or 0,
        zone or own_zone or 0,
    )


def _text(raw: bytes, texts: dict[bytes, str]) -> str:
    if len(raw) not in (4, 16):
        raise ValueError("an entry without addresses")
    text = texts[raw] = inet_ntop(AF_INET if len(raw) == 4 else AF_INET6, raw)
    return text
