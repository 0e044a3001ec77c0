"""MN110: rules of others that decide over what ours would capture."""

from __future__ import annotations

from meshnet.compile.ownership import OWN_TABLES, own_part
from meshnet.model.drift import Drift
from meshnet.model.finding import Finding
from meshnet.model.frozen import dataclass, replace
from meshnet.model.packet import Packet
from meshnet.model.rule import Kind, Rule
from meshnet.model.ruleset import Chain, Ruleset, Table
from meshnet.model.verdict import Journey, Place, Step, Verdict
from meshnet.reason.findings.packets import incoming, outgoing, witness
from meshnet.reason.findings.reached import Standing, captures
from meshnet.reason.findings.readable import read_rule, translates
from meshnet.reason.findings.report import packet_in_words, report, step_in_words
from meshnet.reason.findings.scene import FAMILIES, OUTPUT, PREROUTING, Scene

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DECIDING = frozenset({Kind.ACCEPT, Kind.RETURN, Kind.REDIRECT, Kind.TPROXY})
_LETS_GO = frozenset({Kind.ACCEPT, Kind.RETURN})
_GOING = frozenset({Kind.JUMP, Kind.GOTO})
_ESCAPES = frozenset({Verdict.DIRECT, Verdict.BYPASSED, Verdict.CAPTURED})
_HOOKS = (OUTPUT, PREROUTING)
#: Tables in which a verdict of "accept" or "return" takes nothing away from a capture by nat.
_HARMLESS = frozenset({"filter", "raw", "security"})


@dataclass(frozen=True)
class Suspect:
    """A foreign rule that could decide, with the rules that lead to it from ``hook``."""

    hook: str
    table: Table
    path: tuple[Rule, ...]


def overruling(scene: Scene) -> Iterator[Finding]:
    """MN110, one for each foreign rule that takes a packet which ours alone would capture."""
    if not scene.has_own or not _has_foreign(scene):
        return
    ours = scene.walker_of(ours_alone(scene.rulesets, scene.drifts))
    extra = extra_places(scene.drifts)
    seen: dict[str, list[tuple[Packet, Journey, Journey]]] = {}
    deciders: dict[str, Step] = {}
    for hook, packet in _packets(scene):
        wanted = ours.walk(packet, hook)
        if wanted.verdict is not Verdict.CAPTURED:
            continue
        journey = scene.walker.walk(packet, hook)
        step = journey.decider
        if step is None or journey.verdict not in _ESCAPES or _alike(journey, wanted):
            continue
        if not step.ours or _key(step.place) in extra:
            seen.setdefault(str(step.place), []).append((packet, wanted, journey))
            deciders[str(step.place)] = step
    for place, taken in seen.items():
        yield _overruling(deciders[place], taken)


def _has_foreign(scene: Scene) -> bool:
    """Whether a hook runs any rule that is not ours, or was added to ours."""
    extra = extra_places(scene.drifts)
    return bool(extra) or any(
        not standing.ours and len(standing.positions) < len(standing.chain.rules)
        for standing in scene.standings
        if not standing.hooks.isdisjoint(_HOOKS)
    )


def _alike(journey: Journey, wanted: Journey) -> bool:
    return journey.verdict is Verdict.CAPTURED and journey.port == wanted.port


def _overruling(step: Step, taken: list[tuple[Packet, Journey, Journey]]) -> Finding:
    packet, wanted, journey = taken[0]
    becomes = f"captured by :{journey.port}" if journey.port else "not captured"
    return report(
        "MN110",
        f"{step.place} is not ours, and decides before our rules are asked",
        [
            step_in_words(step),
            f"by our rules alone captured by :{wanted.port}: {packet_in_words(packet)}",
            f"by all rules {becomes}",
        ],
    )


def ours_alone(rulesets: Mapping[str, Ruleset], drifts: Mapping[str, Drift]) -> dict[str, Ruleset]:
    """Our rules alone, without what was added to our chains."""
    extra = extra_places(drifts)
    found = {}
    for backend, ruleset in rulesets.items():
        cleaned = _without(backend, ruleset, extra)
        if backend == "nft":
            tables = tuple(t for t in cleaned.tables if t.name in OWN_TABLES)
            found[backend] = Ruleset(tables)
        else:
            found[backend] = own_part(cleaned)
    return found


