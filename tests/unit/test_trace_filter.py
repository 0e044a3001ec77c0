"""The expression of ``meshnet trace``: what it means, and how it is said again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import UsageError
from meshnet.model.packet import TCP, UDP, Family
from meshnet.model.trace_filter import HostTerm, PortTerm, TraceFilter
from meshnet.reason.trace_filter import parse_filter

SAID = {
    "": "new TCP connections",
    "tcp port 80": "new TCP connections with port 80",
    "udp dst port 53 and uid 0": "UDP packets with dst port 53 and uid 0",
    "src host ::1 and tcp": "new TCP connections with src host ::1",
}
SIDES = st.sampled_from(("", "src", "dst"))
PORTS = st.builds(PortTerm, st.integers(0, 65535), SIDES)
HOSTS = st.builds(HostTerm, st.just(Family.IP), st.integers(0, (1 << 32) - 1), SIDES)
FILTERS = st.builds(
    TraceFilter,
    st.sampled_from((TCP, UDP)),
    st.lists(PORTS, max_size=2).map(tuple),
    st.lists(HOSTS, max_size=2).map(tuple),
    st.none() | st.integers(0, (1 << 32) - 2),
)


@pytest.mark.parametrize("text", SAID)
def test_in_words(text: str) -> None:
    assert parse_filter(text).in_words(every=False) == SAID[text]


def test_every_packet_in_words() -> None:
    assert parse_filter("uid 5").in_words(every=True) == "TCP packets with uid 5"


@given(FILTERS)
def test_what_is_said_means_the_same(made: TraceFilter) -> None:
    what, _, terms = made.in_words(every=True).partition(" with ")
    proto = what.split()[0].lower()
    assert parse_filter(" and ".join(filter(None, (proto, terms)))) == made


@given(st.text(st.sampled_from("tcpudorshanib 0189.:/\t\n\0é"), max_size=40))
def test_any_text_is_a_filter_or_refused_in_one_line(text: str) -> None:
    try:
        parse_filter(text)
    except UsageError as e:
        assert "\n" not in e.message and e.message.startswith("the filter")
