"""From the rules that a kernel holds back to the spec that they were made from.

Each profile reads its own rules (:mod:`decompile_istio`, :mod:`decompile_strict`); the spec
whose rules differ least from those that are there is taken. Rules may be missing, extra or
swapped: what most of them say counts then.
"""

from __future__ import annotations

from meshnet.compile.comparison import Alignment, compare, compiled, count_differences
from meshnet.compile.decompile_istio import read_classic, read_istio
from meshnet.compile.decompile_strict import read_strict
from meshnet.compile.evidence import Evidence
from meshnet.compile.holdings import find_holdings, holds_any
from meshnet.model.frozen import dataclass, replace
from meshnet.model.ruleset import Ruleset
from meshnet.model.spec import CaptureSpec, Form, Inbound, IPv6, Ports, Profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshnet.compile.holdings import ChainPlace, Holding

#: How many other specs are tried where the first one is not the whole truth.
_TRIALS = 24
_RULES_TRIED = 10_000
_FEW = 4


@dataclass(frozen=True)
class Decompiled:
    """The closest spec.

    The spec need not be the one that the rules were made from, where several have the same
    rules: values that no rule shows (a routing table, an exclusion that does not count)
    are the defaults. ``alignments`` hold what is there beside what the spec wants.
    """

    spec: CaptureSpec
    form: Form
    alignments: dict[ChainPlace, Alignment]

    @property
    def wanted(self) -> Ruleset:
        """What the spec compiles to."""
        return compiled(self.spec, self.form)[0]

    @property
    def differences(self) -> int:
        """How many rules are missing, extra or out of order."""
        return count_differences(self.alignments)


def decompile(held: Ruleset, form: Form) -> Decompiled | None:
    """The profile and the spec that our part of ``held`` comes closest to; None: nothing is ours.

    ``held`` is a whole dump: foreign rules in it do not matter.
    """
    holdings = find_holdings(held, form)
    if not holds_any(holdings):
        return None
    evidence = Evidence(holdings, form)
    best: Decompiled | None = None
    for spec in _first_guesses(evidence):
        best = _better(best, spec, holdings, form)
        if best.differences == 0:
            return best
    # A chain that somebody filled with thousands of rules is not compiled over and over.
    left = min(_TRIALS, _RULES_TRIED // max(sum(len(h.ours) for h in holdings.values()), 1))
    while best is not None:
        before = best
        for spec in _variations(before.spec):
            left -= 1
            if left < 0:
                return best
            best = _better(best, spec, holdings, form)
            if best.differences == 0:
                return best
        if best is before:
            return best
    return None


def _better(
    best: Decompiled | None, spec: CaptureSpec, holdings: dict[ChainPlace, Holding], form: Form
) -> Decompiled:
    found = Decompiled(spec, form, compare(holdings, spec, form))
    return found if best is None or found.differences < best.differences else best


def _first_guesses(e: Evidence) -> Iterator[CaptureSpec]:
    """What each profile that may have made the rules reads from them, the likeliest first."""
    names = {
        (table.rpartition("-")[0] or chain.partition("_")[0]).partition("-")[0].lower()
        for _, table, chain in e.holdings
    }
    strict, istio = "meshnet" in names, "istio" in names
    if istio or not strict:
        readers = [read_istio, read_classic]
        yield from (r(e) for r in (reversed(readers) if _looks_classic(e) else readers))
    if strict:
        yield read_strict(e)


def _looks_classic(e: Evidence) -> bool:
    return not e.has("nat", "ISTIO_IN_REDIRECT", "ISTIO_INBOUND")


def _variations(spec: CaptureSpec) -> Iterator[CaptureSpec]:
    """Specs that make much the same rules; rules that got lost may hide which one it was."""
    for policy in _policies(spec):
        yield replace(spec, ipv6=policy)
    if spec.profile is Profile.CLASSIC:
        return
    if not spec.in_ports:
        yield replace(spec, in_ports=Ports(every=True))
    else:
        yield replace(spec, in_ports=Ports())
    if not spec.out_cidrs:
        yield replace(spec, out_cidrs=replace(spec.out_cidrs, every=True))
    elif spec.out_cidrs.items and all(
        c.length == 0 or c.is_loopback() for c in spec.out_cidrs.items
    ):
        yield replace(spec, out_cidrs=replace(spec.out_cidrs, items=(), every=True))
    if spec.groups is not None:
        yield replace(spec, groups=None)
    if spec.dns:
        yield replace(spec, dns=False, dns_servers=())
    if spec.dns_servers is not None:
        yield replace(spec, dns=True, dns_servers=None)
    other = Inbound.TPROXY if spec.inbound is Inbound.REDIRECT else Inbound.REDIRECT
    yield replace(spec, inbound=other)
    for ports in _without_one(spec.out_ports_excluded):
        yield replace(spec, out_ports_excluded=ports)
    for ports in _without_one(spec.in_ports_excluded):
        yield replace(spec, in_ports_excluded=ports)
    yield replace(spec, interfaces_excluded=())
    yield replace(spec, virtual_interfaces=())


def _policies(spec: CaptureSpec) -> list[IPv6]:
    if spec.profile is Profile.STRICT:
        return [p for p in (IPv6.CAPTURE, IPv6.ALLOW, IPv6.DROP) if p is not spec.ipv6]
    return [IPv6.OFF if spec.ipv6 is IPv6.CAPTURE else IPv6.CAPTURE]


def _without_one(ports: Ports) -> Iterator[Ports]:
    """One port less: a rule that somebody put in by hand looks like an excluded port."""
    if len(ports.items) <= _FEW:
        for item in ports.items:
            yield Ports(tuple(other for other in ports.items if other != item))
