"""Packets at random near what rules ask for, and rulesets with one mistake in them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import islice

from meshnet.model.frozen import replace
from meshnet.model.intervals import IntervalSet
from meshnet.model.packet import TCP, UDP, Family, Field, Packet
from meshnet.model.rule import Rule
from meshnet.model.ruleset import Ruleset
from meshnet.model.verdict import Journey, Verdict
from meshnet.reason.action import is_loopback
from meshnet.reason.behaviour import Side
from meshnet.reason.symbolic.fate import CAPTURED, DROPPED
from meshnet.reason.symbolic.names import Names, names_of
from meshnet.reason.symbolic.world import PORTED, STATES
from meshnet.reason.walk import Walker

FAMILIES = (Family.IP, Family.IP6)
HOOKS = ("output", "prerouting")


class Crowd:
    """Draws packets whose values lie at the bounds that the rules of some sides know, and beside.

    Half of them are first packets of TCP, so that rules are met at all.
    """

    def __init__(self, rng: random.Random, *sides: Side) -> None:
        self.rng = rng
        tables = [table for side in sides for table in side.program().tables]
        self.names = Names(values for table in tables for values in names_of([table]))
        self._values: dict[Field, list[int]] = {field: [0, 1] for field in Field}
        for table in tables:
            for code in table.codes.values():
                for line in code.lines:
                    for match in line.matches:
                        if isinstance(match.values, IntervalSet):
                            for first, last in match.values:
                                near = (first - 1, first, last, last + 1)
                                self._values[match.field] += [n for n in near if n >= 0]

    def packets(self, count: int) -> Iterator[tuple[Packet, str, bool]]:
        """As many packets, with the hook where each begins, and whether it is for here."""
        for _ in range(count):
            yield self.packet(self.rng.choice(HOOKS), self.rng.choice(FAMILIES))

    def packet(self, hook: str, family: Family) -> tuple[Packet, str, bool]:
        """One packet, as there can be one at ``hook``."""
        rng, usual = self.rng, self.rng.random() < 0.5
        proto = TCP if usual else rng.choice((TCP, UDP, 1, 58, 132, self._near(Field.PROTO, 8)))
        ported = proto in PORTED
        ports = [self._near(f, 16) if ported else None for f in (Field.SPORT, Field.DPORT)]
        bits = 32 if family is Family.IP else 128
        src, dst = (self._near(field, bits) for field in (Field.SRC, Field.DST))
        state = "new" if usual else rng.choice(STATES)
        mark = 0 if usual else self._near(Field.MARK, 32)
        ctmark = 0 if state == "new" else self._near(rng.choice((Field.MARK, Field.CTMARK)), 32)
        links = self.names.members
        if hook == "output":
            owned = rng.random() < 0.9
            uid, gid = (self._near(f, 32) % 0xFFFFFFFF for f in (Field.UID, Field.GID))
            owner = (uid, gid) if owned else (None, None)
            oif = "lo" if rng.random() < 0.4 else rng.choice(links[1:])
            packet = Packet(family, proto, src, dst, *ports, None, oif, *owner, mark, ctmark, state)
            return packet, hook, True
        local = rng.random() < 0.7
        iif = rng.choice([name for name in links if name not in ("", "lo")])
        out = None if local else rng.choice([name for name in links if name not in ("", "lo")])
        packet = Packet(family, proto, src, dst, *ports, iif, out, None, None, mark, ctmark, state)
        return packet, hook, local

    def _near(self, field: Field, bits: int) -> int:
        last = (1 << bits) - 1
        if self.rng.random() < 0.7:
            fitting = [value for value in self._values[field] if value <= last]
            return self.rng.choice(fitting)
        return self.rng.choice((self.rng.randint(0, last), 1000 & last))


def fate(journey: Journey) -> object:
    """What two sides have to have in common; of an undecided journey all that may be."""
    fates = journey.fates or (journey,)
    drawn = [each for each in fates if each.verdict is Verdict.MAYBE]
    return frozenset((outcome(each), *_sent(each)) for each in fates), bool(drawn)


def _sent(journey: Journey) -> tuple[int | None, ...]:
    """Where a packet that is let go is sent to."""
    left = journey.packet
    return (left.dst, left.dport) if outcome(journey) == 0 else ()


def outcome(journey: Journey) -> int:
    """A decided journey's fate as the proof numbers it."""
    if journey.verdict is Verdict.DROPPED:
        return DROPPED
    return CAPTURED | journey.port if journey.verdict is Verdict.CAPTURED else 0


def there_is(packet: Packet) -> bool:
    """Whether there can be such a packet, as diff thinks of them.

    Conntrack lets nothing but ICMPv6 be by itself; what is for loopback leaves by lo.
    """
    if packet.ctstate == "untracked" and (packet.family, packet.proto) != (Family.IP6, 58):
        return False
    leaves = packet.iif is None and packet.oif != "lo"
    return not (leaves and is_loopback(packet.family, packet.dst))


def disagreements(one: Side, other: Side, seed: int, count: int) -> list[Packet]:
    """Packets, of ``count`` random ones that there can be, that the walk gives different fates."""
    walkers: tuple[Walker, Walker] = (one.walker(), other.walker())
    found = []
    crowd = Crowd(random.Random(seed), one, other).packets(4 * count)
    real = (each for each in crowd if there_is(each[0]))
    for packet, hook, local in islice(real, count):
        fates = [fate(walker.walk(packet, hook, local=local)) for walker in walkers]
        if fates[0] != fates[1]:
            found.append(packet)
    return found


MISTAKES = ("swap", "drop", "turn")


def mistaken(
    rulesets: Mapping[str, Ruleset], mistake: str, rng: random.Random
) -> dict[str, Ruleset] | None:
    """``rulesets`` with two rules swapped, one dropped, or one negation turned; None: too few."""
    places = [
        (backend, t, c)
        for backend, ruleset in rulesets.items()
        for t, table in enumerate(ruleset.tables)
        for c, chain in enumerate(table.chains)
        if len(chain.rules) > (mistake == "swap")
    ]
    if not places:
        return None
    backend, t, c = rng.choice(places)
    table = rulesets[backend].tables[t]
    rules = list(table.chains[c].rules)
    at = rng.randrange(len(rules) - (mistake == "swap"))
    if mistake == "swap":
        rules[at], rules[at + 1] = rules[at + 1], rules[at]
    elif mistake == "drop":
        del rules[at]
    elif not rules[at].matches:
        return None
    else:
        rules[at] = _turned(rules[at], rng)
    chains = list(table.chains)
    chains[c] = replace(chains[c], rules=tuple(rules))
    tables = list(rulesets[backend].tables)
    tables[t] = replace(table, chains=tuple(chains))
    return {**rulesets, backend: Ruleset(tuple(tables))}


def _turned(rule: Rule, rng: random.Random) -> Rule:
    at = rng.randrange(len(rule.matches))
    matches = list(rule.matches)
    matches[at] = matches[at].inverted()
    return replace(rule, matches=tuple(matches))
