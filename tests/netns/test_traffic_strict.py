"""What only profile strict has: several proxies, ranges, exemptions by user, IPv6 on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import traffic
from tests.support.probe import API, API6, DNS, DNS6, FAR, NEAR6, POD, POD6, PROXY, WEB, WEB6, Probe
from tests.support.traffic import Pod

pod, pod_with_guest, backend = traffic.pod, traffic.pod_with_guest, traffic.backend
STRICT = traffic.PROFILES["strict"]


def test_two_proxies(pod: Pod, backend: str) -> None:
    """Both proxies' self-calls are captured; Istio asks only for the first one."""
    calls = [Probe(to, 8080, uid=u, gid=0) for u in (PROXY, 1338) for to in (POD, POD6)]
    calls += [Probe(to, 8080, gid=g) for g in (PROXY, 1338) for to in (POD, POD6)]
    others = {Probe(WEB, uid=1338, gid=0): "direct", Probe(WEB6, gid=1338): "direct"}
    two = ["-u", "1337,1338", "-g", "1337,1338", "--backend", backend]
    pod.decide([*STRICT, *two], {**dict.fromkeys(calls, "inbound"), **others})
    pod.init(*traffic.PROFILES["istio"], *two)
    first, rest = calls[:2], calls[2:]
    pod.check({**dict.fromkeys(first, "inbound"), **dict.fromkeys(rest, "direct"), **others})


def test_ranges_of_owners(pod: Pod, backend: str) -> None:
    """Every UID and GID of a range is the proxy's, the neighbours of the range are not."""
    expected = {Probe(WEB, uid=uid, gid=0): "direct" for uid in (3000, 3005, 3010, 4000)}
    expected |= {Probe(WEB6, gid=gid): "direct" for gid in (5000, 5010)}
    expected |= {Probe(WEB, uid=uid, gid=0): "outbound" for uid in (2999, 3011, 4001, PROXY)}
    expected |= {Probe(WEB6, gid=gid): "outbound" for gid in (4999, 5011)}
    expected |= {Probe(POD6, 8080, uid=3007, gid=0): "inbound"}
    owners = ["-u", "3000-3010,4000", "-g", "5000-5010", "--backend", backend]
    pod.decide([*STRICT, *owners], expected)


def test_ranges_of_ports(pod: Pod, backend: str) -> None:
    """Ranges of ports, in and out, included and excluded."""
    pod.decide(
        [*STRICT, "-o", "9000-9050", "-b", "*", "-d", "8000-8080", "--backend", backend],
        {
            Probe(WEB, 9000): "direct",
            Probe(WEB6, 9050): "direct",
            Probe(WEB, 9099): "outbound",
            Probe(POD, 8080, start="world"): "direct",
            Probe(POD6, 8081, start="world"): "inbound",
        },
    )
    ranges = ["-i", "", "-q", "9000-9050,443", "-b", "8000-8080", "--backend", backend]
    pod.init(*STRICT, *ranges)
    pod.check(
        {
            Probe(WEB, 9000): "outbound",
            Probe(WEB6, 9050): "outbound",
            Probe(WEB, 443): "outbound",
            Probe(WEB, 9099): "direct",
            Probe(POD, 8080, start="world"): "inbound",
            Probe(POD6, 8081, start="world"): "direct",
        }
    )


def test_more_ports_than_a_rule_holds(pod: Pod, backend: str) -> None:
    """A set that iptables has to spread over several rules is one set all the same."""
    ports = ",".join(map(str, range(10000, 10040))) + ",9000-9050,443"
    pod.decide(
        [*STRICT, "-o", ports, "--backend", backend],
        {Probe(WEB, 443): "direct", Probe(WEB6, 9050): "direct", Probe(WEB): "outbound"},
    )


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_config_file(pod: Pod, backend: str, tmp_path: Path, mode: str) -> None:
    """Ports left alone for some users, and sources left alone inbound, have keys only."""
    config = tmp_path / "mesh.yaml"
    config.write_text(f"""
profile: strict
backend: {backend}
outbound:
  cidrs: "*"
  exclude_ports_for_uids:
    - {{ports: [9000-9050], uids: [2000-2005, 2010]}}
    - {{ports: "*", uids: 2020}}
inbound:
  mode: {mode}
  ports: "*"
  exclude_sources: [{API}/32, "{API6}/128"]
dns: {{capture: servers, servers: [{DNS}, "{DNS6}"]}}
""")
    pod.decide(
        ["--config", str(config)],
        {
            Probe(WEB, 9000, uid=2000): "direct",
            Probe(WEB6, 9050, uid=2010): "direct",
            Probe(WEB, 9000, uid=2006): "outbound",
            Probe(WEB, 9099, uid=2000): "outbound",
            Probe(WEB6, uid=2020): "direct",
            Probe(DNS, 53, protocol="udp", uid=2020): "direct",
            Probe(DNS, 53, protocol="udp", uid=2000): "dns",
            Probe(POD, 8080, start="world", source=API): "direct",
            Probe(POD6, 8080, start="world", source=API6): "direct",
            Probe(POD, 8080, start="world", source=FAR): "inbound",
            Probe(POD6, 8080, start="world"): "inbound",
        },
    )


def test_virtual_exclusions(pod_with_guest: Pod, backend: str) -> None:
    """Exclusions hold for virtual machines too; Istio's rules for those come before them."""
    excluded = ["-x", f"{API}/32,{API6}/128", "-o", "443", "-k", "vm0", "--backend", backend]
    guest = [(API, 80), (API6, 80), (WEB, 443), (WEB6, 443)]
    probes = [Probe(to, port, start="guest") for to, port in guest]
    kept = {Probe(WEB, start="guest"): "outbound", Probe(WEB6, start="guest"): "outbound"}
    pod_with_guest.decide([*STRICT, *excluded], {**dict.fromkeys(probes, "direct"), **kept})
    pod_with_guest.init(*traffic.PROFILES["istio"], *excluded)
    pod_with_guest.check({**dict.fromkeys(probes, "outbound"), **kept})


