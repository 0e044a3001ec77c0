"""What a spec captures of one family, in a sentence for each direction."""

from __future__ import annotations

from meshnet.errors import printable
from meshnet.model.frozen import dataclass
from meshnet.model.packet import Family
from meshnet.model.spec import (
    DNS_PORT,
    DNS_PROXY_PORT,
    CaptureSpec,
    Cidr,
    Form,
    IPv6,
    Ports,
    Profile,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: A sentence has at most this many columns where cutting its lists can do that.
WIDTH = 85
#: As many members of a list are told where there is room, and as few where there is not.
_MEMBERS = (12, 8, 6, 5, 4, 3, 2, 1, 0)
NOT_CAPTURED = "not captured"


@dataclass(frozen=True)
class Sentence:
    """What is said, and the ports that connections are handed to."""

    text: str
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Listed:
    """A list within a sentence.

    ``one`` and ``several`` stand before its members, ``counted`` behind their number where
    there is no room for any; ``end`` closes it.
    """

    members: tuple[str, ...]
    one: str = ""
    several: str = ""
    counted: str = ""
    end: str = ""

    def text(self, most: int) -> str:
        """The first ``most`` members, and how many more there are."""
        number = len(self.members)
        name = self.one if number == 1 else self.several
        if number > 1 and most == 0:
            name = name.removesuffix(self.counted).strip()
            return f"{name} {number} {self.counted}{self.end}".lstrip()
        shown = self.members if number <= most + 1 else self.members[:most]
        more = f" and {number - len(shown)} more" if number > len(shown) else ""
        return f"{name} {', '.join(shown)}{more}{self.end}".lstrip()


def outbound(spec: CaptureSpec, form: Form, family: Family) -> Sentence:
    """What leaves, and is handed to the proxy."""
    if _left_alone(spec, form, family) or spec.groups == ():
        return Sentence(NOT_CAPTURED)
    unseen = family is Family.IP6 and spec.ipv6 is IPv6.OFF
    blocks = () if unseen else spec.out_cidrs.of(family)
    every = spec.profile is Profile.CLASSIC or spec.out_cidrs.every
    every = every or any(block.length == 0 for block in blocks)
    if not (every or blocks or spec.out_ports):
        return Sentence(NOT_CAPTURED)
    only = [] if every else [*_blocks(blocks), *_ports(spec.out_ports)]
    of = [_numbers(spec.groups, "of gid", "of gids", "gids")] if spec.groups else []
    if spec.virtual_interfaces and (spec.out_cidrs or spec.profile is Profile.STRICT):
        of.append(_interfaces(spec.virtual_interfaces, "(and from", ")"))
    excluded = [*_owners(spec), *_ports(spec.out_ports_excluded)]
    for entry in spec.ports_for_uids:
        members = _texts(entry.ports)
        whom = Listed(_texts(entry.uids), "uid", "uids", "uids").text(2)
        excluded.append(Listed(members, "port", "ports", "ports", f" for {whom}"))
    excluded += [] if unseen else _blocks(spec.out_cidrs_excluded.of(family))
    if spec.groups_excluded:
        excluded.append(_numbers(spec.groups_excluded, "gid", "gids", "gids"))
    if spec.interfaces_excluded:
        excluded.append(_interfaces(spec.interfaces_excluded, "by"))
    port = spec.proxy_port
    text = _fit("tcp", of, _done(spec, family, port), only, excluded, "not: ")
    return Sentence(text, _handed(spec, family, port))


def inbound(spec: CaptureSpec, form: Form, family: Family) -> Sentence:
    """What comes in, and is handed to the proxy."""
    if _left_alone(spec, form, family):
        return Sentence(NOT_CAPTURED)
    if spec.profile is Profile.CLASSIC:
        return Sentence(f"tcp to :{spec.proxy_port}", (spec.proxy_port,))
    strict = spec.profile is Profile.STRICT
    # Its own IPv6 rules are not made, and TPROXY has no rule for both families.
    unseen = spec.tproxy and spec.ipv6 is IPv6.OFF and family is Family.IP6
    # Istio's TPROXY has no exemption for the tunnel.
    tunnel = () if spec.tproxy and not strict else ((spec.tunnel_port, spec.tunnel_port),)
    wanted = [span for span in spec.in_ports.items if span not in tunnel]
    if unseen or not (spec.in_ports.every or wanted):
        return Sentence(NOT_CAPTURED)
    only = [] if spec.in_ports.every else _ports(Ports(tuple(wanted)))
    excluded: list[Listed] = []
    if spec.in_ports.every or strict:
        left = [*spec.in_ports_excluded.items, *(t for t in tunnel if spec.in_ports.every)]
        excluded += _ports(Ports(tuple(dict.fromkeys(left))))
    skipped = (*spec.interfaces_excluded, *spec.virtual_interfaces)
    excluded += [_interfaces(dict.fromkeys(skipped), "by")] if skipped else []
    sources = _blocks(spec.in_sources_excluded.of(family))
    excluded += [Listed(found.members, "from", "from", "blocks") for found in sources]
    done = _done(spec, family, spec.inbound_port)
    if spec.tproxy and done.startswith("to"):
        done += f" by TPROXY (mark {spec.tproxy_mark})"
    text = _fit("tcp", [], done, only, excluded, "except ")
    return Sentence(text, _handed(spec, family, spec.inbound_port))


def dns(spec: CaptureSpec, form: Form, family: Family) -> Sentence:
    """What is asked of name servers, and handed to the agent."""
    servers = [s for s in spec.dns_servers or () if s.family is family]
    if _left_alone(spec, form, family) or not spec.captures_dns or spec.groups == ():
        return Sentence(NOT_CAPTURED)
    if spec.dns_servers is not None and (
        not servers or (family is Family.IP6 and spec.ipv6 is IPv6.OFF)
    ):
        return Sentence(NOT_CAPTURED)
    named = Listed(tuple(map(_address, servers)) or ("every server",), "of", "of", "servers")
    done = _done(spec, family, DNS_PROXY_PORT)
    text = _fit(f"udp and tcp {DNS_PORT}", [named], done, [], _owners(spec), "not: ")
    return Sentence(text, _handed(spec, family, DNS_PROXY_PORT))


def _left_alone(spec: CaptureSpec, form: Form, family: Family) -> bool:
    """Whether no rule concerns ``family``.

    Where IPv6 is off, Istio's nft rules that name no family take it all the same.
    """
    if family is Family.IP or spec.ipv6 in (IPv6.CAPTURE, IPv6.DROP):
        return False
    return form is Form.IPTABLES or spec.profile is Profile.STRICT


def _is_refused(spec: CaptureSpec, family: Family) -> bool:
    return family is Family.IP6 and spec.ipv6 is IPv6.DROP


def _done(spec: CaptureSpec, family: Family, port: int) -> str:
    return "refused" if _is_refused(spec, family) else f"to :{port}"


def _handed(spec: CaptureSpec, family: Family, port: int) -> tuple[int, ...]:
    return () if _is_refused(spec, family) else (port,)


def _owners(spec: CaptureSpec) -> list[Listed]:
    """Who is left alone; profile classic knows no groups."""
    owners = [("uid", "uids", spec.uids), ("gid", "gids", spec.gids)]
    if spec.profile is Profile.CLASSIC:
        del owners[1]
    return [Listed(_texts(spans), one, many, many) for one, many, spans in owners if spans]


def _ports(ports: Ports) -> list[Listed]:
    return [Listed(_texts(ports.items), "port", "ports", "ports")] if ports.items else []


def _blocks(blocks: Iterable[Cidr]) -> list[Listed]:
    texts = tuple(_address(block) for block in blocks)
    return [Listed(texts, counted="blocks")] if texts else []


def _numbers(numbers: Iterable[int], one: str, several: str, counted: str) -> Listed:
    return Listed(tuple(map(str, numbers)), one, several, counted)


def _interfaces(names: Iterable[str], word: str, end: str = "") -> Listed:
    return Listed(tuple(printable(n) for n in names), word, word, "interfaces", end)


def _address(block: Cidr) -> str:
    text = str(block)
    return text.rpartition("/")[0] if block.length == block.bits else text


def _texts(spans: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    return tuple(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def _fit(
    what: str,
    of: Sequence[Listed],
    done: str,
    only: Sequence[Listed],
    excluded: Sequence[Listed],
    but: str,
) -> str:
    """The sentence with lists as long as the width allows, the last ones counted only."""
    text = ""
    separator = "; " if but.startswith("not") or only else ", "
    for most, kept in [*((most, len(excluded)) for most in _MEMBERS), *_fewer(len(excluded))]:
        text = " ".join([what, *(listed.text(most) for listed in of), done])
        if only:
            text += ", only " + " or ".join(listed.text(most) for listed in only)
        told = [listed.text(most) for listed in excluded[:kept]]
        if kept < len(excluded):
            told.append(f"{len(excluded) - kept} more exceptions")
        if excluded:
            text += separator + but + ", ".join(told) if kept else "; with exceptions"
        if len(text) <= WIDTH:
            break
    return text


def _fewer(number: int) -> list[tuple[int, int]]:
    """No members at all, and of ``number`` lists always fewer; one list is not worth a count."""
    return [(0, kept) for kept in range(number - 2, -1, -1)]
