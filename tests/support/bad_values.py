"""Values that meshnet-init refuses, by the setting that they are given to.

Each is given as a flag and as the flag's variable; ``allowed`` is a part of what the message
says is allowed instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshnet.cli.flags import BY_NAME, FLAGS


@dataclass(frozen=True)
class Bad:
    """A setting's bad value, with the flags that must be there for it to be looked at."""

    setting: str
    value: str
    allowed: str
    beside: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = self.value if len(self.value) < 24 else self.value[:20] + "…"
        return f"{self.setting}={shown!r}"

    @property
    def variable(self) -> str:
        """The variable that is read for the setting."""
        return BY_NAME[self.setting].sources()[0]

    @property
    def origin(self) -> str:
        """The flag as messages name it."""
        flag = BY_NAME[self.setting]
        return f"-{flag.short} --{flag.name}" if flag.short else f"--{flag.name}"


STRICT = ("--profile", "strict")
#: What somebody may try to carry into a tool's input, or into a shell.
SMUGGLED = (
    "80\n-A INPUT -j DROP",
    "80 -j ACCEPT",
    "80;reboot",
    "$(touch /tmp/pwned)",
    "`touch /tmp/pwned`",
    "80\nCOMMIT\n*filter\n:INPUT DROP [0:0]",
    '80" accept ; flush ruleset ; "',
    "80 | tee /tmp/pwned",
    "80\tREDIRECT",
    "80\r",
    "../../etc/passwd",
)
_PORT = ("0", "65536", "8000000000", "-1", "http", "80-", "80-90", "00000000000199999", "0x50", "")
_PORTS = ("0", "65536", "8000000000", "-1", "http", "80-", "-80", "80,x", "80 90", "80.0", "80-90")
_IDS = (
    "root",
    "-5",
    "4294967295",
    "99999999999999999999",
    "1 2",
    "*",
    "1.5",
    "5-",
    "1000-2000",
    ",",
)
_BLOCKS = (
    "10.0.0.0/33",
    "10.0.0.0/",
    "10.0.0",
    "10.0.0.256",
    "fd00::/129",
    "localhost",
    "10.0.0.0/x",
)
_BLOCKS += ("fe80::1%eth0", "10.0.0.0/255.0.0.0")
_NAMES = (
    "a b",
    "a\nb",
    "a/b",
    "a:b",
    '"',
    "a'b",
    "!",
    "!eth0",
    "*",
    "..",
    "../eth0",
    "+",
    "a+b",
    "a\\b",
)
_NAMES += ("sixteen-letters-", "é", "\udcff", "eth0,a b")


def _each(setting: str, values: tuple[str, ...], allowed: str, *beside: str) -> list[Bad]:
    return [Bad(setting, value, allowed, beside) for value in values]


_SINGLE_PORTS = ("envoy-port", "inbound-capture-port", "inbound-tunnel-port", "iptables-probe-port")
_LISTS = (
    "istio-inbound-ports",
    "istio-local-exclude-ports",
    "istio-outbound-ports",
    "istio-local-outbound-ports-exclude",
)
_BOOLEANS = tuple(flag.name for flag in FLAGS if flag.kind == "bool")

TABLE: tuple[Bad, ...] = (
    *(bad for name in _SINGLE_PORTS for bad in _each(name, (*_PORT, *SMUGGLED), "1 to 65535")),
    *(bad for name in _LISTS for bad in _each(name, (*_PORTS[:-1], *SMUGGLED), "1 to 65535")),
    *(bad for name in _LISTS for bad in _each(name, ("80-90",), "strict")),
    *(bad for name in _LISTS for bad in _each(name, ("90-80", "80-"), "1 to 65535", *STRICT)),
    *(bad for name in _LISTS[1:] for bad in _each(name, ("*",), "1 to 65535")),
    *_each("istio-inbound-ports", ("*,80", "80,*"), "1 to 65535"),
    *_each("proxy-uid", (*_IDS, *SMUGGLED), ""),
    *_each("proxy-gid", (*_IDS, "nogroup", *SMUGGLED), ""),
    *_each("istio-inbound-interception-mode", ("tproxy", "NAT", "REDIRECT ", *SMUGGLED), "TPROXY"),
    *_each("istio-service-cidr", (*_BLOCKS, *SMUGGLED), "10.0.0.0/8"),
    *_each("istio-service-cidr", ("*,10.0.0.0/8",), "*"),
    *_each("istio-service-exclude-cidr", (*_BLOCKS, *SMUGGLED), "10.0.0.0/8"),
    *_each("istio-service-exclude-cidr", ("*",), "block"),
    *_each("istio-exclude-interfaces", (*_NAMES, *SMUGGLED[:-1]), "1 to 15"),
    *_each("kube-virt-interfaces", (*_NAMES, *SMUGGLED), "1 to 15"),
    *_each(
        "istio-inbound-tproxy-mark", ("0", "4294967296", "-1", "mark", "1/2", *SMUGGLED), "1 to"
    ),
    *_each("istio-inbound-tproxy-route-table", ("253", "254", "255"), "254"),
    *_each("istio-inbound-tproxy-route-table", ("0", "4294967296", "main", *SMUGGLED), "1 to"),
    *(bad for name in _BOOLEANS for bad in _each(name, ("maybe", "yes", "2"), "true, false")),
    *_each("probe-timeout", ("5", "0s", "-1s", "soon", "5s;reboot"), "5s"),
    *_each("lock-wait", ("5", "0s", "forever", ""), "5s"),
    *_each("profile", ("Strict", "isito", "", *SMUGGLED[:2]), "strict"),
    *_each("backend", ("iptables", "NFT", "", *SMUGGLED[:2]), "nft-compat"),
    *_each("force-iptables-binary", ("nft", "/bin/sh", *SMUGGLED[:4]), "iptables-nft"),
    *_each("output", ("xml", "JSON"), "json"),
    *_each("ipv6", ("capture", "allow", "drop", "maybe"), "auto, on, off"),
    *_each("ipv6", ("auto", "on", "off", "maybe"), "capture, allow, drop", *STRICT),
    *_each(
        "dns-server", ("10.0.0.0/24", "dns.example", "fe80::1%eth0"), "address", "--redirect-dns"
    ),
    *_each("dns-server", ("resolver", *SMUGGLED), "address"),
    *_each(
        "target",
        ("pid:one", "netns:rel/ative", "cgroup:relative", "a/b/c", "x:y", "-1", *SMUGGLED),
        "pid:",
    ),
    *_each(
        "istio-outbound-owner-groups", ("no-such-group", "4294967295", "-1", *SMUGGLED), "numbers"
    ),
    *_each("istio-outbound-owner-groups", ("*,5",), "*"),
    *_each("istio-outbound-owner-groups", (",".join(map(str, range(65))),), "64"),
    *_each("istio-outbound-owner-groups-exclude", ("no-such-group", *SMUGGLED), "numbers"),
    *_each(
        "istio-outbound-ipv4-loopback-cidr",
        ("10.0.0.0/8", "::1/128", "127.0.0.0/4", "127.0.0.0/33", "localhost"),
        "",
    ),
    *_each("exclude-sources", ("10.0.0.0/33", "*"), "block", *STRICT),
    *_each("exclude-sources", ("10.0.0.0/8",), "strict"),
    *_each("exclude-ports-for-uids", ("80", "80:", ":5", "80:root", "x:5", "80:9-5"), "", *STRICT),
    *_each("exclude-ports-for-uids", ("80:5",), "strict"),
)
