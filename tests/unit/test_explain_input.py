"""What explain is asked, and of which rules: what makes no sense is refused, with why and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshnet.cli.spec_text import IPV6_NOTE, read_spec
from meshnet.dialects.iptables import print_save
from meshnet.dialects.nft_json import print_listing
from meshnet.dialects.ruleset_text import read_ruleset_text
from meshnet.dialects.snapshot_json import write_snapshot
from meshnet.errors import MeshnetError, ParseError, UsageError
from meshnet.model.address import read_address
from meshnet.model.frozen import replace
from meshnet.model.packet import TCP, Family
from meshnet.model.snapshot import (
    SCHEMA,
    Dump,
    InterfaceAddress,
    Link,
    Namespace,
    PolicyRoute,
    Route,
    Snapshot,
)
from meshnet.model.spec import IPv6, Profile
from meshnet.ops.explain import Wanted, explain
from meshnet.ops.sources import from_snapshot, from_text, source_of
from meshnet.reason.ask import Question, Told, read_question
from meshnet.reason.way_out import NoRoute, Undecided, snapshot_way
from tests.support.explaining import explained
from tests.support.walks import compiled

# Packets.

GOOD = {
    ("tcp", "10.0.0.1:80"): (Family.IP, TCP, 80),
    ("udp", "[2001:db8::1]:53"): (Family.IP6, 17, 53),
    ("icmp", "10.0.0.1"): (Family.IP, 1, None),
    ("icmpv6", "::1"): (Family.IP6, 58, None),
    ("ipv6-icmp", "[::1]"): (Family.IP6, 58, None),
    ("sctp", "10.0.0.1:9"): (Family.IP, 132, 9),
    ("47", "10.0.0.1"): (Family.IP, 47, None),
}


@pytest.mark.parametrize("words", GOOD, ids=" ".join)
def test_packets_are_read(words: tuple[str, str]) -> None:
    question = read_question(words, Told())
    assert (question.family, question.proto, question.dport) == GOOD[words]


def test_a_group_not_told_is_the_users_number() -> None:
    words = ("tcp", "10.0.0.1:80")
    assert read_question(words, Told(uid="1000")).gid == 1000
    assert read_question(words, Told(uid="1000", gid="5")).gid == 5
    none = read_question(words, Told(uid="none"))
    assert (none.uid, none.gid, none.socket) == (None, None, False)


TCP80 = ("tcp", "10.0.0.1:80")
BAD = {
    "--uid on a packet that comes in: it has no socket": (TCP80, Told(uid="5", iif="eth0")),
    "--gid on a packet that comes in": (TCP80, Told(gid="5", iif="eth0")),
    "--in and --out contradict each other": (TCP80, Told(iif="eth0", oif="eth1")),
    "has a port, and icmp has none": (("icmp", "10.0.0.1:80"), Told()),
    "--src: '10.0.0.2:9' has a port, and 47 has none": (
        ("47", "10.0.0.1"), Told(src="10.0.0.2:9"),
    ),
    "tcp needs a port": (("tcp", "10.0.0.1"), Told()),
    "'0x50' is not a port": (("tcp", "10.0.0.1:0x50"), Told()),
    "is no address (names are not looked up)": (("tcp", "example.com:80"), Told()),
    "'10.0.0:80' is no address": (("tcp", "10.0.0:80"), Told()),
    "'[::1' is no address": (("tcp", "[::1"), Told()),
    "'[::1]80' is no address": (("tcp", "[::1]80"), Told()),
    "are of two families": (TCP80, Told(src="::1")),
    "icmp is not sent to ::1": (("icmp", "::1"), Told()),
    "'foo' is no protocol": (("foo", "10.0.0.1"), Told()),
    "'256' is no protocol": (("256", "10.0.0.1"), Told()),
    "a packet is a protocol and a destination": (("tcp",), Told()),
    "--uid: 'bob' is no id": (TCP80, Told(uid="bob")),
    "--uid: '4294967295' is not an id": (TCP80, Told(uid="4294967295")),
    "--gid on a packet without a socket": (TCP80, Told(uid="none", gid="4")),
    "--mark: '0x1ffffffff' is no mark": (TCP80, Told(mark="0x1ffffffff")),
    "--state: 'half' is not known": (TCP80, Told(state="half")),
    "--out: 'a/b' is not a name": (TCP80, Told(oif="a/b")),
    "--in: 'eth+' is not one interface": (TCP80, Told(iif="eth+")),
    "127.0.0.1 never leaves by eth0": (("tcp", "127.0.0.1:80"), Told(oif="eth0")),
    "what comes in by lo was sent from here": (TCP80, Told(iif="lo")),
}  # fmt: skip


@pytest.mark.parametrize("why", BAD)
def test_packets_that_make_no_sense_say_why(why: str) -> None:
    words, told = BAD[why]
    with pytest.raises(UsageError) as caught:
        read_question(words, told)
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_without_routes_the_interface_is_asked_for() -> None:
    done = explained("--spec", "-p 15001 -u 1337", "tcp", "10.0.0.1:80", code=2)
    assert "by which interface does 10.0.0.1 leave? (say it with --out IF)" in done.stderr
    explained("--spec", "-p 15001 -u 1337", "--uid", "1", "tcp", "127.0.0.1:80")


@pytest.mark.parametrize(
    "words",
    [
        ("self", "--spec", "-p 1", "tcp", "10.0.0.1:80"),
        ("--spec", "-p 1", "--ruleset", "x", "tcp", "10.0.0.1:80"),
        ("all", "tcp", "10.0.0.1:80"),
        ("tcp", "10.0.0.1:80"),
    ],
    ids=" ".join,
)
def test_one_source_is_named(words: tuple[str, ...]) -> None:
    assert explained(*words, code=2).stderr.count("\n") >= 1


# Rulesets.

SAVE = "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -j ACCEPT\nCOMMIT\n"
SIX = "# Generated by ip6tables-save v1.8.9 (nf_tables) on x\n"
UNREADABLE = {
    "junk": ("hello\n", "line 1, column 1"),
    "behind the end": (f"{SAVE}-A OUTPUT -j ACCEPT\n", "line 5, column 1"),
    "an unknown chain": (SAVE.replace("-A OUTPUT", "-A NOWHERE"), "line 3, column 4"),
    "an open quotation": (
        SAVE.replace("-j ACCEPT", '-m comment --comment "x -j ACCEPT'), "line 3, column 39",
    ),
    "counters": (SAVE.replace("[0:0]", "[x:0]"), "line 2, column 16"),
    "a rule's counters": (SAVE.replace("-A OUTPUT", "[1:y] -A OUTPUT"), "line 3, column 2"),
    "an unknown command": (SAVE.replace("-A OUTPUT", "-I OUTPUT"), "line 3, column 1"),
    "a chain without policy": (SAVE.replace(" ACCEPT [0:0]", ""), "line 2, column 8"),
    "no end": (SAVE.replace("COMMIT\n", ""), "line 3, column 1"),
    "in the second dump": (
        f"{SAVE}{SIX}{SAVE.replace('-A OUTPUT', '-A NOWHERE')}", "line 8, column 4",
    ),
    "nft's own syntax": ("table ip nat {\n}\n", "line 1, column 1: this is nft's own syntax"),
    "broken JSON": ('{"nftables": [\n  {"x": }\n]}', "line 2, column 9"),
    "another document": ('{"schema": "meshnet/v1/snapshot"}', "line 1, column 1"),
    "a rule of no table": (
        '{"nftables": [\n{"rule": {"family": "ip", "table": "t", "chain": "c", "expr": []}}]}',
        "line 2, column 1",
    ),
    "a wrong type": (
        '{"nftables": [{"table": {"family": "ip", "name": "t"}},\n '
        '{"chain": {"family": "ip", "table": "t", "name": 5}}]}',
        "line 2, column 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_ruleset_is_refused_with_line_and_column(name: str) -> None:
    text, where = UNREADABLE[name]
    with pytest.raises(ParseError) as caught:
        read_ruleset_text(text, "rules.txt")
    message = str(caught.value)
    assert message.startswith(f"rules.txt: {where}") and "\n" not in message


def test_a_file_holds_dumps_of_both_families_and_variants() -> None:
    legacy = SAVE.replace("*nat", "# Generated by iptables-save v1.8.9 on x\n*nat")
    found = read_ruleset_text(f"{legacy}{SIX}{SAVE}", "x")
    assert {b: [t.family for t in r.tables] for b, r in found.items()} == {
        "legacy": [Family.IP],
        "nft-compat": [Family.IP6],
    }
    bare = read_ruleset_text(SAVE.replace("-p tcp", "-d 2001:db8::/32"), "x")
    assert [t.family for t in bare["legacy"].tables] == [Family.IP6]
    assert read_ruleset_text("", "x")["legacy"].tables == ()


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_what_is_printed_is_read_as_it_was(backend: str) -> None:
    held = compiled(("-p", "15001", "-b", "*", "-i", "*", "--ipv6", "on"), backend)[backend]
    if backend == "nft":
        assert read_ruleset_text(print_listing(held), "x") == {"nft": held}
        return
    head = "# Generated by {} v1.8.9 on x\n"
    text = head.format("iptables-save") + print_save(held.of(Family.IP))
    text += head.format("ip6tables-save") + print_save(held.of(Family.IP6))
    found = read_ruleset_text(text, "x")["legacy"]
    assert print_save(found.of(Family.IP6)) == print_save(held.of(Family.IP6))
    assert print_save(found.of(Family.IP)) == print_save(held.of(Family.IP))


def test_chains_that_go_round_are_reported(tmp_path: Path) -> None:
    ring = (
        "*nat\n:OUTPUT ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n"
        "-A OUTPUT -j A\n-A A -j B\n-A B -j A\nCOMMIT\n"
    )
    (tmp_path / "ring").write_text(ring)
    done = explained(
        "--ruleset", str(tmp_path / "ring"), "--out", "eth0", "tcp", "10.0.0.1:80", code=1
    )
    assert "chains go round: A -> B -> A" in done.stderr


def test_files_that_are_not_there_or_no_snapshots_are_errors(tmp_path: Path) -> None:
    for option in ("--ruleset", "--from"):
        done = explained(option, str(tmp_path / "no"), "--out", "x", "tcp", "1.2.3.4:5", code=1)
        assert "cannot read" in done.stderr
    (tmp_path / "s").write_text("{}")
    explained("--from", str(tmp_path / "s"), "--out", "x", "tcp", "1.2.3.4:5", code=1)


def test_tables_that_no_walk_follows_are_named() -> None:
    listing = {
        "nftables": [
            {"table": {"family": "bridge", "name": "b"}},
            {"chain": {"family": "bridge", "table": "b", "name": "c", "hook": "input"}},
            {"table": {"family": "inet", "name": "i"}},
            {"chain": {"family": "inet", "table": "i", "name": "early", "type": "filter",
                       "hook": "ingress", "prio": 0, "policy": "accept"}},
            {"flowtable": {"family": "inet", "table": "i", "name": "f"}},
        ]
    }  # fmt: skip
    assert from_text(json.dumps(listing), "x").notes == (
        "not modelled: chain bridge b c, which is run in a bridge",
        "not modelled: chain inet i early, at hook ingress",
        "not modelled: flowtable inet i f: later packets pass rules by",
    )


# Configurations.


def test_a_spec_is_flags_or_a_file(tmp_path: Path) -> None:
    flags = read_spec("-p 15001 -u 1337 -b '*' -i 10.0.0.0/8 --ipv6 on")
    (tmp_path / "mesh.yaml").write_text(
        "proxy: {port: 15001, uids: [1337]}\ninbound: {ports: '*'}\n"
        "outbound: {cidrs: [10.0.0.0/8]}\nipv6: on\nbackend: nft\n"
    )
    file = read_spec(str(tmp_path / "mesh.yaml"))
    assert flags.spec == file.spec
    assert (flags.backend, file.backend) == ("nft-compat", "nft")
    assert flags.spec.profile is Profile.ISTIO


def test_what_a_namespace_would_tell_is_assumed_and_noted() -> None:
    found = read_spec("-p 15001 -b * --redirect-dns")
    assert found.spec.ipv6 is IPv6.OFF and IPV6_NOTE in found.notes
    assert any("resolv.conf" in note for note in found.notes)


@pytest.mark.parametrize("environment", ["PROXY_UID", "ISTIO_INBOUND_PORTS"])
def test_the_environment_is_not_looked_at(
    environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_spec("-p 15001")
    monkeypatch.setenv(environment, "77")
    assert read_spec("-p 15001") == before


@pytest.mark.parametrize(
    "text", ["-p x", "--nonsense", "-p '15001", "--cleanup-only", "/no/such/file", "-i 300.0.0.0/8"]
)
def test_a_spec_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        read_spec(text)


def test_a_source_is_one_thing() -> None:
    with pytest.raises(UsageError):
        source_of()
    with pytest.raises(UsageError):
        source_of("self", ruleset="x")


# Routes of a snapshot.

LINKS = (Link(1, "lo", True, True), Link(2, "eth0", True), Link(3, "eth1", True))
ROUTES = (
    Route("ip", 255, "127.0.0.0/8", "local", link="lo", source="127.0.0.1"),
    Route("ip", 255, "10.9.0.2/32", "local", link="eth0", source="10.9.0.2"),
    Route("ip", 254, "0.0.0.0/0", gateway="10.9.0.1", link="eth0"),
    Route("ip", 254, "10.9.0.0/24", link="eth0", source="10.9.0.2"),
    Route("ip", 254, "192.0.2.0/24", "unreachable"),
    Route("ip", 254, "198.51.100.0/24", link="eth0", gateway="10.9.0.1"),
    Route("ip", 254, "198.51.100.0/24", link="eth1", gateway="10.8.0.1"),
    Route("ip", 100, "0.0.0.0/0", link="eth1", gateway="10.8.0.1"),
)
ADDRESSES = (
    InterfaceAddress("lo", "ip", "127.0.0.1", 8, "host"),
    InterfaceAddress("eth0", "ip", "10.9.0.2", 24),
    InterfaceAddress("eth1", "ip", "10.8.0.2", 24),
)
STANDARD = (
    PolicyRoute("ip", 0, 255),
    PolicyRoute("ip", 32766, 254),
    PolicyRoute("ip", 32767, 253),
)
POD = Snapshot(
    SCHEMA, "", "", "", Namespace(1, "cart"), links=LINKS, addresses=ADDRESSES, routes=ROUTES,
    policies=STANDARD, dumps=(Dump("legacy", "iptables-save", SAVE, "ip"),),
)  # fmt: skip


def to(address: str, **more: object) -> Question:
    family, number = read_address(address)
    return replace(Question(family, TCP, number, 80), **more)


def test_a_snapshots_routes_are_asked_as_the_kernel_asks_them() -> None:
    def way(address: str, pod: Snapshot = POD, **more: object) -> tuple[str, str, bool]:
        found = snapshot_way(pod, to(address, **more))
        return found.link, found.source, found.local

    assert way("10.9.0.7") == ("eth0", "10.9.0.2", False)
    assert way("8.8.8.8") == ("eth0", "10.9.0.2", False)
    assert way("127.0.0.5") == ("lo", "127.0.0.1", True)
    assert way("10.9.0.2") == ("lo", "10.9.0.2", True)
    rule = PolicyRoute("ip", 100, 100, mark=5)
    marked = replace(POD, policies=(*STANDARD, rule))
    assert way("8.8.8.8", marked, mark=5) == ("eth1", "10.8.0.2", False)
    assert way("8.8.8.8", marked) == ("eth0", "10.9.0.2", False)
    users = replace(POD, policies=(*STANDARD, PolicyRoute("ip", 9, 100, other=("uidrange 5-9",))))
    assert way("8.8.8.8", users, uid=7) == ("eth1", "10.8.0.2", False)
    assert way("8.8.8.8", users, uid=10) == ("eth0", "10.9.0.2", False)


def test_where_routes_do_not_tell_nobody_guesses() -> None:
    users = replace(POD, policies=(*STANDARD, PolicyRoute("ip", 9, 100, other=("uidrange 5-9",))))
    for pod, address, error in (
        (POD, "192.0.2.1", NoRoute),
        (POD, "198.51.100.9", Undecided),
        (users, "8.8.8.8", Undecided),
        (replace(POD, policies=(PolicyRoute("ip", 1, 0, "prohibit"),)), "8.8.8.8", NoRoute),
        (replace(POD, routes=()), "8.8.8.8", Undecided),
        (replace(POD, policies=(PolicyRoute("ip", 1, 0, "goto"),)), "8.8.8.8", Undecided),
    ):
        with pytest.raises(error):
            snapshot_way(pod, to(address))


def test_a_packet_that_goes_nowhere_is_no_packet() -> None:
    source = from_snapshot(POD)
    with pytest.raises(MeshnetError, match="fails before any rule is asked"):
        explain(source, to("192.0.2.1"), Wanted())
    leg = explain(source, to("192.0.2.1", oif="eth0"), Wanted()).legs[0]
    assert leg.way.origin == "told"


def test_an_interface_that_is_not_there_is_named() -> None:
    with pytest.raises(MeshnetError, match="there is no interface eth9 here"):
        explain(from_snapshot(POD), to("8.8.8.8", oif="eth9"), Wanted())


def test_a_snapshot_without_rules_is_no_source(tmp_path: Path) -> None:
    bare = replace(POD, sections=("routes",))
    (tmp_path / "s").write_bytes(write_snapshot(bare))
    done = explained("--from", str(tmp_path / "s"), "tcp", "8.8.8.8:80", code=1)
    assert "has no rules" in done.stderr
