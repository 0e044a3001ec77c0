"""Findings over hand-made snapshots: what needs no kernel to be seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.dialects.iptables import parse_save
from meshnet.dialects.nft_json import parse_listing
from meshnet.model.codes import BY_CODE
from meshnet.model.finding import Finding
from meshnet.model.frozen import replace
from meshnet.model.packet import Family
from meshnet.model.ruleset import Ruleset
from meshnet.model.snapshot import (
    SCHEMA,
    SECTIONS,
    UNMAPPED,
    Dump,
    Flow,
    Gap,
    InterfaceAddress,
    Link,
    Namespace,
    PolicyRoute,
    Process,
    Route,
    Snapshot,
    Socket,
)
from meshnet.reason.findings import find, proxy_of
from tests.support import strategies
from tests.support.cases import BACKENDS, CASES, DEFAULT, ON, TPROXY
from tests.support.walks import compiled

DATA = Path(__file__).parent / "data"
LINKS = (Link(1, "lo", True, True), Link(2, "eth0", True))
ADDRESSES = (
    InterfaceAddress("lo", "ip", "127.0.0.1", 8, "host"),
    InterfaceAddress("eth0", "ip", "10.9.0.1", 24),
)
SIX = InterfaceAddress("eth0", "ip6", "fd09::1", 64)
ROUTES = (Route("ip", 254, "0.0.0.0/0", gateway="10.9.0.2", link="eth0"),)
RANK = ["error", "warning", "note"]


def process(pid: int, command: str, uid: int, parent: int = 1, **more: int) -> Process:
    gid = more.pop("gid", uid)
    return Process(pid, parent, command, uid, gid, more.pop("host_uid", uid), gid)


def listener(
    port: int, *pids: int, family: str = "ip6", local: str = "::", **more: object
) -> Socket:
    return Socket(family, "tcp", "listen", local, port, "::", 0, 1337, port, pids, **more)  # type: ignore[arg-type]


def snapshot(*processes: Process, sockets: tuple[Socket, ...] = (), **more: object) -> Snapshot:
    """A pod with IPv4, and nothing else unless told."""
    made = Snapshot(
        SCHEMA, "0", "2026-01-01T00:00:00Z", "6.1", Namespace(1, "pod"), SECTIONS, LINKS, ADDRESSES,
        ROUTES, sysctls={}, processes=processes, sockets=sockets,
    )  # fmt: skip
    return replace(made, **more)


ENVOY = process(7, "envoy", 1337)
TAKES = (listener(15001, 7, transparent=True), listener(15006, 7, transparent=True))


def pod(*processes: Process, sockets: tuple[Socket, ...] = TAKES, **more: object) -> Snapshot:
    """A pod with a sound proxy."""
    return snapshot(ENVOY, *processes, sockets=sockets, **more)


def codes(shot: Snapshot, rules: dict[str, Ruleset]) -> set[str]:
    """The codes, without the one that every sidecar has."""
    return {finding.code for finding in find(shot, rules)} - {"MN131"}


@pytest.fixture(params=BACKENDS)
def rules(request: pytest.FixtureRequest) -> dict[str, Ruleset]:
    """The default configuration, for IPv4 and IPv6."""
    return compiled((*DEFAULT, *ON), request.param)


def test_nothing_is_wrong_with_nothing() -> None:
    assert find(snapshot(), {}) == ()
    assert find(snapshot(sections=()), {}) == ()
    assert not proxy_of(snapshot(), {})


def test_a_sound_pod(rules: dict[str, Ruleset]) -> None:
    assert codes(pod(process(9, "app", 1000)), rules) == set()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_every_case_is_silent(name: str, backend: str) -> None:
    owner = process(7, "envoy", 3 if name == "two-proxies" else 1337)
    ports = tuple(listener(port, 7, transparent=True) for port in (15001, 15006, 15053))
    ports += (replace(ports[2], proto="udp", state="unconn"),)
    plumbing = {
        "routes": (*ROUTES, Route("ip", 133, "0.0.0.0/0", "local", link="lo")),
        "policies": (PolicyRoute("ip", 32765, 133, mark=1337), PolicyRoute("ip", 32766, 254)),
    }
    shot = snapshot(owner, sockets=ports, **plumbing)
    assert codes(shot, compiled(CASES[name], backend)) == set()


def node() -> dict[str, Ruleset]:
    """What Docker, kube-proxy and others program on a host."""
    compat = parse_save((DATA / "node.ip.save").read_text(), Family.IP)
    six = parse_save((DATA / "node.ip6.save").read_text(), Family.IP6)
    legacy = parse_save((DATA / "node.legacy.ip.save").read_text(), Family.IP)
    nft = parse_listing((DATA / "foreign.json").read_text())
    return {
        "legacy": legacy, "nft-compat": Ruleset((*compat.tables, *six.tables)), "nft": nft,
    }  # fmt: skip


def test_a_host_is_silent() -> None:
    host = (process(1, "systemd", 0, 0), process(20, "dockerd", 0), process(30, "nginx", 33, 20))
    sockets = (listener(80, 30), listener(22, 1), listener(8080, 30))
    assert codes(snapshot(*host, sockets=sockets, addresses=(*ADDRESSES, SIX)), node()) == set()


def test_our_rules_beside_a_hosts_own(rules: dict[str, Ruleset]) -> None:
    """Whatever is found beside them, it is nothing about us."""
    both = {
        name: Ruleset((*rules.get(name, Ruleset()).tables, *_others(name, rules).tables))
        for name in BACKENDS
    }
    found = codes(pod(), both)
    assert found <= {"MN110"}


def _others(backend: str, rules: dict[str, Ruleset]) -> Ruleset:
    """A host's rules of one backend, without the tables that ours would be in."""
    ours = {(t.family, t.name) for r in rules.values() for t in r.tables}
    tables = node()[backend].tables
    return Ruleset(tuple(t for t in tables if (t.family, t.name) not in ours))


