"""Hypothesis strategies: random intervals, matches, rules, chains and tables of the model.

What they draw is what a dialect has words for, and in the order in which its own dumps have
it; so printing and parsing must give back the very same value.
"""

from __future__ import annotations

import json
import string

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from meshnet.model.address import cidr_of_span
from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.match import PROTO_NUMBERS, Match
from meshnet.model.packet import TCP, UDP, Family, Field, Packet
from meshnet.model.rule import FULL_MASK, Kind, Rule, Target
from meshnet.model.ruleset import Chain, Ruleset, Table
from meshnet.model.spec import Cidr

#: The same examples in every run, few enough for seconds; the fuzz tier draws others each time.
settings.register_profile(
    "meshnet",
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("meshnet")

LAST_ID = 0xFFFFFFFE
BITS = {Family.IP: 32, Family.IP6: 128}
STATES = ("invalid", "established", "related", "new", "untracked")
HOOKS = {
    "PREROUTING": "prerouting",
    "INPUT": "input",
    "FORWARD": "forward",
    "OUTPUT": "output",
    "POSTROUTING": "postrouting",
}
#: Rules of others, as iptables-save prints them; none goes to a chain.
FOREIGN_TEXTS = (
    "-m addrtype --dst-type LOCAL -j MASQUERADE",
    "-p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.88.0.4:80",
    "-m statistic --mode random --probability 0.50000000000 -j RETURN",
    '-j LOG --log-prefix "a \\"b\\" \\\\ c " --log-level 7',
    "-p icmp -m icmp --icmp-type 8 -j ACCEPT",
    "-m owner --socket-exists -j RETURN",
    "-s 10.0.0.0/255.0.255.0 -j ACCEPT",
    "-p tcp -j REDIRECT --to-ports 80-90",
)
#: The same in nft's JSON.
FOREIGN_STATEMENTS = (
    [{"log": {"prefix": "in: "}}, {"accept": None}],
    [{"counter": "seen"}],
    [{"limit": {"rate": 10, "per": "second"}}, {"drop": None}],
    [{"match": {"op": ">", "left": {"meta": {"key": "mark"}}, "right": 5}}, {"drop": None}],
    [{"vmap": {"key": {"meta": {"key": "mark"}}, "data": "@fate"}}],
    [{"masquerade": None}],
)

ports = st.integers(1, 65535)
ids = st.integers(0, LAST_ID)
marks = st.integers(0, FULL_MASK)
names = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=14).filter(
    lambda name: name not in (".", "..") and not name.startswith("-")
)
interfaces = st.one_of(names, names.map(lambda name: name + "+"))
chain_names = names.map(lambda name: f"MY-{name}")
#: What may stand in a comment of one line.
comments = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"), min_size=1, max_size=40
)


@st.composite
def spans(draw: st.DrawFn, last: int) -> tuple[int, int]:
    """A first and a last number, either of which may be at an end of 0..``last``."""
    edge = st.sampled_from((0, 1, last - 1, last))
    ends = draw(st.tuples(*[st.one_of(st.integers(0, last), edge)] * 2))
    return min(ends), draw(st.sampled_from((min(ends), max(ends))))


def interval_sets(last: int, least: int = 0, most: int = 6) -> st.SearchStrategy[IntervalSet]:
    """Sets within 0..``last``, made of ``least`` to ``most`` spans before they merge."""
    return st.lists(spans(last), min_size=least, max_size=most).map(lambda s: IntervalSet.of(*s))


def one_interval(last: int) -> st.SearchStrategy[IntervalSet]:
    """Sets of exactly one interval."""
    return interval_sets(last, 1, 1)


@st.composite
def cidrs(draw: st.DrawFn, family: Family) -> Cidr:
    """A block of any length."""
    length = draw(st.integers(0, BITS[family]))
    free = BITS[family] - length
    return Cidr(family, draw(st.integers(0, (1 << length) - 1)) << free, length)


def _protocols(sets: bool) -> st.SearchStrategy[IntervalSet]:
    known = st.sampled_from(sorted(PROTO_NUMBERS.values()))
    one = st.one_of(known, st.integers(1, 254)).map(IntervalSet.of)
    if not sets:
        return one
    return st.one_of(one, st.lists(known, min_size=1).map(lambda n: IntervalSet.of(*n)))


def _masked(draw: st.DrawFn, field: Field, values: IntervalSet) -> Match:
    mask = draw(st.one_of(st.none(), st.integers(0, FULL_MASK - 1)))
    return Match(field, values, draw(st.booleans()), mask)


