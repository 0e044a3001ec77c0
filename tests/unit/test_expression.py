"""The language of prove: what it means, and what it says to whoever writes it wrong."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import UsageError
from meshnet.model.packet import TCP, UDP, Family, Packet
from meshnet.model.verdict import Verdict
from meshnet.reason.behaviour import Side
from meshnet.reason.claims import FIELDS, FLAGS, Formula
from meshnet.reason.expression import read_expression
from meshnet.reason.symbolic.meaning import meaning
from meshnet.reason.symbolic.names import Names, names_of
from meshnet.reason.symbolic.passage import Passage
from meshnet.reason.symbolic.question import Question
from meshnet.reason.symbolic.terms import no
from meshnet.reason.symbolic.world import World
from tests.support.cases import CASES
from tests.support.symbolic import Crowd
from tests.support.walks import compiled

pytest.importorskip("z3", reason="cannot run here: z3 is not installed (the extra prove)")

SYN = Packet(Family.IP, TCP, 0x0A090001, 0x0A00000A, 4000, 443, None, "eth0", 1000, 1001, 5)
CAME = Packet(Family.IP6, UDP, 1, 2, 53, 53, "eth7", None)
BARE = Packet(Family.IP, 1, 1, 2, None, None, None, "lo")


def so(text: str, packet: Packet = SYN, verdict: Verdict = Verdict.DIRECT, port: int = 0) -> bool:
    """Whether ``text`` is so for ``packet``."""
    hook = "output" if packet.iif is None else "prerouting"
    return read_expression(text).holds(packet, hook, packet.oif is None, verdict, port)


TRUE = [
    "uid == 1000", "uid != 0", "uid in {0, 900-1100}", "not uid in 0-999", "uid not in 0-999",
    "proto == tcp", "proto == 6", "proto in {tcp, udp}", "dst in 10.0.0.0/8", "dst == 10.0.0.10",
    "dst in 10.0.0.1-10.0.0.20", "dst not in {10.1.0.0/16, fd00::/8}", "sport == 4000",
    "oif == eth0", "oif == eth+", "oif != lo", "oif in {lo, eth0}", "mark == 0x5",
    "ctstate == new", "family == ip", "hook == output", "socket", "direct", "not captured",
    "port == none", "iif == none", "captured implies dropped", "uid == 1 or gid == 1001",
    "uid == 1 and gid == 1 or direct", "(uid == 1 or direct) and direct",
    "uid == 1 implies uid == 2 implies uid == 3", "not not socket",
]  # fmt: skip


@pytest.mark.parametrize("text", TRUE)
def test_what_is_so(text: str) -> None:
    assert so(text)
    assert not so(f"not ({text})")


ABSENT = ["uid", "gid", "dport", "iif"]


@pytest.mark.parametrize("field", ABSENT)
def test_of_a_field_that_is_lacking_nothing_is_true_but_none(field: str) -> None:
    value = "eth0" if field == "iif" else "7"
    assert not so(f"{field} == {value}", BARE)
    assert not so(f"{field} != {value}", BARE)
    assert so(f"not {field} == {value}", BARE)
    assert so(f"{field} == none", BARE)
    assert so(f"{field} in {{none, {value}}}", BARE)
    assert not so(f"{field} != none", BARE)


def test_verdicts_and_ports() -> None:
    assert so("captured and port == 15001", SYN, Verdict.CAPTURED, 15001)
    assert not so("port != 15001", SYN, Verdict.CAPTURED, 15001)
    assert not so("port != 15001", SYN)
    assert so("bypassed and not direct", SYN, Verdict.BYPASSED)
    assert so("dropped", SYN, Verdict.DROPPED)
    assert so("local and hook == prerouting and iif == eth7 and family == ip6", CAME)
    assert not so("socket", CAME)


def test_implies_binds_least_and_to_the_right() -> None:
    assert read_expression("socket or local implies captured").kind == "implies"
    nested = read_expression("socket implies local implies captured")
    assert nested.parts[1].kind == "implies"
    assert read_expression("not socket and local").kind == "and"


WRONG = {
    "": 1,
    "uid": 4,
    "uid ==": 7,
    "uid = 5": 5,
    "uid == tcp": 8,
    "uid == 99999999999": 8,
    "uid == 5 and": 13,
    "uid == 5 uid": 10,
    "(uid == 5": 10,
    "uid == 5)": 9,
    "uid == {1, 2}": 8,
    "uid in {1, 2": 13,
    "uid in {}": 9,
    "dst == 10.0.0.0/33": 8,
    "dst == 10.0.0.1/8": 8,
    "dst in 10.0.0.9-10.0.0.1": 8,
    "dport == 70000": 10,
    "dport in 9-8": 10,
    "proto == none": 10,
    "family == inet": 11,
    "ctstate == young": 12,
    "owner == 5": 1,
    "captured && direct": 10,
    "captured -> direct": 10,
    "uid < 5": 5,
    "!captured": 1,
    "and": 1,
    "not in": 5,
    "oif == abcdefghijklmnopq": 8,
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text or "nothing")
def test_a_mistake_is_told_with_its_column(text: str) -> None:
    with pytest.raises(UsageError, match=rf"^the expression, column {WRONG[text]}: ") as raised:
        read_expression(text)
    assert "\n" not in str(raised.value)


def test_the_nearest_field_is_named_and_the_right_operator() -> None:
    with pytest.raises(UsageError, match="the nearest is dport"):
        read_expression("dports == 5")
    with pytest.raises(UsageError, match="write implies"):
        read_expression("captured => direct")


def test_depth_has_an_end() -> None:
    with pytest.raises(UsageError, match="nested too deep"):
        read_expression("(" * 500 + "captured" + ")" * 500)
    with pytest.raises(UsageError, match="nested too deep"):
        read_expression("not " * 500 + "captured")


@given(st.text(max_size=40) | st.lists(
    st.sampled_from([*FIELDS, *FLAGS, "==", "!=", "in", "not", "and", "or", "implies", "(", ")",
                     "{", "}", ",", "5", "10.0.0.0/8", "lo", "tcp", "none", "0x", "-", "1-2"]),
    max_size=12,
).map(" ".join))  # fmt: skip
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert isinstance(read_expression(text), Formula)
    except UsageError as e:
        assert e.message.startswith("the expression, column ")


STATEMENTS = [
    "uid != 1337 and oif != lo implies captured",
    "dst in {10.0.0.0/8, fd00::/8} and dport in {80, 443, none} implies port == 15001 or bypassed",
    "not socket or gid not in {1337} or not captured",
    "iif == none or local or direct",
    "ctstate in {new, related} and mark == 0 implies port in {none, 15001, 15006}",
    "family == ip6 implies dropped or src == ::6",
    "hook == prerouting and dport != 15008 implies port == 15006",
]


@pytest.mark.parametrize("text", STATEMENTS)
@pytest.mark.parametrize("case", ["default", "strict-refused"])
def test_a_formula_means_the_same_of_all_packets_and_of_each(case: str, text: str) -> None:
    side = Side(compiled(CASES[case], "nft-compat"))
    formula = read_expression(text)
    program, walker = side.program(), side.walker()
    said = [claim.names for claim in formula.claims() if claim.field in ("iif", "oif")]
    crowd = Crowd(random.Random(text), side)
    crowd.names = Names([*said, *names_of(program.tables)])
    scenes = {}
    for packet, hook, local in crowd.packets(40):
        journey = walker.walk(packet, hook, local=local)
        if journey.verdict is Verdict.MAYBE:
            continue
        key = (hook, packet.family)
        if key not in scenes:
            world = World(hook, packet.family, crowd.names)
            passage = Passage(program, world)
            scenes[key] = world, Question(world), meaning(formula, passage)
        world, question, condition = scenes[key]
        here = world.is_packet(packet, local)
        expected = formula.holds(packet, hook, local, journey.verdict, journey.port)
        assert question.possible(here, condition) is expected, packet
        assert question.possible(here, no(condition)) is not expected, packet
