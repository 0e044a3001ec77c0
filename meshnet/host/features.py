"""The table of features: everything that ``meshnet doctor`` looks at, in the order it is shown."""

from __future__ import annotations

from meshnet.host.features_bpf import BPF
from meshnet.host.features_netfilter import NETFILTER
from meshnet.host.features_programs import BACKENDS, PACKAGES, PROGRAMS, RUNTIMES
from meshnet.model.feature import Area, Feature, Module

_ROOT = "run as root, or add the capability to the container"
#: The feature that tells whether capabilities held here reach the network namespace.
OWNER_OF_NETNS = "owner of a namespace"
_CONNTRACK = Module("nf_conntrack", "NF_CONNTRACK")


def _capability(
    name: str, *needed_by: str, since: str = "", vital_to: tuple[str, ...] = ()
) -> Feature:
    probe = ("capability", name)
    return Feature(name, Area.CAPABILITIES, probe, needed_by, since, (), vital_to, _ROOT)


CAPABILITIES = (
    _capability(
        "CAP_NET_ADMIN",
        "meshnet-init, every backend",
        "reading nf_tables and conntrack",
        "eBPF data path",
    ),
    _capability("CAP_NET_RAW", "backend legacy", "validation"),
    _capability("CAP_SYS_ADMIN", "entering other namespaces", "inspect of other pods", "the lab"),
    _capability("CAP_SYS_PTRACE", "who owns a socket, for other users' processes"),
    _capability("CAP_SETUID", "validation as the proxy's user", "the lab"),
    _capability("CAP_SETGID", "validation as the proxy's group", "the lab"),
    _capability("CAP_BPF", "eBPF data path", since="5.8"),
    _capability("CAP_PERFMON", "eBPF data path: rules", "tracing connections", since="5.8"),
)

NETWORK = (
    Feature(
        "network namespaces",
        Area.NETWORK,
        ("namespace", "net"),
        ("pods", "the lab", "this command's own probes"),
        "3.8",
        mend="run with CAP_SYS_ADMIN, or allow user namespaces",
    ),
    Feature(
        "user namespaces",
        Area.NETWORK,
        ("namespace", "user"),
        ("rootless containers", "probes without privileges"),
        "3.8",
        mend="raise user.max_user_namespaces, or allow them in the security policy",
    ),
    Feature(
        OWNER_OF_NETNS,
        Area.NETWORK,
        ("namespace-owner",),
        ("UIDs of pods in user namespaces (inspect)",),
        "4.9",
    ),
    Feature(
        "cgroup v2",
        Area.NETWORK,
        ("mount", "cgroup2", "/sys/fs/cgroup"),
        ("targets cgroup:", "eBPF data path"),
        "4.5",
        mend="mount -t cgroup2 none /sys/fs/cgroup (`ip netns exec` hides it, `nsenter` does not)",
    ),
    Feature("pidfd", Area.NETWORK, ("pidfd",), ("running any program",), "5.3"),
    Feature(
        "IPv6",
        Area.NETWORK,
        ("ipv6",),
        ("capturing IPv6",),
        "2.6",
        mend="sysctl net.ipv6.conf.all.disable_ipv6=0, or boot without ipv6.disable=1",
    ),
    Feature(
        "policy routes by mark",
        Area.NETWORK,
        ("policy-rule",),
        ("TPROXY interception",),
        "2.6.20",
        mend="boot a kernel with CONFIG_IP_MULTIPLE_TABLES",
    ),
    Feature(
        "route_localnet",
        Area.NETWORK,
        ("write", "net/ipv4/conf/all/route_localnet", "1"),
        ("redirecting what comes in to 127.0.0.1",),
        "3.6",
    ),
    Feature(
        "sock_diag",
        Area.NETWORK,
        ("dump", "sock_diag"),
        ("conns", "inspect of many namespaces"),
        "3.3",
        (
            Module("inet_diag", "INET_DIAG"),
            Module("tcp_diag", "INET_TCP_DIAG"),
            Module("udp_diag", "INET_UDP_DIAG"),
        ),
        mend="none is needed: /proc/net/tcp is read instead, which is slower",
    ),
    Feature(
        "ctnetlink",
        Area.NETWORK,
        ("dump", "ctnetlink"),
        ("conns: original destinations",),
        "2.6.14",
        (
            Module("nfnetlink", "NETFILTER_NETLINK"),
            _CONNTRACK,
            Module("nf_conntrack_netlink", "NF_CT_NETLINK"),
        ),
        mend="none is needed where /proc/net/nf_conntrack is there, which is slower",
    ),
    Feature(
        "veth",
        Area.NETWORK,
        ("veth",),
        ("the lab",),
        "2.6.24",
        (Module("veth", "VETH"),),
    ),
)

FEATURES = (
    *CAPABILITIES,
    *NETFILTER,
    *NETWORK,
    *BPF,
    *PROGRAMS,
    *PACKAGES,
    *RUNTIMES,
    *BACKENDS,
)