def test_virtual_interface_with_tproxy(pod_with_guest: Pod, backend: str) -> None:
    """A virtual machine's TCP counts as outbound where inbound capture is TPROXY, too."""
    pod_with_guest.decide(
        [*STRICT, "-m", "TPROXY", "-b", "*", "-k", "vm0", "--backend", backend],
        {
            Probe(WEB, start="guest"): "outbound",
            Probe(WEB6, start="guest"): "outbound",
            Probe(POD6, 8080, start="guest"): "outbound",
            Probe(POD, 8080, start="world"): "inbound",
        },
    )


def test_virtual_interface_and_ipv6_refused(pod_with_guest: Pod, backend: str) -> None:
    """What capture would take of a virtual machine's IPv6 is refused, not forwarded."""
    refused = ["-b", "*", "-k", "vm0", "-o", "443", "--ipv6", "drop", "--backend", backend]
    pod_with_guest.decide(
        [*STRICT, *refused],
        {
            Probe(WEB6, start="guest"): "refused",
            Probe(POD6, 8080, start="guest"): "refused",
            Probe(POD, 8080, start="guest"): "outbound",
            Probe(WEB6, 443, start="guest"): "direct",
            Probe(WEB, start="guest"): "outbound",
        },
    )


def test_ipv6_refused(pod: Pod, backend: str) -> None:
    """--ipv6 drop refuses what capture would take, and that alone."""
    arguments = ["-b", "*", "-d", "8081", "-o", "443", "-x", f"{API6}/128", "--ipv6", "drop"]
    pod.decide(
        [*STRICT, *arguments, "--backend", backend],
        {
            Probe(WEB6): "refused",
            Probe(NEAR6, 9000): "refused",
            Probe(WEB6, 443): "direct",
            Probe(API6): "direct",
            Probe(WEB6, uid=PROXY, gid=PROXY): "direct",
            Probe(WEB6, uid=PROXY): "direct",
            Probe(WEB6, gid=PROXY): "direct",
            Probe(WEB6, 53, protocol="udp"): "direct",
            Probe("::1", 8080): "direct",
            Probe(POD6, 8080): "direct",
            Probe("::1", 8080, uid=PROXY, gid=PROXY): "direct",
            Probe(POD6, 8080, uid=PROXY, gid=PROXY): "refused",
            Probe(POD6, 8080, start="world"): "refused",
            Probe(POD6, 8081, start="world"): "direct",
            Probe(POD6, 15008, start="world"): "direct",
            Probe(WEB): "outbound",
            Probe(POD, 8080, start="world"): "inbound",
        },
    )


def test_ipv6_refused_at_once(pod: Pod, backend: str) -> None:
    """A client hears of it at once, and neighbours are found as before."""
    pod.init(*STRICT, "--ipv6", "drop", "--backend", backend)
    pod.namespace.run("ip", "-6", "neighbour", "flush", "dev", "eth0")
    # A SYN that is not answered is sent again after a second.
    assert pod.fates(Probe(WEB6), patience=0.9) == ["refused"]
    pod.check({Probe(NEAR6, uid=PROXY, gid=PROXY): "direct"})
    assert NEAR6 in pod.namespace.run("ip", "-6", "neighbour").stdout


def test_ipv6_refused_dns(pod: Pod, backend: str) -> None:
    """Questions over IPv6 that capture would take are refused as well, UDP and TCP.

    Who sends a datagram that OUTPUT rejects hears of it from send() itself: EPERM.
    """
    servers = ["--redirect-dns", "--dns-server", DNS, "--dns-server", DNS6]
    pod.decide(
        [*STRICT, *servers, "--ipv6", "drop", "--backend", backend],
        {
            Probe(DNS6, 53, protocol="udp"): "dropped",
            Probe(DNS6, 53): "refused",
            Probe(DNS6, 53, protocol="udp", uid=PROXY, gid=PROXY): "direct",
            Probe(WEB6, 53, protocol="udp"): "direct",
            Probe(DNS, 53, protocol="udp"): "dns",
        },
    )


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_ipv6_allowed(pod: Pod, backend: str, mode: str) -> None:
    """--ipv6 allow leaves IPv6 alone, in and out, whatever the mode."""
    pod.decide(
        [*STRICT, "-b", "*", "-m", mode, "--ipv6", "allow", "--backend", backend],
        {
            Probe(WEB6): "direct",
            Probe(POD6, 8080): "direct",
            Probe(POD6, 8080, uid=PROXY): "direct",
            Probe(POD6, 8080, start="world"): "direct",
            Probe(WEB): "outbound",
            Probe(POD, 8080, start="world"): "inbound",
        },
    )


def test_ipv6_refused_with_tproxy(pod: Pod, backend: str) -> None:
    """TPROXY for IPv4 and refusal for IPv6 go together."""
    pod.decide(
        [*STRICT, "-b", "*", "-m", "TPROXY", "--ipv6", "drop", "--backend", backend],
        {
            Probe(POD6, 8080, start="world"): "refused",
            Probe(POD6, 15008, start="world"): "direct",
            Probe(WEB6): "refused",
            Probe(POD, 8080, start="world"): "inbound",
            Probe(POD, 8080, uid=PROXY, gid=PROXY): "inbound",
        },
    )