def _multiport(values: IntervalSet) -> bool:
    """Whether iptables can ask for these ports in one match."""
    return 1 <= sum(1 if a == b else 2 for a, b in values) <= 15


@st.composite
def iptables_matches(draw: st.DrawFn, family: Family) -> tuple[Match, ...]:
    """Matches over different fields, in the order of iptables' own dumps."""
    found: list[Match] = []
    no = st.booleans()
    for field in (Field.SRC, Field.DST):
        if draw(no):
            found.append(Match(field, draw(cidrs(family)).values(), draw(no)))
    for field in (Field.IIF, Field.OIF):
        if draw(no):
            found.append(Match(field, NameSet.of(draw(interfaces)), draw(no)))
    if draw(no):
        number = draw(st.sampled_from((TCP, UDP)))
        found.append(Match(Field.PROTO, IntervalSet.of(number)))
        for field in (Field.SPORT, Field.DPORT):
            if draw(no):
                values = draw(interval_sets(65535, 1).filter(_multiport))
                found.append(Match(field, values, draw(no)))
    elif draw(no):
        found.append(Match(Field.PROTO, draw(_protocols(False)), draw(no)))
    if draw(no):
        states = draw(st.sets(st.sampled_from((*STATES, "snat", "dnat")), min_size=1))
        found.append(Match(Field.CTSTATE, NameSet.of(*states), draw(no)))
    for field in (Field.MARK, Field.CTMARK):
        if draw(no):
            found.append(_masked(draw, field, IntervalSet.of(draw(marks))))
    for field in (Field.UID, Field.GID):
        if draw(no):
            negated = draw(no)
            values = draw(one_interval(LAST_ID))
            found.append(Match(field, values, negated, absent=negated))
    return tuple(found)


def _targets(jumps: tuple[str, ...], masks: bool) -> st.SearchStrategy[Target]:
    plain = (Kind.ACCEPT, Kind.DROP, Kind.RETURN, Kind.SAVE_MARK, Kind.RESTORE_MARK)
    plain += (Kind.RESET, Kind.REJECT)
    mask = marks if masks else st.just(FULL_MASK)
    kinds = [
        st.sampled_from([Target(kind) for kind in plain]),
        ports.map(lambda port: Target(Kind.REDIRECT, port=port)),
        st.builds(lambda p, m, k: Target(Kind.TPROXY, port=p, mark=m, mask=k), ports, marks, mask),
        st.builds(lambda m, k: Target(Kind.MARK, mark=m, mask=k), marks, mask),
        st.integers(0, 65535).map(lambda zone: Target(Kind.ZONE, zone=zone)),
    ]
    if jumps:
        to = st.sampled_from(jumps)
        kinds.append(st.builds(lambda k, c: Target(k, chain=c), st.sampled_from(JUMPS), to))
    return st.one_of(kinds)


JUMPS = (Kind.JUMP, Kind.GOTO)


def iptables_rules(family: Family, jumps: tuple[str, ...] = ()) -> st.SearchStrategy[Rule]:
    """Rules that iptables has words for, and rules of others; they jump to ``jumps`` only."""
    known = st.builds(
        lambda matches, target, comment, counters: Rule(
            matches, target, comment=comment, packets=counters[0], bytes=counters[1]
        ),
        iptables_matches(family),
        st.one_of(st.none(), _targets(jumps, masks=True)),
        st.one_of(st.just(""), comments),
        st.tuples(st.integers(0, 1 << 64), st.integers(0, 1 << 64)),
    )
    foreign = st.sampled_from(FOREIGN_TEXTS).map(lambda text: Rule((), None, opaque=text))
    return st.one_of(known, known, known, foreign)


@st.composite
def iptables_rulesets(draw: st.DrawFn, family: Family) -> Ruleset:
    """What one dump of a family can hold."""
    tables = []
    for name in draw(st.lists(st.sampled_from(("raw", "mangle", "nat", "filter")), unique=True)):
        own = tuple(draw(st.lists(chain_names, unique=True, max_size=3)))
        built_in = draw(st.lists(st.sampled_from(sorted(HOOKS)), unique=True, max_size=3))
        chains = []
        for chain in (*built_in, *own):
            rules = tuple(draw(st.lists(iptables_rules(family, own), max_size=3)))
            policy = draw(st.sampled_from(("accept", "drop"))) if chain in HOOKS else "accept"
            chains.append(Chain(chain, rules, hook=HOOKS.get(chain, ""), policy=policy))
        tables.append(Table(family, name, tuple(chains)))
    return Ruleset(tuple(tables))


def _addresses(family: Family) -> st.SearchStrategy[IntervalSet]:
    block = cidrs(family).map(Cidr.values)
    return st.one_of(block, interval_sets((1 << BITS[family]) - 1, 1, 4))


