"""The kernel has the last word on the goldens: they load, and they decide what they should.

Each is loaded with the real tools: the kernel then holds what meshnet-init makes it hold,
and connections go where the case says, while without the golden they go direct.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.golden_cases import BACKENDS, CASES, PLAIN, Case, parts_of, path_of
from tests.support.namespaces import Namespace, Namespaces
from tests.support.traffic import Pod

ROWS = [(name, backend) for name in CASES for backend in BACKENDS]


def load(netns: Namespace, name: str, backend: str) -> list[str]:
    """Load a golden as somebody would by hand; the commands that take its routes away again."""
    commands, first, second = parts_of(path_of(name, backend).read_text())
    for command in commands:
        netns.run(*command.split())
    if backend == "nft":
        netns.run("nft", "-f", "-", text=first)
    else:
        netns.run("iptables-nft-restore", "--noflush", text=first)
        if second:
            netns.run("ip6tables-nft-restore", "--noflush", text=second)
    return [command.replace(" add ", " delete ", 1) for command in reversed(commands)]


@pytest.mark.parametrize(("name", "backend"), ROWS)
def test_it_loads_as_what_meshnet_init_programs(
    namespaces: Namespaces, name: str, backend: str
) -> None:
    by_hand, ours = namespaces.make(), namespaces.make()
    before = by_hand.everything()
    load(by_hand, name, backend)
    ours.init(*CASES[name].arguments(backend), env={**PLAIN, **CASES[name].env})
    assert ours.everything() == by_hand.everything() != before
    again = ours.init(*CASES[name].arguments(backend), env={**PLAIN, **CASES[name].env})
    assert "nothing to change" in again.stderr


@pytest.fixture(scope="module")
def pod(request: pytest.FixtureRequest) -> Iterator[Pod]:
    """One pod for many goldens, each of which is taken away again; the parameter: with a guest."""
    made = Namespaces(f"goldens-{request.param:d}")
    try:
        pod = Pod(made, guest=request.param)
        try:
            yield pod
        finally:
            pod.end()
    finally:
        made.remove()


def decide(pod: Pod, case: Case, name: str, backend: str) -> None:
    """Assert where the case's connections go before, under and after the golden."""
    netns = pod.namespace
    before = netns.everything()
    pod.check(dict.fromkeys(case.fates, "direct"))
    undo = load(netns, name, backend)
    try:
        pod.check(case.fates)
    finally:
        netns.run("nft", "flush", "ruleset")
        for command in undo:
            netns.run(*command.split())
    after = netns.everything()
    assert {k: v for k, v in after.items() if "save" not in k} == {
        k: v for k, v in before.items() if "save" not in k
    }


@pytest.mark.parametrize(
    ("pod", "name", "backend"),
    [(CASES[name].guest, name, backend) for name, backend in ROWS],
    indirect=["pod"],
)
def test_it_decides_connections(pod: Pod, name: str, backend: str) -> None:
    decide(pod, CASES[name], name, backend)


def test_every_golden_decides_a_connection_over_tcp() -> None:
    for name, case in CASES.items():
        assert any(p.protocol == "tcp" for p in case.fates), name
        decided = set(case.fates.values()) - {"direct"}
        assert decided or name == "nothing", name
