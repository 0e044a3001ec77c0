"""Features of netfilter, as data: what rules are made of, in either table of tables.

Kernel versions are those of nftables' own list of kernel updates, and of the commits.
"""

from __future__ import annotations

from meshnet.model.feature import Area, Feature, Module

LEGACY, COMPAT, NFT = "backend legacy", "backend nft-compat", "backend nft"
_DNS = "--redirect-dns (conntrack zones)"
_TPROXY = "TPROXY interception"
_TRACE = "the kernel's trace of a packet"

NFNETLINK = Module("nfnetlink", "NETFILTER_NETLINK")
NF_TABLES = Module("nf_tables", "NF_TABLES")
_NFT = (NFNETLINK, NF_TABLES)
IP_TABLES = Module("ip_tables", "IP_NF_IPTABLES")
#: Part of nf_tables since 5.18; iptables-nft counts in every rule.
COUNTER = Module("nft_counter", "NFT_COUNTER")
CHAIN_NAT = Module("nft_chain_nat", "NFT_NAT")
_NFT_NAT = (*_NFT, CHAIN_NAT, Module("nf_nat", "NF_NAT"))
_CONNTRACK = Module("nf_conntrack", "NF_CONNTRACK")
COMPAT_MODULE = Module("nft_compat", "NFT_COMPAT")
_OUT_NAT = "type nat hook output priority -100"
_OUT_RAW = "type filter hook output priority -300"
_IN_MANGLE = "type filter hook prerouting priority -150"
_OWN = ("-p", "tcp", "-m", "owner", "--uid-owner", "0", "-j", "RETURN")


def _nft(
    name: str,
    since: str,
    rule: tuple[str, str, str],
    needed_by: tuple[str, ...],
    modules: tuple[Module, ...] = _NFT,
    vital_to: tuple[str, ...] = (),
) -> Feature:
    """A rule that nft writes; ``rule`` is family, base chain, rule."""
    return Feature(
        name, Area.NETFILTER, ("nft", *rule), needed_by, since, modules, vital_to=vital_to
    )


def _xt(
    name: str,
    since: str,
    rule: tuple[str, ...],
    needed_by: tuple[str, ...],
    modules: tuple[Module, ...],
    vital: bool = False,
) -> Feature:
    """A rule with an extension of x_tables, which both iptables variants use."""
    vital_to = ("legacy", "nft-compat") if vital else ()
    return Feature(
        name, Area.NETFILTER, ("xt", *rule), needed_by, since, modules, vital_to=vital_to
    )


def _legacy(name: str, since: str, family: str, needed_by: tuple[str, ...]) -> Feature:
    """The tables of one family: nat is opened, and so made, by the legacy program."""
    prefix = "iptables" if family == "ip" else "ip6tables"
    upper = family.upper()
    tables = Module(f"{family}_tables", f"{upper}_NF_IPTABLES")
    nat = Module(f"{prefix.removesuffix('s')}_nat", f"{upper}_NF_NAT")
    modules = (Module("x_tables", "NETFILTER_XTABLES"), tables, nat)
    return Feature(
        name,
        Area.NETFILTER,
        ("iptables", f"{prefix}-legacy", "-t", "nat", "-N", "PROBE"),
        needed_by,
        since,
        modules,
        ("legacy",) if family == "ip" else (),
        "use --backend nft-compat or nft, which do not need it",
    )