@st.composite
def nft_matches(draw: st.DrawFn, addresses: Family | None) -> tuple[Match, ...]:
    """Matches over different fields; over addresses where ``addresses`` is their family."""
    found: list[Match] = []
    no = st.booleans()
    for field in (Field.IIF, Field.OIF):
        if draw(no):
            wanted = draw(st.sets(interfaces, min_size=1, max_size=3))
            found.append(Match(field, NameSet.of(*wanted), draw(no)))
    for field in (Field.SRC, Field.DST):
        if addresses is not None and draw(no):
            found.append(Match(field, draw(_addresses(addresses)), draw(no)))
    ported = draw(st.sampled_from((0, TCP, UDP)))
    if ported:
        found.append(Match(Field.PROTO, IntervalSet.of(ported)))
        for field in (Field.SPORT, Field.DPORT):
            if draw(no):
                found.append(Match(field, draw(interval_sets(65535, 1)), draw(no)))
    elif draw(no):
        found.append(Match(Field.PROTO, draw(_protocols(True)), draw(no)))
    if draw(no):
        states = draw(st.sets(st.sampled_from(STATES), min_size=1))
        found.append(Match(Field.CTSTATE, NameSet.of(*states), draw(no)))
    for field in (Field.MARK, Field.CTMARK):
        if draw(no):
            found.append(_masked(draw, field, draw(interval_sets(FULL_MASK, 1, 3))))
    for field in (Field.UID, Field.GID):
        if draw(no):
            found.append(Match(field, draw(interval_sets(LAST_ID, 1, 3)), draw(no)))
    return tuple(found)


def _nft_known(draw: st.DrawFn, table: Family, jumps: tuple[str, ...]) -> Rule:
    choices = (None, Family.IP, Family.IP6) if table is Family.INET else (None,)
    family = draw(st.sampled_from(choices))
    addresses = family if table is Family.INET else table
    return Rule(
        draw(nft_matches(addresses)),
        draw(st.one_of(st.none(), _targets(jumps, masks=False))),
        family=family,
        comment=draw(st.one_of(st.just(""), comments)),
        packets=draw(st.integers(0, 1 << 64)),
        bytes=draw(st.integers(0, 1 << 64)),
    )


@st.composite
def nft_rules(draw: st.DrawFn, table: Family, jumps: tuple[str, ...] = ()) -> Rule:
    """Rules that nft has words for, and rules of others."""
    if draw(st.integers(0, 3)):
        return _nft_known(draw, table, jumps)
    statements = draw(st.sampled_from(FOREIGN_STATEMENTS))
    return Rule((), None, opaque=json.dumps(statements, separators=(",", ":")))


@st.composite
def nft_rulesets(draw: st.DrawFn) -> Ruleset:
    """What one listing can hold: tables of all three families."""
    tables = []
    for family, name in draw(
        st.lists(st.tuples(st.sampled_from(list(Family)), names), unique=True, max_size=3)
    ):
        own = tuple(draw(st.lists(chain_names, unique=True, max_size=3)))
        chains = []
        for chain in own:
            rules = tuple(draw(st.lists(nft_rules(family, own), max_size=3)))
            hook = draw(st.sampled_from(("", *HOOKS.values())))
            if hook:
                kind = draw(st.sampled_from(("nat", "filter", "route")))
                policy = draw(st.sampled_from(("accept", "drop")))
                chains.append(Chain(chain, rules, kind, hook, draw(st.integers(-400, 400)), policy))
            else:
                chains.append(Chain(chain, rules))
        tables.append(Table(family, name, tuple(chains)))
    return Ruleset(tuple(tables))


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    """A packet; ports where its protocol has some, owners where it has a socket."""
    family = draw(st.sampled_from((Family.IP, Family.IP6)))
    number = draw(st.sampled_from((TCP, UDP, 1, 132)))
    address = st.integers(0, (1 << BITS[family]) - 1)
    port = st.integers(0, 65535) if number in (TCP, UDP) else st.none()
    owner = draw(st.one_of(st.tuples(ids, ids), st.just((None, None))))
    link = st.one_of(st.none(), names, st.sampled_from(("lo", "eth0")))
    return Packet(
        family, number, draw(address), draw(address), draw(port), draw(port), draw(link),
        draw(link),
        *owner, draw(marks), draw(marks), draw(st.sampled_from(STATES)),
    )  # fmt: skip


def is_block(family: Family, values: IntervalSet) -> bool:
    """Whether ``values`` is one address block."""
    return len(values) == 1 and cidr_of_span(family, *values.spans[0]) is not None
