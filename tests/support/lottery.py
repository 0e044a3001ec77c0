"""Random rulesets that a kernel takes, and random packets that they are likely to ask about.

Unlike :mod:`tests.support.strategies`, which draws whatever a dialect has words for, the
values come from small pools, so that rules hold often, and every rule may stand where it is.
"""

from __future__ import annotations

from random import Random
from typing import Any

from meshnet.model.address import read_address, read_cidr
from meshnet.model.intervals import IntervalSet, NameSet
from meshnet.model.match import Match
from meshnet.model.packet import TCP, UDP, Family, Field, Packet
from meshnet.model.rule import FULL_MASK, Kind, Rule, Target
from meshnet.model.ruleset import Chain, Ruleset, Table

ICMP = {Family.IP: 1, Family.IP6: 58}
OWN = {Family.IP: "10.9.0.1", Family.IP6: "fd09::1"}
LOCAL = {Family.IP: ("10.9.0.1", "127.0.0.1", "127.0.0.9"), Family.IP6: ("fd09::1", "::1")}
REMOTE = {
    Family.IP: ("192.0.2.10", "198.51.100.7", "10.0.0.5"),
    Family.IP6: ("2001:db8::10", "2001:db8:51::7"),
}
ELSEWHERE = {Family.IP: "203.0.113.9", Family.IP6: "2001:db8:9::9"}
BLOCKS = {
    Family.IP: (
        *("10.9.0.1/32", "127.0.0.0/8", "127.0.0.1/32", "192.0.2.0/24", "10.0.0.0/8"),
        *("0.0.0.0/1", "203.0.113.9/32"),
    ),
    Family.IP6: ("fd09::1/128", "::1/128", "2001:db8::/32", "2001:db8::10/128", "8000::/1"),
}
PORTS = (53, 80, 443, 15001, 15006)
SPANS = (*PORTS, (1, 1023), (1024, 65535), (400, 500), (15000, 15100))
IDS = (0, 1000, 1337, 2001)
ID_SPANS = (*IDS, (1000, 1999), (0, 65535))
MARKS = (0, 5, 0x105, 1337)
MASKS = (None, None, 0xFF, 0x100, 0xFFFF)
LINKS = ("lo", "v0", "v+", "eth7")
STATES = ("new", "invalid", "established", "related", "untracked")
TO = (15001, 15006, 15053)
TPROXY_PORT = 15006
HOOKS = {
    "PREROUTING": "prerouting",
    "INPUT": "input",
    "FORWARD": "forward",
    "OUTPUT": "output",
    "POSTROUTING": "postrouting",
}
TABLES = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": tuple(HOOKS),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
LEAVING = ("output", "postrouting")
#: Rules of others that a walk can follow all the same.
FOREIGN = (
    "-j LOG --log-prefix x",
    "-p {proto} -j LOG",
    "-p {proto} -m limit --limit 10000/sec -j NFLOG --nflog-group 9",
    "-p {proto} -m {proto} --dport 443 -m addrtype --dst-type LOCAL -j RETURN",
    "-d {block} -m addrtype --src-type LOCAL -j ACCEPT",
    "-m state --state NEW -j MARK --set-xmark 0x5/0xffffffff",
    "-m connbytes --connbytes 1000 --connbytes-mode packets --connbytes-dir both -j ACCEPT",
)


