"""Sources of rules, made ready for questions about every packet."""

from __future__ import annotations

from meshnet.compile import compile_spec
from meshnet.errors import ParseError
from meshnet.model.packet import Family
from meshnet.model.plumbing import PolicyRule
from meshnet.model.spec import Form
from meshnet.ops.sources import FORMS, Source
from meshnet.reason.behaviour import Side
from meshnet.reason.drift import drift
from meshnet.reason.named_sets import named_sets
from meshnet.reason.routing import Routing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.spec import CaptureSpec


def side_of(source: Source) -> Side:
    """The rules of ``source`` with what is known around them."""
    addresses = {}
    if source.snapshot is not None:
        addresses = Routing(source.snapshot).primaries(source.snapshot)
    rulesets = {name: held for name, held in source.rulesets.items() if held.tables}
    return Side(rulesets, addresses, _marks_route(source), named_sets(source.dumps))


def _marks_route(source: Source) -> bool:
    """Whether a mark may lead elsewhere: not where every policy rule is known, and none asks."""
    if source.spec is not None:
        return any(isinstance(part, PolicyRule) for part in source.plumbing)
    snapshot = source.snapshot
    if snapshot is None or "routes" not in snapshot.sections or not snapshot.policies:
        return True
    return any(policy.mark is not None for policy in snapshot.policies)


def specs_of(source: Source) -> dict[str, CaptureSpec]:
    """What is meant, by backend: the spec itself, or the one that our rules come closest to."""
    if source.spec is not None:
        return dict.fromkeys(source.rulesets, source.spec)
    found = {}
    for backend, ruleset in source.rulesets.items():
        one = drift(ruleset, Form.NFT if backend == "nft" else Form.IPTABLES)
        if one is not None:
            found[backend] = one.spec
    return found


def meant_by(source: Source) -> Side | None:
    """The rules that the spec of ``source`` compiles to, alone; None where there is no spec."""
    specs = specs_of(source)
    if not specs:
        return None
    side = side_of(source)
    rulesets = {name: compile_spec(spec, FORMS[name]) for name, spec in specs.items()}
    return Side(rulesets, side.addresses, side.marks_route)


def check(source: Source, side: Side) -> None:
    """Raise ParseError, with the name of ``source``, for rules that no packet can walk through."""
    try:
        side.program()
    except ParseError as e:
        raise ParseError(f"{source.name}: {e.message}", e.hint) from e


def is_whole(source: Source) -> bool:
    """Whether all rules could be read; what is proven of some is not proven of all."""
    gaps = source.snapshot.gaps if source.snapshot is not None else ()
    return all(gap.section != "rules" for gap in gaps)


def ipv6_up(source: Source) -> bool:
    """Whether IPv6 may leave: not where the addresses are known and none of IPv6 is global."""
    snapshot = source.snapshot
    if snapshot is None or not snapshot.addresses:
        return True
    down = {link.name for link in snapshot.links if link.loopback or not link.up}
    return any(
        address.family == Family.IP6.value
        and address.scope == "global"
        and address.link not in down
        for address in snapshot.addresses
    )
