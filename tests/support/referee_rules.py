"""The rules that the referee plays with: random ones, and those of random configurations.

A game is a name and rulesets by backend; its seed draws all of it.
"""

from __future__ import annotations

from functools import cache
from random import Random
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings

from meshnet.compile import compile_spec
from meshnet.model.frozen import replace
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import Match
from meshnet.model.packet import TCP, Family, Field
from meshnet.model.rule import FULL_MASK, REJECT, RESET, Kind, Rule, Target
from meshnet.model.ruleset import Ruleset
from meshnet.model.spec import CaptureSpec, Profile
from tests.support.cases import CASES
from tests.support.lottery import MARKS, PORTS, Lottery
from tests.support.referee_bench import BY_MARK, PREFIX
from tests.support.specs import specs
from tests.support.walks import FORMS, compiled
from tests.support.wire import SETUPS

#: A configuration's rules on the first backend, somebody else's on the second.
AMONG = (("legacy", "nft"), ("nft-compat", "nft"), ("nft", "legacy"), ("nft", "nft-compat"))
_HALF = "-m statistic --mode random --probability 0.50000000000"
#: Rules of others in iptables' language, by the chains that the kernel takes them in.
_FOREIGN: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (("raw", "mangle", "filter"), (), f"{_HALF} -j DROP"),
    (("mangle", "filter"), (), f"-p tcp -m tcp --dport 80 {_HALF} -j DROP"),
    (("raw", "mangle", "nat", "filter"), (), f"{_HALF} -j RETURN"),
    (("filter",), ("output", "input"), f"-p tcp {_HALF} -j REJECT"),
    (("nat",), ("prerouting", "output"), f"-p tcp {_HALF} -j REDIRECT --to-ports 15001"),
    (("raw",), (), "-p udp -j CT --notrack"),
    (("nat",), ("prerouting", "output"), "-p tcp -j REDIRECT"),
    (("nat",), ("postrouting",), "-p udp -j MASQUERADE"),
    (("nat",), ("output",), "-p tcp -j DNAT --to-destination {loop}:15001"),
    (("nat",), ("prerouting", "output"), "-p udp -j DNAT --to-destination {far}:53"),
)
#: The same in nft's own, in tables of any family.
_FOREIGN_NFT: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (("filter", "route"), (), "counter numgen random mod 2 0 drop"),
    (("filter", "route"), (), "meta l4proto udp numgen random mod 2 0 drop"),
    (("filter", "route", "nat"), (), "counter numgen random mod 2 0 accept"),
    (
        ("nat",),
        ("prerouting", "output"),
        "meta l4proto tcp numgen random mod 2 0 redirect to :15001",
    ),
    (("filter", "route", "nat"), (), "limit rate 100000/second counter return"),
    (("filter",), (), "fib daddr type local counter accept"),
    (("filter",), ("prerouting", "output"), "meta l4proto udp notrack"),
    (("filter", "route"), (), "log group 9 counter"),
    (("filter", "route"), (), "meta mark set meta mark or 0x100"),
    (("filter",), (), "meta l4proto vmap { tcp : accept, udp : continue }"),
    (("nat",), ("postrouting",), "meta l4proto udp masquerade"),
    (("nat",), ("postrouting",), "meta l4proto udp snat {ip} to {own}"),
    (("nat",), ("output",), "meta l4proto tcp dnat {ip} to {loop}:15001"),
    (("nat",), ("prerouting", "output"), "meta l4proto udp dnat {ip} to {far}:53"),
    (("nat",), ("prerouting", "output"), "meta l4proto tcp redirect"),
)


class Game(NamedTuple):
    """Rules to be loaded, and what draws the packets."""

    name: str
    rulesets: dict[str, Ruleset]
    rng: Random


