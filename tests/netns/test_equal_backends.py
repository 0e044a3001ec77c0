"""One intent, three backends, one fate for every packet; and where Istio's own programs part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support import traffic
from tests.support.namespaces import Namespaces
from tests.support.probe import (
    API,
    API6,
    DNS,
    DNS6,
    FAR,
    NEAR6,
    POD,
    POD6,
    POD_SIDE,
    PROXY,
    SIDE6,
    WEB,
    WEB6,
    Probe,
)
from tests.support.strays import orphaned_data, stray_icmp, stray_tcp
from tests.support.traffic import BACKENDS, Pod

PROXY_IDS = {"uid": PROXY, "gid": PROXY}
PROBES = (
    Probe(WEB),
    Probe(WEB6),
    Probe(WEB, uid=0, gid=0),
    Probe(WEB6, **PROXY_IDS),
    Probe(WEB, uid=PROXY, gid=0),
    Probe(WEB6, gid=PROXY),
    Probe(WEB, uid=1338, gid=2001),
    Probe(API),
    Probe(API6, 8443),
    Probe(WEB, 443),
    Probe(WEB6, 9050),
    Probe(SIDE6),
    Probe(NEAR6, 15008),
    Probe(DNS, 53, protocol="udp"),
    Probe(DNS6, 53, protocol="udp"),
    Probe(DNS6, 53),
    Probe(DNS, 53, protocol="udp", **PROXY_IDS),
    Probe(WEB6, 53, protocol="udp"),
    Probe(POD, 8080),
    Probe(POD6, 8080, **PROXY_IDS),
    Probe(POD, 8080, gid=PROXY),
    Probe(POD, 8080, uid=1338, gid=2001),
    Probe(POD, 8080, source="127.0.0.6", **PROXY_IDS),
    Probe("::1", 8080, **PROXY_IDS),
    Probe("127.0.0.1", 8080),
    Probe(POD, 8080, start="world"),
    Probe(POD6, 8080, start="world"),
    Probe(POD6, 8081, start="world"),
    Probe(POD, 15008, start="world"),
    Probe(POD_SIDE, 8080, start="world"),
    Probe(POD, 8080, start="world", source=FAR),
)
STRICT, ISTIO = traffic.PROFILES["strict"], traffic.PROFILES["istio"]
SERVERS = ["--redirect-dns", "--dns-server", DNS, "--dns-server", DNS6]
SPECS = {
    "strict": [*STRICT, *SERVERS, "-b", "*", "-d", "8081", "-o", "443", "-x", f"{API},{API6}"],
    "strict-some": [*STRICT, *SERVERS, "-b", "8080", "-i", f"{WEB6}", "-q", "443,8000-8443"],
    "strict-tproxy": [*STRICT, "-m", "TPROXY", "-b", "*", "-d", "8081", "-c", "eth1"],
    "strict-refused": [*STRICT, *SERVERS, "-b", "*", "-o", "9000-9060", "--ipv6", "drop"],
    "strict-allowed": [*STRICT, "-u", "1337-1338", "-b", "*", "--ipv6", "allow"],
    "strict-all-dns": [*STRICT, "-g", "2001,1337", "--redirect-dns", "--capture-all-dns"],
    "istio": [*ISTIO, *SERVERS, "-b", "*", "-d", "8081", "-o", "443", "-x", f"{API},{API6}"],
    "istio-some": [*ISTIO, "-b", "8080", "-i", f"{WEB6}", "-q", "443,8443", "-u", "1337,1338"],
    "istio-tproxy": [*ISTIO, "-m", "TPROXY", "-b", "*", "-d", "8081", "-c", "eth1"],
}


@contextmanager
def a_pod(namespaces: Namespaces, **options: Any) -> Iterator[Pod]:
    """A pod of one's own for one backend."""
    made = Pod(namespaces, **options)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.parametrize("spec", SPECS)
def test_same_fate(namespaces: Namespaces, spec: str) -> None:
    """Every probe has one fate, whichever backend holds the rules."""
    told: dict[str, dict[str, str]] = {}
    for backend in BACKENDS:
        with a_pod(namespaces) as pod:
            pod.check(dict.fromkeys(PROBES, "direct"))
            pod.init(*SPECS[spec], "--backend", backend)
            told[backend] = dict(zip(map(str, PROBES), pod.fates(*PROBES), strict=True))
    first = told.pop(BACKENDS[0])
    assert {"outbound", "direct"} < set(first.values())
    assert {backend: _changes(first, other) for backend, other in told.items()} == {
        backend: {} for backend in told
    }


def _changes(one: dict[str, str], other: dict[str, str]) -> dict[str, tuple[str, str]]:
    return {probe: (one[probe], other[probe]) for probe in one if one[probe] != other[probe]}


