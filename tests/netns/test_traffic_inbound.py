"""Inbound TCP, by REDIRECT and by TPROXY: who receives it, and what of it they see."""

from __future__ import annotations

import pytest

from tests.support import traffic
from tests.support.probe import FAR, FAR6, NEAR, NEAR6, POD, POD6, PROXY, WEB, WEB6, Probe
from tests.support.traffic import PATIENCE, SHORT, Pod

pod, backend, profile = traffic.pod, traffic.backend, traffic.profile

MODES = ("REDIRECT", "TPROXY")
MARK = 1337


def inbound(to: str, port: int = 8080, source: str = "") -> Probe:
    """A connection from the world."""
    return Probe(to, port, source=source, start="world")


@pytest.mark.parametrize("mode", MODES)
def test_every_port(pod: Pod, backend: str, profile: list[str], mode: str) -> None:
    """All ports are captured but the excluded ones and the tunnel's; answers find back."""
    pod.decide(
        [*profile, "-m", mode, "-b", "*", "-d", "8081,9000", "--backend", backend],
        {
            inbound(POD): "inbound",
            inbound(POD6): "inbound",
            inbound(POD, source=FAR): "inbound",
            inbound(POD6, source=FAR6): "inbound",
            inbound(POD, 8081): "direct",
            inbound(POD6, 9000): "direct",
            Probe(WEB): "outbound",
            Probe(WEB6): "outbound",
            Probe(WEB, uid=PROXY, gid=PROXY): "direct",
            Probe(POD, 8080): "direct",
            Probe(POD6, 8080): "direct",
            Probe("127.0.0.1", 8080): "direct",
            Probe("::1", 8080): "direct",
            Probe(POD, 8080, uid=PROXY, gid=PROXY): "inbound",
            Probe(POD6, 8080, uid=PROXY, gid=PROXY): "inbound",
            Probe(POD, 8080, uid=PROXY, gid=PROXY, source="127.0.0.6"): "direct",
        },
    )


@pytest.mark.parametrize("mode", MODES)
def test_some_ports(pod: Pod, backend: str, profile: list[str], mode: str) -> None:
    """Only the named ports are captured."""
    pod.decide(
        [*profile, "-m", mode, "-b", "8080,9000", "--backend", backend],
        {
            inbound(POD): "inbound",
            inbound(POD6, 9000): "inbound",
            inbound(POD, 8081): "direct",
            inbound(POD6, 8081): "direct",
            inbound(POD, 15008): "direct",
        },
    )


@pytest.mark.parametrize("mode", MODES)
def test_no_ports(pod: Pod, backend: str, profile: list[str], mode: str) -> None:
    """Without -b nothing inbound is captured."""
    pod.decide(
        [*profile, "-m", mode, "-b", "", "--backend", backend],
        {inbound(POD): "direct", inbound(POD6): "direct", Probe(WEB): "outbound"},
    )


def test_tunnel(pod: Pod, backend: str) -> None:
    """The tunnel's port is exempt; Istio forgets it where TPROXY captures every port."""
    tunnel = {inbound(POD, 15008): "direct", inbound(POD6, 15008): "direct"}
    pod.decide([*traffic.PROFILES["strict"], "-b", "*", "--backend", backend], tunnel)
    pod.init(*traffic.PROFILES["strict"], "-m", "TPROXY", "-b", "*", "--backend", backend)
    pod.check(tunnel)
    pod.init(*traffic.PROFILES["istio"], "-b", "*", "--backend", backend)
    pod.check(tunnel)
    pod.init(*traffic.PROFILES["istio"], "-m", "TPROXY", "-b", "*", "--backend", backend)
    pod.check(dict.fromkeys(tunnel, "inbound"))


@pytest.mark.parametrize("mode", MODES)
def test_addresses_seen(pod: Pod, backend: str, profile: list[str], mode: str) -> None:
    """The proxy sees the client's address; with TPROXY its socket has the one dialled, too."""
    pod.init(*profile, "-m", mode, "-b", "*", "--backend", backend)
    probes = [inbound(POD), inbound(POD6), inbound(POD, source=FAR), inbound(POD6, source=FAR6)]
    seen = pod.look(*probes)
    assert {one["who"] for one in seen} == {"pod:15006"}
    assert [one["client"] for one in seen] == [NEAR, NEAR6, FAR, FAR6]
    dialled = [probe.target for probe in probes]
    redirected = [f"{POD}:15006", f"[{POD6}]:15006"] * 2
    assert [one["local"] for one in seen] == (dialled if mode == "TPROXY" else redirected)


def as_client(to: str, source: str, uid: int) -> Probe:
    """The proxy speaking to the application with the client's address."""
    return Probe(to, 8080, uid=uid, gid=PROXY, source=source, mark=MARK)


@pytest.mark.parametrize("uid", [0, PROXY])
def test_client_address_kept(pod: Pod, backend: str, profile: list[str], uid: int) -> None:
    """The proxy speaks to the application as the client; the answers find back to the proxy.

    The marks do that: saved with the connection when the proxy's packet comes in by lo,
    restored on the application's answer, which the policy rule then sends to lo. Where
    TPROXY is used Istio runs its proxy as root with the GID 1337: of UID 1337 its rules take
    the same for a self-call, which comes back to the proxy. Strict takes it of neither.
    """
    probes = [as_client(POD, FAR, uid), as_client(POD6, FAR6, uid), as_client("::1", FAR6, uid)]
    assert set(pod.fates(*probes, patience=SHORT)) == {"nobody"}
    pod.init(*profile, "-m", "TPROXY", "-b", "*", "--backend", backend)
    patience = SHORT if "istio" in profile and uid == PROXY else PATIENCE
    seen = [(one["who"], one.get("client")) for one in pod.look(*probes, patience=patience)]
    if "istio" in profile and uid == PROXY:
        # 127.0.0.1 cannot answer a foreign address, ::1 can.
        assert seen == [("nobody", None), ("pod:15006", FAR6), ("pod:8080", FAR6)]
    else:
        assert seen == [("pod:8080", FAR), ("pod:8080", FAR6), ("pod:8080", FAR6)]


def test_other_mark_and_table(pod: Pod, backend: str, profile: list[str]) -> None:
    """-t and -r: another mark, another routing table, the same capture."""
    pod.decide(
        [*profile, "-m", "TPROXY", "-b", "*", "-t", "77", "-r", "300", "--backend", backend],
        {inbound(POD): "inbound", inbound(POD6): "inbound"},
    )
    for version in ("-4", "-6"):
        assert "local" in pod.namespace.run("ip", version, "route", "show", "table", "300").stdout
        assert "0x4d lookup 300" in pod.namespace.run("ip", version, "rule").stdout
