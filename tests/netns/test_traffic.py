"""Outbound TCP: who receives a connection, and with which original destination."""

from __future__ import annotations

import pytest

from tests.support import traffic
from tests.support.probe import (
    API,
    API6,
    FAR,
    FAR6,
    NEAR,
    POD,
    POD6,
    POD_SIDE,
    POD_SIDE6,
    PROXY,
    SIDE,
    SIDE6,
    WEB,
    WEB6,
    Probe,
)
from tests.support.traffic import Pod

pod, pod_with_guest = traffic.pod, traffic.pod_with_guest
backend, profile = traffic.backend, traffic.profile


def test_default(pod: Pod, backend: str, profile: list[str]) -> None:
    """A user is captured wherever they go; the proxy, by UID or by GID, is not."""
    pod.decide(
        [*profile, "--backend", backend],
        {
            Probe(WEB): "outbound",
            Probe(WEB6): "outbound",
            Probe(WEB, uid=0, gid=0): "outbound",
            Probe(NEAR, 9000): "outbound",
            Probe(WEB, uid=PROXY, gid=PROXY): "direct",
            Probe(WEB6, uid=PROXY, gid=PROXY): "direct",
            Probe(WEB, uid=PROXY): "direct",
            Probe(WEB, gid=PROXY): "direct",
            Probe(WEB6, gid=PROXY): "direct",
            Probe(WEB, 53): "outbound",
            Probe(WEB, 15008): "outbound",
        },
    )


def test_within_the_pod(pod: Pod, backend: str, profile: list[str]) -> None:
    """The application talking to itself is left alone; the proxy calling its pod is inbound."""
    pod.decide(
        [*profile, "--backend", backend],
        {
            Probe(POD, 8080): "direct",
            Probe(POD6, 8080): "direct",
            Probe("127.0.0.1", 8080): "direct",
            Probe("::1", 8080): "direct",
            Probe("127.0.0.1", 8080, uid=PROXY, gid=PROXY): "direct",
            Probe("::1", 8080, uid=PROXY, gid=PROXY): "direct",
            Probe(POD, 8080, uid=PROXY, gid=PROXY): "inbound",
            Probe(POD6, 8080, uid=PROXY, gid=PROXY): "inbound",
            Probe(POD, 8080, uid=PROXY): "inbound",
            Probe(POD, 15008, uid=PROXY, gid=PROXY): "direct",
            Probe(POD, 8080, uid=PROXY, gid=PROXY, source="127.0.0.6"): "direct",
        },
    )
    # ::6 is on lo from now on.
    pod.check({Probe(POD6, 8080, uid=PROXY, gid=PROXY, source="::6"): "direct"})


def test_self_call_by_gid(pod: Pod, backend: str) -> None:
    """Strict knows the proxy by its GID on lo as well; Istio's rule for that never matches."""
    call = {Probe(POD, 8080, gid=PROXY): "inbound", Probe(POD6, 8080, gid=PROXY): "inbound"}
    pod.decide([*traffic.PROFILES["strict"], "--backend", backend], call)
    pod.init(*traffic.PROFILES["istio"], "--backend", backend)
    pod.check(dict.fromkeys(call, "direct"))


def test_classic(pod: Pod, backend: str) -> None:
    """One port for both directions; calls to one's own address are captured for everybody."""
    one_port = Probe(POD, 8080, uid=PROXY, gid=PROXY)
    pod.decide(
        ["-p", "15001", "-u", "1337", "--backend", backend],
        {
            Probe(WEB): "outbound",
            Probe(WEB, uid=PROXY, gid=PROXY): "direct",
            Probe(WEB, gid=PROXY): "outbound",
            Probe(POD, 8080): "outbound",
            one_port: "outbound",
            Probe("127.0.0.1", 8080): "direct",
            Probe(POD, 8080, start="world"): "outbound",
        },
    )


def test_exclusions(pod: Pod, backend: str, profile: list[str]) -> None:
    """Excluded ports and blocks go first, whatever is included."""
    arguments = ["-o", "443,9000", "-x", f"{API}/32,{API6}/128,{FAR}/24", "-q", "8443"]
    pod.decide(
        [*profile, *arguments, "--backend", backend],
        {
            Probe(WEB): "outbound",
            Probe(WEB, 443): "direct",
            Probe(WEB6, 443): "direct",
            Probe(WEB, 9000): "direct",
            Probe(API): "direct",
            Probe(API6): "direct",
            Probe(FAR): "direct",
            Probe(FAR6): "outbound",
            Probe(API, 8443): "direct",
        },
    )