def test_dockers_name_server_is_no_capture() -> None:
    """A translation of one address is there in every container of a network of one's own."""
    docker = (
        "*nat\n:OUTPUT ACCEPT [0:0]\n:DOCKER_OUTPUT - [0:0]\n"
        "-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT\n-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp "
        "-m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:37337\nCOMMIT\n"
    )
    assert codes(pod(), {"legacy": parse_save(docker, Family.IP)}) == {"MN101"}
    caught = docker.replace("-d 127.0.0.11/32 ", "").replace("--dport 53 ", "--dport 1:65535 ")
    assert codes(pod(), {"legacy": parse_save(caught, Family.IP)}) <= {"MN150"}


def test_order_is_by_severity_then_code(rules: dict[str, Ruleset]) -> None:
    shot = snapshot(process(9, "sh", 1337), addresses=(*ADDRESSES, SIX))
    found = find(shot, rules)
    keys = [(RANK.index(f.severity.value), f.code) for f in found]
    assert keys == sorted(keys) and len({f.code for f in found}) >= 3


class TestProxy:
    def test_family_of_one_uid(self, rules: dict[str, Ruleset]) -> None:
        """Ancestors and descendants of its UID; neither its siblings nor those of others."""
        people = (
            process(2, "pause", 0), process(3, "agent", 1337, 2), process(7, "envoy", 1337, 3),
            process(8, "worker", 1337, 7), process(9, "logger", 0, 7), process(10, "sh", 1337, 3),
            process(11, "deeper", 1337, 8),
        )  # fmt: skip
        found = proxy_of(snapshot(*people, sockets=TAKES), rules)
        assert found.pids == (3, 7, 8, 11)
        assert (found.name, found.uid, found.gid) == ("envoy", 1337, 1337)
        assert found.ports == (15001, 15006) and found.listens == TAKES and not found.by_name

    def test_parents_in_a_circle(self, rules: dict[str, Ruleset]) -> None:
        people = (process(7, "a", 1337, 8), process(8, "b", 1337, 7), process(9, "c", 1337, 9))
        assert proxy_of(snapshot(*people, sockets=TAKES), rules).pids == (7, 8)

    def test_by_name(self, rules: dict[str, Ruleset]) -> None:
        sockets = (listener(8443, 7),)
        found = proxy_of(snapshot(ENVOY, sockets=sockets), rules)
        assert found.pids == (7,) and found.by_name
        assert not proxy_of(snapshot(ENVOY), rules)
        assert not proxy_of(snapshot(process(7, "nginx", 33), sockets=sockets), rules)

    def test_ports_of_others_where_none_are_ours(self) -> None:
        linkerd = (
            "*nat\n:OUTPUT ACCEPT [0:0]\n:PROXY_INIT_OUTPUT - [0:0]\n"
            "-A OUTPUT -j PROXY_INIT_OUTPUT\n"
            "-A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -j RETURN\n"
            "-A PROXY_INIT_OUTPUT -o lo -j RETURN\n"
            "-A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-ports 4140\nCOMMIT\n"
        )
        foreign = {"legacy": parse_save(linkerd, Family.IP)}
        proxy = process(7, "linkerd2-proxy", 2102)
        sockets = (listener(4140, 7),)
        assert proxy_of(snapshot(proxy, sockets=sockets), foreign).ports == (4140,)
        assert codes(snapshot(proxy, sockets=sockets), foreign) == set()
        shell = process(9, "sh", 2102)
        assert codes(snapshot(proxy, shell, sockets=sockets), foreign) == {"MN120"}
        assert codes(snapshot(proxy), foreign) == {"MN150"}


