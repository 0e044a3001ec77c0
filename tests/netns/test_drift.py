"""Rules as a kernel holds them: no drift where they are sound, and what was broken where not."""

from __future__ import annotations

import pytest

from meshnet.cli.flags import FLAGS
from meshnet.dialects.iptables import parse_save
from meshnet.dialects.nft_json import parse_listing
from meshnet.model.drift import Drift
from meshnet.model.packet import Family
from meshnet.model.ruleset import Ruleset
from meshnet.model.spec import Form, Profile
from meshnet.reason.capture import describe
from meshnet.reason.drift import drift
from tests.support.cases import BACKENDS, CASES, STRICT
from tests.support.namespaces import Namespace

PLAIN = {name: "" for flag in FLAGS for name in flag.sources()}


def held(netns: Namespace, backend: str) -> Ruleset:
    """What the backend's own tools show."""
    if backend == "nft":
        return parse_listing(netns.run("nft", "-j", "list", "ruleset").stdout)
    variant = backend.removesuffix("-compat")
    tables = []
    for prefix, family in (("iptables", Family.IP), ("ip6tables", Family.IP6)):
        done = netns.run(f"{prefix}-{variant}-save", "-c")
        tables += parse_save(done.stdout, family).tables
    return Ruleset(tuple(tables))


def seen(netns: Namespace, backend: str) -> Drift:
    found = drift(held(netns, backend), Form.NFT if backend == "nft" else Form.IPTABLES)
    assert found is not None
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_what_was_programmed_does_not_drift(netns: Namespace, case: str, backend: str) -> None:
    argv = CASES[case]
    netns.init(*argv, "--backend", backend, env=PLAIN)
    found = seen(netns, backend)
    assert not found, found
    wanted = Profile.STRICT if set(STRICT) <= set(argv) else Profile.ISTIO
    assert found.profile is (Profile.CLASSIC if case == "classic" else wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rule_that_went_is_missed_and_one_that_came_is_extra(
    netns: Namespace, backend: str
) -> None:
    netns.init(*CASES["default"], "--backend", backend, env=PLAIN)
    variant = backend.removesuffix("-compat")
    if backend == "nft":
        where = ("inet", "istio-proxy-nat", "istio-output")
        netns.run("nft", "insert", "rule", *where, "meta", "skuid", "0", "return")
        netns.run("nft", "flush", "chain", *where[:2], "istio-in-redirect")
    else:
        tool = (f"iptables-{variant}", "-t", "nat")
        netns.run(*tool, "-I", "ISTIO_OUTPUT", "-m", "owner", "--uid-owner", "0", "-j", "RETURN")
        netns.run(*tool, "-F", "ISTIO_IN_REDIRECT")
    found = seen(netns, backend)
    assert [p.rule.id for p in found.missing] == ["in.redirect"]
    assert [p.position for p in found.extra] == [1]
    assert not found.moved
    lines = describe({backend: held(netns, backend)})
    inbound = [line.sentence for line in lines if line.direction == "inbound"]
    assert inbound[0] == "not captured: rule in.redirect is missing"
    outbound = [line.sentence for line in lines if line.direction == "outbound"]
    assert outbound[0] == "tcp to :15001; not: uid 1337, gid 1337; but its rules differ: 1 extra"