def extra_places(drifts: Mapping[str, Drift]) -> frozenset[tuple[str, str, str, str, int]]:
    """Rules that somebody added to our chains to let something go.

    Only where nothing of the profile is missing: rules of another version are no additions.
    """
    return frozenset(
        (backend, p.family.value, p.table, p.chain, p.position)
        for backend, drift in drifts.items()
        if not drift.missing
        for p in drift.extra
        if p.rule.target is not None and p.rule.target.kind in _LETS_GO
    )


def _key(place: Place) -> tuple[str, str, str, str, int]:
    return place.backend, place.family.value, place.table, place.chain, place.position


def _without(
    backend: str, ruleset: Ruleset, extra: frozenset[tuple[str, str, str, str, int]]
) -> Ruleset:
    def kept(table: Table, chain: Chain) -> Chain:
        rules = tuple(
            rule
            for position, rule in enumerate(chain.rules, 1)
            if (backend, table.family.value, table.name, chain.name, position) not in extra
        )
        return replace(chain, rules=rules) if len(rules) != len(chain.rules) else chain

    return Ruleset(
        tuple(replace(t, chains=tuple(kept(t, c) for c in t.chains)) for t in ruleset.tables)
    )


def _packets(scene: Scene) -> Iterator[tuple[str, Packet]]:
    """What foreign rules could take: a packet for each of them, and one that nobody names."""
    plain = {
        (hook, family): (outgoing if hook == OUTPUT else incoming)(scene.ground(family))
        for hook in _HOOKS
        for family in FAMILIES
    }
    for captured in scene.captured:
        yield captured.hook, captured.packet
    seen = set()
    made = 0
    for suspect in _suspects(scene):
        for family in FAMILIES:
            if not suspect.table.family.covers(family) or not scene.is_up(family):
                continue
            packet = witness(plain[suspect.hook, family], suspect.path)
            if (suspect.hook, packet) in seen or not scene.goes_outside(packet, suspect.hook):
                continue
            seen.add((suspect.hook, packet))
            yield suspect.hook, packet
            made += 1
            if made >= scene.most // 2:
                return


def _suspects(scene: Scene) -> Iterator[Suspect]:
    """Foreign rules that decide, in the order of the dumps; in front of ours, or elsewhere."""
    extra = extra_places(scene.drifts)
    by_table: dict[tuple[str, str, str], dict[str, Standing]] = {}
    for standing in scene.standings:
        key = (standing.backend, standing.table.family.value, standing.table.name)
        by_table.setdefault(key, {})[standing.chain.name] = standing
    for chains in by_table.values():
        for base in chains.values():
            if base.chain.hook in _HOOKS:
                yield from _of_base(base, chains, extra)


def _of_base(
    base: Standing,
    chains: Mapping[str, Standing],
    extra: frozenset[tuple[str, str, str, str, int]],
) -> Iterator[Suspect]:
    if base.table.name in _HARMLESS and base.backend != "nft":
        return
    left: list[tuple[Standing, tuple[Rule, ...]]] = [(base, ())]
    seen = {base.chain.name}
    while left:
        standing, path = left.pop(0)
        for position, rule in enumerate(standing.chain.rules):
            target = rule.target
            if rule.opaque:
                matches, effects, family = read_rule(standing, rule)
                here = (*path, Rule(matches, target, family))
                if translates(effects) and not standing.owns(position):
                    yield Suspect(base.chain.hook, base.table, here)
                    continue
            else:
                here = (*path, rule)
            if target is None:
                continue
            place = _key(_place(standing, position + 1))
            if target.kind in _DECIDING and (not standing.owns(position) or place in extra):
                if not rule.opaque and _could_take(rule, base):
                    yield Suspect(base.chain.hook, base.table, here)
            elif target.kind in _GOING and target.chain in chains and target.chain not in seen:
                seen.add(target.chain)
                left.append((chains[target.chain], here))


def _could_take(rule: Rule, base: Standing) -> bool:
    """In a table of its own an accept ends nothing but that table; a redirect does."""
    own_table = bool(base.ours or base.positions)
    return own_table or captures(rule) or base.chain.kind in ("", "nat")


def _place(standing: Standing, position: int) -> Place:
    return Place(
        standing.backend,
        standing.table.family,
        standing.table.name,
        standing.chain.name,
        position,
    )
