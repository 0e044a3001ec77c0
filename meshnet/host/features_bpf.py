"""Features of eBPF, as data: what interception without netfilter stands on.

A program type is probed by loading the smallest program of it; nothing is attached.
"""

from __future__ import annotations

from meshnet.model.feature import Area, Feature

_EBPF = "eBPF data path"
_OUT, _IN, _DNS = f"{_EBPF}: outbound", f"{_EBPF}: inbound", f"{_EBPF}: DNS"
_ACCEL = f"{_EBPF}: --accel sockmap"
_TRACE = "tracing connections"


def _bpf(name: str, since: str, probe: tuple[str, ...], needed_by: str, mend: str = "") -> Feature:
    return Feature(name, Area.BPF, probe, (needed_by,), since, mend=mend)


BPF = (
    _bpf(
        "bpffs",
        "4.4",
        ("mount", "bpf", "/sys/fs/bpf"),
        f"{_EBPF}: links that outlive the installer",
        "mount -t bpf bpf /sys/fs/bpf (`ip netns exec` hides it, `nsenter` does not)",
    ),
    _bpf(
        "BTF of the kernel",
        "5.4",
        ("file", "/sys/kernel/btf/vmlinux"),
        f"{_EBPF}: owner rules; {_TRACE}",
        "boot a kernel with CONFIG_DEBUG_INFO_BTF",
    ),
    _bpf("bpf connect4, connect6", "4.17", ("program", "connect4", "connect6"), _OUT),
    _bpf("bpf sendmsg4, sendmsg6", "4.18", ("program", "sendmsg4", "sendmsg6"), _DNS),
    _bpf("bpf recvmsg4, recvmsg6", "5.2", ("program", "recvmsg4", "recvmsg6"), _DNS),
    _bpf(
        "bpf getpeername4, getpeername6", "5.8", ("program", "getpeername4", "getpeername6"), _OUT
    ),
    _bpf("bpf sock_create", "4.10", ("program", "sock_create"), f"{_EBPF}: owner rules"),
    _bpf("bpf getsockopt", "5.3", ("program", "getsockopt"), f"{_EBPF}: SO_ORIGINAL_DST"),
    _bpf("bpf sock_ops", "4.13", ("program", "sock_ops"), _OUT),
    _bpf("bpf sk_msg", "4.17", ("program", "sk_msg"), _ACCEL),
    _bpf("bpf sk_lookup", "5.9", ("program", "sk_lookup"), _IN),
    _bpf("bpf tp_btf", "5.5", ("program", "tp_btf"), _TRACE),
    _bpf("bpf raw tracepoint", "4.17", ("program", "raw_tracepoint"), f"{_TRACE}, without tp_btf"),
    _bpf("bpf cookie in connect", "5.7", ("program", "connect_cookie"), f"{_EBPF}: many pods"),
    _bpf("bpf cookie in sock_ops", "5.15", ("program", "sock_ops_cookie"), f"{_EBPF}: many pods"),
    _bpf("bpf cookie in sk_msg", "5.15", ("program", "sk_msg_cookie"), _ACCEL),
    _bpf(
        "bpf_skc_to_tcp_sock in connect",
        "5.9",
        ("program", "connect_credentials"),
        f"{_EBPF}: owner rules",
    ),
    _bpf("bpf link to a cgroup", "5.7", ("link", "connect4"), f"{_EBPF}: update under load"),
    _bpf("bpf link to a namespace", "5.9", ("link", "sk_lookup"), _IN),
    _bpf("bpf map LRU_HASH", "4.10", ("map", "lru_hash"), _OUT),
    _bpf("bpf map HASH_OF_MAPS", "4.12", ("map", "hash_of_maps"), f"{_EBPF}: rule changes"),
    _bpf("bpf map SOCKHASH", "4.18", ("map", "sockhash"), f"{_IN}; --accel sockmap"),
    _bpf("bpf map SK_STORAGE", "5.2", ("map", "sk_storage"), _OUT),
    _bpf("bpf map RINGBUF", "5.8", ("map", "ringbuf"), _TRACE),
    _bpf("SO_NETNS_COOKIE", "5.14", ("netns-cookie",), f"{_EBPF}: many pods"),
    _bpf("pidfd_getfd", "5.6", ("pidfd-getfd",), f"{_IN}, a listener older than the programs"),
    _bpf(
        "libbpf.so.1",
        "",
        ("library", "libbpf.so.1", "libbpf_version_string"),
        f"{_EBPF}: the default loader",
        "install it (Debian: libbpf1)",
    ),
    Feature(
        "bcc",
        Area.BPF,
        ("bcc",),
        (f"{_EBPF}: --loader bcc",),
        mend="install it (Debian: python3-bpfcc); the bcc on PyPI is something else",
    ),
)