class Draw(Lottery):
    """The lottery with every target of the model, and more rules of others."""

    def target(self, table: str, hook: str, jumps: list[str], native: bool) -> Target | None:
        draw = self.rng.random()
        refuses = table == "filter" and hook in ("input", "forward", "output")
        if refuses and draw < (0.1 if native else 0.06):
            return Target(self.rng.choice((Kind.RESET, Kind.REJECT)))
        if native and table == "filter" and hook in ("prerouting", "output") and draw < 0.14:
            return Target(Kind.ZONE, zone=self.rng.randint(1, 3))
        if native and draw > 0.95:
            return Target(self.rng.choice((Kind.SAVE_MARK, Kind.RESTORE_MARK)))
        found = super().target(table, hook, jumps, native)
        if found is not None and found.kind is Kind.TPROXY:
            # A policy route leads packets with this mark here, also those for other hosts.
            mask = FULL_MASK if native else self.rng.choice((FULL_MASK, BY_MARK | 0xFF))
            return replace(found, mark=BY_MARK | 5, mask=mask)
        return found

    def rule(self, family: Family, table: str, hook: str, jumps: list[str], native: bool) -> Rule:
        if self.maybe(0.07) and (text := self._foreign(family, table, hook, native)):
            return Rule((), None, opaque=text)
        found = super().rule(family, table, hook, jumps, native)
        if not found.opaque:
            found = self._asking_more(found, hook, native)
        if native:
            found = replace(found, matches=_not_both_ports(found.matches))
        if native and found.target == REJECT and family is not Family.INET:
            # Tables of one family have another word for it.
            found = replace(found, target=RESET)
        if found.target is not None and found.target.kind is Kind.RESET:
            return replace(found, matches=_of_tcp(found.matches))
        return found

    def _foreign(self, family: Family, table: str, hook: str, native: bool) -> str:
        pool = _FOREIGN_NFT if native else _FOREIGN
        fit = [t for tables, hooks, t in pool if table in tables and (not hooks or hook in hooks)]
        if not fit:
            return ""
        # In a table of both families a translation is for one of them.
        wide = family is Family.IP6 or (family is Family.INET and self.maybe(0.5))
        places = {"ip": "", "loop": "127.0.0.1", "far": "192.0.2.77", "own": "10.9.0.7"}
        if wide:
            places = {"ip": "", "loop": "[::1]", "far": "[2001:db8::77]", "own": "fd09::7"}
        if family is Family.INET:
            places["ip"] = "ip6" if wide else "ip"
        text = self.rng.choice(fit)
        return text if "vmap" in text else text.format(**places)

    def _asking_more(self, rule: Rule, hook: str, native: bool) -> Rule:
        """Rules with matches that are drawn too seldom else, or are seldom true."""
        rng, fields = self.rng, {match.field for match in rule.matches}
        more: list[Match] = []
        if self.maybe(0.06) and Field.CTMARK not in fields:
            more.append(Match(Field.CTMARK, IntervalSet.of(rng.choice((0, 0, 5))), self.maybe(0.6)))
        if not native:
            return replace(rule, matches=(*rule.matches, *more))
        if self.maybe(0.06) and Field.MARK not in fields:
            more.append(Match(Field.MARK, IntervalSet.of(rng.choice(MARKS)), self.maybe(0.6)))
        if self.maybe(0.04) and Field.OIF not in fields and hook not in ("prerouting", "input"):
            more += [m for m in self.matches(None, "output", False) if m.field is Field.OIF]
        number = next((m for m in rule.matches if m.field is Field.PROTO), None)
        ported = number is not None and not number.negated and self.maybe(0.15)
        if ported and Field.SPORT not in fields:
            ports = self.numbers((*PORTS, (1, 1023), (1024, 65535)), 2)
            more.append(Match(Field.SPORT, ports, self.maybe(0.5)))
        return replace(rule, matches=(*rule.matches, *more)) if more else rule

    def rulesets(self, backends: tuple[str, ...], ties: bool) -> dict[str, Ruleset]:
        """Rules for each backend."""
        found = {}
        for backend in backends:
            if backend == "nft":
                found[backend] = self.nft(ties=ties)
            else:
                parts = [self.iptables(family) for family in PREFIX]
                found[backend] = Ruleset(tuple(t for part in parts for t in part.tables))
        return found


def _not_both_ports(matches: tuple[Match, ...]) -> tuple[Match, ...]:
    """Without two ports that are not one each: nft 1.0.6 makes "not both" of it, and hides it."""
    single = [
        m
        for m in matches
        if m.field in (Field.SPORT, Field.DPORT) and m.negated and len(m.values) == 1
    ]
    if len(single) < 2:
        return matches
    return tuple(m.inverted() if m is single[0] else m for m in matches)


def _of_tcp(matches: tuple[Match, ...]) -> tuple[Match, ...]:
    """Only TCP is reset."""
    tcp = Match(Field.PROTO, IntervalSet.of(TCP))
    if any(m.field is Field.PROTO and not m.negated for m in matches):
        return tuple(tcp if m.field is Field.PROTO else m for m in matches)
    kept = [m for m in matches if m.field is not Field.PROTO]
    at = sum(m.field in (Field.SRC, Field.DST, Field.IIF, Field.OIF) for m in kept)
    return (*kept[:at], tcp, *kept[at:])


def random_game(setup: str, number: int) -> Game:
    """Random rules on the backends of ``setup``."""
    draw = Draw(number)
    backends = SETUPS[setup]
    return Game(f"{setup} {number}", draw.rulesets(backends, len(backends) > 1), draw.rng)


def case_game(case: str, backend: str, number: int) -> Game:
    """The rules of one of CASES."""
    rulesets = compiled(CASES[case], backend)
    return Game(f"{case} on {backend} {number}", rulesets, Random(number))


def spec_game(profile: Profile, backend: str, number: int, at: int) -> Game:
    """The rules of the spec ``at`` of those that ``number`` draws."""
    spec = drawn_specs(profile, number)[at]
    rulesets = {backend: compile_spec(spec, FORMS[backend])}
    return Game(f"{profile.value} on {backend} {number}/{at}", rulesets, Random(number * 1000 + at))


def among_game(pair: tuple[str, str], number: int) -> Game:
    """A random spec's rules on one backend, random rules on another."""
    ours, others = pair
    draw = Draw(number)
    profile = draw.rng.choice(tuple(Profile))
    spec = draw.rng.choice(drawn_specs(profile, number))
    rulesets = {ours: compile_spec(spec, FORMS[ours]), **draw.rulesets((others,), True)}
    return Game(f"{profile.value} on {ours} among {others} {number}", rulesets, draw.rng)


@cache
def drawn_specs(profile: Profile, number: int, count: int = 12) -> list[CaptureSpec]:
    """So many different specs; one seed gives the same ones."""
    found: list[CaptureSpec] = []

    @seed(number)
    @settings(
        max_examples=8 * count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(specs(profile))
    def keep(spec: CaptureSpec) -> None:
        found.append(spec)

    keep()
    # The first ones that are drawn are the simplest.
    return list(dict.fromkeys(found))[-count:]
