"""DNS over UDP and TCP: who is asked, and from whom the answer comes."""

from __future__ import annotations

from tests.support import traffic
from tests.support.probe import DNS, DNS6, POD, PROXY, WEB, WEB6, Probe
from tests.support.traffic import Pod

pod, backend, profile = traffic.pod, traffic.backend, traffic.profile

SERVERS = ["--redirect-dns", "--dns-server", DNS, "--dns-server", DNS6]


def ask(to: str, protocol: str = "udp", **owner: int) -> Probe:
    """A question."""
    return Probe(to, 53, protocol=protocol, **owner)


def test_listed_servers(pod: Pod, backend: str, profile: list[str]) -> None:
    """Questions to listed servers go to the agent, whose own ones leave; others are let go."""
    pod.decide(
        [*profile, *SERVERS, "--backend", backend],
        {
            ask(DNS): "dns",
            ask(DNS6): "dns",
            ask(DNS, "tcp"): "dns",
            ask(DNS6, "tcp"): "dns",
            ask(DNS, uid=PROXY, gid=PROXY): "direct",
            ask(DNS6, uid=PROXY, gid=PROXY): "direct",
            ask(DNS, "tcp", uid=PROXY, gid=PROXY): "direct",
            ask(DNS6, "tcp", uid=PROXY, gid=PROXY): "direct",
            ask(DNS, gid=PROXY): "direct",
            ask(DNS6, "tcp", gid=PROXY): "direct",
            ask(WEB): "direct",
            ask(WEB6): "direct",
            ask(WEB, "tcp"): "outbound",
            Probe(WEB): "outbound",
        },
    )


def test_every_server(pod: Pod, backend: str, profile: list[str]) -> None:
    """--capture-all-dns: whoever is asked, the agent answers in their name."""
    pod.decide(
        [*profile, "--redirect-dns", "--capture-all-dns", "--backend", backend],
        {
            ask(WEB): "dns",
            ask(WEB6): "dns",
            ask(WEB, "tcp"): "dns",
            ask(WEB6, "tcp"): "dns",
            ask(WEB, uid=PROXY, gid=PROXY): "direct",
            ask(WEB6, uid=PROXY, gid=PROXY): "direct",
        },
    )


def test_server_on_loopback(pod: Pod, backend: str, profile: list[str]) -> None:
    """A resolver on 127.0.0.1 is a listed server like any other."""
    servers = ["--redirect-dns", "--dns-server", "127.0.0.1", "--dns-server", "::1"]
    pod.decide(
        [*profile, *servers, "--backend", backend],
        {
            ask("127.0.0.1"): "dns",
            ask("::1"): "dns",
            ask("127.0.0.1", "tcp"): "dns",
            ask("::1", "tcp"): "dns",
            ask("127.0.0.1", uid=PROXY, gid=PROXY): "direct",
            ask("::1", "tcp", uid=PROXY, gid=PROXY): "direct",
            Probe("127.0.0.1", 8080): "direct",
        },
    )


def test_proxy_asks_its_own_pod(pod: Pod, backend: str) -> None:
    """DNS to the pod's own address is no self-call: of the UID, and in strict of the GID too."""
    by_uid, by_gid = ask(POD, "tcp", uid=PROXY, gid=PROXY), ask(POD, "tcp", gid=PROXY)
    calls = {by_uid: "direct", by_gid: "direct"}
    pod.decide([*traffic.PROFILES["strict"], *SERVERS, "--backend", backend], calls)
    pod.init(*traffic.PROFILES["istio"], *SERVERS, "--backend", backend)
    pod.check({by_uid: "direct", by_gid: "inbound"})


def test_excluded_port(pod: Pod, backend: str, profile: list[str]) -> None:
    """An excluded port is excluded for DNS too."""
    pod.decide(
        [*profile, *SERVERS, "-o", "53", "--backend", backend],
        {ask(DNS): "direct", ask(DNS6, "tcp"): "direct"},
    )


def test_zones(pod: Pod, backend: str, profile: list[str]) -> None:
    """A tuple that the application used for a question is free for the agent, and back.

    In one conntrack zone the agent's question would meet the translation that is still
    kept for the application's, and come back to the agent.
    """
    pod.init(*profile, *SERVERS, "--backend", backend)
    for server, port in ((DNS, 12345), (DNS6, 12346)):
        application = Probe(server, 53, protocol="udp", sport=port)
        agent = Probe(server, 53, uid=PROXY, gid=PROXY, protocol="udp", sport=port)
        for probe, fate in ((application, "dns"), (agent, "direct"), (application, "dns")):
            pod.check({probe: fate})


def test_without_zones(pod: Pod, profile: list[str]) -> None:
    """The control of test_zones: with the zones flushed the agent asks itself."""
    pod.init(*profile, *SERVERS, "--backend", "nft-compat")
    pod.namespace.run("iptables-nft", "-t", "raw", "-F")
    pod.check({Probe(DNS, 53, protocol="udp", sport=12345): "dns"})
    pod.check({Probe(DNS, 53, uid=PROXY, gid=PROXY, protocol="udp", sport=12345): "dns"})
