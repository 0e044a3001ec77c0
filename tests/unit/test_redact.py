"""Redaction: nothing of the original is left, and the rules decide as they did."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshnet.dialects.dumps import rulesets
from meshnet.dialects.snapshot_json import read_snapshot, write_snapshot
from meshnet.model.address import read_address, read_cidr
from meshnet.model.frozen import replace
from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.packet import Field
from meshnet.model.snapshot import SCHEMA, Dump, Link, Namespace, Snapshot
from meshnet.reason.pseudonyms import Pseudonyms
from meshnet.reason.redact import redact
from tests.support.snapshots import addresses, blocks, families, names, snapshots

KEY = b"k" * 32
LINKS = ("eth0", "eth1", "ethernet", "cali12", "lo", "lobby", "l", "tunl0", "et")


@st.composite
def save_texts(draw: st.DrawFn) -> Dump:
    """An iptables-save dump whose rules have addresses, interfaces, comments, foreign chains."""
    family = draw(families)
    lines = ["*nat", ":OUTPUT ACCEPT [1:60]", ":ISTIO_OUTPUT - [0:0]"]
    chains = draw(st.lists(names, unique=True, max_size=2))
    lines += [f":{chain} - [0:0]" for chain in chains]
    for _ in range(draw(st.integers(0, 4))):
        words = ["-A", draw(st.sampled_from(["OUTPUT", "ISTIO_OUTPUT", *chains]))]
        words += draw(st.sampled_from([[], ["-s"], ["!", "-d"]]))
        if words[-1] in ("-s", "-d"):
            words.append(draw(blocks(family)))
        if draw(st.booleans()):
            words += ["-o", draw(st.sampled_from([*LINKS, "eth+", "cali+", "lo+", "e+"]))]
        if draw(st.booleans()):
            words += ["-m", "comment", "--comment", draw(names)]
        words += ["-j", draw(st.sampled_from(["ACCEPT", "ISTIO_OUTPUT", *chains]))]
        lines.append(f"[7:420] {' '.join(words)}")
    text = "".join(f"{line}\n" for line in [*lines, "COMMIT"])
    return Dump("legacy", "iptables-legacy-save -c", text, family)


@st.composite
def listings(draw: st.DrawFn) -> Dump:
    """An nft document, its rules with addresses, spans of addresses and interfaces."""
    family = draw(families)
    rules = []
    for _ in range(draw(st.integers(0, 3))):
        side = draw(st.sampled_from(["saddr", "daddr"]))
        left = {"payload": {"protocol": family, "field": side}}
        network, _, length = draw(blocks(family)).partition("/")
        start = "10.64" if family == "ip" else "fd00:"
        pair = [f"{start}.1.{n}" if family == "ip" else f"{start}:{n}" for n in (10, 77)]
        one, other = {"prefix": {"addr": network, "len": int(length)}}, {"range": pair}
        right = draw(st.sampled_from([one, other, {"set": [one, other]}, pair[0]]))
        match = {"match": {"op": "==", "left": left, "right": right}}
        link = draw(st.sampled_from([*LINKS, "eth*"]))
        meta = {"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": link}}
        rules.append([match, meta, {"counter": {"packets": 3, "bytes": 9}}, {"accept": None}])
    where = {"family": "inet", "table": "mine"}
    items: list[object] = [{"table": {"family": "inet", "name": "mine", "handle": 1}}]
    items.append({"chain": {**where, "name": "output", "type": "nat", "hook": "output", "prio": 0}})
    comment = draw(names)
    items += [{"rule": {**where, "chain": "output", "comment": comment, "expr": r}} for r in rules]
    return Dump("nft", "nft -j list ruleset", json.dumps({"nftables": items}))


dumps = st.tuples(save_texts(), listings()).map(list)
reasons = names.map(lambda name: f"5 of 9 routes kept: {name}, 10.64.0.1")
wholes = snapshots(names, dumps, reasons)


def shown_addresses(snapshot: Snapshot) -> list[tuple[str, str]]:
    """(family, address) of every address in a snapshot's tables, in order."""
    found = []
    for part in (*snapshot.addresses, *snapshot.sockets, *snapshot.flows):
        for field in ("address", "local", "remote", "src", "dst", "reply_src", "reply_dst"):
            if field in part.__dict__:
                found.append((part.family, part.__dict__[field]))
    return found