class Lottery:
    """Draws from ``seed``; the same seed gives the same rules and packets."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.sport = 20000

    def maybe(self, chance: float) -> bool:
        """True with this probability."""
        return self.rng.random() < chance

    def numbers(self, pool: tuple[Any, ...], most: int) -> IntervalSet:
        """A few members of ``pool``."""
        return IntervalSet.of(*self.rng.sample(pool, self.rng.randint(1, most)))

    def matches(self, family: Family | None, hook: str, native: bool) -> list[Match]:
        """Questions that rules at ``hook`` may ask; addresses where ``family`` is known."""
        rng, found = self.rng, []
        most = 2 if native else 1
        if family is not None and self.maybe(0.3):
            field = rng.choice((Field.SRC, Field.DST))
            blocks = rng.sample(BLOCKS[family], rng.randint(1, most))
            values = IntervalSet.union(read_cidr(block)[0].values() for block in blocks)
            found.append(Match(field, values, self.maybe(0.3)))
        links = [Field.IIF] if hook in ("prerouting", "input") else [Field.OIF]
        links = [Field.IIF, Field.OIF] if hook == "forward" or native else links
        if self.maybe(0.25):
            names = NameSet.of(*rng.sample(LINKS, rng.randint(1, most)))
            found.append(Match(rng.choice(links), names, self.maybe(0.3)))
        if self.maybe(0.5):
            number = rng.choice((TCP, TCP, UDP))
            found.append(Match(Field.PROTO, IntervalSet.of(number)))
            for field, chance in ((Field.SPORT, 0.1), (Field.DPORT, 0.6)):
                if self.maybe(chance):
                    found.append(Match(field, self.numbers(SPANS, 3), self.maybe(0.3)))
        elif self.maybe(0.1):
            found.append(Match(Field.PROTO, IntervalSet.of(TCP), True))
        return found + self._late_matches(hook, native, most)

    def _late_matches(self, hook: str, native: bool, most: int) -> list[Match]:
        rng, found = self.rng, []
        if self.maybe(0.2):
            extra = () if native else ("dnat", "snat")
            # nft's "!=" of several states asks for equality with their sum.
            negated = self.maybe(0.3)
            count = 1 if native and negated else rng.randint(1, 2)
            found.append(
                Match(Field.CTSTATE, NameSet.of(*rng.sample((*STATES, *extra), count)), negated)
            )
        for field in (Field.MARK, Field.CTMARK):
            if self.maybe(0.15):
                mask = rng.choice(MASKS)
                pool = tuple(mark & (FULL_MASK if mask is None else mask) for mark in MARKS)
                values = self.numbers(tuple(dict.fromkeys(pool)), 1)
                found.append(Match(field, values, self.maybe(0.3), mask))
        for field in (Field.UID, Field.GID):
            if (native or hook in LEAVING) and self.maybe(0.15):
                no = self.maybe(0.4)
                spans = self.numbers(ID_SPANS, most)
                found.append(Match(field, spans, no, absent=no and not native))
        return found

    def target(self, table: str, hook: str, jumps: list[str], native: bool) -> Target | None:
        """What rules in such a chain may do."""
        rng, draw = self.rng, self.rng.random()
        if draw < 0.3 and jumps:
            return Target(rng.choice((Kind.JUMP, Kind.JUMP, Kind.GOTO)), chain=rng.choice(jumps))
        if table == "nat" and hook in ("prerouting", "output") and draw > 0.6:
            return Target(Kind.REDIRECT, port=rng.choice(TO))
        if draw < 0.45:
            return Target(rng.choice((Kind.ACCEPT, Kind.RETURN)))
        tproxy = "filter" if native else "mangle"
        if table == tproxy and hook == "prerouting" and draw < 0.6:
            mark = rng.choice((5, 1337))
            mask = FULL_MASK if native else rng.choice((FULL_MASK, 0xFF))
            return Target(Kind.TPROXY, port=TPROXY_PORT, mark=mark, mask=mask)
        if table == "raw" and draw < 0.65:
            return Target(Kind.ZONE, zone=rng.randint(1, 3))
        if draw < 0.85:
            mask = FULL_MASK if native else rng.choice((FULL_MASK, 0xFF))
            kinds = (Kind.MARK, Kind.MARK, Kind.SAVE_MARK, Kind.RESTORE_MARK)
            kind = rng.choice(kinds)
            return (
                Target(kind, mark=rng.choice(MARKS), mask=mask)
                if kind is kinds[0]
                else Target(kind)
            )
        if draw < 0.87 and (native or table != "nat"):
            return Target(Kind.DROP)
        return None

    def rule(self, family: Family, table: str, hook: str, jumps: list[str], native: bool) -> Rule:
        """A rule that the kernel takes there."""
        if not native and self.maybe(0.05):
            text = self.rng.choice(FOREIGN)
            if table == "nat" or "--state" not in text:
                block = self.rng.choice(BLOCKS[family])
                text = text.format(proto=self.rng.choice(("tcp", "udp")), block=block)
                return Rule((), None, opaque=text)
        narrowed = None
        if family is Family.INET and self.maybe(0.5):
            narrowed = self.rng.choice((Family.IP, Family.IP6))
        known = narrowed or (None if family is Family.INET else family)
        target = self.target(table, hook, jumps, native)
        if target is not None and target.kind is Kind.TPROXY and known is None:
            narrowed = known = self.rng.choice((Family.IP, Family.IP6))
        matches = self.matches(known, hook, native)
        if target is not None and target.kind in (Kind.REDIRECT, Kind.TPROXY):
            ported = any(m.field is Field.PROTO and not m.negated for m in matches)
            if not ported:
                kept = [m for m in matches if m.field is not Field.PROTO]
                proto = Match(Field.PROTO, IntervalSet.of(self.rng.choice((TCP, UDP))))
                at = sum(m.field in (Field.SRC, Field.DST, Field.IIF, Field.OIF) for m in kept)
                matches = [*kept[:at], proto, *kept[at:]]
        return Rule(tuple(matches), target, family=narrowed)

    def chain_with_callees(
        self, base: Chain, family: Family, table: str, native: bool
    ) -> list[Chain]:
        """``base`` filled with rules, and up to three chains that only it can reach."""
        names = [f"{base.name}-{n}" for n in range(self.rng.randint(0, 3))]
        made = []
        for at, name in enumerate([base.name, *names]):
            jumps = names[at:]
            rules = tuple(
                self.rule(family, table, base.hook, jumps, native)
                for _ in range(self.rng.randint(0 if at == 0 else 1, 5))
            )
            if at == 0:
                made.append(
                    Chain(base.name, rules, base.kind, base.hook, base.priority, base.policy)
                )
            else:
                made.append(Chain(name, rules))
        return made

    def iptables(self, family: Family) -> Ruleset:
        """Tables of one family in iptables' language."""
        tables = []
        for table, hooks in TABLES.items():
            chains: list[Chain] = []
            for name in hooks:
                drop = table != "nat" and self.maybe(0.02)
                base = Chain(name, hook=HOOKS[name], policy="drop" if drop else "accept")
                filled = self.chain_with_callees(base, family, table, False)
                busy = HOOKS[name] in ("output", "prerouting") or self.maybe(0.4)
                chains += filled if busy else [base]
            tables.append(Table(family, table, tuple(chains)))
        return Ruleset(tuple(tables))

    def nft(self, ties: bool = False) -> Ruleset:
        """Tables of nft's own; without ``ties`` no two base chains have one priority."""
        tables = []
        free = [p for p in range(-340, 340, 7) if p not in (-200, -100, 100)]
        self.rng.shuffle(free)
        for family, name in ((Family.INET, "one"), (Family.INET, "two"), (Family.IP, "four")):
            chains: list[Chain] = []
            for number in range(self.rng.randint(1, 4)):
                hook = self.rng.choice((*HOOKS.values(), "output", "output", "prerouting"))
                kinds = ["filter", "filter"]
                kinds += ["nat", "nat"] if hook != "forward" else []
                kinds += ["route"] if hook == "output" else []
                kind = self.rng.choice(kinds)
                priority = free.pop()
                while kind == "nat" and priority <= -200:
                    priority = free.pop()
                if ties and self.maybe(0.5):
                    priority = -150 if kind != "nat" else -100
                policy = "drop" if kind != "nat" and self.maybe(0.03) else "accept"
                base = Chain(f"c{number}", (), kind, hook, priority, policy)
                chains += self.chain_with_callees(base, family, kind, True)
            tables.append(Table(family, name, tuple(chains)))
        return Ruleset(tuple(tables))

    def packet(self) -> dict[str, Any]:
        """A packet as the injector takes it; with ``wire`` it comes in."""
        rng = self.rng
        family = rng.choice((Family.IP, Family.IP6))
        self.sport += 1
        proto = rng.choice((TCP, TCP, TCP, UDP, ICMP[family]))
        packet: dict[str, Any] = {
            "version": 4 if family is Family.IP else 6,
            "proto": proto,
            # A SYN begins a connection; an ACK belongs to none, and is invalid.
            "flags": rng.choice((2, 2, 2, 16)),
            "sport": self.sport,
            "dport": rng.choice(PORTS),
        }
        if self.maybe(0.4):
            to = ELSEWHERE[family] if self.maybe(0.2) else OWN[family]
            return {**packet, "src": rng.choice(REMOTE[family]), "dst": to, "wire": "v1"}
        to = rng.choice((*LOCAL[family], *REMOTE[family]))
        loop = to in LOCAL[family] and to != OWN[family] and self.maybe(0.5)
        owner = {"uid": rng.choice(IDS), "gid": rng.choice(IDS), "mark": rng.choice(MARKS)}
        return {**packet, "src": to if loop else OWN[family], "dst": to, **owner}


def as_packet(sent: dict[str, Any]) -> tuple[Packet, str, bool]:
    """What was sent as the model has it, the hook where it begins, and whether it is for us."""
    family, src = read_address(sent["src"])
    dst = read_address(sent["dst"])[1]
    ported = sent["proto"] in (TCP, UDP)
    ports = (sent["sport"], sent["dport"]) if ported else (None, None)
    state = "invalid" if sent["proto"] == TCP and sent["flags"] == 16 else "new"
    if "wire" in sent:
        local = sent["dst"] == OWN[family]
        oif = None if local else "v0"
        packet = Packet(family, sent["proto"], src, dst, *ports, "v0", oif, ctstate=state)
        return packet, "prerouting", local
    inside = sent["dst"].startswith(("127.", "::1", "10.9.0.1", "fd09::1"))
    packet = Packet(
        family, sent["proto"], src, dst, *ports, None, "lo" if inside else "v0",
        sent["uid"], sent["gid"], sent["mark"], ctstate=state,
    )  # fmt: skip
    return packet, "output", True
