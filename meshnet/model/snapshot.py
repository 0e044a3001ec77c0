"""A snapshot: all that one network namespace showed at one moment, as data.

Everything that inspect, conns and later commands say is computed from such a value, so
that the same answer comes from a live namespace and from a file. Texts in it came from
outside (process names, comments, interface names): whoever prints them escapes them.
Families are "ip" and "ip6"; addresses are text; UIDs and GIDs are those of the user
namespace that owns the network namespace, which is how rules mean them
(``net/netfilter/xt_owner.c``, ``net/netfilter/nft_meta.c``).
"""

from __future__ import annotations

from meshnet.model.frozen import dataclass

#: The version of the document; a reader refuses any other.
SCHEMA = "meshnet/v1/snapshot"

#: What can be collected, in the order in which it is shown.
SECTIONS = ("rules", "routes", "sysctls", "processes", "sockets", "connections")

#: Stands for an id that the owning user namespace does not map (kernel/sys.c, overflowuid).
UNMAPPED = 65534


@dataclass(frozen=True)
class ContainerName:
    """A container as its runtime calls it; ``pod`` is "namespace/name" or ""."""

    id: str
    name: str = ""
    pod: str = ""
    runtime: str = ""


@dataclass(frozen=True)
class Namespace:
    """Which network namespace this is.

    ``name`` is the best name it has ("shop/cart-7d9f", "netns blue", "pid 4140"),
    ``path`` where it was entered, "" for the reader's own. ``owner`` is the inode of the
    user namespace that owns it, 0 where the kernel did not say.
    """

    inode: int
    name: str
    path: str = ""
    pod: str = ""
    containers: tuple[ContainerName, ...] = ()
    owner: int = 0


@dataclass(frozen=True)
class Link:
    """A network interface."""

    index: int
    name: str
    up: bool = False
    loopback: bool = False


@dataclass(frozen=True)
class InterfaceAddress:
    """An address of an interface; ``scope`` is the kernel's ("global", "link", "host", ...)."""

    link: str
    family: str
    address: str
    length: int
    scope: str = "global"


@dataclass(frozen=True)
class Route:
    """A route. ``destination`` is a CIDR (a default route is 0.0.0.0/0 or ::/0).

    ``kind`` is "unicast", "local", "blackhole", ...; ``gateway`` and ``link`` are "" where
    the route has none; ``protocol`` is who made it (rtnetlink(7)).
    """

    family: str
    table: int
    destination: str
    kind: str = "unicast"
    gateway: str = ""
    link: str = ""
    source: str = ""
    metric: int = 0
    protocol: int = 0


@dataclass(frozen=True)
class PolicyRoute:
    """A rule of the routing policy database: what asks which table, in order of priority.

    ``mark`` is None where the rule asks for none. ``other`` names the conditions that this
    value does not hold (uid ranges, ports, ...), so that nobody takes the rule for wider
    or narrower than it is.
    """

    family: str
    priority: int
    table: int
    action: str = "lookup"
    mark: int | None = None
    mask: int = 0xFFFFFFFF
    source: str = ""
    destination: str = ""
    iif: str = ""
    oif: str = ""
    inverted: bool = False
    protocol: int = 0
    other: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dump:
    """The untouched output of a tool that shows the rules of one backend.

    ``family`` is "ip" or "ip6" for iptables-save text with counters, "" for the JSON of
    ``nft -j list ruleset``, from which nft-compat's tables are left out when read.
    """

    backend: str
    tool: str
    text: str
    family: str = ""


@dataclass(frozen=True)
class Process:
    """A process of the namespace.

    ``uid`` and ``gid`` are its file-system ids (what owner matches ask for);
    ``host_uid`` and ``host_gid`` the same as the reader's own user namespace has them.
    ``started`` is in clock ticks since boot (proc(5), field 22).
    """

    pid: int
    parent: int
    command: str
    uid: int
    gid: int
    host_uid: int
    host_gid: int
    container: str = ""
    started: int = 0


@dataclass(frozen=True)
class Socket:
    """A TCP or UDP socket. ``state`` is ss's word in lower case ("listen", "established", ...).

    ``pids`` are the processes that hold it, as far as could be seen. ``link`` is the
    interface it is bound to, or "". ``only6`` says that an IPv6 socket takes no IPv4
    (net/ipv6, IPV6_V6ONLY), ``transparent`` that IP_TRANSPARENT is set (None: not told).
    An IPv4 connection on an IPv6 socket has family "ip".
    """

    family: str
    proto: str
    state: str
    local: str
    lport: int
    remote: str
    rport: int
    uid: int
    inode: int
    pids: tuple[int, ...] = ()
    link: str = ""
    only6: bool = False
    transparent: bool | None = None

    @property
    def endpoint(self) -> str:
        """What it listens on: "*:15001", "[::1]:8080", "127.0.0.1:53/udp"; "*" is any address."""
        host = f"[{self.local}]" if ":" in self.local else self.local
        if self.local == "0.0.0.0" or (self.local == "::" and not self.only6):
            host = "*"
        return f"{host}:{self.lport}" + ("/udp" if self.proto == "udp" else "")


@dataclass(frozen=True)
class Flow:
    """An entry of connection tracking: the tuple of its first packet and the reply's.

    ``status`` are the kernel's bits (include/uapi/linux/netfilter/nf_conntrack_common.h):
    4 assured, 16 source translated, 32 destination translated, ... ``state`` is TCP's,
    lower case, "" for others. ``zone`` 0 is the default.
    """

    family: str
    proto: int
    src: str
    sport: int
    dst: str
    dport: int
    reply_src: str
    reply_sport: int
    reply_dst: str
    reply_dport: int
    status: int = 0
    state: str = ""
    mark: int = 0
    zone: int = 0


@dataclass(frozen=True)
class Gap:
    """Something that this snapshot lacks: which section, and why, in one sentence."""

    section: str
    reason: str


@dataclass(frozen=True)
class Snapshot:
    """See the module. An empty tuple is a fact, unless a gap says otherwise.

    ``taken`` is RFC 3339 in UTC. ``sysctls`` are names with dots as ``sysctl`` prints them.
    ``sections`` are those that were asked for. ``dormant`` are (family, name) of nf_tables
    tables that no hook reaches (include/uapi/linux/netfilter/nf_tables.h,
    NFT_TABLE_F_DORMANT).
    """

    schema: str
    version: str
    taken: str
    kernel: str
    namespace: Namespace
    sections: tuple[str, ...] = SECTIONS
    links: tuple[Link, ...] = ()
    addresses: tuple[InterfaceAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    policies: tuple[PolicyRoute, ...] = ()
    sysctls: dict[str, str] | None = None
    dumps: tuple[Dump, ...] = ()
    processes: tuple[Process, ...] = ()
    sockets: tuple[Socket, ...] = ()
    flows: tuple[Flow, ...] = ()
    gaps: tuple[Gap, ...] = ()
    dormant: tuple[tuple[str, str], ...] = ()
    redacted: bool = False
