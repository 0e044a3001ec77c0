"""The class of packets that goes the same way: every member does, by the walk."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.dialects.iptables import parse_save, print_save
from meshnet.model.frozen import replace
from meshnet.model.packet import TCP, UDP, Family, Field, Packet
from meshnet.model.packet_class import PacketClass
from meshnet.model.ruleset import Ruleset
from meshnet.model.verdict import Journey
from meshnet.reason.same_fate import same_fate
from meshnet.reason.walk import Walker
from tests.support.cases import BACKENDS, CASES
from tests.support.lottery import IDS, MARKS, PORTS, STATES, Lottery, as_packet
from tests.support.walks import compiled

PRIMARY = {("v0", Family.IP): 0x0A090001, ("lo", Family.IP): 0x7F000001}
HIDDEN = (
    frozenset[Field](),
    frozenset({Field.UID, Field.GID}),
    frozenset({Field.SRC, Field.SPORT}),
    frozenset({Field.CTMARK}),
)


def drawn(seed: int) -> tuple[dict[str, Ruleset], Lottery]:
    """Rules of two backends that hold often, and the lottery that drew them."""
    lottery = Lottery(seed)
    kinds = lottery.rng.choice((("legacy",), ("nft",), ("legacy", "nft")))
    found: dict[str, Ruleset] = {}
    if "legacy" in kinds:
        tables = [
            parse_save(print_save(lottery.iptables(family)), family).tables
            for family in (Family.IP, Family.IP6)
        ]
        found["legacy"] = Ruleset(tables[0] + tables[1])
    if "nft" in kinds:
        found["nft"] = lottery.nft(ties=True)
    return found, lottery


def neighbours(packet: Packet, inside: PacketClass, rng: Random, count: int) -> list[Packet]:
    """Packets of the class, made from ``packet`` and from its conditions' own bounds."""
    pool: dict[str, list[Any]] = {
        "proto": [TCP, UDP, 1, 58, 132, rng.randrange(256)],
        "uid": [*IDS, None, rng.randrange(1 << 32)],
        "gid": [*IDS, None, rng.randrange(1 << 32)],
        "sport": [*PORTS, rng.randrange(65536)],
        "dport": [*PORTS, rng.randrange(65536)],
        "mark": [*MARKS, rng.randrange(1 << 32)],
        "ctmark": [*MARKS, rng.randrange(1 << 32)],
        "iif": ["lo", "v0", "eth7", "v9", None],
        "oif": ["lo", "v0", "eth7", "v9", None],
        "ctstate": [*STATES],
    }
    bits = 32 if packet.family is Family.IP else 128
    for match in inside.matches:
        label = match.field.label
        for span in match.values if match.field.bits else ():
            assert isinstance(span, tuple)
            near = [span[0] - 1, span[0], span[1], span[1] + 1, sum(span) // 2]
            most = bits if label in ("src", "dst") else match.field.bits
            pool.setdefault(label, []).extend(n for n in near if 0 <= n < 1 << most)
    for label in ("src", "dst"):
        pool.setdefault(label, []).extend([0x7F000001, 1, rng.getrandbits(bits)])
    found: list[Packet] = []
    for _ in range(count * 8):
        fields: dict[str, Any] = {
            label: rng.choice(pool[label]) for label in rng.sample(sorted(pool), rng.randint(1, 5))
        }
        made = replace(packet, **fields)
        if made.proto not in (TCP, UDP):
            made = replace(made, sport=None, dport=None)
        elif made.sport is None or made.dport is None:
            made = replace(made, sport=rng.choice(PORTS), dport=rng.choice(PORTS))
        if made in inside:
            found.append(made)
        if len(found) == count:
            break
    return found


def told(journey: Journey) -> tuple[object, ...]:
    """What a class promises: the verdict, who decides, and each rule that is met."""
    fates = tuple((fate.verdict, fate.port, fate.decider) for fate in journey.fates)
    decider = journey.decider.place if journey.decider else None
    return journey.verdict, journey.port, decider, journey.maybe, journey.steps, fates


def check(rulesets: dict[str, Ruleset], packet: Packet, hook: str, local: bool, rng: Random) -> int:
    """Each neighbour of the packet's class goes its way; how many there were."""
    addresses = rng.choice(({}, PRIMARY))
    walker = Walker(rulesets, addresses, marks_route=rng.random() < 0.7)
    unknown = rng.choice(HIDDEN)
    tree = walker.follow(packet, hook, unknown, local)
    inside = same_fate(tree, packet, hook, unknown, addresses)
    if inside is None:
        return 0
    assert packet in inside
    expected = told(walker.walk(packet, hook, unknown, local))
    others = neighbours(packet, inside, rng, 12)
    for other in others:
        walker.forget()
        assert told(walker.walk(other, hook, unknown, local)) == expected, (inside, other)
    return len(others)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1_000_000))
def test_members_of_a_class_go_the_same_way_through_any_rules(seed: int) -> None:
    rulesets, lottery = drawn(seed)
    for _ in range(3):
        packet, hook, local = as_packet(lottery.packet())
        check(rulesets, packet, hook, local, lottery.rng)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_members_of_a_class_go_the_same_way_through_our_rules(name: str, backend: str) -> None:
    rulesets = compiled(CASES[name], backend)
    lottery = Lottery(sum(map(ord, name + backend)))
    found = 0
    for _ in range(12):
        packet, hook, local = as_packet(lottery.packet())
        found += check(rulesets, packet, hook, local, lottery.rng)
    assert found > 50
