"""What an explanation says: rows, reasons, what is near; for known rules, and for any."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.dialects.iptables import parse_save
from meshnet.model.address import read_address
from meshnet.model.explanation import Leg
from meshnet.model.frozen import replace
from meshnet.model.packet import TCP, UDP, Family, Field, Packet
from meshnet.model.ruleset import Ruleset
from meshnet.model.verdict import Verdict
from meshnet.reason.explanation import Explainer
from meshnet.reason.walk import Walker
from tests.support.lottery import as_packet
from tests.support.walks import compiled
from tests.unit.test_explain_same_fate import drawn

PORTS = ("-p", "15001", "-u", "1337", "-b", "*")
SYN = Packet(Family.IP, TCP, 0x0AF40007, 0x5DB8D822, 40000, 443, None, "eth0", 1000, 1000)
TO_POD = Packet(Family.IP, TCP, 0x0AF40902, 0x0AF40007, 40000, 8080, "eth0")
LO = replace(SYN, src=0x7F000001, dst=0x7F000001, oif="lo")


def explainer(*arguments: str, backend: str = "nft-compat") -> Explainer:
    return Explainer(compiled((*PORTS, *arguments), backend))


def legacy(text: str) -> dict[str, Ruleset]:
    return {"legacy": parse_save(text, Family.IP)}


# What holds for all rules.


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1_000_000))
def test_the_verdict_is_the_walks_and_every_step_has_its_row(seed: int) -> None:
    rulesets, lottery = drawn(seed)
    told, walker = Explainer(rulesets), Walker(rulesets)
    packet, hook, local = as_packet(lottery.packet())
    journey = walker.walk(packet, hook, local=local)
    steps = [(s.hook, s.place.chain, s.place.position, s.held) for s in journey.steps]
    every = told.explain(packet, hook, local=local, every=True)
    assert (every.verdict, every.port) == (journey.verdict.value, journey.port)
    words = {True: "yes", False: "no", None: "maybe"}
    assert [(r.hook, r.chain, r.first, r.held) for r in every.rules] == [
        (hook_, chain, position, words[held]) for hook_, chain, position, held in steps
    ]
    assert all(row.note for row in every.rules if row.held != "yes")
    collapsed = told.explain(packet, hook, local=local)
    opened = [
        (row.hook, row.chain, position)
        for row in collapsed.rules
        for position in range(row.first, row.last + 1)
    ]
    assert opened == [step[:3] for step in steps]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1_000_000))
def test_what_is_called_near_is_captured(seed: int) -> None:
    rulesets, lottery = drawn(seed)
    told = Explainer(rulesets)
    for _ in range(3):
        packet, hook, local = as_packet(lottery.packet())
        near = told.explain(packet, hook, local=local).nearest
        if near is None or not near.changes:
            continue
        shown = near.packet
        other = replace(
            packet,
            proto={"tcp": TCP, "udp": UDP}.get(shown.proto, packet.proto),
            src=read_address(shown.src)[1],
            dst=read_address(shown.dst)[1],
            sport=shown.sport,
            dport=shown.dport,
            iif=shown.iif or None,
            oif=shown.oif or None,
            uid=shown.uid,
            gid=shown.gid,
        )
        journey = Walker(rulesets).walk(other, hook, local=local)
        assert (journey.verdict, journey.port) == (Verdict.CAPTURED, near.port)


# Istio's rules, and what is to be said of them.

#: Arguments, packet, verdict, the setting that decided, words of the reason, advice.
SAID = {
    "captured": ((), SYN, "captured", "outbound.cidrs", "all other TCP goes to the proxy", ""),
    "outside the blocks": (
        ("-i", "10.0.0.0/8"), SYN, "direct", "outbound.cidrs",
        "10.0.0.0/8 goes to the proxy, and 93.184.216.34 is not in 10.0.0.0/8",
        "add 93.184.216.34/32 (or *) to outbound.cidrs",
    ),
    "the proxy": (
        (), replace(SYN, uid=1337, gid=1337), "bypassed", "proxy.uids",
        "the proxy's own connections are left alone, or they would loop", "",
    ),
    "the proxy's group": (
        (), replace(SYN, gid=1337), "bypassed", "proxy.gids",
        "the proxy's own connections are left alone, or they would loop", "",
    ),
    "an excluded port": (
        ("-o", "443"), SYN, "bypassed", "outbound.exclude_ports",
        "outbound TCP port 443 is left alone", "take 443 out of outbound.exclude_ports",
    ),
    "an excluded block": (
        ("-x", "93.184.0.0/16"), SYN, "bypassed", "outbound.exclude_cidrs",
        "93.184.0.0/16 is left alone", "take 93.184.0.0/16 out of outbound.exclude_cidrs",
    ),
    "loopback": (
        (), LO, "bypassed", "proxy.uids", "the application talking to itself is left alone", "",
    ),
    "UDP": (
        (), replace(SYN, proto=UDP), "direct", "proxy.port",
        "outbound TCP that gets here goes to the proxy, and it is udp", "",
    ),
    "DNS": (
        (), replace(SYN, proto=UDP, dport=53), "direct", "proxy.port",
        "outbound TCP that gets here goes to the proxy, and it is udp", "set dns.capture to all",
    ),
    "IPv6": (
        ("--ipv6", "off"), replace(SYN, family=Family.IP6, src=2, dst=(1 << 127) + 5), "direct", "",
        "no rule of ours is asked about such packets", "set ipv6 to on",
    ),
    "inbound": ((), TO_POD, "captured", "inbound.ports", "inbound TCP goes to the proxy", ""),
    "the tunnel": (
        (), replace(TO_POD, dport=15008), "bypassed", "proxy.tunnel_port",
        "the tunnel port is the proxy's own listener", "",
    ),
    "an excluded inbound port": (
        ("-d", "8080"), TO_POD, "bypassed", "inbound.exclude_ports",
        "inbound port 8080 is left alone", "take 8080 out of inbound.exclude_ports",
    ),
    "an inbound port of others": (
        ("-b", "80"), TO_POD, "direct", "inbound.ports",
        "inbound TCP goes to the proxy, and dport is 8080", "add 8080 (or *) to inbound.ports",
    ),
}  # fmt: skip


def told(arguments: tuple[str, ...], packet: Packet, backend: str) -> Leg:
    found = explainer("-i", "*", *arguments, backend=backend)
    return found.explain(packet, "output" if packet.iif is None else "prerouting")


@pytest.mark.parametrize("backend", ["legacy", "nft-compat"])
@pytest.mark.parametrize("name", SAID)
def test_why_istio_s_rules_decide(name: str, backend: str) -> None:
    arguments, packet, verdict, setting, words, advice = SAID[name]
    leg = told(arguments, packet, backend)
    near = leg.nearest
    assert leg.verdict == verdict
    assert (leg.because.setting, leg.because.words) == (setting, words)
    assert (near.advice if near else "") == advice


def test_native_rules_have_the_same_reasons() -> None:
    for name, (arguments, packet, verdict, setting, words, advice) in SAID.items():
        if name in ("IPv6",):
            continue
        leg = told(arguments, packet, "nft")
        assert (leg.verdict, leg.because.setting) == (verdict, setting), name
        assert leg.because.words == words, name
        assert (leg.nearest.advice if leg.nearest else "") == advice, name


def test_a_foreign_rule_before_ours_is_named_and_what_would_be_without_it() -> None:
    rules = (
        "*nat\n:OUTPUT ACCEPT [0:0]\n:ISTIO_OUTPUT - [0:0]\n:ISTIO_REDIRECT - [0:0]\n"
        "-A OUTPUT -d 93.184.216.34/32 -j ACCEPT\n-A OUTPUT -j ISTIO_OUTPUT\n"
        "-A ISTIO_OUTPUT -j ISTIO_REDIRECT\n"
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n"
    )
    leg = Explainer(legacy(rules)).explain(SYN, "output")
    assert (leg.verdict, leg.rule) == ("direct", "legacy ip nat OUTPUT 1")
    assert "not ours lets it go before ours" in leg.because.words
    assert leg.nearest is not None
    assert leg.nearest.advice == "without nat OUTPUT 1, which is not ours"
    assert leg.nearest.changes == ("dst not 93.184.216.34",)


def test_a_dropped_packet_says_who_drops_it_and_what_its_sender_is_told() -> None:
    drop = "*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -j {}\nCOMMIT\n"
    for target, words in {
        "DROP": "its sender is not told",
        "REJECT --reject-with icmp-port-unreachable": "its sender is told so",
        "REJECT --reject-with tcp-reset": "its sender gets a reset",
        "REJECT --reject-with icmp-host-prohibited": "its sender is told so",
    }.items():
        leg = Explainer(legacy(drop.format(target))).explain(SYN, "output")
        assert (leg.verdict, leg.leaves) == ("dropped", words), target
    policy = Explainer(legacy("*filter\n:OUTPUT DROP [0:0]\nCOMMIT\n")).explain(SYN, "output")
    assert policy.because.words == "no rule decided, and the policy drop of OUTPUT did"


def test_runs_share_a_reason_and_near_misses_stand_alone() -> None:
    leg = told(("-i", "10.0.0.0/8"), SYN, "nft-compat")
    rows = {(r.chain, r.first, r.last): r.note for r in leg.rules if r.held == "no"}
    assert rows[("ISTIO_OUTPUT", 1, 3)] == "oif is eth0"
    assert rows[("ISTIO_OUTPUT", 4, 4)] == "uid is 1000"
    assert rows[("ISTIO_OUTPUT", 9, 9)] == "93.184.216.34 is not in 10.0.0.0/8"


MAYBE = (
    "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT {} -j ACCEPT\n"
    "-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n"
)


def test_a_maybe_names_what_is_undecided_and_its_fates() -> None:
    rule = "-m statistic --mode random --probability 0.5"
    leg = Explainer(legacy(MAYBE.format(rule))).explain(SYN, "output")
    assert leg.verdict == "maybe"
    assert leg.undecided == (f"nat OUTPUT 1: {rule}",)
    assert {(f.verdict, f.rule) for f in leg.fates} == {
        ("captured", "legacy ip nat OUTPUT 2"),
        ("direct", ""),
    }
    assert leg.rules[0].held == "maybe" and rule in leg.rules[0].note


def test_what_is_undecided_and_makes_no_difference_is_said_all_the_same() -> None:
    rule = "-p udp -m statistic --mode random --probability 0.5"
    quiet = Explainer(legacy(MAYBE.format(rule))).explain(SYN, "output")
    assert (quiet.verdict, quiet.unmodelled) == ("captured", ())
    twice = MAYBE.replace("-j ACCEPT", "-j REDIRECT --to-ports 15001", 1)
    rule = "-p tcp -m set --match-set x dst"
    said = Explainer(legacy(twice.format(rule))).explain(SYN, "output")
    assert (said.verdict, said.port) == ("captured", 15001)
    assert said.unmodelled == ("nat OUTPUT 1: -m set --match-set x dst",)


def test_a_user_that_is_not_told_is_undecided_only_where_it_matters() -> None:
    hidden = frozenset({Field.UID, Field.GID})
    leg = explainer("-i", "*").explain(SYN, "output", hidden)
    assert leg.verdict == "maybe" and "uid is not known" in leg.undecided[0]
    same = explainer("-i", "10.0.0.0/8").explain(SYN, "output", hidden)
    assert same.verdict == "maybe"
    nothing = Explainer({}).explain(SYN, "output", hidden)
    assert nothing.verdict == "direct"


def test_the_class_is_said_in_words() -> None:
    leg = told(("-i", "10.0.0.0/8"), SYN, "nft-compat")
    assert [c.words for c in leg.same_fate.conditions] == [
        "oif not lo", "dst not 10.0.0.0/8,127.0.0.1", "uid not 1337", "gid not 1337",
        "first of its connection",
    ]  # fmt: skip
    assert leg.same_fate.free == ("protocol", "source", "source port", "port", "mark")


def test_more_that_is_undecided_than_can_be_followed_is_a_maybe_and_no_class() -> None:
    """Also where not one way could be followed to its end."""
    rule = "-A OUTPUT -m set --match-set s{} dst -j MARK --set-xmark {:#x}/{:#x}\n"
    for count in (40, 3000):
        parting = "".join(rule.format(n, 1 << n % 32, 1 << n % 32) for n in range(count))
        text = f"*nat\n:OUTPUT ACCEPT [0:0]\n{parting}-A OUTPUT -m mark --mark 0x77 -j ACCEPT\n"
        text += "-A OUTPUT -p tcp -j REDIRECT --to-ports 1\nCOMMIT\n"
        leg = Explainer(legacy(text)).explain(SYN, "output")
        assert leg.verdict == "maybe" and leg.undecided[-1].startswith("more that is undecided")
        assert not leg.same_fate.whole and not leg.same_fate.conditions
