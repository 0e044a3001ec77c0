"""From settings, wherever they were written, to a CaptureSpec."""

from __future__ import annotations

from meshnet.errors import UsageError
from meshnet.model.frozen import dataclass, replace
from meshnet.model.intervals import IntervalSet
from meshnet.model.spec import (
    OUTBOUND_MARK,
    CaptureSpec,
    Cidr,
    Inbound,
    IPv6,
    PortsForUids,
    Profile,
)
from meshnet.model.values import (
    LAST_ID,
    Value,
    read_block,
    read_bool,
    read_choice,
    read_cidrs,
    read_ids,
    read_interfaces,
    read_number,
    read_port,
    read_ports,
    read_span,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    #: Some fields of a CaptureSpec.
    Fields = dict[str, Any]

#: What profile classic can be told; these two alone select it.
CLASSIC_SETTINGS = frozenset({"envoy-port", "proxy-uid"})
#: Istio's default where neither a UID nor a known user is named.
DEFAULT_UID = "1337"
#: Istio's limit: one rule holds all of them (tools/common/config/validation.go).
MOST_GROUPS = 64
#: Routing tables that are the system's own (include/uapi/linux/rtnetlink.h).
SYSTEM_TABLES = (253, 254, 255)
_IPV6 = {
    Profile.STRICT: ("capture", "allow", "drop"),
    Profile.ISTIO: ("auto", "on", "off"),
    Profile.CLASSIC: ("auto", "on", "off"),
}


@dataclass(frozen=True)
class Intent:
    """A spec, what is still open until the namespace is seen, and what should be said.

    ``ipv6_auto``: profile istio decides IPv6 by the namespace's addresses;
    ``dual_stack`` makes any IPv6 address count there, not the first address only.
    ``dns_from_resolver``: the servers are those of resolv.conf.
    """

    spec: CaptureSpec
    ipv6_auto: bool = False
    dual_stack: bool = False
    dns_from_resolver: bool = False
    warnings: tuple[str, ...] = ()


def read_intent(
    settings: Mapping[str, Value],
    group_id: Callable[[str], int | None],
    default_uid: Value = Value(DEFAULT_UID, "$ENVOY_USER"),  # noqa: B008 (frozen)
) -> Intent:
    """The intent that ``settings`` (by the flags' long names, given ones only) describe.

    ``group_id`` gives the number of a group's name, or None; ``default_uid`` is the
    proxy's where none is given. Raises UsageError.
    """
    warnings: list[str] = []
    profile = _profile(settings)
    ranges = profile is Profile.STRICT
    spec = replace(
        CaptureSpec(profile=profile),
        **_ports(settings, ranges),
        **_owners(settings, default_uid, ranges),
        **_addresses(settings, warnings),
        **_tproxy(settings),
        **_groups(settings, group_id),
    )
    for key, name in (
        ("istio-exclude-interfaces", "interfaces_excluded"),
        ("kube-virt-interfaces", "virtual_interfaces"),
    ):
        if key in settings:
            named: Fields = {name: read_interfaces(settings[key])}
            spec = replace(spec, **named)
    if "drop-invalid" in settings:
        spec = replace(spec, drop_invalid=read_bool(settings["drop-invalid"]))
    if "exclude-ports-for-uids" in settings:
        spec = replace(spec, ports_for_uids=_ports_for_uids(settings["exclude-ports-for-uids"]))
    _refuse_contradictions(spec, settings)
    _warn(spec, settings, warnings)
    spec, from_resolver = _dns(spec, settings, warnings)
    spec, auto = _ipv6(spec, settings)
    dual = "dual-stack" in settings and read_bool(settings["dual-stack"])
    return Intent(spec, auto, dual, from_resolver, tuple(warnings))


def _profile(settings: Mapping[str, Value]) -> Profile:
    value = settings.get("profile", Value("auto", "--profile"))
    name = read_choice(value, "auto", "classic", "istio", "strict")
    traffic = set(settings) - {"profile"}
    strict_only = traffic & {"exclude-ports-for-uids", "exclude-sources"}
    if name != "strict" and strict_only:
        raise UsageError(f"{settings[sorted(strict_only)[0]].origin} needs --profile strict")
    if name == "auto":
        return Profile.CLASSIC if traffic == CLASSIC_SETTINGS else Profile.ISTIO
    if name == "classic":
        for key in sorted(traffic - CLASSIC_SETTINGS - {"ipv6", "dual-stack"}):
            raise UsageError(
                f"{settings[key].origin}: profile classic knows -p and -u only",
                "leave it out, or --profile istio",
            )
    return Profile(name)


def _ports(settings: Mapping[str, Value], ranges: bool) -> Fields:
    found: Fields = {}
    for key, name in (
        ("envoy-port", "proxy_port"),
        ("inbound-capture-port", "inbound_port"),
        ("inbound-tunnel-port", "tunnel_port"),
    ):
        if key in settings:
            found[name] = read_port(settings[key])
    for key, name, wildcard in (
        ("istio-inbound-ports", "in_ports", True),
        ("istio-local-exclude-ports", "in_ports_excluded", False),
        ("istio-outbound-ports", "out_ports", False),
        ("istio-local-outbound-ports-exclude", "out_ports_excluded", False),
    ):
        if key in settings:
            found[name] = read_ports(settings[key], ranges, wildcard)
    return found


def _owners(settings: Mapping[str, Value], default: Value, ranges: bool) -> Fields:
    """The proxy's ids; an empty one counts as not given, and a GID not given is the UID."""
    uid = settings.get("proxy-uid", default)
    uid = uid if uid.text else default
    gid = settings.get("proxy-gid", uid)
    return {"uids": read_ids(uid, ranges), "gids": read_ids(gid if gid.text else uid, ranges)}


def _addresses(settings: Mapping[str, Value], warnings: list[str]) -> Fields:
    found: Fields = {}
    for key, name, wildcard in (
        ("istio-service-cidr", "out_cidrs", True),
        ("istio-service-exclude-cidr", "out_cidrs_excluded", False),
        ("exclude-sources", "in_sources_excluded", False),
    ):
        if key in settings:
            found[name] = read_cidrs(settings[key], warnings, wildcard)
    if "istio-outbound-ipv4-loopback-cidr" in settings:
        value = settings["istio-outbound-ipv4-loopback-cidr"]
        cidr = read_block(value, value.text, warnings)
        if not cidr.is_loopback() or cidr.bits != 32 or cidr.length < 8:
            raise value.refuse("is not an IPv4 loopback block", "127.0.0.0/8 or part of it")
        found["loopback"] = cidr
    return found


def _tproxy(settings: Mapping[str, Value]) -> Fields:
    found: Fields = {}
    mode = settings.get("istio-inbound-interception-mode")
    if mode is not None:
        found["inbound"] = Inbound(read_choice(mode, "REDIRECT", "TPROXY", "") or "REDIRECT")
    mark = settings.get("istio-inbound-tproxy-mark")
    if mark is not None:
        found["tproxy_mark"] = read_number(mark, 1, 0xFFFFFFFF, "a mark")
        if found["tproxy_mark"] == OUTBOUND_MARK:
            raise mark.refuse("is the mark of the proxy's own calls", "any other")
    table = settings.get("istio-inbound-tproxy-route-table")
    if table is not None:
        found["tproxy_table"] = read_number(table, 1, 0xFFFFFFFF, "a routing table")
        if found["tproxy_table"] in SYSTEM_TABLES:
            raise table.refuse(
                "is the system's own routing table", "any other than 253, 254 and 255"
            )
    return found


def _groups(settings: Mapping[str, Value], group_id: Callable[[str], int | None]) -> Fields:
    include = settings.get("istio-outbound-owner-groups")
    exclude = settings.get("istio-outbound-owner-groups-exclude")
    found: Fields = {}
    if include is not None and include.entries() != ["*"]:
        if "*" in include.entries():
            raise include.refuse("mixes * with groups", "either * or groups")
        if exclude is not None and exclude.entries():
            raise include.refuse(
                f"contradicts {exclude.origin}", "include groups, or exclude some of all"
            )
        if len(include.entries()) > MOST_GROUPS:
            raise include.refuse("has too many groups", f"at most {MOST_GROUPS}")
        found["groups"] = _group_ids(include, group_id)
    if exclude is not None:
        found["groups_excluded"] = _group_ids(exclude, group_id)
    return found


def _group_ids(value: Value, group_id: Callable[[str], int | None]) -> tuple[int, ...]:
    ids = []
    for name in value.entries():
        known = (
            int(name) if name.isascii() and name.isdigit() and len(name) < 12 else group_id(name)
        )
        if known is None or known > LAST_ID:
            raise value.refuse(
                "is no group here", "numbers, or names that this machine knows", name
            )
        ids.append(known)
    return tuple(dict.fromkeys(ids))


def _ports_for_uids(value: Value) -> tuple[PortsForUids, ...]:
    """``PORTS:UIDS`` entries separated by blanks, as the config file's list is joined."""
    found = []
    for entry in value.text.split():
        ports_text, _, uids_text = entry.partition(":")
        part = Value(ports_text, value.origin)
        ports = read_ports(part, ranges=True, wildcard=True)
        spans = [
            read_span(value, u, "-", LAST_ID, "a numeric id") for u in uids_text.split(",") if u
        ]
        if not ports or not spans:
            raise value.refuse("names no ports or no uids", "both", entry)
        found.append(PortsForUids(ports.values(), IntervalSet.of(*spans)))
    return tuple(found)


def _refuse_contradictions(spec: CaptureSpec, settings: Mapping[str, Value]) -> None:
    for wanted, kept, one, other in (
        (spec.in_ports, spec.in_ports_excluded, "istio-inbound-ports", "istio-local-exclude-ports"),
        (
            spec.out_ports,
            spec.out_ports_excluded,
            "istio-outbound-ports",
            "istio-local-outbound-ports-exclude",
        ),
    ):
        if wanted.every or not wanted or not kept:
            continue
        both = wanted.values().intersection(kept.values())
        if both.spans:
            port = str(both.spans[0][0])
            raise settings[one].refuse(
                f"contradicts {settings[other].origin}",
                "a port is included or excluded, not both",
                port,
            )
    if spec.profile is Profile.STRICT:
        for cidr in spec.out_cidrs.items:
            if cidr in spec.out_cidrs_excluded.items:
                where = settings["istio-service-exclude-cidr"].origin
                raise settings["istio-service-cidr"].refuse(
                    f"contradicts {where}", "a block is included or excluded, not both", str(cidr)
                )


def _warn(spec: CaptureSpec, settings: Mapping[str, Value], warnings: list[str]) -> None:
    if spec.profile is Profile.ISTIO and spec.in_ports_excluded and not spec.in_ports.every:
        origin = settings["istio-local-exclude-ports"].origin
        warnings.append(f"{origin} is ignored: it counts only with -b '*', as in Istio")
    if spec.groups == ():
        origin = settings["istio-outbound-owner-groups"].origin
        warnings.append(f"{origin} names no group: nothing outbound is captured")


def _dns(
    spec: CaptureSpec, settings: Mapping[str, Value], warnings: list[str]
) -> tuple[CaptureSpec, bool]:
    wanted = "redirect-dns" in settings and read_bool(settings["redirect-dns"])
    everything = "capture-all-dns" in settings and read_bool(settings["capture-all-dns"])
    named = settings.get("dns-server")
    servers: list[Cidr] = []
    for part in named.entries() if named is not None else ():
        cidr = read_block(named, part, warnings) if named is not None else None
        if cidr is None or cidr.length != cidr.bits:
            raise settings["dns-server"].refuse(
                "is not the address of a server", "an IPv4 or IPv6 address", part
            )
        servers.append(cidr)
    if not wanted:
        if everything or servers:
            warnings.append("DNS is not captured: that takes --redirect-dns")
        return spec, False
    if everything:
        return replace(spec, dns=True, dns_servers=None), False
    if named is not None:
        return replace(spec, dns=True, dns_servers=tuple(dict.fromkeys(servers))), False
    return replace(spec, dns=True), True


def _ipv6(spec: CaptureSpec, settings: Mapping[str, Value]) -> tuple[CaptureSpec, bool]:
    allowed = _IPV6[spec.profile]
    value = settings.get("ipv6")
    choice = allowed[0]
    if value is not None:
        if value.text not in allowed:
            other = next((p.value for p, c in _IPV6.items() if value.text in c), "")
            why = f"belongs to profile {other}" if other else "is not known here"
            raise value.refuse(why, f"profile {spec.profile.value} takes {', '.join(allowed)}")
        choice = value.text
    if spec.profile is Profile.STRICT:
        return replace(spec, ipv6=IPv6(choice)), False
    on = {"on": IPv6.CAPTURE, "off": IPv6.OFF, "auto": IPv6.OFF}[choice]
    return replace(spec, ipv6=on), choice == "auto" and spec.profile is Profile.ISTIO