def asked_values(snapshot: Snapshot) -> list[tuple[str, IntervalSet]]:
    """What the rules ask of addresses, in order; families by the text of the table."""
    found = []
    for backend in rulesets(snapshot).values():
        for table, _, rule in backend.rules():
            assert not rule.opaque, rule.opaque
            for match in rule.matches:
                if match.field in (Field.SRC, Field.DST):
                    narrowed = rule.family or table.family
                    assert isinstance(match.values, IntervalSet)
                    found.append((narrowed.value, match.values))
    return found


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(wholes)
def test_rules_decide_for_redacted_addresses_as_they_did(snapshot: Snapshot) -> None:
    redacted = redact(snapshot)
    before, after = shown_addresses(snapshot), shown_addresses(redacted)
    asked, asks = asked_values(snapshot), asked_values(redacted)
    assert len(before) == len(after) and len(asked) == len(asks)
    for (family, old), (_, new) in zip(before, after, strict=True):
        for (of, values), (_, others) in zip(asked, asks, strict=True):
            if of in (family, "inet"):
                assert (read_address(old)[1] in values) == (read_address(new)[1] in others)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(wholes)
def test_routes_and_policies_hold_the_same_addresses(snapshot: Snapshot) -> None:
    redacted = redact(snapshot)
    pairs = list(zip(shown_addresses(snapshot), shown_addresses(redacted), strict=True))
    for old_route, new_route in zip(snapshot.routes, redacted.routes, strict=True):
        old_block, new_block = (
            read_cidr(old_route.destination)[0],
            read_cidr(new_route.destination)[0],
        )
        assert old_block.length == new_block.length
        for (family, old), (_, new) in pairs:
            if family == old_route.family:
                held = read_address(old)[1] in old_block.values()
                assert held == (read_address(new)[1] in new_block.values())


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(wholes)
def test_nothing_of_the_original_is_left(snapshot: Snapshot) -> None:
    document = write_snapshot(redact(snapshot)).decode()
    original = write_snapshot(snapshot).decode()
    for name in set(re.findall(r"[a-z]{4}q[a-z0-9]{3}z", original)):
        assert name not in document
    words = set(re.findall(r"(?<![\w:.])[0-9a-f:]*[.:][0-9a-f:.]+(?![\w:.])", document))
    for word in set(re.findall(r"(?<![\w:.])[0-9a-f:]*[.:][0-9a-f:.]+(?![\w:.])", original)):
        try:
            family, number = read_address(word)
        except ValueError:
            continue
        if Pseudonyms(KEY).pinned(family, number) < 16:
            assert word not in words


@given(
    st.lists(st.sampled_from([*LINKS, "eth2", "x"]), unique=True),
    st.sets(st.sampled_from(["eth", "cali", "lo", "l", "e", "et", "tunl0"])),
)
def test_interfaces_match_the_patterns_that_they_matched(links: list, patterns: set) -> None:
    names = Pseudonyms(KEY, patterns)
    new = {link: names.interface(link) for link in links}
    assert len(set(new.values())) == len(new)
    for link in links:
        assert (new[link] == link) == "lo".startswith(link)
        for pattern in patterns:
            old_set = NameSet.of(f"{pattern}+")
            new_set = NameSet.of(f"{names.interface(pattern)}+")
            assert (link in old_set) == (new[link] in new_set)
            assert (link == pattern) == (new[link] == names.interface(pattern))


@given(
    families.flatmap(lambda f: st.tuples(addresses(f), addresses(f))),
    st.binary(min_size=32, max_size=32),
)
def test_addresses_keep_exactly_the_prefix_that_they_had_in_common(pair: tuple, key: bytes) -> None:
    names = Pseudonyms(key)
    (_, a), (_, b) = map(read_address, pair)
    (_, c), (_, d) = (read_address(names.address(text)) for text in pair)
    assert (a ^ b).bit_length() == (c ^ d).bit_length()


@pytest.mark.parametrize(
    ("address", "pattern"),
    [
        ("127.0.0.1", r"127\.0\.0\.1"),
        ("127.0.0.6", r"127\.0\.0\.6"),
        ("0.0.0.0", r"0\.0\.0\.0"),
        ("255.255.255.255", r"255\.255\.255\.255"),
        ("169.254.7.9", r"169\.254\..*"),
        ("224.0.0.251", r"224\..*"),
        ("::", "::"),
        ("::1", "::1"),
        ("::6", "::6"),
        ("fe80::1234", "fe80::.*"),
        ("ff02::1", "ff02:.*"),
        ("::ffff:127.0.0.1", r"::ffff:127\.0\.0\.1"),
        ("::ffff:10.1.2.3", r"::ffff:(?!10\.1\.2\.3).*"),
    ],
)
def test_kinds_of_addresses_stay(address: str, pattern: str) -> None:
    assert re.fullmatch(pattern, Pseudonyms(KEY).address(address))


def test_well_known_blocks_change_too() -> None:
    text = "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -d 10.0.0.0/8 -j ACCEPT\nCOMMIT\n"
    dumps = (Dump("legacy", "t", text, "ip"),)
    snapshot = Snapshot(SCHEMA, "", "", "", Namespace(1, "x"), dumps=dumps)
    for _ in range(50):
        assert "10.0.0.0" not in redact(snapshot).dumps[0].text


