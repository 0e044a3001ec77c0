"""``meshnet conns`` beside real Envoys: what they took, and what they made of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshnet.lab.envoy import await_envoy, start_envoy, two_port_bootstrap
from meshnet.lab.processes import APP_UID, PROXY_UID, find_meshnet_init, run
from meshnet.lab.topology import Pod, Topology
from tests.support.cases import BACKENDS
from tests.support.cli import run_cli, run_json
from tests.support.conversations import Speaker, row_of

PORT = 8080
FLAGS = ("-p", "15001", "-z", "15006", "-u", "1337", "-g", "1337", "-i", "*", "-b", "*")


@pytest.fixture
def pods() -> Iterator[tuple[Pod, Pod]]:
    """Two pods, an Envoy in each."""
    with Topology("mnt-conns") as topology:
        one, other = topology.add_pod("a", "10.78.0.1"), topology.add_pod("b", "10.78.0.2")
        topology.connect(one, other)
        for envoy in [start_envoy(pod, two_port_bootstrap(pod.name)) for pod in (one, other)]:
            await_envoy(envoy)
        yield one, other


@pytest.fixture
def speakers(pods: tuple[Pod, Pod]) -> Iterator[tuple[Speaker, Speaker]]:
    """A client in the first pod, an application in the second."""
    client = Speaker(pods[0], "dial", uid=APP_UID, gid=APP_UID)
    app = Speaker(pods[1], "serve", str(PORT), uid=APP_UID, gid=APP_UID)
    try:
        assert [client.answer(), app.answer()] == ["ready", "ready"]
        yield client, app
    finally:
        client.end()
        app.end()


@pytest.mark.parametrize("backend", BACKENDS)
def test_from_application_to_application_through_two_envoys(
    pods: tuple[Pod, Pod], speakers: tuple[Speaker, Speaker], backend: str
) -> None:
    client, app = speakers
    init = str(find_meshnet_init())
    for pod in pods:
        done = run([init, *FLAGS, "--backend", backend, "--network-namespace", str(pod.path)])
        assert done.returncode == 0, done.stderr
    source = client.dial(pods[1].address, PORT)

    seen = run_json("conns", str(pods[0].path))
    captured = row_of(seen, source)
    assert (captured["path"], captured["direction"]) == ("captured", "outbound"), captured
    assert captured["owner"]["pid"] == client.pid and captured["peer"]["command"] == "envoy"
    (leg,) = (row for row in seen["connections"] if row["path"] == "leg")
    assert leg["leg_of"] == f"{source[0]}:{source[1]}"
    assert (leg["owner"]["command"], leg["owner"]["uid"]) == ("envoy", PROXY_UID)
    upstream = leg["source"]["address"], leg["source"]["port"]

    seen = run_json("conns", str(pods[1].path))
    captured = row_of(seen, upstream)
    assert (captured["path"], captured["direction"]) == ("captured", "inbound"), captured
    assert captured["owner"]["command"] == "envoy" and captured["taken"]["port"] == 15006
    (leg,) = (row for row in seen["connections"] if row["path"] == "leg")
    assert leg["leg_of"] == f"{upstream[0]}:{upstream[1]}"
    assert leg["owner"]["command"] == "envoy" and leg["peer"]["pid"] == app.pid
    # And the one that asked Envoy whether it was ready, if it is still remembered.
    alive = [row for row in seen["connections"] if row["state"] == "established"]
    assert alive == [captured, leg]
    assert "captured in" in run_cli("conns", str(pods[1].path)).stdout
