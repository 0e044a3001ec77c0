"""Garbage and mutated dumps: the readers refuse them in their own words, or read them.

``MESHNET_FUZZ`` is the number of examples a test, 150 where it is not set.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshnet.cli.gather import gather, read_file
from meshnet.dialects.iptables import parse_save, print_save
from meshnet.dialects.iptables_rule import parse_rule, print_rule
from meshnet.dialects.nft_json import parse_listing, print_listing
from meshnet.dialects.nft_text import print_table
from meshnet.errors import MeshnetError
from meshnet.model.intent import read_intent
from meshnet.model.packet import Family

DATA = Path(__file__).parents[1] / "unit" / "data"
SAVES = {name: (DATA / name).read_text() for name in ("node.ip.save", "node.ip6.save")}
LISTINGS = {name: (DATA / name).read_text() for name in ("foreign.json", "compat.json")}
CONFIG = """\
profile: strict
backend: nft
comments: yes
ipv6: capture
drop_invalid: true
proxy: {port: 15001, inbound_port: 15006, tunnel_port: 15008, uids: [1337, 2000-2010], gids: 5}
inbound: {mode: TPROXY, ports: ["80", 90], exclude_ports: 22, tproxy_mark: 5, tproxy_table: 100}
outbound:
  cidrs: [10.0.0.0/8, "fd00::/8"]
  exclude_ports_for_uids: [{ports: [53], uids: [7, 9]}]
interfaces: {exclude: [eth1, "veth+"], virtual: vm0}
dns: {capture: servers, servers: [10.0.0.10]}
"""
FUZZ = int(os.environ.get("MESHNET_FUZZ", "150"))
#: Random each time, bounded in number; a failure prints how to repeat it.
bounded = settings(
    max_examples=FUZZ,
    deadline=None,
    derandomize=False,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
#: What the kernel's own dumps never have in a word, and what no printer lets through.
UNPRINTABLE = set("\r\0")
FAMILIES = st.sampled_from((Family.IP, Family.IP6))
WORDS = """! -A -j -g -p -s -d -i -o -m " ' \\ ] [ : * COMMIT - ACCEPT RETURN REDIRECT TPROXY MARK
CT tcp udp multiport owner mark connmark conntrack comment --dport --dports --uid-owner --mark 80
--ctstate --comment --to-ports --on-port --on-ip --tproxy-mark --set-xmark --zone 0x1/0x2 80:90
--reject-with 1-5 NEW,FOO 10.0.0.0/8 fd00::/8 999999999999 -1 0x eth+ + X *nat :X"""
any_word = st.sampled_from([*WORDS.split(), "\x85", "\u2028", "\x00", "\n"])
words = st.lists(st.one_of(any_word, st.text(max_size=4)), max_size=14).map(" ".join)


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """``text`` with a few places cut out, doubled, or written over."""
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 40))
        piece = text[at : at + length]
        new = draw(st.one_of(st.just(""), st.just(piece * 2), st.text(max_size=6), any_word))
        text = text[:at] + new + text[at + length :]
    return text


def read_save(text: str, family: Family) -> None:
    """Read ``text``; where that succeeds, what was read prints, and reads back the same."""
    try:
        found = parse_save(text, family)
    except MeshnetError as e:
        assert "\n" not in str(e)
        return
    if not UNPRINTABLE & set(text):
        assert parse_save(print_save(found), family) == found


@bounded
@given(st.one_of(st.text(), words, st.binary().map(lambda b: b.decode("utf-8", "surrogateescape"))))
def test_garbage_is_no_dump(text: str) -> None:
    for family in (Family.IP, Family.IP6):
        read_save(text, family)
        read_save(f"*nat\n:X - [0:0]\n-A X {text}\nCOMMIT\n", family)


@bounded
@given(words, FAMILIES)
def test_any_words_are_a_rule_or_opaque(text: str, family: Family) -> None:
    rule = parse_rule(text, family)
    if not UNPRINTABLE & set(text):
        assert parse_rule(print_rule(rule, family), family) == rule


@pytest.mark.parametrize("name", SAVES)
@bounded
@given(data=st.data())
def test_mutated_dumps(name: str, data: st.DataObject) -> None:
    read_save(data.draw(mutated(SAVES[name])), data.draw(FAMILIES))


def read_listing(text: str) -> None:
    """The same for the rules of nft's JSON; they also print as text, or say that they cannot."""
    try:
        found = parse_listing(text)
    except MeshnetError as e:
        assert "\n" not in str(e)
        return
    again = parse_listing(print_listing(found))
    assert [rule for *_, rule in again.rules()] == [rule for *_, rule in found.rules()]
    for table in found.tables:
        if not any(rule.opaque for chain in table.chains for rule in chain.rules):
            try:
                print_table(table)
            except ValueError:
                continue