NETFILTER = (
    Feature(
        "nf_tables",
        Area.NETFILTER,
        ("nf_tables",),
        (NFT, COMPAT),
        "3.13",
        _NFT,
        ("nft", "nft-compat"),
        "use --backend legacy, which does not need it",
    ),
    _nft(
        "nft redirect, inet NAT",
        "5.2",
        ("inet", _OUT_NAT, "meta l4proto tcp redirect to :15001"),
        (NFT,),
        (*_NFT_NAT, Module("nft_redir", "NFT_REDIR")),
        ("nft",),
    ),
    _nft("nft skuid", "3.13", ("inet", _OUT_RAW, "meta skuid 0 return"), (NFT,), _NFT, ("nft",)),
    _nft(
        "nft conntrack state",
        "3.13",
        ("inet", _OUT_RAW, "ct state invalid drop"),
        (f"{NFT}: --drop-invalid",),
        (*_NFT, _CONNTRACK, Module("nft_ct", "NFT_CT")),
    ),
    _nft(
        "nft conntrack zones",
        "4.11",
        ("ip", _OUT_RAW, "udp dport 53 ct zone set 1"),
        (f"{NFT}: {_DNS}",),
        (*_NFT, _CONNTRACK, Module("nft_ct", "NFT_CT")),
    ),
    _nft(
        "nft tproxy",
        "4.19",
        ("inet", _IN_MANGLE, "meta l4proto tcp tproxy to :15006"),
        (f"{NFT}: {_TPROXY}",),
        (*_NFT, Module("nft_tproxy", "NFT_TPROXY")),
    ),
    Feature(
        "nft owner tables",
        Area.NETFILTER,
        ("owner-table",),
        (_TRACE,),
        "5.12",
        _NFT,
    ),
    _nft("nftrace", "4.5", ("inet", _OUT_RAW, "meta nftrace set 1"), (_TRACE,)),
    _nft(
        "nft log group",
        "3.17",
        ("inet", _OUT_RAW, "log group 1"),
        (_TRACE,),
        (*_NFT, Module("nft_log", "NFT_LOG"), Module("nfnetlink_log", "NETFILTER_NETLINK_LOG")),
    ),
    Feature(
        "nft_compat",
        Area.NETFILTER,
        ("iptables", "iptables-nft", "-t", "filter", "-A", "OUTPUT", *_OWN),
        (COMPAT,),
        "3.13",
        (*_NFT, COMPAT_MODULE, Module("xt_owner", "NETFILTER_XT_MATCH_OWNER")),
        ("nft-compat",),
        "use --backend nft or legacy, which do not need it",
        (COUNTER,),
    ),
    _legacy("legacy ip_tables", "2.4", "ip", (LEGACY,)),
    _legacy("legacy ip6_tables", "3.7", "ip6", (f"{LEGACY}: IPv6",)),
    _xt(
        "xt_owner",
        "2.6.25",
        ("nat", "-A", "OUTPUT", *_OWN),
        (LEGACY, COMPAT),
        (Module("xt_owner", "NETFILTER_XT_MATCH_OWNER"),),
        vital=True,
    ),
    _xt(
        "REDIRECT",
        "2.4",
        ("nat", "-A", "OUTPUT", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15001"),
        (LEGACY, COMPAT),
        (Module("xt_REDIRECT", "NETFILTER_XT_TARGET_REDIRECT"),),
        vital=True,
    ),
    _xt(
        "xt_multiport",
        "2.6.14",
        ("nat", "-A", "OUTPUT", "-p", "tcp", "-m", "multiport", "--dports", "1,2", "-j", "RETURN"),
        (f"{LEGACY}: lists of ports", f"{COMPAT}: lists of ports"),
        (Module("xt_multiport", "NETFILTER_XT_MATCH_MULTIPORT"),),
    ),
    _xt(
        "xt_conntrack",
        "2.6.14",
        ("mangle", "-A", "PREROUTING", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"),
        (f"{LEGACY}: --drop-invalid, TPROXY", f"{COMPAT}: --drop-invalid, TPROXY"),
        (_CONNTRACK, Module("xt_conntrack", "NETFILTER_XT_MATCH_CONNTRACK")),
    ),
    _xt(
        "conntrack zones (CT)",
        "2.6.34",
        ("raw", "-A", "OUTPUT", "-p", "udp", "-j", "CT", "--zone", "1"),
        (f"{LEGACY}: {_DNS}", f"{COMPAT}: {_DNS}"),
        (_CONNTRACK, Module("xt_CT", "NETFILTER_XT_TARGET_CT")),
    ),
    _xt(
        "TPROXY",
        "2.6.28",
        ("mangle", "-A", "PREROUTING", "-p", "tcp", "-j", "TPROXY", "--on-port", "15006"),
        (f"{LEGACY}: {_TPROXY}", f"{COMPAT}: {_TPROXY}"),
        (Module("xt_TPROXY", "NETFILTER_XT_TARGET_TPROXY"),),
    ),
    _xt(
        "CONNMARK",
        "2.6.12",
        ("mangle", "-A", "OUTPUT", "-j", "CONNMARK", "--restore-mark"),
        (f"{LEGACY}: {_TPROXY}", f"{COMPAT}: {_TPROXY}"),
        (_CONNTRACK, Module("xt_connmark", "NETFILTER_XT_CONNMARK")),
    ),
    Feature(
        "TRACE",
        Area.NETFILTER,
        ("xt", "raw", "-A", "OUTPUT", "-p", "tcp", "-j", "TRACE"),
        (_TRACE,),
        "2.6.23",
        (Module("xt_TRACE", "NETFILTER_XT_TARGET_TRACE"),),
        # It asks for a logger when a rule is made (net/netfilter/xt_TRACE.c, since 5.11).
        perhaps=(
            Module("nf_log_syslog", "NF_LOG_SYSLOG"),
            Module("nf_log_ipv4", "NF_LOG_IPV4"),
        ),
    ),
    Feature(
        "nf_log per namespace",
        Area.NETFILTER,
        ("write", "net/netfilter/nf_log/2", "nfnetlink_log"),
        (f"{_TRACE} (legacy tables)",),
        "3.10",
        (Module("nfnetlink_log", "NETFILTER_NETLINK_LOG"),),
    ),
    Feature(
        "nf_log_all_netns",
        Area.NETFILTER,
        ("sysctl", "net/netfilter/nf_log_all_netns"),
        ("LOG and TRACE lines of pods in the kernel log",),
        "4.11",
        (),
        (),
        "ask in the host's network namespace, the only one that shows it",
    ),
)