class TestOwners:
    def test_unmapped_ids_are_nobodys(self) -> None:
        """An id that the owning user namespace does not map is shown as 65534, and is not it."""
        arguments = (*DEFAULT[:4], "-u", str(UNMAPPED), "-g", str(UNMAPPED), *DEFAULT[8:])
        rules = compiled(arguments, "nft")
        proxy = process(7, "envoy", UNMAPPED, host_uid=165534)
        outsider = process(9, "sh", UNMAPPED, host_uid=5)
        shot = snapshot(replace(proxy, host_uid=UNMAPPED, host_gid=UNMAPPED), sockets=TAKES)
        assert codes(shot, rules) == set()
        stranger = replace(outsider, host_gid=5)
        assert codes(replace(shot, processes=(*shot.processes, stranger)), rules) == set()
        nobody = process(10, "sh", UNMAPPED)
        assert codes(replace(shot, processes=(*shot.processes, nobody)), rules) == {"MN120"}

    def test_nobody_can_be_seen_to_listen(self, rules: dict[str, Ruleset]) -> None:
        """Who the proxy is cannot be told: then nobody is an impostor."""
        sockets = tuple(replace(socket, pids=()) for socket in TAKES)
        assert codes(pod(sockets=sockets), rules) == set()

    def test_a_sidecar_that_is_starting(self, rules: dict[str, Ruleset]) -> None:
        agent = process(7, "pilot-agent", 1337)
        assert codes(snapshot(agent, process(8, "iptables", 1337, 7)), rules) == {"MN150"}
        found = find(snapshot(agent, process(9, "sh", 1337)), rules)
        (told,) = [f for f in found if f.code == "MN120"]
        assert told.pids == (9,) and told.severity.value == "warning"

    def test_shared_socket(self, rules: dict[str, Ruleset]) -> None:
        """A parent that holds the listener too and never sends is no loop."""
        holder = process(5, "systemd", 0)
        sockets = tuple(replace(socket, pids=(5, 7)) for socket in TAKES)
        assert codes(pod(holder, sockets=sockets), rules) == set()
        found = find(snapshot(holder, sockets=sockets), rules)
        assert "MN121" in {f.code for f in found}


