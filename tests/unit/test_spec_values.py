"""Readers of single values: what is taken, what is refused, and in which words."""

from __future__ import annotations

import ipaddress
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshnet.errors import UsageError
from meshnet.model.address import cidr_of_span, cidrs_of_span, read_address, read_cidr, show_address
from meshnet.model.packet import Family
from meshnet.model.spec import Cidr, Cidrs, Ports
from meshnet.model.values import (
    LAST_ID,
    Value,
    read_block,
    read_bool,
    read_choice,
    read_cidrs,
    read_duration,
    read_ids,
    read_interfaces,
    read_number,
    read_port,
    read_ports,
)
from tests.support.strategies import cidrs, ports

families = st.sampled_from((Family.IP, Family.IP6))
any_cidr = families.flatmap(cidrs)
#: Text that looks almost like a value, and text that does not.
garbage = st.one_of(
    st.text(max_size=20),
    st.text(string.digits + "-:,.*/+x abcdef", max_size=24),
    st.text("0123456789", min_size=11, max_size=30),
)


def value(text: str) -> Value:
    return Value(text, "-b --istio-inbound-ports")


def plain(cidr: Cidr) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    kind = ipaddress.IPv4Network if cidr.family is Family.IP else ipaddress.IPv6Network
    return kind((cidr.network, cidr.length))


def said(text: str, error: UsageError) -> None:
    """An error is one line that names the origin, the text and what is allowed."""
    message = str(error)
    assert message.startswith("-b --istio-inbound-ports: ")
    assert "\n" not in message and message.isprintable()
    assert error.hint
    if text.isprintable() and 0 < len(text) < 60 and "," not in text:
        assert repr(text.strip(" "))[1:-1] in message or text in message


@given(ports)
def test_a_port_is_its_number(port: int) -> None:
    assert read_port(value(str(port))) == port
    assert read_ports(value(str(port)), ranges=False) == Ports(((port, port),))


@pytest.mark.parametrize(
    "text",
    ["", "0", "65536", "8000000000", "-1", "+80", "80-", "-80", "80.0", "0x50", "8e1", "http",
     " 80",
     "80\n", "８０", "80;", "1" * 5000, "00000000000199999", "000000000001" + "0" * 5000],
)  # fmt: skip
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_port(value(text))
    said(text, caught.value)


@given(st.lists(st.one_of(ports.map(str), st.sampled_from(("", " ", " 80 "))), max_size=6))
def test_lists_keep_their_order_and_skip_what_is_empty(parts: list[str]) -> None:
    wanted = dict.fromkeys(int(p) for p in parts if p.strip())
    found = read_ports(value(",".join(parts)), ranges=False)
    assert found == Ports(tuple((p, p) for p in wanted))
    assert bool(found) is bool(wanted)


@given(ports, ports, st.sampled_from("-:"))
def test_ranges_need_strict_and_ascend(first: int, last: int, dash: str) -> None:
    text = f"{first}{dash}{last}"
    if first < last:
        assert read_ports(value(text), ranges=True) == Ports(((first, last),))
    if first != last:
        with pytest.raises(UsageError) as caught:
            read_ports(value(text), ranges=first > last)
        said(text, caught.value)
        assert ("strict" in str(caught.value)) is (first < last)


def test_the_wildcard_stands_alone() -> None:
    assert read_ports(value("*"), ranges=False) == Ports(every=True)
    assert read_ports(value("*,*,"), ranges=False) == Ports(every=True)
    for text, wildcard in (("*,80", True), ("80,*", True), ("*", False)):
        with pytest.raises(UsageError) as caught:
            read_ports(value(text), ranges=True, wildcard=wildcard)
        assert "*" in str(caught.value)


