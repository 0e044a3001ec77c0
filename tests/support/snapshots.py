"""Snapshots at random, sound ones: what hypothesis makes them of."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st

from meshnet.model.snapshot import (
    SCHEMA,
    SECTIONS,
    ContainerName,
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

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
#: Distinctive ones: a search for them in a document finds nothing else.
names = st.from_regex(r"[a-z]{4}q[a-z0-9]{3}z", fullmatch=True)
ports = st.integers(0, 65535)
ids = st.integers(0, 0xFFFFFFFF)
numbers = st.integers(0, 1 << 63)
pids = st.integers(1, 4194304)
families = st.sampled_from(["ip", "ip6"])


def addresses(family: str) -> st.SearchStrategy[str]:
    """Addresses of ``family``, often near each other."""
    if family == "ip":
        near = st.integers(0, 0xFFFF).map(lambda n: 0x0A400000 + n)
        far = st.integers(0x01000000, 0xDFFFFFFF)
        return st.one_of(near, far).map(lambda n: str(ipaddress.IPv4Address(n)))
    near = st.integers(0, 0xFFFFFF).map(lambda n: (0xFD << 120) + n)
    far = st.integers(0x2000 << 112, 0x3FFF << 112)
    return st.one_of(near, far).map(lambda n: str(ipaddress.IPv6Address(n)))


@st.composite
def blocks(draw: st.DrawFn, family: str) -> str:
    """Blocks of ``family``."""
    length = draw(st.integers(16, 32 if family == "ip" else 64))
    return str(ipaddress.ip_network(f"{draw(addresses(family))}/{length}", strict=False))


@st.composite
def sockets(draw: st.DrawFn, link: st.SearchStrategy[str]) -> Socket:
    """Sockets of both families."""
    family = draw(families)
    return Socket(
        family,
        draw(st.sampled_from(["tcp", "udp"])),
        draw(st.sampled_from(["listen", "established", "unconn"])),
        draw(addresses(family)),
        draw(ports),
        draw(addresses(family)),
        draw(ports),
        draw(ids),
        draw(numbers),
        tuple(draw(st.lists(pids, max_size=2))),
        draw(link),
        draw(st.booleans()),
        draw(st.none() | st.booleans()),
    )


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    """Entries of connection tracking."""
    family = draw(families)
    ends = [draw(x) for x in (addresses(family), ports) * 4]
    return Flow(family, 6, *ends, draw(ids), "established", draw(ids), draw(ports))


@st.composite
def routes(draw: st.DrawFn, link: st.SearchStrategy[str]) -> Route:
    """Routes of both families."""
    family = draw(families)
    return Route(
        family,
        draw(ids),
        draw(blocks(family)),
        gateway=draw(st.just("") | addresses(family)),
        link=draw(link),
        source=draw(st.just("") | addresses(family)),
        metric=draw(ids),
    )


@st.composite
def policies(draw: st.DrawFn, link: st.SearchStrategy[str]) -> PolicyRoute:
    """Policy rules of both families."""
    family = draw(families)
    return PolicyRoute(
        family,
        draw(ids),
        draw(ids),
        mark=draw(st.none() | ids),
        source=draw(st.just("") | blocks(family)),
        iif=draw(link),
        other=tuple(draw(st.lists(st.just("ipproto 6"), max_size=1))),
    )


@st.composite
def interface_addresses(draw: st.DrawFn, link: st.SearchStrategy[str]) -> InterfaceAddress:
    """Addresses of interfaces."""
    family = draw(families)
    return InterfaceAddress(draw(link), family, draw(addresses(family)), 24)


@st.composite
def snapshots(
    draw: st.DrawFn,
    text: st.SearchStrategy[str] = texts,
    dumps: st.SearchStrategy[list[Dump]] | None = None,
    reasons: st.SearchStrategy[str] | None = None,
) -> Snapshot:
    """Whole ones, small; ``text`` are the names in them."""
    link = st.one_of(st.just("lo"), text)
    some = draw(st.integers(0, 3))

    def several(one: st.SearchStrategy[object]) -> tuple:
        return tuple(draw(st.lists(one, max_size=some)))

    container = st.builds(ContainerName, text, text, text, st.just("docker"))
    process = st.builds(Process, pids, pids, text, ids, ids, ids, ids, text, numbers)
    anything = st.lists(st.builds(Dump, st.just("legacy"), text, text, families), max_size=1)
    return Snapshot(
        SCHEMA,
        "0.1.0",
        "2025-01-01T00:00:00Z",
        "6.1.0",
        Namespace(draw(numbers), draw(text), "", draw(text), several(container), draw(numbers)),
        tuple(draw(st.sets(st.sampled_from(SECTIONS)))),
        several(st.builds(Link, st.integers(1, 99), link, st.booleans(), st.booleans())),
        several(interface_addresses(link)),
        several(routes(link)),
        several(policies(link)),
        draw(st.none() | st.dictionaries(text, st.sampled_from(["0", "1"]), max_size=2)),
        tuple(draw(dumps if dumps is not None else anything)),
        several(process),
        several(sockets(link)),
        several(flows()),
        several(st.builds(Gap, st.sampled_from(SECTIONS), text if reasons is None else reasons)),
        several(st.tuples(families, text)),
        draw(st.booleans()),
    )
