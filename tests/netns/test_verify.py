"""``meshnet verify`` beside a proxy that lives: what holds, what is broken, and nothing is left."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.cases import BACKENDS
from tests.support.cli import run_cli
from tests.support.conversations import Conversations, talk
from tests.support.probe import NEAR, NEAR6, POD, POD6

__all__ = ["talk"]

PORTS = ("-p", "15001", "-z", "15006", "-u", "1337", "-g", "1337", "-i", "*", "-b", "*")
BOTH = (*PORTS, "--ipv6", "on")
STRICT = (*PORTS, "--profile", "strict")
QUICK = ("--probe-timeout", "0.5")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each netfilter backend."""
    return str(request.param)


def verify(talk: Conversations, code: int = 0, node: bool = True) -> dict[str, Any]:
    """What ``meshnet verify`` says of the pod, from the world's namespace or from the pod's."""
    prefix = ("nsenter", f"--net={(talk.world if node else talk.pod).path}")
    arguments = ("verify", f"netns:{talk.pod.path}", *QUICK, "-o", "json")
    done = run_cli(*arguments, code=code, prefix=prefix)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema"] == "meshnet/v1/verify" and found["failed"] is (code == 3)
    return found


def row(found: dict[str, Any], family: str, direction: str, who: str = "") -> dict[str, Any]:
    """The first row of that kind."""
    return next(
        cell
        for cell in found["cells"]
        if (cell["family"], cell["direction"]) == (family, direction)
        and cell["who"].startswith(who)
    )


def verdicts(found: dict[str, Any]) -> set[str]:
    return {cell["verdict"] for cell in found["cells"]}


@pytest.mark.parametrize("spec", [BOTH, STRICT], ids=["istio", "strict"])
def test_beside_a_living_proxy(talk: Conversations, backend: str, spec: tuple[str, ...]) -> None:
    talk.start_proxy()
    talk.pod.init(*spec, "--backend", backend)
    before = talk.pod.everything()
    found = verify(talk)
    assert verdicts(found) == {"ok"}, json.dumps(found["cells"], indent=1)
    for family, peer, pod in (("IPv4", NEAR, POD), ("IPv6", NEAR6, POD6)):
        user = row(found, family, "outbound", "user")
        assert user["count"] == 7 and user["counted"] >= 7 and user["rule"]
        assert user["happened"].startswith("captured by :15001, 7 answered")
        proxy = row(found, family, "outbound", "proxy uid")
        assert proxy["count"] == 5 and proxy["counted"] >= 5
        assert proxy["happened"].startswith("bypassed")
        inbound = row(found, family, "inbound", f"peer {peer}")
        assert inbound["count"] == 3 and inbound["counted"] >= 3 and pod in inbound["dialled"]
        assert inbound["happened"].startswith("captured by :15006, 3 answered")
        control = row(found, family, "control")
        assert control["happened"] == "reached port 1404" and control["rule"] == ""
    assert found["proxy"].startswith("python3/") and found["backend"] == backend
    assert talk.pod.everything() == before


def test_the_rule_that_is_named_counted(talk: Conversations, backend: str) -> None:
    talk.start_proxy()
    talk.pod.init(*BOTH, "--backend", backend)
    proxy = row(verify(talk), "IPv4", "outbound", "proxy gid")
    chain, position = proxy["rule"].split()
    if backend == "nft":
        shown = talk.pod.run("nft", "list", "chain", "inet", "istio-proxy-nat", chain).stdout
        rules = [line for line in shown.splitlines()[2:] if line.strip(" \t}")]
        assert "1337" in rules[int(position) - 1] and "packets 10 " in rules[int(position) - 1]
        return
    tool = "iptables-legacy" if backend == "legacy" else "iptables-nft"
    rule = talk.pod.run(tool, "-t", "nat", "-v", "-S", chain, position).stdout
    assert "--gid-owner 1337" in rule and f"-c {proxy['counted']} " in rule
    assert proxy["counted"] == 5


def test_tproxy(talk: Conversations, backend: str) -> None:
    talk.start_proxy(tproxy=True)
    talk.pod.init(*BOTH, "-m", "TPROXY", "--backend", backend)
    found = verify(talk)
    assert verdicts(found) == {"ok"}, json.dumps(found["cells"], indent=1)
    assert row(found, "IPv4", "inbound")["happened"].startswith("captured by :15006")


