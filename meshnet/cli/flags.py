"""The flags of ``meshnet-init``, as data: names, variables, defaults, help.

The first part is Istio's init tool's, flag for flag; the second part is ours. A flag's
variable is its long name in capitals with underscores; for ours with MESHNET_ before it.
A hidden flag is none: it is set by its variable or in the config file only.
"""

from __future__ import annotations

from meshnet.model.frozen import dataclass


@dataclass(frozen=True)
class Flag:
    """One flag. ``kind``: text, bool or many (repeatable).

    ``traffic``: it describes traffic, and so counts when ``--profile auto`` decides.
    ``key`` is its place in the config file; "" where it has none.
    """

    name: str
    help: str
    short: str = ""
    kind: str = "text"
    variables: tuple[str, ...] = ()
    traffic: bool = False
    key: str = ""
    metavar: str = ""
    hidden: bool = False

    def sources(self) -> tuple[str, ...]:
        """The variables that are read for it, the first one wins."""
        name = self.name.upper().replace("-", "_")
        return (f"MESHNET_{name}" if self.name in OWN else name, *self.variables)


FLAGS = (
    Flag(
        "envoy-port",
        "port that outbound TCP goes to (15001)",
        "p",
        traffic=True,
        key="proxy.port",
        metavar="PORT",
    ),
    Flag(
        "inbound-capture-port",
        "port that inbound TCP goes to (15006)",
        "z",
        traffic=True,
        key="proxy.inbound_port",
        metavar="PORT",
    ),
    Flag(
        "inbound-tunnel-port",
        "inbound port left alone: the proxy's tunnel (15008)",
        "e",
        traffic=True,
        key="proxy.tunnel_port",
        metavar="PORT",
    ),
    Flag(
        "proxy-uid",
        "numeric UIDs of the proxy (1337)",
        "u",
        traffic=True,
        key="proxy.uids",
        metavar="UID,…",
    ),
    Flag(
        "proxy-gid",
        "numeric GIDs of the proxy (as the UIDs)",
        "g",
        traffic=True,
        key="proxy.gids",
        metavar="GID,…",
    ),
    Flag(
        "istio-inbound-interception-mode",
        "REDIRECT or TPROXY (REDIRECT)",
        "m",
        traffic=True,
        key="inbound.mode",
        metavar="MODE",
    ),
    Flag(
        "istio-inbound-ports",
        "inbound ports to capture, * for all (none)",
        "b",
        traffic=True,
        key="inbound.ports",
        metavar="PORT,…",
    ),
    Flag(
        "istio-local-exclude-ports",
        "inbound ports to leave alone",
        "d",
        traffic=True,
        key="inbound.exclude_ports",
        metavar="PORT,…",
    ),
    Flag(
        "istio-exclude-interfaces",
        "interfaces to leave alone, in and out",
        "c",
        traffic=True,
        key="interfaces.exclude",
        metavar="NAME,…",
    ),
    Flag(
        "istio-service-cidr",
        "destinations to capture, * for all (none)",
        "i",
        traffic=True,
        key="outbound.cidrs",
        metavar="CIDR,…",
    ),
    Flag(
        "istio-service-exclude-cidr",
        "destinations to leave alone",
        "x",
        traffic=True,
        key="outbound.exclude_cidrs",
        metavar="CIDR,…",
    ),
    Flag(
        "istio-outbound-ports",
        "outbound ports to capture, whatever the address",
        "q",
        traffic=True,
        key="outbound.ports",
        metavar="PORT,…",
    ),
    Flag(
        "istio-local-outbound-ports-exclude",
        "outbound ports to leave alone",
        "o",
        traffic=True,
        key="outbound.exclude_ports",
        metavar="PORT,…",
    ),
    Flag(
        "kube-virt-interfaces",
        "interfaces of virtual machines, whose traffic counts as outbound",
        "k",
        traffic=True,
        key="interfaces.virtual",
        metavar="NAME,…",
    ),
    Flag(
        "istio-inbound-tproxy-mark",
        "mark of TPROXY's packets (1337)",
        "t",
        traffic=True,
        key="inbound.tproxy_mark",
        metavar="MARK",
    ),
    Flag(
        "istio-inbound-tproxy-route-table",
        "routing table of TPROXY's packets (133)",
        "r",
        traffic=True,
        key="inbound.tproxy_table",
        metavar="TABLE",
    ),
    Flag("dry-run", "print what would be sent, change nothing", "n", "bool"),
    Flag(
        "iptables-probe-port",
        "port that validation's listener takes where no proxy listens (15002)",
        metavar="PORT",
    ),
    Flag("probe-timeout", "limit of one validation probe, as 5s or 500ms (5s)", metavar="TIME"),
    Flag("skip-rule-apply", "apply nothing, validate only", kind="bool"),
    Flag(
        "run-validation",
        "prove by connections that capture works; exit 126 where it does not",
        kind="bool",
    ),
    Flag(
        "redirect-dns",
        "capture DNS to the servers of resolv.conf, to port 15053",
        kind="bool",
        variables=("ISTIO_META_DNS_CAPTURE",),
        traffic=True,
    ),
    Flag(
        "drop-invalid",
        "drop packets that conntrack finds invalid",
        kind="bool",
        variables=("INVALID_DROP",),
        traffic=True,
        key="drop_invalid",
    ),
    Flag(
        "dual-stack",
        "any IPv6 address turns IPv6 on, not the first address only",
        kind="bool",
        variables=("ISTIO_DUAL_STACK",),
        traffic=True,
    ),
    Flag("capture-all-dns", "with --redirect-dns: DNS to every server", kind="bool", traffic=True),
    Flag("network-namespace", "path of the network namespace to program", metavar="PATH"),
    Flag("cni-mode", "accepted: a namespace is entered the same way for a CNI plugin", kind="bool"),
    Flag("reconcile", "accepted, has nothing left to do: every run converges", kind="bool"),
    Flag(
        "cleanup-only",
        "remove all that is ours, in every backend; needs no other flag",
        kind="bool",
    ),
    Flag("force-apply", "accepted, has nothing left to do: every run converges", kind="bool"),
    Flag("native-nftables", "the same as --backend nft", kind="bool"),
    Flag(
        "force-iptables-binary",
        "iptables, iptables-nft or iptables-legacy: as --backend",
        metavar="NAME",
    ),
    Flag("istio-outbound-owner-groups", "", traffic=True, key="outbound.owner_groups", hidden=True),
    Flag(
        "istio-outbound-owner-groups-exclude",
        "",
        traffic=True,
        key="outbound.exclude_owner_groups",
        hidden=True,
    ),
    Flag(
        "istio-outbound-ipv4-loopback-cidr",
        "",
        traffic=True,
        key="outbound.loopback_cidr",
        hidden=True,
    ),
    Flag(
        "exclude-ports-for-uids",
        "",
        traffic=True,
        key="outbound.exclude_ports_for_uids",
        hidden=True,
    ),
    Flag("exclude-sources", "", traffic=True, key="inbound.exclude_sources", hidden=True),
    Flag(
        "profile",
        "auto, classic, istio or strict (auto: classic for -p and -u alone)",
        key="profile",
        metavar="NAME",
    ),
    Flag("backend", "auto, legacy, nft-compat or nft (auto)", key="backend", metavar="NAME"),
    Flag("config", "settings from a YAML file; flags and variables win", metavar="FILE"),
    Flag(
        "ipv6",
        "istio: auto, on, off (auto); strict: capture, allow, drop (capture)",
        traffic=True,
        key="ipv6",
        metavar="WHAT",
    ),
    Flag(
        "dns-server",
        "a DNS server, instead of those of resolv.conf; repeatable",
        kind="many",
        traffic=True,
        key="dns.servers",
        metavar="ADDR",
    ),
    Flag("target", "self, pid:N, netns:PATH, pod:NS/NAME or container:ID", metavar="TARGET"),
    Flag("output", "text or json (text)", metavar="FORM"),
    Flag("comments", "write each rule's id as its comment", kind="bool", key="comments"),
    Flag(
        "migrate",
        "move our rules from another backend: new ones first, old ones after",
        kind="bool",
    ),
    Flag("lock-wait", "how long to wait for a lock, as 30s (30s)", metavar="TIME"),
    Flag("verbose", "say more on standard error", kind="bool"),
    Flag("log-as-json", "messages on standard error as JSON lines", kind="bool"),
)
BY_NAME = {flag.name: flag for flag in FLAGS}
#: Settings without a flag: a variable or the config file names them.
OWN = frozenset(
    [
        "profile",
        "backend",
        "config",
        "ipv6",
        "dns-server",
        "target",
        "output",
        "comments",
        "migrate",
        "lock-wait",
        "verbose",
        "log-as-json",
        "exclude-ports-for-uids",
        "exclude-sources",
    ]
)