class TestGaps:
    """What was not seen is not reported as absent."""

    def test_sockets(self, rules: dict[str, Ruleset]) -> None:
        cut = (Gap("sockets", "50,000 of 60,000 sockets kept"),)
        assert "MN150" in codes(snapshot(), rules)
        assert codes(snapshot(gaps=cut), rules) == set()
        assert codes(snapshot(sections=("rules",)), rules) == set()

    def test_rules(self) -> None:
        assert codes(pod(), {}) == {"MN101"}
        assert codes(pod(gaps=(Gap("rules", "no tool"),)), {}) == set()
        assert codes(pod(sections=("processes", "sockets")), {}) == set()

    def test_routes(self) -> None:
        rules = compiled(TPROXY, "nft")
        assert codes(pod(), rules) == {"MN160"}
        assert codes(pod(gaps=(Gap("routes", "cut"),)), rules) == set()


class TestDormant:
    def test_by_the_kernel(self, rules: dict[str, Ruleset]) -> None:
        ((backend, ruleset),) = rules.items()
        asleep = tuple((t.family.value, t.name) for t in ruleset.tables)
        found = codes(pod(dormant=asleep), rules)
        assert found == (set() if backend == "legacy" else {"MN101", "MN103"})

    def test_by_the_listing(self) -> None:
        rules = compiled((*DEFAULT, *ON), "nft")
        text = (
            '{"nftables": [{"table": {"family": "inet", "name": "istio-proxy-nat", "flags": %s}}]}'
        )
        for flags, told in (('"dormant"', True), ('["dormant"]', True), ('"owner"', False)):
            shot = pod(dumps=(Dump("nft", "nft -j list ruleset", text % flags),))
            assert ("MN103" in codes(shot, rules)) is told
        for broken in ('{"nftables": "dormant"}', '"dormant"', '{"dormant": [', '["dormant"]'):
            assert codes(pod(dumps=(Dump("nft", "nft", broken),)), rules) == set()


def test_hostile_names_are_data(rules: dict[str, Ruleset]) -> None:
    """They come through as they are; whoever prints them escapes them."""
    name = "\x1b[31m[red]x\n\udcff"
    found = find(pod(process(9, name, 1337)), rules)
    (told,) = [f for f in found if f.code == "MN120"]
    assert name in told.summary


def test_many_of_a_kind_are_counted(rules: dict[str, Ruleset]) -> None:
    crowd = [process(pid, "sh", 1337) for pid in range(100, 5100)]
    (told,) = [f for f in find(pod(*crowd), rules) if f.code == "MN120"]
    assert "and 4999 more like it" in told.summary and len(told.evidence) <= 12


def test_a_redirect_behind_many_rules_is_found() -> None:
    """20,000 foreign rules before ours: some of them are asked, and it ends."""
    lines = "".join(
        f"-A OUTPUT -d 10.{n >> 8 & 255}.{n & 255}.7/32 -p tcp -m tcp --dport 99 -j ACCEPT\n"
        for n in range(20_000)
    )
    ours = "-A OUTPUT -j ISTIO_OUTPUT\n-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN\n"
    ours += "-A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT\n"
    ours += "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n"
    chains = ":OUTPUT ACCEPT [0:0]\n:ISTIO_OUTPUT - [0:0]\n:ISTIO_REDIRECT - [0:0]\n"
    rules = {"legacy": parse_save(f"*nat\n{chains}{lines}{ours}", Family.IP)}
    found = find(pod(), rules)
    assert "MN110" in {f.code for f in found}