KEYS = """nftables table chain rule family name expr match op left right meta key counter packets
bytes jump target mangle value set range prefix addr len payload protocol field comment"""
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4),
    ),
    max_leaves=12,
)


@bounded
@given(st.one_of(st.text(), json_values.map(json.dumps)))
def test_garbage_is_no_listing(text: str) -> None:
    read_listing(text)
    read_listing(f'{{"nftables": [{text}]}}')


@st.composite
def replaced(draw: st.DrawFn, node: object) -> object:
    """A JSON value with one of its parts replaced by any other value, or taken away."""
    if not isinstance(node, dict | list) or not node or not draw(st.integers(0, 5)):
        return draw(json_values)
    key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
    copy = dict(node) if isinstance(node, dict) else list(node)
    if draw(st.integers(0, 6)):
        copy[key] = draw(replaced(node[key]))
    else:
        del copy[key]
    return copy


@pytest.mark.parametrize("name", LISTINGS)
@bounded
@given(data=st.data())
def test_mutated_listings(name: str, data: st.DataObject) -> None:
    whole = json.loads(LISTINGS[name])
    read_listing(json.dumps(data.draw(replaced(whole))))
    read_listing(data.draw(mutated(LISTINGS[name])))


def read_config(place: Path, text: str) -> None:
    """A config file is read into an intent, or refused in one line."""
    place.write_bytes(text.encode("utf-8", "surrogateescape"))
    try:
        read_file(str(place))
        settings_found = gather({"config": [str(place)]}, {})
        read_intent(
            {k: v for k, v in settings_found.items() if k not in ("config", "backend", "comments")},
            lambda name: None,
        )
    except MeshnetError as e:
        assert "\n" not in str(e) and e.exit_code == 2


YAML = r"""proxy: inbound: outbound: dns: ports: port: uids: [ ] { } , - : &a *a ! !!int !!float
!!binary !!set !!python/object:os.system !!timestamp ? | > 2020-99-99 0x1 1:59 .inf ~ null yes '*'
" ' 15001 capture: servers <<: --- ... % @ ` \ud800 "\ud800" """
yaml_words = st.lists(
    st.sampled_from([*YAML.split(), "\n\n", "\x00", "\ud800"]),
    max_size=16,
).map(" ".join)


@bounded
@given(st.one_of(st.text(), yaml_words))
def test_garbage_is_no_config(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    place = tmp_path_factory.getbasetemp() / "garbage.yaml"
    try:
        read_config(place, text)
    except UnicodeEncodeError:
        assert "\ud800" in text


@bounded
@given(mutated(CONFIG))
def test_mutated_configs(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    read_config(tmp_path_factory.getbasetemp() / "mutated.yaml", text)


@pytest.mark.parametrize(
    "text",
    ["inbound: {ports: &a [*a]}", "a: &a {b: *a}", "[" * 3000, "{" * 3000, "ipv6: 2020-99-99",
     "ipv6: !!int abc", "ipv6: !!float abc", "proxy: {port: " + "1" * 5000 + "}",
     "proxy: {port: 0x" + "1" * 5000 + "}", "? [a]: b", "? {a: b}\n: c", "\x00",
     "ipv6: !!timestamp x",
     "<<: 5", "ipv6: !!binary x", "proxy: !!pairs [a: b]", "- - - -", "---\n---\n",
     "%YAML 9.9\n---\n"],
    ids=lambda text: repr(text[:24]),
)  # fmt: skip
def test_configs_that_once_were_trouble(tmp_path: Path, text: str) -> None:
    read_config(tmp_path / "config.yaml", text)


def test_the_unchanged_samples_are_read(tmp_path: Path) -> None:
    for name, text in SAVES.items():
        family = Family.IP6 if "ip6" in name else Family.IP
        assert parse_save(text, family).tables
    for text in LISTINGS.values():
        assert parse_listing(text).tables
    (tmp_path / "config.yaml").write_text(CONFIG)
    assert len(read_file(str(tmp_path / "config.yaml"))) > 20
