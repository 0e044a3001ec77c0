"""The way of a packet by the routes that a snapshot holds, as far as they tell.

The policy rules are asked in their order, then the longest prefix of the table they name
(net/core/fib_rules.c, net/ipv4/fib_trie.c). Where a rule asks for what is not known, there is no
answer, rather than a likely one.
"""

from __future__ import annotations

from meshnet.errors import MeshnetError
from meshnet.model.address import read_address, read_cidr, show_address
from meshnet.model.explanation import Way
from meshnet.model.packet import Family
from meshnet.reason.ask import Question

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshnet.model.snapshot import InterfaceAddress, PolicyRoute, Route, Snapshot

_REFUSING = {
    "blackhole": "the route to it is a blackhole",
    "unreachable": "a route says that it cannot be reached",
    "prohibit": "a route prohibits it",
}
_HERE = ("local", "broadcast", "anycast", "multicast")
_LOCAL, _MAIN, _DEFAULT = 255, 254, 253


class NoRoute(MeshnetError):
    """There is no way: a packet is sent nowhere, whatever rules say. The message says why."""


class Undecided(MeshnetError):
    """The routes that are known do not tell; the message says what they hang on."""


def snapshot_way(snapshot: Snapshot, question: Question) -> Way:
    """How the packet of ``question`` goes; for one that came in, where it goes on.

    Raises NoRoute where it goes nowhere, Undecided where the snapshot does not tell.
    """
    if not snapshot.routes:
        raise Undecided("the snapshot holds no routes")
    route = _look_up(snapshot, question)
    local = route.kind == "local" or (question.inbound and route.kind in _HERE)
    link = route.link
    if question.inbound:
        words = "for this namespace" if local else f"on by {link}"
    else:
        # net/ipv4/route.c, ip_route_output_key_hash_rcu: what is local leaves by lo.
        link = _loopback(snapshot) if local else link
        words = link
    words += f" via {route.gateway}" if route.gateway else ""
    words += f"   the snapshot's routes, table {route.table}"
    source = route.source
    if not source and not question.inbound:
        destination = show_address(question.family, question.dst)
        source = destination if local else _source(snapshot, question, route)
    return Way("snapshot", link, words, route.gateway, source, route.table, local)


def _loopback(snapshot: Snapshot) -> str:
    return next((link.name for link in snapshot.links if link.loopback), "lo")


def _look_up(snapshot: Snapshot, question: Question) -> Route:
    family = question.family.value
    policies = [p for p in snapshot.policies if p.family == family]
    if not policies:
        tables: Iterable[int] = (_LOCAL, _MAIN, _DEFAULT)
    else:
        tables = _tables(policies, question)
    for table in tables:
        found = _best([r for r in snapshot.routes if r.family == family], table, question)
        if found is None or found.kind == "throw":
            continue
        if found.kind in _REFUSING:
            raise NoRoute(_REFUSING[found.kind])
        return found
    raise NoRoute("no route leads there")


def _tables(policies: list[PolicyRoute], question: Question) -> Iterable[int]:
    """The tables that the policy rules name for it, in order."""
    for policy in sorted(policies, key=lambda p: p.priority):
        if not _holds(policy, question):
            continue
        if policy.action in _REFUSING:
            raise NoRoute(f"a policy rule says {policy.action}")
        if policy.action == "lookup":
            yield policy.table
        elif policy.action != "nop":
            raise Undecided(f"policy rule {policy.priority} does {policy.action}")


def _holds(policy: PolicyRoute, question: Question) -> bool:
    answers = [
        policy.mark is None or question.mark & policy.mask == policy.mark & policy.mask,
        not policy.destination or _inside(question.dst, policy.destination),
        # What is sent from here counts as from lo; an interface it is bound to is not known.
        not policy.iif or policy.iif == (question.iif or "lo"),
        not policy.oif or policy.oif == question.oif,
    ]
    if policy.source:
        # Before the source is chosen it is none.
        answers.append(question.src is not None and _inside(question.src, policy.source))
    if all(answers):
        answers += [_other(condition, policy, question) for condition in policy.other]
    return all(answers) is not policy.inverted


def _other(condition: str, policy: PolicyRoute, question: Question) -> bool:
    name, _, text = condition.partition(" ")
    values = {
        "uidrange": _uid(question),
        "ipproto": question.proto,
        "sport": question.sport,
        "dport": question.dport,
    }
    value = values.get(name)
    if name == "suppress_prefixlength" or name not in values or value is None:
        raise Undecided(f"policy rule {policy.priority} asks for {condition}")
    first, _, last = text.partition("-")
    return int(first) <= value <= int(last or first)


def _uid(question: Question) -> int | None:
    """What comes in is nobody's, what no socket sends is root's (net/core/sock.c, sock_net_uid)."""
    if question.inbound:
        return 0xFFFFFFFF
    return question.uid if question.socket else 0


def _inside(number: int, block: str) -> bool:
    cidr, _ = read_cidr(block)
    return number in cidr.values()


def _best(routes: list[Route], table: int, question: Question) -> Route | None:
    found: list[Route] = []
    rank = (-1, 0)
    for route in routes:
        if route.table != table or (question.oif and route.link not in ("", question.oif)):
            continue
        cidr, _ = read_cidr(route.destination)
        if question.dst not in cidr.values():
            continue
        here = (cidr.length, -route.metric)
        if here > rank:
            found, rank = [route], here
        elif here == rank:
            found.append(route)
    ways = {(route.link, route.gateway) for route in found}
    if len(ways) > 1 and len({route.link for route in found}) > 1:
        raise Undecided("several routes share such packets")
    return found[0] if found else None


def _source(snapshot: Snapshot, question: Question, route: Route) -> str:
    """The address that the kernel would choose; "" where that cannot be told.

    net/ipv4/devinet.c, inet_select_addr: the one whose network has the next hop, or the first.
    """
    if question.family is Family.IP6:
        usable = [a for a in _of(snapshot, route.link, "ip6") if a.scope == "global"]
        return usable[0].address if len(usable) == 1 else ""
    usable = [a for a in _of(snapshot, route.link, "ip") if a.scope == "global"]
    hop = read_address(route.gateway)[1] if route.gateway else question.dst
    for address in usable:
        if _inside(hop, f"{address.address}/{address.length}"):
            return address.address
    return usable[0].address if usable else ""


def _of(snapshot: Snapshot, link: str, family: str) -> list[InterfaceAddress]:
    return [a for a in snapshot.addresses if a.link == link and a.family == family]