texts = st.text(max_size=6)
numbers = st.integers(0, 1 << 32)
port_numbers = st.sampled_from((0, 80, 443, 8080, 15001, 15006, 15053, 40000, 65535))
owners = st.sampled_from((0, 1000, 1337, UNMAPPED))
families = st.sampled_from(("ip", "ip6"))
addresses = st.sampled_from(
    ("0.0.0.0", "::", "10.9.0.1", "10.9.0.2", "127.0.0.1", "::1", "fd09::1", "::ffff:10.9.0.1", "*")
)
blocks = st.sampled_from(("0.0.0.0/0", "::/0", "default", "10.0.0.0/8", "fd00::/8", "nonsense"))
links = st.sampled_from(("", "lo", "eth0", "eth1"))
pids = st.integers(1, 12)
states = st.sampled_from(("listen", "established", "close-wait", "unconn", "time-wait", ""))
protos = st.sampled_from(("tcp", "udp"))


def many(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(strategy, max_size=6).map(tuple)


snapshots = st.builds(
    Snapshot,
    st.just(SCHEMA), st.just("0"), texts, texts,
    st.builds(Namespace, numbers, texts),
    st.one_of(st.just(SECTIONS), many(st.sampled_from(SECTIONS))),
    many(st.builds(Link, pids, links, st.booleans(), st.booleans())),
    many(st.builds(
        InterfaceAddress, links, families, addresses, st.integers(0, 128),
        st.sampled_from(("global", "link", "host")),
    )),
    many(st.builds(
        Route, families, st.sampled_from((133, 254, 255)), blocks,
        st.sampled_from(("unicast", "local")), addresses, links,
    )),
    many(st.builds(
        PolicyRoute, families, numbers, st.sampled_from((133, 254)), texts,
        st.sampled_from((None, 0, 1337)), numbers,
    )),
    st.one_of(st.none(), st.dictionaries(texts, texts, max_size=3), st.just(
        {"net.ipv4.conf.all.src_valid_mark": "1", "net.netfilter.nf_conntrack_tcp_loose": "x"}
    )),
    st.just(()),
    many(st.builds(Process, pids, pids, texts, owners, owners, owners, owners, texts)),
    many(st.builds(
        Socket, families, protos, states, addresses, port_numbers, addresses, port_numbers, owners,
        numbers, many(pids), links, st.booleans(), st.sampled_from((None, False, True)),
    )),
    many(st.builds(
        Flow, families, st.sampled_from((6, 17)), addresses, port_numbers, addresses, port_numbers,
        addresses, port_numbers, addresses, port_numbers, numbers, states,
    )),
    many(st.builds(Gap, st.sampled_from(SECTIONS), texts)),
    many(st.tuples(families, st.sampled_from(("nat", "mangle")))),
)  # fmt: skip
#: Rules of a configuration, rules of nobody in particular, or both in two backends.
rule_sets = st.one_of(
    st.builds(compiled, st.sampled_from(list(CASES.values())), st.sampled_from(BACKENDS)),
    strategies.iptables_rulesets(Family.IP).map(lambda r: {"legacy": r}),
    strategies.nft_rulesets().map(lambda r: {"nft": r}),
    st.builds(
        lambda ours, others: {**ours, "legacy": others},
        st.builds(compiled, st.sampled_from(list(CASES.values())), st.just("nft")),
        strategies.iptables_rulesets(Family.IP6),
    ),
)


@given(snapshots, rule_sets)
def test_any_snapshot_can_be_judged(shot: Snapshot, rules: dict[str, Ruleset]) -> None:
    found = find(shot, rules)
    assert found == find(shot, rules)
    for finding in found:
        assert isinstance(finding, Finding) and finding.code in BY_CODE
        assert finding.summary and finding.evidence and finding.mend
        assert all(isinstance(line, str) and line for line in finding.evidence)
        assert len(finding.evidence) <= 12
    proxy_of(shot, rules)


def test_an_address_that_contradicts_its_family_is_none(rules: dict[str, Ruleset]) -> None:
    """A snapshot may come from anywhere."""
    odd = InterfaceAddress("eth0", "ip", "fd09::1", 0)
    find(pod(addresses=(odd,)), rules)