def test_a_foreign_rule_decides_first(talk: Conversations, backend: str) -> None:
    talk.start_proxy()
    talk.pod.init(*BOTH, "--backend", backend)
    if backend == "nft":
        chain = "type nat hook output priority -150\ntcp dport 1404 counter redirect to :9\n"
        talk.pod.run("nft", "-f", "-", text=f"table ip foreign {{\nchain c {{\n{chain}}}\n}}\n")
    else:
        tool = "iptables-legacy" if backend == "legacy" else "iptables-nft"
        talk.pod.run(tool, "-t", "nat", "-I", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
    found = verify(talk, code=3)
    user = row(found, "IPv4", "outbound", "user")
    assert user["verdict"] == "failed"
    if backend != "nft":
        assert user["reason"] == "direct: OUTPUT 1 decides first" and user["code"] == "MN110"
        assert user["rule"] == "OUTPUT 1" and user["counted"] >= 7
    assert row(found, "IPv6", "outbound", "user")["verdict"] == "ok"
    assert row(found, "IPv4", "inbound")["verdict"] == "ok"


def test_nobody_listens(talk: Conversations, backend: str) -> None:
    talk.pod.init(*BOTH, "--backend", backend)
    found = verify(talk, code=3)
    for family in ("IPv4", "IPv6"):
        user = row(found, family, "outbound", "user")
        assert (user["verdict"], user["code"]) == ("failed", "MN150")
        assert user["reason"] == "nobody listens on :15001" and user["counted"] >= 7
        assert row(found, family, "outbound", "proxy uid")["verdict"] == "ok"
        assert row(found, family, "inbound")["reason"] == "nobody listens on :15006"


def test_ipv6_that_passes_is_a_warning(talk: Conversations) -> None:
    talk.start_proxy()
    talk.pod.init(*PORTS, "--profile", "istio", "--ipv6", "off")
    found = verify(talk)
    leak = row(found, "IPv6", "outbound")
    assert (leak["verdict"], leak["code"]) == ("warn", "MN130")
    assert leak["happened"].startswith("direct") and leak["rule"] == ""
    assert row(found, "IPv4", "outbound", "user")["verdict"] == "ok"


def test_ipv6_refused(talk: Conversations, backend: str) -> None:
    talk.start_proxy()
    talk.pod.init(*STRICT, "--ipv6", "drop", "--backend", backend)
    found = verify(talk)
    assert verdicts(found) == {"ok"}, json.dumps(found["cells"], indent=1)
    assert "7 refused" in row(found, "IPv6", "outbound", "user")["happened"]


def test_from_inside_there_is_no_peer(talk: Conversations) -> None:
    talk.start_proxy()
    talk.pod.init(*BOTH)
    found = verify(talk, node=False)
    for family in ("IPv4", "IPv6"):
        inbound = row(found, family, "inbound")
        assert inbound["verdict"] == "not tested"
        assert inbound["reason"] == "needs a peer: run it from the node"
        assert row(found, family, "outbound", "user")["verdict"] == "ok"


def test_a_peer_that_does_not_reach_the_pod_proves_nothing(talk: Conversations) -> None:
    """Somebody else has the pod's address where this is run: what answers is not the pod."""
    talk.start_proxy()
    talk.pod.init(*BOTH)
    other = talk.namespaces.make()
    other.run("ip", "addr", "add", f"{POD}/32", "dev", "lo")
    other.run("ip", "-6", "addr", "add", f"{POD6}/128", "dev", "lo", "nodad")
    prefix = ("nsenter", f"--net={other.path}")
    done = run_cli("verify", f"netns:{talk.pod.path}", *QUICK, "-o", "json", prefix=prefix)
    for family, pod in (("IPv4", POD), ("IPv6", POD6)):
        inbound = row(json.loads(done.stdout), family, "inbound")
        assert inbound["verdict"] == "not tested" and inbound["counted"] is None
        assert inbound["reason"].startswith(f"needs a peer that reaches {pod}: ")


def test_what_is_open_and_harmless_is_ok(talk: Conversations) -> None:
    """A statistic before our rules leaves the way open; the proxy is left alone on each."""
    talk.start_proxy()
    talk.pod.init(*BOTH, "--backend", "nft-compat")
    rule = ("-p", "tcp", "-m", "statistic", "--mode", "random", "--probability", "0.5")
    talk.pod.run("iptables-nft", "-t", "nat", "-I", "OUTPUT", *rule, "-j", "ACCEPT")
    found = verify(talk, code=3)
    user = row(found, "IPv4", "outbound", "user")
    assert user["verdict"] == "failed" and user["reason"].startswith("the rules leave it open: ")
    assert row(found, "IPv4", "outbound", "proxy uid")["verdict"] == "ok"


def test_nothing_of_ours_is_nothing_to_verify(talk: Conversations) -> None:
    done = run_cli("verify", f"netns:{talk.pod.path}", code=1)
    assert "there is nothing to verify" in done.stderr and done.stderr.count("\n") == 1


def test_text(talk: Conversations) -> None:
    talk.start_proxy()
    talk.pod.init(*BOTH)
    prefix = ("nsenter", f"--net={talk.world.path}")
    text = run_cli("verify", f"netns:{talk.pod.path}", *QUICK, prefix=prefix).stdout
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "12 ok, 0 failed, 0 warn, 0 not tested"
    (captured,) = (line for line in lines if "192.0.2.2:1404 x7" in line)
    said = "outbound user 65534 192.0.2.2:1404 x7 ISTIO_REDIRECT 1 +7 ok captured by :15001"
    assert " ".join(captured.split()) == said
