"""What is captured, in sentences: true, short, and silent about nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.compile import compile_spec
from meshnet.dialects.iptables import parse_save
from meshnet.model.capture import DIRECTIONS, CaptureLine
from meshnet.model.frozen import replace
from meshnet.model.match import dport, proto
from meshnet.model.packet import Family, Packet
from meshnet.model.rule import Kind, Rule, Target, redirect
from meshnet.model.ruleset import Chain, Ruleset, Table
from meshnet.model.spec import Form, Ports, Profile
from meshnet.model.verdict import Verdict
from meshnet.reason.capture import describe
from meshnet.reason.sentences import WIDTH
from meshnet.reason.walk import walk
from tests.support.cases import CASES
from tests.support.damage import dropped, inserted, places, rule_at, swapped
from tests.support.specs import spec_of, specs

BACKEND = {Form.IPTABLES: "nft-compat", Form.NFT: "nft"}


def lines_of(held: Ruleset, form: Form = Form.IPTABLES) -> dict[tuple[str, str], CaptureLine]:
    """The lines by direction and family."""
    found = describe({BACKEND[form]: held})
    assert [DIRECTIONS.index(line.direction) for line in found] == sorted(
        DIRECTIONS.index(line.direction) for line in found
    )
    assert {line.direction for line in found} == set(DIRECTIONS)
    lines = {(line.direction, line.family): line for line in found}
    assert len(lines) == len(found)
    return lines


def said(case: str, form: Form = Form.IPTABLES) -> dict[tuple[str, str], str]:
    lines = lines_of(compile_spec(spec_of(case), form), form)
    return {key: line.sentence for key, line in lines.items()}


#: The rules of the mission document, as Istio 0.2 made them and a kernel shows them.
MISSION = """
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -m comment --comment "istio/install-istio-prerouting" -j ISTIO_REDIRECT
-A OUTPUT -p tcp -m comment --comment "istio/install-istio-output" -j ISTIO_OUTPUT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -m comment --comment "istio/bypass-envoy" -j ISTIO_REDIRECT
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -m comment --comment "istio/bypass-envoy" -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -m comment --comment "istio/bypass-explicit-loopback" -j RETURN
-A ISTIO_OUTPUT -m comment --comment "istio/redirect-default-outbound" -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -m comment --comment "istio/redirect-to-envoy-port" -j REDIRECT --to-ports 15001
COMMIT
"""  # noqa: E501


def test_the_rules_of_the_mission_document() -> None:
    for held in (
        parse_save(MISSION, Family.IP), compile_spec(spec_of("classic"), Form.IPTABLES)
    ):  # fmt: skip
        lines = lines_of(held)
        outbound, inbound = lines["outbound", "IPv4"], lines["inbound", "IPv4"]
        assert outbound.sentence == "tcp to :15001; not: uid 1337"
        assert inbound.sentence == "tcp to :15001"
        assert outbound.ports == inbound.ports == (15001,)
        assert outbound.captured and outbound.backend == "nft-compat"
        assert lines["outbound", "IPv6"].sentence == "not captured"
        assert lines["dns", "IPv4+IPv6"].sentence == "not captured"


def test_what_each_setting_adds() -> None:
    assert said("default") == {
        ("outbound", "IPv4"): "tcp to :15001; not: uid 1337, gid 1337",
        ("outbound", "IPv6"): "not captured",
        ("inbound", "IPv4"): "tcp to :15006, except ports 15090, 15021, 15020, 15008",
        ("inbound", "IPv6"): "not captured",
        ("dns", "IPv4+IPv6"): "not captured",
    }
    both = said("tproxy-both-families")
    assert both == {
        ("outbound", "IPv4+IPv6"): "tcp to :15001; not: uid 1337, gid 1337, by eth7, eth8",
        ("inbound", "IPv4+IPv6"): "tcp to :15006 by TPROXY (mark 1337), except by eth7, eth8",
        ("dns", "IPv4+IPv6"): "not captured",
    }
    assert said("dns")["dns", "IPv4"] == (
        "udp and tcp 53 of 10.1.0.9 to :15053; not: uid 1337, gid 1337"
    )
    assert "every server" in said("dns-everywhere")["dns", "IPv4+IPv6"]
    assert said("two-proxies")["outbound", "IPv6"] == (
        "tcp to :15001, only fd00::/8; not: uids 3, 4, gids 1, 2"
    )
    assert said("ports") == {
        ("outbound", "IPv4"): "tcp to :15001, only ports 443, 8443; "
        "not: uid 1337, gid 1337, port 22",
        ("outbound", "IPv6"): "not captured",
        ("inbound", "IPv4"): "tcp to :15006, only ports 80, 8080",
        ("inbound", "IPv6"): "not captured",
        ("dns", "IPv4+IPv6"): "not captured",
    }
    assert said("virtual-interfaces")["outbound", "IPv4"] == (
        "tcp (and from eth7, eth8) to :15001; not: uid 1337, gid 1337"
    )
    assert set(said("nothing").values()) == {"not captured"}


def test_ipv6_that_is_refused_is_not_captured() -> None:
    lines = lines_of(compile_spec(spec_of("strict-refused"), Form.NFT), Form.NFT)
    assert lines["outbound", "IPv6"].sentence == "tcp refused; not: uid 1337, gid 1337"
    assert not lines["outbound", "IPv6"].captured
    assert lines["dns", "IPv6"].sentence.startswith("udp and tcp 53 of fd01::9 refused")


def test_istios_nft_rules_take_ipv6_that_is_off() -> None:
    for direction in ("outbound", "inbound"):
        assert (direction, "IPv4+IPv6") in said("default", Form.NFT)


def test_nothing_at_all_is_three_lines() -> None:
    for held in ({}, {"nft-compat": Ruleset(), "legacy": Ruleset(), "nft": Ruleset()}):
        assert [
            (n.direction, n.family, n.sentence, n.ports, n.backend) for n in describe(held)
        ] == [(direction, "IPv4+IPv6", "not captured", (), "") for direction in DIRECTIONS]


def test_long_lists_are_cut_with_a_count() -> None:
    spec = replace(
        spec_of("default"), in_ports_excluded=Ports(tuple((n, n) for n in range(20000, 20020)))
    )
    line = lines_of(compile_spec(spec, Form.IPTABLES))["inbound", "IPv4"]
    ports = ", ".join(str(n) for n in range(20000, 20006))
    assert line.sentence == f"tcp to :15006, except ports {ports} and 15 more"
    assert len(line.sentence) <= WIDTH


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("profile", Profile)
@settings(max_examples=30)
@given(data=st.data())
def test_a_sentence_fits_in_a_line(profile: Profile, form: Form, data: st.DataObject) -> None:
    spec = data.draw(specs(profile))
    for line in describe({BACKEND[form]: compile_spec(spec, form)}):
        assert 0 < len(line.sentence) <= WIDTH + 20, line.sentence
        assert line.sentence.isprintable() and "  " not in line.sentence
        assert not line.captured or any(f":{port}" in line.sentence for port in line.ports)
        assert line.backend == BACKEND[form]


def walked(held: Ruleset, form: Form, packet: Packet, hook: str) -> int:
    """The port that the walk has ``packet`` handed to; 0 for none."""
    journey = walk({BACKEND[form]: held}, packet, hook)
    return journey.port if journey.verdict is Verdict.CAPTURED else 0


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("case", CASES)
def test_the_walk_agrees(case: str, form: Form) -> None:
    """What a sentence says is captured, some packet is, and what it does not say none is."""
    held = compile_spec(spec_of(case), form)
    lines = describe({BACKEND[form]: held})
    for family, name in ((Family.IP, "IPv4"), (Family.IP6, "IPv6")):
        far = 0xFD << 120 | 1 if family is Family.IP6 else 0x0A010101
        server = 0xFD01 << 112 | 9 if family is Family.IP6 else 0x0A010009
        common = {"sport": 40000, "uid": 1000, "gid": 1000, "oif": "eth0"}
        sent = [Packet(family, 6, far + 9, far, dport=p, **common) for p in (443, 7777)]  # type: ignore[arg-type]
        asked = [Packet(family, 17, far + 9, to, dport=53, **common) for to in (server, far)]  # type: ignore[arg-type]
        come = [
            Packet(family, 6, far, far + 9, sport=40000, dport=p, iif="eth0") for p in (80, 7777)
        ]
        for direction, packets, hook in (
            ("outbound", sent, "output"),
            ("inbound", come, "prerouting"),
            ("dns", asked, "output"),
        ):
            ports = {
                p for n in lines if n.direction == direction and name in n.family for p in n.ports
            }
            assert {walked(held, form, p, hook) for p in packets} - {0} == ports, (direction, name)


def test_differences_are_told_where_they_are() -> None:
    wanted = compile_spec(spec_of("both-families"), Form.IPTABLES)
    extra = Rule((proto("tcp"), dport(4444)), Target(Kind.DROP))
    lines = lines_of(inserted(wanted, (Family.IP, "nat", "ISTIO_OUTPUT", 2), extra))
    assert lines["outbound", "IPv4"].sentence == (
        "tcp to :15001; not: uid 1337, gid 1337; but its rules differ: 1 extra"
    )
    assert lines["outbound", "IPv6"].sentence == "tcp to :15001; not: uid 1337, gid 1337"
    assert "differ" not in lines["inbound", "IPv4+IPv6"].sentence
    for place in places(wanted):
        if rule_at(wanted, place).id == "out.passthrough" and place[0] is Family.IP6:
            lines = lines_of(dropped(wanted, place))
            assert lines["outbound", "IPv6"].sentence.endswith("but its rules differ: 1 missing")
            moved = swapped(wanted, place)
            assert moved is not None
            assert lines_of(moved)["outbound", "IPv6"].sentence.endswith(": 1 moved")


@pytest.mark.parametrize("form", Form)
def test_without_the_jump_nothing_is_captured(form: Form) -> None:
    wanted = compile_spec(spec_of("default"), form)
    for place in places(wanted):
        if rule_at(wanted, place).id == "out.jump":
            lines = describe({BACKEND[form]: dropped(wanted, place)})
            outbound = [n for n in lines if n.direction == "outbound"]
            assert outbound[0].sentence == "not captured: rule out.jump is missing"
            assert not outbound[0].captured
            assert any(n.captured for n in lines if n.direction == "inbound")


def foreign(text: str, family: Family = Family.IP) -> dict[tuple[str, str], CaptureLine]:
    body = f"*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:MINE - [0:0]\n{text}COMMIT\n"
    return lines_of(parse_save(body, family))


def test_foreign_redirects_are_told() -> None:
    lines = foreign("-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080\n")
    line = lines["inbound", "IPv4"]
    assert line.sentence == ("foreign rules redirect tcp 80 to :8080 (nft-compat nat PREROUTING 1)")
    assert line.ports == (8080,) and line.backend == ""
    assert lines["outbound", "IPv4+IPv6"].sentence == "not captured"
    lines = foreign(
        "-A OUTPUT -j MINE\n-A MINE -p tcp -j REDIRECT --to-ports 3128\n"
        "-A MINE -p tcp -j REDIRECT --to-ports 3129\n"
    )
    assert lines["outbound", "IPv4"].sentence == (
        "foreign rules redirect tcp to :3128 (nft-compat nat MINE 1 and 1 more)"
    )
    assert lines["outbound", "IPv4"].ports == (3128, 3129)
    docker = (
        "-A OUTPUT -d 127.0.0.11/32 -j MINE\n-A MINE -d 127.0.0.11/32 -p udp -m udp --dport 53 "
    )
    lines = foreign(docker + "-j DNAT --to-destination 127.0.0.11:38457\n")
    assert lines["dns", "IPv4"].sentence.startswith(
        "foreign rules redirect udp 53 to loopback:38457"
    )
    assert lines["outbound", "IPv4+IPv6"].sentence == "not captured"


def test_what_leads_elsewhere_or_is_not_reached_is_no_redirect() -> None:
    for text in (
        "-A OUTPUT -p tcp -j DNAT --to-destination 10.0.0.1:80\n",
        "-A MINE -p tcp -j REDIRECT --to-ports 3128\n",
        "-A OUTPUT -p tcp -m comment --comment REDIRECT -j RETURN\n",
    ):
        assert {line.sentence for line in foreign(text).values()} == {"not captured"}


def test_foreign_redirects_stand_beside_ours() -> None:
    held = inserted(
        compile_spec(spec_of("default"), Form.IPTABLES),
        (Family.IP, "nat", "OUTPUT", 0),
        Rule((proto("tcp"), dport(443)), redirect(3128)),
    )
    found = [n for n in describe({"legacy": held}) if n.direction == "outbound"]
    assert [(n.backend, n.family, n.ports) for n in found] == [
        ("legacy", "IPv4", (15001,)), ("legacy", "IPv6", ()), ("", "IPv4", (3128,)),
    ]  # fmt: skip


def test_names_from_outside_are_escaped() -> None:
    rule = Rule((proto("tcp"),), redirect(3128))
    table = Table(Family.INET, "a\x1b[31m", (Chain("b\nc", (rule,), "nat", "output", -100),))
    (line,) = [n for n in describe({"nft": Ruleset((table,))}) if n.direction == "outbound"]
    assert line.sentence.isprintable() and line.family == "IPv4+IPv6"