def test_inclusions(pod: Pod, backend: str, profile: list[str]) -> None:
    """Without -i '*' only the included blocks and, anywhere, the included ports are taken."""
    arguments = ["-i", f"{WEB}/32,{WEB6}/128", "-q", "8443,9000"]
    pod.decide(
        [*profile, *arguments, "--backend", backend],
        {
            Probe(WEB): "outbound",
            Probe(WEB6): "outbound",
            Probe(API): "direct",
            Probe(API6): "direct",
            Probe(API, 8443): "outbound",
            Probe(API6, 9000): "outbound",
            Probe(WEB, uid=PROXY, gid=PROXY): "direct",
            Probe(POD, 9000): "direct",
        },
    )


def test_nothing_outbound(pod: Pod, backend: str, profile: list[str]) -> None:
    """-i without a value captures nothing."""
    pod.decide(
        [*profile, "-i", "", "--backend", backend],
        {Probe(WEB): "direct", Probe(WEB6): "direct", Probe(POD, 8080, uid=PROXY): "inbound"},
    )


def test_loopback_asked_for(pod: Pod, backend: str, profile: list[str]) -> None:
    """With loopback among the included blocks the application's calls on lo are looked at."""
    pod.decide(
        [*profile, "-i", f"127.0.0.1/32,{POD}/32", "--backend", backend],
        {
            Probe(POD, 8080): "outbound",
            Probe("127.0.0.1", 8080): "direct",
            Probe(POD, 8080, uid=PROXY): "inbound",
            Probe(WEB): "direct",
        },
    )


def test_loopback_block(pod: Pod, backend: str, profile: list[str]) -> None:
    """The block that means "this pod" can be wider than 127.0.0.1."""
    call = Probe("127.1.2.3", 8080, uid=PROXY, gid=PROXY)
    pod.decide([*profile, "--backend", backend], {call: "inbound"})
    wide = {"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.0/8"}
    pod.init(*profile, "--backend", backend, env=wide)
    pod.check({call: "direct", Probe("127.1.2.3", 8080): "direct"})


@pytest.mark.parametrize(
    ("variable", "taken"),
    [("ISTIO_OUTBOUND_OWNER_GROUPS", True), ("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", False)],
)
def test_owner_groups(
    pod: Pod, backend: str, profile: list[str], variable: str, taken: bool
) -> None:
    """Only some groups are captured, or all but some."""
    named, others = ("outbound", "direct") if taken else ("direct", "outbound")
    expected = {Probe(to, gid=gid): named for to in (WEB, WEB6) for gid in (2001, 2002)}
    expected |= {Probe(to, gid=gid): others for to in (WEB, WEB6) for gid in (0, 2003)}
    expected[Probe(WEB, uid=PROXY, gid=PROXY)] = "direct"
    pod.decide([*profile, "--backend", backend], expected, env={variable: "2001,2002"})


def test_excluded_interface(pod: Pod, backend: str, profile: list[str]) -> None:
    """What leaves or comes in by eth1 is left alone."""
    pod.decide(
        [*profile, "-b", "*", "-c", "eth1", "--backend", backend],
        {
            Probe(SIDE): "direct",
            Probe(SIDE6): "direct",
            Probe(WEB): "outbound",
            Probe(POD_SIDE, 8080, start="world"): "direct",
            Probe(POD_SIDE6, 8080, start="world"): "direct",
            Probe(POD, 8080, start="world"): "inbound",
        },
    )


def test_virtual_interface(pod_with_guest: Pod, backend: str, profile: list[str]) -> None:
    """A virtual machine's TCP counts as outbound, and what comes in by eth0 as inbound."""
    pod_with_guest.decide(
        [*profile, "-b", "*", "-k", "vm0", "--backend", backend],
        {
            Probe(WEB, start="guest"): "outbound",
            Probe(WEB6, start="guest"): "outbound",
            Probe(WEB): "outbound",
            Probe(POD, 8080, start="world"): "inbound",
        },
    )


def test_virtual_interface_and_blocks(
    pod_with_guest: Pod, backend: str, profile: list[str]
) -> None:
    """The included blocks count for a virtual machine too; the rest is forwarded untouched."""
    pod_with_guest.decide(
        [*profile, "-i", f"{WEB}/32,{WEB6}/128", "-b", "*", "-k", "vm0", "--backend", backend],
        {
            Probe(WEB, start="guest"): "outbound",
            Probe(WEB6, start="guest"): "outbound",
            Probe(FAR, start="guest"): "direct",
            Probe(FAR6, start="guest"): "direct",
        },
    )