def _ipv6(pod: Pod, arguments: list[str] | None, env: dict[str, str]) -> object:
    if arguments is not None:
        pod.init(*arguments, env=env)
    probes = (Probe(WEB6), Probe(POD6, 8080, **PROXY_IDS), Probe(POD6, 8080, start="world"))
    return tuple(pod.fates(*probes))


def _invalid(pod: Pod, arguments: list[str] | None, env: dict[str, str]) -> object:
    if arguments is not None:
        pod.init(*arguments, env=env)
    tcp, icmp = (stray_tcp(pod, POD), stray_tcp(pod, POD6)), stray_icmp(pod, POD)
    return (*tcp, icmp)


def _orphan(pod: Pod, arguments: list[str] | None, env: dict[str, str]) -> object:
    return "arrives" if orphaned_data(pod, WEB, 2001, arguments, env) else "captured"


@dataclass(frozen=True)
class Difference:
    """What Istio's iptables program and its nft program do differently for one setting.

    ``observe`` gives what is seen, without rules too (``bare``). ``strict`` is what profile
    strict makes of the same question, on every backend, with ``strict_arguments``.
    """

    sentence: str
    observe: Callable[[Pod, list[str] | None, dict[str, str]], object]
    arguments: list[str]
    bare: object
    iptables: object
    nft: object
    strict_arguments: list[str]
    strict: object
    env: dict[str, str] = field(default_factory=dict)


#: Beside these the two programs decide alike, which test_same_fate shows.
DIFFERENCES = {
    "ipv6-off": Difference(
        "With IPv6 off the iptables program makes no rules for it, so that IPv6 leaks; the nft"
        " program's inet tables capture it all the same, towards a proxy that listens on IPv4"
        " only; its rule for self-calls is one a family, and so is not there for IPv6.",
        _ipv6,
        [*ISTIO, "--ipv6", "off", "-b", "*"],
        bare=("direct", "direct", "direct"),
        iptables=("direct", "direct", "direct"),
        nft=("refused", "direct", "refused"),
        strict_arguments=[*STRICT, "--ipv6", "allow", "-b", "*"],
        strict=("direct", "direct", "direct"),
    ),
    "drop-invalid": Difference(
        "--drop-invalid drops invalid packets of every protocol in the iptables program, of TCP"
        " alone in the nft program.",
        _invalid,
        [*ISTIO, "--drop-invalid"],
        bare=("reset", "reset", "heard"),
        iptables=("silence", "silence", "silence"),
        nft=("silence", "silence", "heard"),
        strict_arguments=[*STRICT, "--drop-invalid"],
        strict=("silence", "silence", "silence"),
    ),
    "no-socket": Difference(
        "A packet without a socket has no owner: xtables' `! --gid-owner` matches it, nft's"
        " `skgid !=` does not. Where only some groups are captured, data of theirs that the"
        " kernel sends again for a closed socket leaves with iptables and is captured with nft.",
        _orphan,
        [*ISTIO],
        bare="arrives",
        iptables="arrives",
        nft="captured",
        strict_arguments=[*STRICT],
        strict="arrives",
        env={"ISTIO_OUTBOUND_OWNER_GROUPS": "2001"},
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_difference(namespaces: Namespaces, name: str) -> None:
    """Istio's programs part where the list says so, and strict does not."""
    known = DIFFERENCES[name]
    with a_pod(namespaces, proxy_on=(4,)) as pod:
        assert known.observe(pod, None, {}) == known.bare
    seen, strict = {}, {}
    for backend in BACKENDS:
        with a_pod(namespaces, proxy_on=(4,)) as pod:
            seen[backend] = known.observe(pod, [*known.arguments, "--backend", backend], known.env)
        with a_pod(namespaces, proxy_on=(4,)) as pod:
            arguments = [*known.strict_arguments, "--backend", backend]
            strict[backend] = known.observe(pod, arguments, known.env)
    assert seen == {"nft-compat": known.iptables, "nft": known.nft, "legacy": known.iptables}
    assert strict == dict.fromkeys(BACKENDS, known.strict)


def test_dropped_invalid_connections_live(namespaces: Namespaces) -> None:
    """What conntrack can place is not dropped."""
    for backend in BACKENDS:
        with a_pod(namespaces) as pod:
            pod.init(*STRICT, "-b", "*", "--drop-invalid", "--backend", backend)
            pod.check(
                {
                    Probe(WEB): "outbound",
                    Probe(WEB6): "outbound",
                    Probe(POD, 8080, start="world"): "inbound",
                    Probe(POD6, 15008, start="world"): "direct",
                }
            )
