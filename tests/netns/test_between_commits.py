"""While rules change nothing escapes: between the commits of two tables, and under load.

iptables' backends commit table by table, in an order that is chosen so that what the old
rules and the new ones both capture is captured by every state in between.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle

import pytest

from tests.support import traffic
from tests.support.namespaces import meshnet_init
from tests.support.probe import API, DNS, DNS6, POD, POD6, PROXY, WEB, WEB6, Probe
from tests.support.traffic import BACKENDS, Pod

pod, backend = traffic.pod, traffic.backend

STRICT = [*traffic.PROFILES["strict"], "-b", "*"]
ISTIO = [*traffic.PROFILES["istio"], "-b", "*"]
TPROXY = ["-m", "TPROXY"]
SERVERS = ["--redirect-dns", "--dns-server", DNS, "--dns-server", DNS6]
CHANGES = {
    "istio, to TPROXY": (ISTIO, [*ISTIO, *TPROXY]),
    "istio, from TPROXY": ([*ISTIO, *TPROXY], ISTIO),
    "strict, to TPROXY": (STRICT, [*STRICT, *TPROXY]),
    "strict, from TPROXY": ([*STRICT, *TPROXY], STRICT),
    "istio, DNS on": (ISTIO, [*ISTIO, *SERVERS]),
    "istio, DNS off": ([*ISTIO, *SERVERS], ISTIO),
    "strict, DNS on": (STRICT, [*STRICT, *SERVERS]),
    "strict, DNS off": ([*STRICT, *SERVERS], STRICT),
    "refuse IPv6": (STRICT, [*STRICT, "--ipv6", "drop"]),
    "capture IPv6": ([*STRICT, "--ipv6", "drop"], STRICT),
    "refuse IPv6 and questions": ([*STRICT, *SERVERS], [*STRICT, *SERVERS, "--ipv6", "drop"]),
    "capture IPv6 and questions": ([*STRICT, *SERVERS, "--ipv6", "drop"], [*STRICT, *SERVERS]),
    "refuse IPv6, from TPROXY": ([*STRICT, *TPROXY], [*STRICT, "--ipv6", "drop"]),
    "capture IPv6, to TPROXY": ([*STRICT, "--ipv6", "drop"], [*STRICT, *TPROXY]),
    "istio to strict": (ISTIO, STRICT),
    "strict to istio": (STRICT, ISTIO),
    "istio to strict, TPROXY": ([*ISTIO, *TPROXY], [*STRICT, *TPROXY]),
    "istio to strict, from TPROXY, DNS": ([*ISTIO, *TPROXY, *SERVERS], [*STRICT, *SERVERS]),
    "strict to istio, to TPROXY, DNS": ([*STRICT, *SERVERS], [*ISTIO, *TPROXY, *SERVERS]),
    "drop invalid": (STRICT, [*STRICT, "--drop-invalid"]),
    "let invalid go, to TPROXY": ([*STRICT, "--drop-invalid"], [*STRICT, *TPROXY]),
}
PROXY_IDS = {"uid": PROXY, "gid": PROXY}
PROBES = (
    Probe(WEB),
    Probe(WEB6),
    Probe(POD, 8080, start="world"),
    Probe(POD6, 8080, start="world"),
    Probe(POD, 8080, **PROXY_IDS),
    Probe(POD6, 8080, **PROXY_IDS),
    Probe(DNS, 53, protocol="udp"),
    Probe(DNS6, 53, protocol="udp"),
    Probe(DNS, 53),
    Probe(DNS6, 53),
    Probe(WEB, **PROXY_IDS),
    Probe(WEB6, **PROXY_IDS),
    Probe(DNS, 53, protocol="udp", **PROXY_IDS),
    Probe(DNS6, 53, protocol="udp", **PROXY_IDS),
    Probe(POD, 8080),
    Probe("::1", 8080),
    Probe(POD, 15008, **PROXY_IDS),
)


def states_between(pod: Pod, arguments: list[str]) -> Iterator[str]:
    """Carry out by hand what meshnet-init plans, and stop after each commit: its name."""
    argv = (meshnet_init(), *arguments, "--dry-run", "--output", "json")
    plan = json.loads(pod.namespace.run(*argv).stdout)
    plan = plan.get("plan", plan)
    for command in plan["add"]:
        _run(pod, command)
        yield command
    for step in plan["steps"]:
        for table in step["input"].split("COMMIT\n")[:-1]:
            pod.namespace.run(step["tool"], "--noflush", text=f"{table}COMMIT\n")
            yield f"{step['tool']} {table.split()[0]}"
    for command in plan["remove"]:
        _run(pod, command)
        yield command


def _run(pod: Pod, command: str) -> None:
    # Not every version of ip knows the protocol of an address.
    words = command.partition(" proto ")[0] if " address " in command else command
    pod.namespace.run(*words.split())


@pytest.mark.parametrize("backend", ["nft-compat", "legacy"])
@pytest.mark.parametrize("change", CHANGES)
def test_table_by_table(pod: Pod, backend: str, change: str) -> None:
    """What both specs capture is captured all along; what neither does goes direct all along."""
    old, new = CHANGES[change]
    pod.check(dict.fromkeys(PROBES, "direct"))
    pod.init(*old, "--backend", backend)
    before = pod.fates(*PROBES)
    between = {
        name: pod.fates(*PROBES) for name in states_between(pod, [*new, "--backend", backend])
    }
    after = pod.fates(*PROBES)
    assert len(between) > 1 and after == list(between.values())[-1]
    wrong = [
        f"after {name}: {probe} is {now}, was {was}, becomes {becomes}"
        for name, fates in between.items()
        for probe, was, now, becomes in zip(PROBES, before, fates, after, strict=True)
        if now not in (was, becomes)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("backend", ["nft-compat", "legacy"])
@pytest.mark.parametrize("change", ["istio, DNS on", "istio, DNS off", "strict, DNS off"])
def test_zones_outlive_redirects(pod: Pod, backend: str, change: str) -> None:
    """Zones come before the redirects that need them and go after them.

    So the agent's question never meets the translation of the application's, whose tuple
    it has: in one zone it would come back to the agent.
    """
    old, new = CHANGES[change]
    pod.init(*old, "--backend", backend)
    states = enumerate(states_between(pod, [*new, "--backend", backend]))
    for number, name in states:
        for server in (DNS, DNS6):
            question = Probe(server, 53, protocol="udp", sport=10001 + number)
            own = replace(question, **PROXY_IDS)
            asked, asked_too = pod.fates(question), pod.fates(own)
            assert asked_too == ["direct"], f"after {name} {own}, after it was {asked}"
    assert number > 1


LOAD = (
    Probe(WEB),
    Probe(WEB6),
    Probe(API),
    Probe(POD, 8080, start="world"),
    Probe(POD6, 8080, start="world"),
)


def test_load_sees_escapes(pod: Pod, backend: str) -> None:
    """The control: where the rules are taken away for a moment, the load notices."""
    pod.init(*STRICT, "--backend", backend)
    with pod.load(*LOAD) as seen:
        pod.init("--cleanup-only")
        pod.init(*STRICT, "--backend", backend)
    assert {probe for probe, fate in seen if fate == "direct"} == set(LOAD)


@pytest.mark.parametrize("path", [BACKENDS, BACKENDS[::-1]])
@pytest.mark.parametrize("specs", [[STRICT], [[*STRICT, *TPROXY], ISTIO]], ids=["same", "changed"])
def test_migration_under_load(pod: Pod, path: tuple[str, ...], specs: list[list[str]]) -> None:
    """From each backend to each other one, changed or not: no connection goes direct meanwhile."""
    turns = cycle(specs)
    pod.init(*next(turns), "--backend", path[0])
    with pod.load(*LOAD) as seen:
        for to in (*path[1:], path[0]):
            pod.init(*next(turns), "--backend", to, "--migrate")
    assert_captured(seen)


def test_change_under_load(pod: Pod, backend: str) -> None:
    """A changed spec, a changed profile, a changed mode: no connection goes direct meanwhile."""
    specs = [
        [*STRICT, *SERVERS, "-o", "443,9000-9050"],
        [*STRICT, *TPROXY, "--drop-invalid"],
        [*ISTIO, *TPROXY, *SERVERS],
        [*ISTIO, "-o", "8443"],
        STRICT,
    ]
    pod.init(*specs[-1], "--backend", backend)
    with pod.load(*LOAD) as seen:
        for spec in specs:
            pod.init(*spec, "--backend", backend)
    assert_captured(seen)


CAPTURED = ("outbound", "inbound")


def assert_captured(seen: dict[tuple[Probe, str], int]) -> None:
    """Assert that every connection of a load was captured, and that there were some of each."""
    captured = {probe for probe, fate in seen if fate in CAPTURED}
    others = {f"{probe}: {fate}": n for (probe, fate), n in seen.items() if fate not in CAPTURED}
    assert captured == set(LOAD)
    assert not others