@given(garbage)
@example("80-")
@example("-")
@example("1-2-3")
@example("1:2-3")
@example("0-5")
@example("\ud800")
def test_no_reader_of_numbers_raises_anything_else(text: str) -> None:
    for read in (
        read_port,
        lambda v: read_ports(v, ranges=True),
        lambda v: read_ports(v, ranges=False, wildcard=False),
        lambda v: read_ids(v, ranges=True),
        lambda v: read_number(v, 1, 0xFFFFFFFF, "a mark"),
        lambda v: read_cidrs(v, []),
        read_interfaces,
        read_duration,
        read_bool,
    ):
        try:
            read(value(text))
        except UsageError as e:
            said("", e)


@given(st.integers(0, LAST_ID), st.integers(0, LAST_ID))
def test_ids_are_numbers_and_ranges_need_strict(one: int, other: int) -> None:
    assert read_ids(value(f"{one},,{other}"), ranges=False) == tuple(
        dict.fromkeys([(one, one), (other, other)])
    )
    first, last = min(one, other), max(one, other)
    assert read_ids(value(f"{first}-{last}"), ranges=True) == ((first, last),)
    if first != last:
        with pytest.raises(UsageError, match="strict"):
            read_ids(value(f"{first}-{last}"), ranges=False)


@pytest.mark.parametrize(
    "text", ["", ",", "root", "-1", "4294967295", "4294967296", "99999999999999999999", "1 2",
             "1\n2",
             "0x5", "5-", "-5", "9-5", "1.5", "*"],
)  # fmt: skip
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_ids(value(text), ranges=True)
    said(text, caught.value)


@given(any_cidr)
def test_a_block_reads_as_python_reads_it(cidr: Cidr) -> None:
    text = str(plain(cidr))
    assert read_cidr(text) == (cidr, False)
    assert read_cidr(str(cidr)) == (cidr, False)
    assert plain(cidr) == ipaddress.ip_network(str(cidr))
    first, last = cidr.span()
    assert (first, last) == (int(plain(cidr)[0]), int(plain(cidr)[-1]))
    assert cidr_of_span(cidr.family, first, last) == cidr
    assert cidr.is_loopback() == (first >> 24 == 127 if cidr.family is Family.IP else first == 1)


@given(any_cidr, st.integers(0))
def test_host_bits_are_masked_with_a_warning(cidr: Cidr, noise: int) -> None:
    first, last = cidr.span()
    inside = first + noise % (last - first + 1)
    text = f"{show_address(cidr.family, inside)}/{cidr.length}"
    warnings: list[str] = []
    assert read_block(value(text), text, warnings) == cidr
    assert bool(warnings) is (inside != first)
    for line in warnings:
        assert text in line and str(cidr) in line and "host bits" in line
        assert line.startswith("-b --istio-inbound-ports")


@given(any_cidr)
def test_a_bare_address_is_a_block_of_one(cidr: Cidr) -> None:
    text = show_address(cidr.family, cidr.network)
    warnings: list[str] = []
    wanted = Cidr(cidr.family, cidr.network, cidr.bits)
    assert read_cidrs(value(f" {text} ,,{text}"), warnings) == Cidrs((wanted,))
    assert warnings == []
    assert read_address(text) == (cidr.family, cidr.network)


@pytest.mark.parametrize(
    "text",
    ["10.0.0.0/33", "10.0.0.0/", "/8", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/255.0.0.0",
     "10.0.0.256",
     "10.0.0.0/8/8", "fd00::/129", "fd00:::/8", "1::2::3", "::ffff:1.2.3", "fe80::1%eth0",
     "localhost",
     "10.0.0.0 /8", "10.0.0.0/8\n", "010.0.0.1", "1.2.3.4.5", "\x00", "10.0.0.0/８", "0x7f.1",
     "2130706433"],
)  # fmt: skip
def test_what_is_no_block_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_cidrs(value(text), [])
    said(text, caught.value)
    with pytest.raises(ValueError):
        read_cidr(text)


def test_a_block_that_is_mapped_or_mixed_in_case_is_a_block() -> None:
    assert str(read_cidr("::FFFF:1.2.3.4")[0]) == "::ffff:1.2.3.4/128"
    assert str(read_cidr("FD00:0:0::/16")[0]) == "fd00::/16"
    assert str(read_cidr("0.0.0.0/0")[0]) == "0.0.0.0/0"


