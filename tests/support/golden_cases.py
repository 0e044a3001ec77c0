"""The configurations of the project's own goldens, and connections that each decides.

A golden is what a dry run prints for a case, kept in ``tests/golden/data``. To write them
anew after a change that is meant: ``MESHNET_UPDATE_GOLDENS=1 make test ARGS=tests/golden``,
then read the difference, and let ``tests/netns/test_goldens_load.py`` ask the kernel.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from meshnet.cli.flags import FLAGS
from tests.support.probe import (
    API,
    API6,
    DNS,
    DNS6,
    FAR,
    FAR6,
    NEAR,
    POD,
    POD6,
    PROXY,
    SIDE,
    WEB,
    WEB6,
    Probe,
)

FOLDER = Path(__file__).parents[1] / "golden" / "data"
BACKENDS = ("nft-compat", "nft")
#: No setting from the outside.
PLAIN = {name: "" for flag in FLAGS for name in flag.sources()} | {"ENVOY_USER": "no-such-user"}


@dataclass(frozen=True)
class Case:
    """A configuration, and what becomes of some connections under it.

    ``guest``: it needs the virtual machine behind the pod.
    """

    argv: str
    fates: dict[Probe, str]
    env: dict[str, str] = field(default_factory=dict)
    guest: bool = False

    def arguments(self, backend: str) -> list[str]:
        """The whole command line."""
        return [*shlex.split(self.argv), "--backend", backend]


ON, OFF = "--ipv6 on", "--ipv6 off"
SERVERS = f"--dns-server {DNS} --dns-server {DNS6}"


def come(to: str, port: int = 8080, source: str = "") -> Probe:
    """A connection from the world."""
    return Probe(to, port, source=source, start="world")


def ask(to: str, protocol: str = "udp", uid: int = 1000) -> Probe:
    """A DNS question."""
    return Probe(to, 53, uid=uid, gid=uid, protocol=protocol)


PROXYS = Probe(WEB, uid=PROXY, gid=PROXY)
PROXYS6 = Probe(WEB6, uid=PROXY, gid=PROXY)

CASES: dict[str, Case] = {
    "classic": Case("-p 15001 -u 1337", {Probe(WEB): "outbound", PROXYS: "direct"}),
    "nothing": Case(
        f"-p 15001 -z 15006 -u 1337 {OFF}", {Probe(WEB): "direct", come(POD): "direct"}
    ),
    "default": Case(
        f"-p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' -d 15090,15021,15020 {OFF}",
        {
            Probe(WEB): "outbound", come(POD): "inbound", PROXYS: "direct",
            Probe(WEB, 53): "outbound",
        },
    ),
    "dual-stack": Case(
        f"-i '*' -b '*' {ON}",
        {Probe(WEB6): "outbound", come(POD6): "inbound", PROXYS6: "direct"},
    ),
    "inbound-wildcard": Case(f"-b '*' {OFF}", {come(POD): "inbound", Probe(WEB): "direct"}),
    "inbound-included": Case(
        f"-b 8080,9000 {OFF}",
        {come(POD): "inbound", come(POD, 9000): "inbound", come(POD, 8081): "direct"},
    ),
    "inbound-excluded": Case(
        f"-b '*' -d 8081 {ON}",
        {come(POD): "inbound", come(POD, 8081): "direct", come(POD6, 8081): "direct"},
    ),
    "outbound-included": Case(
        f"-q 443,8443 {OFF}", {Probe(WEB, 443): "outbound", Probe(WEB, 80): "direct"}
    ),
    "outbound-excluded": Case(
        f"-i '*' -o 9000,443 {ON}",
        {Probe(WEB, 9000): "direct", Probe(WEB6, 443): "direct", Probe(WEB6, 80): "outbound"},
    ),
    "blocks": Case(
        f"-i 192.0.2.0/24,2001:db8:2::/48 -x 192.0.2.16/28,2001:db8:2::20/128 {ON}",
        {
            Probe(WEB): "outbound", Probe(WEB6): "outbound", Probe(API): "direct",
            Probe(API6): "direct", Probe(FAR): "direct", Probe(FAR6): "direct",
        },
    ),
    "blocks-excluded": Case(
        f"-i '*' -x 192.0.2.0/24,198.51.100.10 {OFF}",
        {Probe(WEB): "direct", Probe(FAR): "direct", Probe(NEAR): "outbound"},
    ),
    "tproxy": Case(
        f"-m TPROXY -b '*' -i '*' -d 8081 {OFF}",
        {come(POD): "inbound", come(POD, source=FAR): "inbound", come(POD, 8081): "direct"},
    ),
    "tproxy-ports": Case(
        f"-m TPROXY -b 8080 -t 1400 -r 140 -c eth1 {ON}",
        {come(POD): "inbound", come(POD6): "inbound", come(POD, 9000): "direct"},
    ),
    "dns-servers": Case(
        f"-i '*' --redirect-dns {SERVERS} {ON}",
        {
            ask(DNS): "dns", ask(DNS6): "dns", ask(DNS, "tcp"): "dns", ask(WEB): "direct",
            ask(DNS, uid=PROXY): "direct",
        },
    ),
    "dns-everywhere": Case(
        f"-i '*' --redirect-dns --capture-all-dns {OFF}",
        {ask(WEB): "dns", ask(WEB, "tcp"): "dns", ask(WEB, uid=PROXY): "direct"},
    ),
    "groups": Case(
        f"-i '*' {OFF}",
        {Probe(WEB, gid=2001): "outbound", Probe(WEB, gid=2003): "direct"},
        {"ISTIO_OUTBOUND_OWNER_GROUPS": "2001,2002"},
    ),
    "groups-excluded": Case(
        f"-i '*' {ON}",
        {Probe(WEB, gid=2001): "direct", Probe(WEB6, gid=2003): "outbound"},
        {"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "2001,2002"},
    ),
    "interfaces-excluded": Case(
        f"-i '*' -b '*' -c eth1,eth7 {OFF}",
        {Probe(SIDE): "direct", Probe(NEAR): "outbound", come(POD): "inbound"},
    ),
    "interfaces-virtual": Case(
        f"-i 192.0.2.0/24 -k vm0 {OFF}",
        {
            Probe(WEB, start="guest"): "outbound", Probe(FAR, start="guest"): "direct",
            come(POD): "direct",
        },
        guest=True,
    ),
    "two-proxies": Case(
        f"-i '*' -u 1337,1400 -g 1500,1600 {OFF}",
        {
            Probe(WEB, uid=1400): "direct", Probe(WEB, gid=1600): "direct",
            Probe(WEB, uid=1500): "outbound",
        },
    ),
    "drop-invalid": Case(
        f"-i '*' -b '*' --drop-invalid {ON}", {Probe(WEB): "outbound", come(POD6): "inbound"}
    ),
    "loopback-block": Case(
        f"-i '*' {OFF}",
        {Probe(WEB): "outbound", Probe("127.9.9.9", 8080, uid=PROXY): "direct"},
        {"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.0/8"},
    ),
    "strict": Case(
        "--profile strict -i '*' -b '*' -d 8081",
        {
            Probe(WEB): "outbound", Probe(WEB6): "outbound", come(POD6): "inbound",
            come(POD, 8081): "direct", PROXYS6: "direct",
        },
    ),
    "strict-allow": Case(
        "--profile strict -i '*' -b '*' --ipv6 allow",
        {Probe(WEB): "outbound", Probe(WEB6): "direct", come(POD6): "direct"},
    ),
    "strict-drop": Case(
        "--profile strict -i '*' -b '*' -o 9000 --ipv6 drop",
        {
            Probe(WEB): "outbound", Probe(WEB6): "refused", Probe(WEB6, 9000): "direct",
            come(POD6): "refused", Probe("::1", 8080): "direct",
        },
    ),
    "strict-ranges": Case(
        "--profile strict -b 8000-8100,9000 -q 400-500 -u 1337,1400-1500",
        {
            come(POD): "inbound", come(POD, 80): "direct", Probe(WEB, 443): "outbound",
            Probe(WEB, 443, uid=1450): "direct", Probe(WEB, 80): "direct",
        },
    ),
    "strict-tproxy": Case(
        "--profile strict -m TPROXY -b '*' -i '*'",
        {come(POD, source=FAR): "inbound", come(POD6): "inbound", Probe(WEB): "outbound"},
    ),
    "strict-dns": Case(
        f"--profile strict -i '*' --redirect-dns {SERVERS}",
        {ask(DNS): "dns", ask(DNS6, "tcp"): "dns", ask(WEB): "direct"},
    ),
    "strict-exceptions": Case(
        "--profile strict -i '*' -b '*'",
        {
            Probe(WEB, 443, uid=1001): "direct", Probe(WEB, 443): "outbound",
            come(POD, source=API): "direct", come(POD): "inbound",
        },
        {
            "MESHNET_EXCLUDE_PORTS_FOR_UIDS": "443,8000-9000:1001,1005-1010",
            "MESHNET_EXCLUDE_SOURCES": f"{API},2001:db8:99::/48",
        },
    ),
}  # fmt: skip


def path_of(name: str, backend: str) -> Path:
    """The file of a golden."""
    return FOLDER / f"{name}.{backend}.txt"


def header(case: Case, backend: str) -> str:
    """A golden's first line: the command that prints the rest."""
    env = [f"{name}={shlex.quote(value)}" for name, value in case.env.items()]
    words = [*env, "meshnet-init", "--dry-run", shlex.join(case.arguments(backend))]
    return f"# {' '.join(words)}\n"


def parts_of(text: str) -> tuple[list[str], str, str]:
    """A golden as ``ip`` commands, and as input for IPv4's and IPv6's tool (nft's is the first)."""
    commands, inputs, at = [], ["", ""], 0
    for line in text.splitlines(keepends=True):
        if line == "# ip6tables\n":
            at = 1
        elif line.startswith("# ip "):
            commands.append(line[2:].strip())
        elif not line.startswith("#"):
            inputs[at] += line
    return commands, inputs[0], inputs[1]
