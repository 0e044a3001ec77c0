"""Probes, the addresses that they go to, and their fates.

A probe is one connection, or one DNS question; its fate is one word:

=========== ====================================================================
outbound    the proxy's outbound port got it, and knows where it was meant to go
inbound     the proxy's inbound port got it, likewise
dns         the proxy's DNS port got it; an answer came from the address asked
direct      whoever it was addressed to got it
refused     a reset came at once
nobody      nothing came in time
=========== ====================================================================

Everything else is told as what was seen, and so equals none of these.
"""

from __future__ import annotations

from dataclasses import dataclass

APP, ROOT, PROXY = 1000, 0, 1337
POD, POD6 = "10.9.0.1", "fd09::1"
#: The pod's end of eth1.
POD_SIDE, POD_SIDE6 = "10.8.0.1", "fd08::1"
#: The world's end of eth0, and of eth1; then addresses that lie behind it.
NEAR, NEAR6 = "10.9.0.2", "fd09::2"
SIDE, SIDE6 = "10.8.0.2", "fd08::2"
WEB, WEB6 = "192.0.2.10", "2001:db8:2::10"
API, API6 = "192.0.2.20", "2001:db8:2::20"
FAR, FAR6 = "198.51.100.10", "2001:db8:51::10"
DNS, DNS6 = "203.0.113.53", "2001:db8:53::53"
WORLD = (NEAR, NEAR6, SIDE, SIDE6, WEB, WEB6, API, API6, FAR, FAR6, DNS, DNS6)
GUEST, GUEST6 = "10.7.0.2", "fd07::2"
CAPTURE_PORTS = {15001: "outbound", 15006: "inbound", 15053: "dns"}
WORLD_PORTS = (53, 80, 443, 8080, 8443, 9000, 9050, 9099, 15008)
APP_PORTS = (53, 80, 8080, 8081, 9000, 9050, 9099)


@dataclass(frozen=True)
class Probe:
    """One connection; ``start`` is where it begins: pod, world or guest.

    A ``mark`` makes it the proxy's that bears the client's ``source``; ``sport`` is for
    those that must have the tuple of another one.
    """

    to: str
    port: int = 80
    uid: int = APP
    gid: int = APP
    protocol: str = "tcp"
    source: str = ""
    start: str = "pod"
    mark: int = 0
    sport: int = 0

    def __str__(self) -> str:
        by = f" from {self.source}" if self.source else ""
        return f"{self.start} {self.uid}:{self.gid} {self.protocol} {self.to} {self.port}{by}"

    @property
    def direct(self) -> str:
        """Who is addressed, as listeners name themselves."""
        if self.to.startswith("127.") or self.to == "::1":
            return f"{self.start}:{self.port}"
        owner = "world" if self.to in WORLD else "guest" if self.to in (GUEST, GUEST6) else "pod"
        return f"{owner}:{self.port}"

    @property
    def target(self) -> str:
        return f"[{self.to}]:{self.port}" if ":" in self.to else f"{self.to}:{self.port}"

    def fate(self, seen: dict[str, str]) -> str:
        """One word of the module's table, or all that was seen."""
        who, udp = seen["who"], self.protocol == "udp"
        if ":" not in who:
            return who
        place, port = who.split(":")
        said = seen.get("answered_from") if udp else seen["original"]
        if place == "pod" and int(port) in CAPTURE_PORTS and said == self.target:
            return CAPTURE_PORTS[int(port)]
        if who == self.direct and (not udp or said == self.target):
            return "direct"
        return f"{who}, meant for {said}"
