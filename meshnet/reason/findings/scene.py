"""What all findings look at: a snapshot, its rules made ready, and packets that these capture."""

from __future__ import annotations

from functools import cached_property

from meshnet.model.drift import Drift
from meshnet.model.frozen import dataclass
from meshnet.model.packet import Family, Packet
from meshnet.model.proxy import Proxy
from meshnet.model.rule import Rule
from meshnet.model.ruleset import Ruleset
from meshnet.model.snapshot import InterfaceAddress, Process, Snapshot, Socket
from meshnet.model.spec import Form
from meshnet.model.verdict import Journey, Verdict
from meshnet.reason.drift import drift
from meshnet.reason.findings.dormant import awake
from meshnet.reason.findings.packets import Ground, ground, incoming, outgoing, witnesses
from meshnet.reason.findings.proxy import listens, proxy_of
from meshnet.reason.findings.reached import Standing, standings
from meshnet.reason.routing import Routing
from meshnet.reason.walk import Walker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FAMILIES = (Family.IP, Family.IP6)
OUTPUT, PREROUTING = "output", "prerouting"
#: How many rules may be asked by all packets of one question, and how many packets at the most.
MOST_RULES, MOST_PACKETS = 200_000, 200


@dataclass(frozen=True)
class Captured:
    """A packet that the rules hand to a port, and how."""

    hook: str
    packet: Packet
    journey: Journey

    @property
    def way(self) -> str:
        """The direction in words."""
        return "outbound" if self.hook == OUTPUT else "inbound"


class Scene:
    """One snapshot with its rules by backend; everything is worked out when it is asked for.

    ``rulesets`` are what hooks run: dormant tables are left out of them; ``held`` has all.
    """

    def __init__(self, snapshot: Snapshot, rulesets: Mapping[str, Ruleset]) -> None:
        self.snapshot = snapshot
        self.held = rulesets
        self.rulesets, self.dormant = awake(snapshot, rulesets)
        self.routing = Routing(snapshot)

    def has(self, *sections: str) -> bool:
        """Whether all of these were asked for."""
        return all(section in self.snapshot.sections for section in sections)

    def whole(self, *sections: str) -> bool:
        """Whether they were, and nothing of them is missing: then absence means something."""
        gaps = {gap.section for gap in self.snapshot.gaps}
        return self.has(*sections) and not gaps & set(sections)

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """Every chain that hooks may run."""
        return standings(self.rulesets)

    @cached_property
    def proxy(self) -> Proxy:
        """Who the proxy is, dormant rules counted."""
        return proxy_of(self.snapshot, self.held)

    @cached_property
    def listening(self) -> tuple[Socket, ...]:
        """The sockets that take what strangers send."""
        return tuple(socket for socket in self.snapshot.sockets if listens(socket))

    @cached_property
    def processes(self) -> dict[int, Process]:
        """By pid."""
        return {process.pid: process for process in self.snapshot.processes}

    @cached_property
    def has_own(self) -> bool:
        """Whether any rule of ours is there."""
        return any(s.ours or s.positions for s in self.standings)

    @cached_property
    def walker(self) -> Walker:
        """Walks all rules that hooks run."""
        return self.walker_of(self.rulesets)

    def walker_of(self, rulesets: Mapping[str, Ruleset]) -> Walker:
        """Walks ``rulesets`` with the addresses that a redirect knows here."""
        return Walker(rulesets, self.routing.primaries(self.snapshot))

    @cached_property
    def drifts(self) -> dict[str, Drift]:
        """How our rules differ from their profile's, by backend; dormant rules counted."""
        return {
            backend: found
            for backend, ruleset in self.held.items()
            if (found := drift(ruleset, Form.NFT if backend == "nft" else Form.IPTABLES))
            is not None
        }

    @cached_property
    def most(self) -> int:
        """How many packets a question may make: fewer where there are many rules."""
        rules = sum(len(s.chain.rules) for s in self.standings)
        return max(8, min(MOST_PACKETS, MOST_RULES // max(rules, 1)))

    @cached_property
    def selecting(self) -> tuple[Rule, ...]:
        """The rules whose constants say what is captured.

        Those of chains that lead to a redirect; in a chain that is not ours as a whole, where
        any are ours, only these.
        """
        found = []
        for standing in self.standings:
            if standing.leads and standing.hooks:
                picky = self.has_own and not standing.ours
                for position, rule in enumerate(standing.chain.rules):
                    if not picky or position in standing.positions:
                        found.append(rule)
        return tuple(found)

    def ground(self, family: Family) -> Ground:
        """What packets of ``family`` have in common here."""
        return self._grounds[family]

    @cached_property
    def _grounds(self) -> dict[Family, Ground]:
        made = {}
        for family in FAMILIES:
            address = next(iter(self.outward(family)), None)
            here = address.address if address else ""
            link = address.link if address else self._link
            made[family] = ground(family, here, link, self.selecting)
        return made

    @property
    def _link(self) -> str:
        """Any interface that leads outside."""
        links = (link.name for link in self.snapshot.links if not link.loopback)
        return next(links, "")

    def is_up(self, family: Family) -> bool:
        """Whether packets of ``family`` can cross the border: of IPv4 that is taken for granted."""
        return family is Family.IP or bool(self.outward(family))

    def outward(self, family: Family) -> tuple[InterfaceAddress, ...]:
        """The global addresses of ``family`` on interfaces that are up and lead outside."""
        return tuple(a for a in self._outward if a.family == family.value)

    @cached_property
    def _outward(self) -> tuple[InterfaceAddress, ...]:
        from meshnet.model.address import read_address

        down = {link.name for link in self.snapshot.links if link.loopback or not link.up}
        found = []
        for address in self.snapshot.addresses:
            if address.scope != "global" or address.link in down or address.link == "lo":
                continue
            try:
                family, _ = read_address(address.address)
            except ValueError:
                continue
            # A file may say anything; what contradicts itself is no address.
            if family.value == address.family:
                found.append(address)
        return tuple(found)

    @cached_property
    def captured(self) -> tuple[Captured, ...]:
        """Packets of strangers, each way and family, that the rules surely capture.

        Of IPv6 only where it is up: nothing else can be captured.
        """
        found = []
        for family in filter(self.is_up, FAMILIES):
            for hook, plain in (
                (OUTPUT, outgoing(self.ground(family))),
                (PREROUTING, incoming(self.ground(family))),
            ):
                for packet in witnesses(plain, self.selecting, self.most // 4):
                    if not self.goes_outside(packet, hook):
                        continue
                    journey = self.walker.walk(packet, hook)
                    if journey.verdict is Verdict.CAPTURED:
                        found.append(Captured(hook, packet, journey))
        return tuple(found)

    def goes_outside(self, packet: Packet, hook: str) -> bool:
        """Whether ``packet`` crosses the border of the namespace."""
        from meshnet.model.address import show_address

        far = packet.dst if hook == OUTPUT else packet.src
        link = packet.oif if hook == OUTPUT else packet.iif
        if link is None or link == self.routing.loopback:
            return False
        return not self.routing.is_own(show_address(packet.family, far))
