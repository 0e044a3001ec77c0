"""Packets that speak for a difference, or against a statement, sent for real."""

from __future__ import annotations

import pytest

from meshnet.model.frozen import replace
from meshnet.model.packet import TCP, Family
from meshnet.reason.behaviour import Side, compare_behaviour
from meshnet.reason.symbolic.world import Start
from tests.netns.test_equal_backends import a_pod
from tests.support.namespaces import Namespaces
from tests.support.probe import POD, POD6, WEB, WEB6, Probe
from tests.support.traffic import PROFILES
from tests.support.walks import compiled, fate, is_local, packet_of

pytest.importorskip("z3", reason="cannot run here: z3 is not installed (the extra prove)")

ISTIO, STRICT = PROFILES["istio"], PROFILES["strict"]
OFF = [*ISTIO[:2], "--ipv6", "off", *ISTIO[4:]]
#: Each: two sides (arguments and backend), and how many packets must be sent at least.
PAIRS = {
    "profiles": ((ISTIO, "nft-compat"), (STRICT, "nft"), 2),
    "users": (
        ([*ISTIO, "-u", "1337,1338"], "nft"), ([*STRICT, "-u", "1337,1338"], "nft-compat"), 3,
    ),
    "ipv6-off": (([*OFF, "-b", "*"], "legacy"), ([*OFF, "-b", "*"], "nft"), 2),
}  # fmt: skip


def probe_of(start: Start) -> Probe | None:
    """A connection like ``start``, as the pod of the tests can make it; None where it cannot."""
    packet = start.packet
    six = packet.family is Family.IP6
    if packet.proto != TCP or packet.ctstate != "new" or packet.mark or not start.local:
        return None
    if start.hook == "prerouting":
        return Probe(POD6 if six else POD, 8080, start="world")
    if packet.uid is None or packet.gid is None:
        return None
    to, port = ((POD6, 8080) if six else (POD, 8080)) if packet.oif == "lo" else (
        WEB6 if six else WEB, 80,
    )  # fmt: skip
    return Probe(to, port, uid=packet.uid, gid=packet.gid)


@pytest.mark.parametrize("name", PAIRS)
def test_real_packets_part_where_the_proof_says(namespaces: Namespaces, name: str) -> None:
    *sides, least = PAIRS[name]
    rulesets = [compiled(words, backend) for words, backend in sides]
    walkers = [Side(held).walker() for held in rulesets]
    found = compare_behaviour(Side(rulesets[0]), Side(rulesets[1]))
    expected: dict[Probe, list[str]] = {}
    for parting in found.partings:
        # A packet of each family of the class.
        for family in parting.divergence.families:
            packet = replace(parting.start.packet, family=Family(family))
            probe = probe_of(replace(parting.start, packet=packet))
            if probe is None:
                continue
            sent, hook = packet_of(probe)
            told = [fate(w.walk(sent, hook, local=is_local(probe))) for w in walkers]
            if told[0] != told[1]:
                expected[probe] = told
    assert len(expected) >= least, found
    for at, (words, backend) in enumerate(sides):
        with a_pod(namespaces) as pod:
            pod.init(*words, "--backend", backend)
            seen = dict(zip(expected, pod.fates(*expected), strict=True))
            assert seen == {probe: told[at] for probe, told in expected.items()}