def test_every_block_or_some_but_not_both() -> None:
    assert read_cidrs(value("*"), []) == Cidrs(every=True)
    assert read_cidrs(value(""), []) == Cidrs()
    for text, wildcard in (("*,10.0.0.0/8", True), ("*", False)):
        with pytest.raises(UsageError):
            read_cidrs(value(text), [], wildcard)


@given(families, st.integers(0, 300), st.integers(0, 300))
def test_a_span_is_the_fewest_blocks(family: Family, a: int, b: int) -> None:
    first, last = min(a, b), max(a, b)
    found = cidrs_of_span(family, first, last)
    kind = ipaddress.IPv4Address if family is Family.IP else ipaddress.IPv6Address
    wanted = list(ipaddress.summarize_address_range(kind(first), kind(last)))
    assert [plain(c) for c in found] == wanted


@pytest.mark.parametrize("family", [Family.IP, Family.IP6])
def test_everything_is_one_block(family: Family) -> None:
    bits = 32 if family is Family.IP else 128
    everything = Cidr(family, 0, 0)
    assert cidrs_of_span(family, 0, (1 << bits) - 1) == [everything]
    assert cidr_of_span(family, 0, (1 << bits) - 1) == everything
    assert cidr_of_span(family, 1, 2) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("500ms", 0.5), ("1m30s", 90), ("1.5s", 1.5), (".5s", 0.5), ("2h", 7200),
     ("100us", 1e-4), ("100µs", 1e-4), ("100μs", 1e-4), ("100ns", 1e-7), ("1h1m1s", 3661)],
)  # fmt: skip
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert read_duration(value(text)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", "0s", "-5s", "5 s", "5sec", "1.2.3s", "5s5", "1d", "infs", "nans", "5S",
     "9" * 400 + "h",
     "1e3s", "５s", "5s\n"],
)  # fmt: skip
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_duration(value(text))
    said(text if len(text) < 60 else "", caught.value)


@pytest.mark.parametrize("word", ["1", "t", "T", "true", "True", "TRUE"])
def test_booleans_are_gos(word: str) -> None:
    assert read_bool(value(word)) is True
    opposite = {"1": "0", "t": "f", "T": "F", "true": "false", "True": "False", "TRUE": "FALSE"}
    assert read_bool(value(opposite[word])) is False


@pytest.mark.parametrize("word", ["", "yes", "no", "on", "off", "2", "tRue", " true", "true\n"])
def test_what_is_no_boolean_is_refused(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_bool(value(word))
    said(word, caught.value)


@given(st.text(string.ascii_letters + string.digits + "_.-@", min_size=1, max_size=15))
def test_names_that_an_interface_can_have(name: str) -> None:
    if name in (".", ".."):
        return
    assert read_interfaces(value(f"{name},,{name}")) == (name,)
    if len(name) < 15:
        assert read_interfaces(value(f"{name}+")) == (f"{name}+",)


@pytest.mark.parametrize(
    "name",
    [".", "..", "+", "a+b", "a b", "a\nb", "a\tb", "a/b", "a:b", '"', "a'b", "a\\b", "!",
     "!eth0", "*", "a*",
     "a$b", "a`b", "a;b", "{a}", "#", "sixteen-letters-", "é", "a\x00", "a\x7f", "\udcff",
     "x" * 200],
)  # fmt: skip
def test_names_that_no_interface_can_have(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_interfaces(value(name))
    said(name, caught.value)


def test_a_choice_is_one_of_those_allowed() -> None:
    assert read_choice(value("a"), "a", "b") == "a"
    with pytest.raises(UsageError, match=r"'A' is not known here \(a \| b\)"):
        read_choice(value("A"), "a", "b", "")


@given(st.text())
def test_what_was_written_is_shown_without_control_characters(text: str) -> None:
    message = str(value(text).refuse("is wrong", "something else"))
    assert message.isprintable()
    assert len(message) < 400