def test_our_own_rules_stay_ours() -> None:
    text = """\
# Generated by iptables-nft-save v1.8.9 on Sat Jan  4 12:00:00 2025
*nat
:OUTPUT ACCEPT [5:300]
:ISTIO_OUTPUT - [0:0]
:KUBE-SVC-ABC - [0:0]
[5:300] -A OUTPUT -p tcp -j ISTIO_OUTPUT
[0:0] -A OUTPUT -j KUBE-SVC-ABC
[0:0] -A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -m comment --comment istio/bypass-envoy -j RETURN
[0:0] -A ISTIO_OUTPUT -m owner --uid-owner 1337 -m comment --comment meshnet:out.proxy-uid -j RETURN
[0:0] -A ISTIO_OUTPUT ! -d 127.0.0.1/32 -p tcp -m multiport --dports 80,443 -j REDIRECT --to-ports 1
[0:0] -A OUTPUT -m conntrack --ctstate NEW,ESTABLISHED -j MARK --set-xmark 0x539/0xffffffff
COMMIT
"""
    snapshot = Snapshot(
        SCHEMA, "", "", "", Namespace(1, "x"), dumps=(Dump("nft-compat", "t", text, "ip"),)
    )
    shown = redact(snapshot, KEY).dumps[0].text
    chain = re.search(r"^:(name-\w+) - ", shown, re.MULTILINE)
    assert chain is not None
    again = shown.replace(chain[1], "KUBE-SVC-ABC")
    assert again == text


HOSTILE_RULES = [
    '-m comment --comment "-secretqq1z" -j ACCEPT',
    "-m comment --comment --secretqq1z -j ACCEPT",
    '-j LOG --log-prefix "secretqq1z: "',
    "-m set --match-set secretqq1z src -j DROP",
    '-m string --string "secretqq1z" --algo bm -j DROP',
    '-m comment --comment "secretqq1z',
    "-secretqq1z",
    "-i secretqq1z+ -j ACCEPT",
    "-p tcp -m tcp --dport secretqq1z -j ACCEPT",
    "-d 10.99.98.97/255.0.255.0 -j ACCEPT",
    "-m iprange --src-range 10.99.98.97-10.99.98.99 -j ACCEPT",
    "-j DNAT --to-destination 10.99.98.97:8080",
    "-j DNAT --to-destination [fd99::98:97]:8080",
    "-j secretqq1z",
    "-m mac --mac-source 02:42:0a:63:62:61 -j ACCEPT",
]


@pytest.mark.parametrize("rule", HOSTILE_RULES)
def test_no_rule_smuggles_anything_through(rule: str) -> None:
    text = f"# secretqq1z\n*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT {rule}\nsecretqq1z\nCOMMIT\n"
    snapshot = Snapshot(
        SCHEMA, "", "", "", Namespace(1, "x"), dumps=(Dump("legacy", "t", text, "ip"),)
    )
    redacted = redact(snapshot, KEY)
    shown = redacted.dumps[0].text
    for secret in ("secretqq1z", "10.99.98", "fd99::", "02:42:0a"):
        assert secret not in shown
    assert len(list(rulesets(redacted)["legacy"].rules())) == 1
    assert shown.count("\n") == 4


def test_a_dump_that_nobody_can_read_is_left_out() -> None:
    snapshot = Snapshot(
        SCHEMA, "", "", "", Namespace(1, "x"),
        dumps=(
            Dump("nft", "nft", '{"nftables": [{"secretqq1z'),
            Dump("legacy", "t", "secretqq1z", "ip"),
        ),
    )  # fmt: skip
    assert "secretqq1z" not in write_snapshot(redact(snapshot)).decode()


def test_a_redacted_snapshot_is_a_snapshot() -> None:
    snapshot = Snapshot(
        SCHEMA, "0", "t", "6", Namespace(1, "shop/cart", "/run/netns/cart", "shop/cart"),
        links=(Link(1, "lo"), Link(2, "eth0.100")),
        sysctls={"net.ipv4.conf.eth0/100.rp_filter": "2", "net.ipv4.conf.lo.rp_filter": "0"},
    )  # fmt: skip
    redacted = redact(snapshot)
    assert read_snapshot(write_snapshot(redacted)) == redacted
    assert redacted.redacted and redacted.namespace.name == redacted.namespace.pod
    assert redacted.sysctls is not None
    assert f"net.ipv4.conf.{redacted.links[1].name}.rp_filter" in redacted.sysctls
    assert redacted.sysctls["net.ipv4.conf.lo.rp_filter"] == "0"
    assert redact(snapshot) != redacted
    assert replace(redact(snapshot, KEY)) == redact(snapshot, KEY)
