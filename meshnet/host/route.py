"""The route that the kernel would take for one packet: RTM_GETROUTE, with the user's id.

pyroute2 drops ``uid`` from such a request without a word, and the answer is then for another
user; the request is therefore made by :mod:`meshnet.host.netlink`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from meshnet.errors import ToolFailed
from meshnet.host.netlink import NetlinkError, attribute, attributes, exchange
from meshnet.host.netns import Door, run_child
from meshnet.model.explanation import Way
from meshnet.model.frozen import dataclass
from meshnet.model.match import PROTO_NAMES
from meshnet.model.packet import TCP, UDP
from meshnet.reason.way_out import NoRoute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from meshnet.host.target import Target

_ROUTE, _GETROUTE = 0, 26
#: include/uapi/linux/rtnetlink.h
_DST, _SRC, _IIF, _OIF, _GATEWAY, _PREFSRC, _TABLE, _MARK = 1, 2, 3, 4, 5, 7, 15, 16
_VIA, _UID, _IP_PROTO, _SPORT, _DPORT = 18, 25, 27, 28, 29
#: Answer with the table that the route was found in.
_LOOKUP_TABLE = 0x1000
_KINDS = {1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast"}
_HERE = ("local", "broadcast", "anycast", "multicast")
#: What the kernel says where there is no way, and what that means.
_NO_WAY = {
    errno.ENETUNREACH: "no route leads there",
    errno.EHOSTUNREACH: "a route says that it cannot be reached",
    errno.EACCES: "a route prohibits it",
    errno.EINVAL: "the route leads nowhere, or the packet makes no sense",
    errno.EXDEV: "no route leads there from where it comes (rp_filter)",
    errno.ENODEV: "there is no such interface",
}


@dataclass(frozen=True)
class Request:
    """What a route is asked for. Addresses are packed bytes, b"" where not known.

    ``iif`` is set for a packet that came in, "" for one that is sent from here; ports
    are 0 and ``uid`` -1 where they are not known.
    """

    dst: bytes
    src: bytes = b""
    proto: int = TCP
    sport: int = 0
    dport: int = 0
    uid: int = -1
    mark: int = 0
    iif: str = ""
    oif: str = ""


def kernel_route(target: Target, request: Request, timeout: float = 20.0) -> Way:
    """The way of a packet in the namespace of ``target``, now.

    Raises NoRoute where there is none, and what entering the namespace raises.
    """
    door = Door(target.path, target.inode)
    found = run_child(lambda: _ask(request), door=door, timeout=timeout)
    if "errno" in found:
        why = _NO_WAY.get(found["errno"], os.strerror(found["errno"]))
        raise NoRoute(why)
    return _way(found, request)


def _ask(request: Request) -> dict[str, Any]:
    """For a child in the namespace: the answer as plain data, or the errno."""
    try:
        bodies = exchange(_ROUTE, _GETROUTE, 0, _body(request), "the route")
    except NetlinkError as e:
        return {"errno": e.code}
    except OSError as e:
        return {"errno": e.errno or errno.ENODEV}
    if not bodies:
        raise ToolFailed("the route: the kernel gave no answer")
    return _read(bodies[0])


def _body(request: Request) -> bytes:
    bits = 8 * len(request.dst)
    family = socket.AF_INET if bits == 32 else socket.AF_INET6
    head = (family, bits, 8 * len(request.src), 0, 0, 0, 0, 0, _LOOKUP_TABLE)
    body = struct.pack("=BBBBBBBBI", *head) + attribute(_DST, request.dst)
    if request.src:
        body += attribute(_SRC, request.src)
    if request.uid >= 0:
        body += attribute(_UID, struct.pack("=I", request.uid))
    if request.mark:
        body += attribute(_MARK, struct.pack("=I", request.mark))
    for kind, name in ((_IIF, request.iif), (_OIF, request.oif)):
        if name:
            body += attribute(kind, struct.pack("=i", socket.if_nametoindex(name)))
    if request.proto in (TCP, UDP):
        body += attribute(_IP_PROTO, struct.pack("=B", request.proto))
        for kind, port in ((_SPORT, request.sport), (_DPORT, request.dport)):
            if port:
                body += attribute(kind, struct.pack("!H", port))
    return body


def _read(answer: bytes) -> dict[str, Any]:
    family, _, _, _, table, _, _, kind, _ = struct.unpack_from("=BBBBBBBBI", answer)
    fields = attributes(answer[12:])
    found: dict[str, Any] = {"kind": _KINDS.get(kind, str(kind)), "table": table}
    if _TABLE in fields:
        (found["table"],) = struct.unpack("=I", fields[_TABLE])
    if _OIF in fields:
        found["link"] = socket.if_indextoname(struct.unpack("=i", fields[_OIF])[0])
    for name, field in (("gateway", _GATEWAY), ("source", _PREFSRC)):
        if field in fields:
            found[name] = socket.inet_ntop(family, fields[field])
    if _VIA in fields:
        (other,) = struct.unpack_from("=H", fields[_VIA])
        if other in (socket.AF_INET, socket.AF_INET6):
            found["gateway"] = socket.inet_ntop(other, fields[_VIA][2:])
    return found


def _way(found: dict[str, Any], request: Request) -> Way:
    link, gateway = found.get("link", ""), found.get("gateway", "")
    local = found["kind"] == "local" or (bool(request.iif) and found["kind"] in _HERE)
    words = ("for this namespace" if local else f"on by {link}") if request.iif else link
    words += f" via {gateway}" if gateway else ""
    asked = [f"uid {request.uid}"] if request.uid >= 0 else []
    asked += [f"mark {request.mark}"] if request.mark else []
    asked += [PROTO_NAMES[request.proto]] if request.proto in (TCP, UDP) else []
    words += f"   the kernel's, table {found['table']}, for {', '.join(asked)}"
    return Way("kernel", link, words, gateway, found.get("source", ""), found["table"], local)
