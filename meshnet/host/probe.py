"""Sockets of another network namespace and of another user, used from here.

A socket belongs to the namespace and to the ids that it was created with, whoever uses it
later (``net/core/sock.c``, sk_net; ``net/netfilter/xt_owner.c`` reads the credentials of
its file). So a child enters, becomes somebody, creates sockets and hands them over; this
process binds, listens and connects, and never leaves its own namespace or ids.
"""

from __future__ import annotations

import os
import socket
import struct
import time

from meshnet.errors import KernelLacks, MeshnetError, NotPermitted, ToolFailed
from meshnet.host import rtnetlink
from meshnet.host.capabilities import held
from meshnet.host.netlink import NetlinkError, attribute, attributes, exchange
from meshnet.host.netns import CLONE_NEWNET, CLONE_NEWUSER, run_child
from meshnet.model.intervals import IntervalSet
from meshnet.model.packet import TCP, Family
from meshnet.model.plumbing import LoopbackAddress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    #: A family and a transport protocol (TCP or UDP of :mod:`meshnet.model.packet`).
    Shape = tuple[Family, int]

#: What is handed over; other rooms hold it without touching it.
Socket = socket.socket
AF = {Family.IP: socket.AF_INET, Family.IP6: socket.AF_INET6}
#: Descriptors in one message: the kernel takes 253 (include/net/scm.h, SCM_MAX_FD).
_AT_ONCE = 100
_ROUTE, _GETROUTE = 0, 26
_RTA_DST, _RTA_OIF, _RTA_UID = 1, 4, 25


def own_ids() -> tuple[int, int]:
    """The effective uid and gid of this process, which its sockets bear."""
    return os.geteuid(), os.getegid()


def reachable_ids() -> tuple[IntervalSet, IntervalSet]:
    """The uids and the gids that a child of this process can become; its own are among them.

    Without CAP_SETUID (CAP_SETGID) only its own; with it those that its user namespace maps.
    """
    uid, gid = own_ids()
    have = held()
    uids = _mapped("uid") if "CAP_SETUID" in have else IntervalSet()
    gids = _mapped("gid") if "CAP_SETGID" in have else IntervalSet()
    return IntervalSet.union([uids, IntervalSet.of(uid)]), IntervalSet.union(
        [gids, IntervalSet.of(gid)]
    )


def _mapped(kind: str) -> IntervalSet:
    try:
        with open(f"/proc/self/{kind}_map", encoding="ascii") as f:
            lines = [line.split() for line in f]
    except OSError:
        return IntervalSet()
    spans = [(int(first), int(first) + int(count) - 1) for first, _, count in lines]
    # The last number is no id: it means "no change".
    return IntervalSet.of(*spans).intersection(IntervalSet.of((0, 0xFFFFFFFE)))


def open_sockets(
    shapes: Sequence[Shape],
    *,
    netns: str | None = None,
    uid: int | None = None,
    gid: int | None = None,
) -> list[socket.socket]:
    """A socket for each of ``shapes``, in that order, neither bound nor connected.

    They belong to the namespace at ``netns`` and to ``uid`` and ``gid`` (None: as here).
    Raises NotPermitted where the child may not become that user, KernelLacks where a
    family is not there, and what :func:`meshnet.host.netns.run_child` raises.
    """

    def make() -> list[socket.socket]:
        _become(uid, gid)
        return [_create(shape) for shape in shapes]

    return _from_child(make, len(shapes), netns)


def open_bare_sockets(
    shapes: Sequence[Shape], addresses: Sequence[tuple[Family, int]]
) -> list[socket.socket]:
    """Sockets of a new network namespace that holds no rules, with ``addresses`` on its lo.

    The namespace lives as long as its sockets. Where CAP_SYS_ADMIN is missing it comes with
    a user namespace of its own. Raises NotPermitted where the kernel refuses both.
    """

    def make() -> list[socket.socket]:
        _leave()
        rtnetlink.raise_loopback()
        for family, number in addresses:
            rtnetlink.add_part(LoopbackAddress(family, number))
            _await_address(family, number)
        return [_create(shape) for shape in shapes]

    return _from_child(make, len(shapes), None)


def _leave() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) and libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
        why = os.strerror(ctypes.get_errno())
        raise NotPermitted(f"needs CAP_SYS_ADMIN, or user namespaces, to make one: {why}")


