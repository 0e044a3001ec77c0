"""The walk: known configurations with known fates, and what holds for all rulesets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.dialects.iptables import parse_save, print_save
from meshnet.dialects.nft_json import parse_listing, print_listing
from meshnet.errors import ParseError, UsageError
from meshnet.model.address import read_address
from meshnet.model.frozen import replace
from meshnet.model.match import dport, proto
from meshnet.model.packet import TCP, UDP, Family, Field, Packet
from meshnet.model.rule import ACCEPT, DROP, RETURN, Kind, Rule, Target, jump, redirect
from meshnet.model.ruleset import Chain, Ruleset, Table
from meshnet.model.verdict import Journey, Verdict
from meshnet.reason.evaluate import View
from meshnet.reason.lines import prepare
from meshnet.reason.state import State
from meshnet.reason.walk import Walker, walk
from tests.support.cases import BACKENDS
from tests.support.cases import CASES as CONFIGURATIONS
from tests.support.golden_cases import CASES
from tests.support.lottery import Lottery, as_packet
from tests.support.strategies import iptables_rulesets, nft_rulesets, packets
from tests.support.walks import compiled, fate, is_local, packet_of

GOLDEN = [(name, backend) for name in CASES for backend in BACKENDS]
HOOKS = ("output", "prerouting")
SYN = Packet(Family.IP, TCP, 0x0A090001, 0xC000020A, 20001, 80, None, "eth0", 1000, 1000)
COMING = replace(SYN, src=0xC000020A, dst=0x0A090001, iif="eth0", oif=None, uid=None, gid=None)
WEB = "192.0.2.10"


@pytest.mark.parametrize(("name", "backend"), GOLDEN, ids="-".join)
def test_golden_cases_have_the_fates_that_sockets_see(name: str, backend: str) -> None:
    """``tests/netns/test_goldens_load.py`` sends these very probes."""
    case = CASES[name]
    walker = Walker(compiled(case.arguments(backend), backend, case.env))
    told = {}
    for probe in case.fates:
        packet, hook = packet_of(probe)
        told[probe] = fate(walker.walk(packet, hook, local=is_local(probe)))
    assert told == case.fates


# What holds for every ruleset.


@st.composite
def anything(draw: st.DrawFn) -> dict[str, Ruleset]:
    """What a namespace can hold, as far as the model has words, chains that go round left out."""
    four = iptables_rulesets(Family.IP)
    kinds = {"legacy": four, "nft-compat": four, "nft": nft_rulesets()}
    names = draw(st.sets(st.sampled_from(sorted(kinds)), max_size=2))
    found = {name: draw(kinds[name]) for name in sorted(names)}
    return {name: _without_rings(ruleset) for name, ruleset in found.items()}


def _without_rings(ruleset: Ruleset) -> Ruleset:
    """Only jumps to chains that stand further down."""
    tables = []
    for table in ruleset.tables:
        names = [chain.name for chain in table.chains]
        chains = tuple(
            replace(chain, rules=tuple(r for r in chain.rules if _goes_down(r, names[at:])))
            for at, chain in enumerate(table.chains)
        )
        tables.append(replace(table, chains=chains))
    return Ruleset(tuple(tables))


def _goes_down(rule: Rule, below: list[str]) -> bool:
    to = rule.target.chain if rule.target is not None else ""
    return not to or to in below[1:]


@given(anything(), packets(), st.sampled_from(HOOKS))
def test_every_packet_has_one_fate(rulesets: dict[str, Ruleset], packet: Packet, hook: str) -> None:
    """Total, deterministic, and the same whether or not its class was met before."""
    walker = Walker(rulesets)
    first = walker.walk(packet, hook)
    assert walker.walk(packet, hook) == first
    walker.forget()
    assert walker.walk(packet, hook) == first
    assert Walker(rulesets).walk(packet, hook) == first
    assert (first.verdict is Verdict.MAYBE) == bool(first.maybe)
    if first.verdict is Verdict.MAYBE:
        assert first.decider is None
        told = [(one.verdict, one.port) for one in first.fates]
        assert len(told) == len(set(told)) >= 1


def drawn(seed: int) -> tuple[dict[str, Ruleset], Lottery]:
    """Rules of two backends that hold often, and the lottery that drew them."""
    lottery = Lottery(seed)
    parts = [print_save(lottery.iptables(family)) for family in (Family.IP, Family.IP6)]
    tables = [
        parse_save(part, family).tables
        for part, family in zip(parts, (Family.IP, Family.IP6), strict=True)
    ]
    return {"legacy": Ruleset(tables[0] + tables[1]), "nft": lottery.nft(ties=True)}, lottery


seeds = st.integers(0, 1_000_000)


@given(seeds)
def test_what_is_remembered_of_a_class_is_true_of_each(seed: int) -> None:
    """A walker that has seen many packets says what a fresh one says."""
    rulesets, lottery = drawn(seed)
    warm, fresh = Walker(rulesets), Walker(rulesets)
    for _ in range(20):
        packet, hook, local = as_packet(lottery.packet())
        fresh.forget()
        known = warm.walk(packet, hook, local=local)
        assert known == fresh.walk(packet, hook, local=local)


@given(seeds)
def test_a_chain_that_nobody_goes_to_changes_nothing(seed: int) -> None:
    rulesets, lottery = drawn(seed)
    idle = Chain("idle-and-alone", (Rule((), DROP), Rule((), jump("idle-and-alone"))))
    more = {
        name: Ruleset(tuple(replace(t, chains=(*t.chains, idle)) for t in ruleset.tables))
        for name, ruleset in rulesets.items()
    }
    with_idle, without = Walker(more), Walker(rulesets)
    for _ in range(10):
        packet, hook, local = as_packet(lottery.packet())
        assert with_idle.walk(packet, hook, local=local) == without.walk(packet, hook, local=local)


@given(seeds)
def test_rules_hold_as_the_model_says(seed: int) -> None:
    """The quick look and the slow one are :meth:`Rule.holds`, for all that is known."""
    rulesets, lottery = drawn(seed)
    packet = as_packet(lottery.packet())[0]
    known = replace(packet, iif=packet.iif or "", oif=packet.oif or "")
    ported = known.sport is not None
    state = State("forward", known, "prerouting", tracked=True)
    view = View(state)
    for name, ruleset in rulesets.items():
        for table in prepare(name, ruleset):
            for line in (line for code in table.codes.values() for line in code.lines):
                asks = {match.field for match in line.matches}
                unclear = asks & {Field.SPORT, Field.DPORT} and not ported
                if line.rule is None or line.rule.opaque or unclear or _asks_nat(line.rule):
                    continue
                assert view.test(line) is line.rule.holds(view.packet)


def _asks_nat(rule: Rule) -> bool:
    states = (m.values for m in rule.matches if m.field is Field.CTSTATE)
    return any({"snat", "dnat"} & set(values) for values in states)


@given(seeds, st.sampled_from(HOOKS))
def test_a_walk_over_a_dump_is_a_walk_over_what_was_dumped(seed: int, hook: str) -> None:
    lottery = Lottery(seed)
    four, nft = lottery.iptables(Family.IP), lottery.nft()
    again = {
        "legacy": parse_save(print_save(four), Family.IP),
        "nft": parse_listing(print_listing(nft)),
    }
    once = {"legacy": parse_save(print_save(four), Family.IP), "nft": nft}
    packet = SYN if hook == "output" else COMING
    assert _said(Walker(again).walk(packet, hook)) == _said(Walker(once).walk(packet, hook))


def _said(journey: Journey) -> object:
    steps = [(str(step.place), step.held, step.hook) for step in journey.steps]
    return journey.verdict, journey.port, journey.maybe, steps, journey.packet


# What the walk says, and whom it names.


def legacy(text: str, family: Family = Family.IP) -> dict[str, Ruleset]:
    return {"legacy": parse_save(text, family)}


def test_an_empty_namespace_lets_everything_go() -> None:
    journey = walk({}, SYN, "output")
    assert (journey.verdict, journey.steps, journey.decider) == (Verdict.DIRECT, (), None)
    assert journey.packet == SYN


def test_captured_names_the_redirect_and_the_packet_stays_here() -> None:
    journey = walk(compiled(CONFIGURATIONS["default"], "nft-compat"), SYN, "output")
    assert (journey.verdict, journey.port) == (Verdict.CAPTURED, 15001)
    assert journey.decider is not None and journey.decider.place.chain == "ISTIO_REDIRECT"
    left = journey.packet
    assert (left.dst, left.dport, left.oif) == (read_address("127.0.0.1")[1], 15001, "lo")
    assert journey.decider.ours and journey.decider in journey.steps


def test_bypassed_names_our_rule() -> None:
    for backend in BACKENDS:
        rulesets = compiled(CONFIGURATIONS["default"], backend)
        journey = walk(rulesets, replace(SYN, uid=1337, gid=1337), "output")
        assert journey.verdict is Verdict.BYPASSED
        assert journey.decider is not None and journey.decider.rule is not None
        assert journey.decider.rule.id == "out.proxy-uid" and journey.decider.ours


def test_direct_names_the_foreign_rule_before_our_jump() -> None:
    own = print_save(compiled(CONFIGURATIONS["default"], "legacy")["legacy"].of(Family.IP))
    jump_of_ours = "-A OUTPUT -j ISTIO_OUTPUT\n"
    assert jump_of_ours in own
    before = own.replace(jump_of_ours, f"-A OUTPUT -d {WEB}/32 -j ACCEPT\n{jump_of_ours}")
    journey = walk(legacy(before), SYN, "output")
    assert journey.verdict is Verdict.DIRECT
    assert journey.decider is not None and not journey.decider.ours
    assert (journey.decider.place.chain, journey.decider.place.position) == ("OUTPUT", 1)
    behind = own.replace(jump_of_ours, f"{jump_of_ours}-A OUTPUT -d {WEB}/32 -j ACCEPT\n")
    assert walk(legacy(behind), SYN, "output").verdict is Verdict.CAPTURED
    udp = walk(legacy(behind), replace(SYN, proto=UDP), "output")
    assert (udp.verdict, udp.decider) == (Verdict.DIRECT, None)


def test_dropped_names_the_rule_or_the_policy() -> None:
    text = "*filter\n:OUTPUT DROP [0:0]\n-A OUTPUT -p udp -j ACCEPT\nCOMMIT\n"
    journey = walk(legacy(text), SYN, "output")
    assert journey.verdict is Verdict.DROPPED
    assert journey.decider is not None and journey.decider.rule is None
    assert (journey.decider.action, journey.decider.place.position) == ("policy drop", 2)


def test_only_the_first_packet_of_a_connection_asks_nat() -> None:
    rulesets = compiled(CONFIGURATIONS["default"], "legacy")
    for state in ("established", "invalid", "untracked"):
        assert walk(rulesets, replace(SYN, ctstate=state), "output").verdict is Verdict.DIRECT
    related = walk(rulesets, replace(SYN, ctstate="related"), "output")
    assert related.verdict is Verdict.MAYBE and "nat" in related.maybe[0]


NAT = "*nat\n:OUTPUT ACCEPT [0:0]\n{}\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n"


@pytest.mark.parametrize(
    ("rule", "verdict"),
    {
        "-m statistic --mode random --probability 0.5 -j RETURN": Verdict.MAYBE,
        "-m set --match-set x dst -j ACCEPT": Verdict.MAYBE,
        "-j NOBODYKNOWS --with me": Verdict.MAYBE,
        "-p udp -m statistic --mode random --probability 0.5 -j RETURN": Verdict.CAPTURED,
        "-p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.88.0.4:80": Verdict.CAPTURED,
        "-p tcp -m tcp --dport 80 -j DNAT --to-destination 10.88.0.4:80": Verdict.DIRECT,
        "-p tcp -j DNAT --to-destination 127.0.0.1:15001": Verdict.CAPTURED,
        '-j LOG --log-prefix "a -j DROP"': Verdict.CAPTURED,
        "-m set --match-set x dst": Verdict.CAPTURED,
        "-m state --state NEW -j ACCEPT": Verdict.DIRECT,
        "-m state --state ESTABLISHED -j ACCEPT": Verdict.CAPTURED,
        "-p tcp -j REDIRECT --to-ports 80-90": Verdict.MAYBE,
        "-p tcp -j REDIRECT": Verdict.CAPTURED,
        '-m comment --comment "-d 10.0.0.0/8" -m socket -j MARK --set-xmark 0x5/0x5': (
            Verdict.CAPTURED
        ),
    }.items(),
)
def test_rules_without_words_are_followed_as_far_as_they_go(rule: str, verdict: Verdict) -> None:
    journey = walk(legacy(NAT.format(f"-A OUTPUT {rule}")), SYN, "output")
    assert journey.verdict is verdict, journey
    if verdict is Verdict.MAYBE:
        assert journey.maybe and len({(f.verdict, f.port) for f in journey.fates}) >= 1


def test_maybe_names_what_is_undecided_and_where() -> None:
    rule = "-A OUTPUT -m statistic --mode random --probability 0.5 -j RETURN"
    journey = walk(legacy(NAT.format(rule)), SYN, "output")
    assert journey.maybe == ("nat OUTPUT 1: -m statistic --mode random --probability 0.5",)
    assert {f.verdict for f in journey.fates} == {Verdict.CAPTURED, Verdict.DIRECT}
    assert all(one.steps[0].held is None for one in journey.fates)


def test_a_field_that_the_caller_does_not_know_is_undecided() -> None:
    text = "*mangle\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -m connmark --mark 0x5 -j DROP\nCOMMIT\n"
    walker = Walker(legacy(text))
    established = replace(SYN, ctstate="established")
    assert walker.walk(established, "output").verdict is Verdict.DIRECT
    journey = walker.walk(established, "output", unknown=frozenset({Field.CTMARK}))
    assert journey.verdict is Verdict.MAYBE
    assert journey.maybe == ("mangle OUTPUT 1: the connection's mark is not known",)


def base(name: str, *rules: Rule, priority: int = -100, kind: str = "nat") -> Chain:
    return Chain(name, rules, kind, "output", priority)


def native(*tables: Table) -> dict[str, Ruleset]:
    return {"nft": Ruleset(tables)}


def test_an_order_that_no_dump_shows_is_undecided() -> None:
    one = Table(Family.INET, "one", (base("out", Rule((proto("tcp"),), redirect(1))),))
    two = Table(Family.IP, "two", (base("out", Rule((proto("tcp"),), redirect(2))),))
    journey = walk(native(one, two), SYN, "output")
    assert journey.verdict is Verdict.MAYBE
    assert {fate.port for fate in journey.fates} == {1, 2}
    assert journey.maybe == (
        "the order of nft inet one out and nft ip two out, all at priority -100",
    )
    alike = Table(Family.IP, "two", (base("out", Rule((proto("tcp"),), redirect(1))),))
    assert walk(native(one, alike), SYN, "output").verdict is Verdict.CAPTURED


def test_of_one_table_the_chain_registered_last_runs_first() -> None:
    chains = [base(f"c{n}", Rule((proto("tcp"),), redirect(n))) for n in (1, 2)]
    table = Table(Family.INET, "one", tuple(chains))
    assert walk(native(table), SYN, "output").port == 2


def test_an_accept_in_one_nat_chain_does_not_stop_the_next_and_a_redirect_does() -> None:
    accepting = base("first", Rule((), ACCEPT), priority=-110)
    taking = base("second", Rule((proto("tcp"),), redirect(1)), priority=-100)
    late = base("third", Rule((proto("tcp"),), redirect(2)), priority=0)
    table = Table(Family.INET, "t", (accepting, taking, late))
    journey = walk(native(table), SYN, "output")
    assert journey.port == 1
    assert {step.place.chain for step in journey.steps} == {"first", "second"}


def test_nat_chains_run_where_the_dispatcher_stands() -> None:
    """A nat chain of priority 50 is asked before a filter chain of priority 0."""
    marking = base("f", Rule((), Target(Kind.MARK, mark=7)), priority=0, kind="filter")
    taking = base("n", Rule((proto("tcp"),), redirect(1)), priority=50)
    journey = walk(native(Table(Family.INET, "t", (marking, taking))), SYN, "output")
    assert [step.place.chain for step in journey.steps] == ["n", "f", "f"]


# Cases that the walk and the kernel once saw differently; the kernel was right.


def test_what_conntrack_could_not_place_is_looked_at_again_when_it_comes_back_over_lo() -> None:
    text = (
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j CT --zone 3\n"
        "-A PREROUTING -m conntrack --ctstate NEW -j DROP\nCOMMIT\n"
    )
    stray = replace(SYN, dst=SYN.src, oif="lo", ctstate="invalid")
    assert walk(legacy(text), stray, "output").verdict is Verdict.DROPPED
    without = text.replace("-A PREROUTING -j CT --zone 3\n", "")
    assert walk(legacy(without), stray, "output").verdict is Verdict.DIRECT


def test_a_mark_is_restored_from_the_template_of_a_zone() -> None:
    text = (
        "*raw\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j CT --zone 3\n{}"
        "-A OUTPUT -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff\n"
        "-A OUTPUT -m mark --mark 0x0 -j DROP\nCOMMIT\n"
    )
    marked = replace(SYN, mark=5)
    assert walk(legacy(text.format("")), marked, "output").verdict is Verdict.DROPPED
    save = "-A OUTPUT -p udp -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff\n"
    assert walk(legacy(text.format(save)), marked, "output").verdict is Verdict.MAYBE


def test_chains_that_go_round_are_reported() -> None:
    ring = (
        base("out", Rule((), jump("a"))),
        Chain("a", (Rule((dport(1),), jump("b")),)),
        Chain("b", (Rule((), RETURN), Rule((), Target(Kind.GOTO, chain="a")))),
    )
    with pytest.raises(ParseError, match="a -> b -> a"):
        Walker(native(Table(Family.INET, "t", ring)))


@pytest.mark.parametrize(("depth", "backend"), [(16, "nft"), (17, "nft"), (400, "legacy")])
def test_nesting_is_as_deep_as_the_kernel_lets_it(depth: int, backend: str) -> None:
    chains = [Chain(f"c{n}", (Rule((), jump(f"c{n + 1}")),)) for n in range(1, depth)]
    end = Chain(f"c{depth}", (Rule((proto("tcp"),), redirect(1)),))
    first = Chain("OUTPUT", (Rule((), jump("c2")),), "nat", "output", -100)
    rulesets = {backend: Ruleset((Table(Family.IP, "nat", (first, *chains[1:], end)),))}
    if depth == 17:
        with pytest.raises(ParseError, match="deeper than 16"):
            Walker(rulesets)
    else:
        assert walk(rulesets, SYN, "output").port == 1


def test_a_hook_where_no_packet_begins_is_refused() -> None:
    with pytest.raises(UsageError):
        walk({}, SYN, "input")


def test_many_undecided_rules_do_not_make_many_walks() -> None:
    """Ways that meet again are one way; too many that do not are a maybe, and quick."""
    rule = "-A OUTPUT -m set --match-set s{} dst -j {}"
    meeting = "\n".join(rule.format(n, "MARK --set-xmark 0x5/0x5") for n in range(1000))
    assert walk(legacy(NAT.format(meeting)), SYN, "output").verdict is Verdict.CAPTURED
    parting = "\n".join(
        rule.format(n, f"MARK --set-xmark {1 << n % 32:#x}/{1 << n % 32:#x}") for n in range(40)
    )
    parting += "\n-A OUTPUT -m mark --mark 0x77 -j ACCEPT"
    journey = walk(legacy(NAT.format(parting)), SYN, "output")
    assert journey.verdict is Verdict.MAYBE and "more" in journey.maybe[-1]