def _await_address(family: Family, number: int) -> None:
    """Wait until an address can be used: a worker ends its tentative state, on lo as well.

    At once for IPv4 (``net/ipv6/addrconf.c``, addrconf_dad_start schedules it).
    """
    name = socket.inet_ntop(AF[family], _packed(family, number))
    deadline = time.monotonic() + 2
    while True:
        with _create((family, TCP)) as trial:
            try:
                trial.bind((name, 0))
                return
            except OSError as e:
                if time.monotonic() > deadline:
                    raise KernelLacks(f"{name} cannot be used: {e.strerror}") from e
        time.sleep(0.001)


def _become(uid: int | None, gid: int | None) -> None:
    """Change this process's ids for good: for children only."""
    own_uid, own_gid = own_ids()
    try:
        if gid is not None and gid != own_gid:
            os.setresgid(gid, gid, gid)
        if uid is not None and uid != own_uid:
            os.setresuid(uid, uid, uid)
    except OSError as e:
        raise NotPermitted(f"needs to become uid {uid}, gid {gid}: {e.strerror}") from e


def _create(shape: Shape) -> socket.socket:
    family, transport = shape
    kind = socket.SOCK_STREAM if transport == TCP else socket.SOCK_DGRAM
    try:
        made = socket.socket(AF[family], kind)
        if family is Family.IP6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    except OSError as e:
        raise KernelLacks(f"no {family.value} socket can be made: {e.strerror}") from e
    return made


def _from_child(
    make: Callable[[], list[socket.socket]], count: int, netns: str | None
) -> list[socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:

        def job() -> None:
            try:
                made = make()
                for at in range(0, count, _AT_ONCE):
                    socket.send_fds(theirs, [b"."], [s.fileno() for s in made[at : at + _AT_ONCE]])
            except OSError as e:
                raise ToolFailed(f"sockets could not be handed over: {e.strerror}") from e

        run_child(job, netns=netns)
        numbers: list[int] = []
        while len(numbers) < count:
            numbers += socket.recv_fds(ours, 1, _AT_ONCE)[1]
    return [socket.socket(fileno=number) for number in numbers]


def same_namespace(netns: str | None) -> bool:
    """Whether ``netns`` is this process's own network namespace; None is."""
    if netns is None:
        return True
    here, there = os.stat("/proc/self/ns/net"), os.stat(netns)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def route_to(family: Family, address: int, uid: int | None) -> str | None:
    """The interface by which this namespace sends to ``address``; None where no route leads there.

    Asked for ``uid``, because policy rules can be for some users only.
    """
    width = 4 if family is Family.IP else 16
    body = struct.pack("=BBBBBBBBI", AF[family], width * 8, 0, 0, 0, 0, 0, 0, 0)
    body += attribute(_RTA_DST, address.to_bytes(width, "big"))
    if uid is not None:
        body += attribute(_RTA_UID, struct.pack("=I", uid))
    try:
        answer = exchange(_ROUTE, _GETROUTE, 0, body, "a route")[0]
    except NetlinkError:
        # ENETUNREACH, or the error of an unreachable, prohibit or blackhole route.
        return None
    except NotPermitted:
        # EPERM is what a prohibit route may answer; nobody needs privileges to ask.
        return None
    # IPv6 answers with the route itself, its own error in it (net/ipv6/route.c).
    if answer[7] not in (1, 2):
        return None
    index = attributes(answer[12:]).get(_RTA_OIF)
    return socket.if_indextoname(struct.unpack("=i", index)[0]) if index else None


def source_for(family: Family, address: int) -> int | None:
    """The address that this namespace would send from to ``address``; None without a route.

    Nothing is sent: connecting a datagram socket only looks the route up.
    """
    with _create((family, 17)) as asking:
        try:
            asking.connect((socket.inet_ntop(AF[family], _packed(family, address)), 9))
            source = socket.inet_pton(AF[family], asking.getsockname()[0])
        except OSError:
            return None
    # A route without any address to send from leaves the unspecified one.
    return int.from_bytes(source, "big") or None


def own_addresses() -> list[tuple[Family, int, str]]:
    """The addresses of this namespace, with their links; none of loopback or link-local scope."""
    found = []
    for address in rtnetlink.addresses():
        if not address.is_local_only():
            try:
                link = socket.if_indextoname(address.link)
            except OSError as e:
                raise MeshnetError("an interface went away while it was looked at") from e
            found.append((address.family, address.number, link))
    return found


def _packed(family: Family, address: int) -> bytes:
    return address.to_bytes(4 if family is Family.IP else 16, "big")
