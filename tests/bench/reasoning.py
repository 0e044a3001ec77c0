"""How long questions about rulesets and snapshots take, in this process; medians with spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from meshnet.compile import compile_spec
from meshnet.dialects.iptables import parse_save
from meshnet.model.frozen import replace
from meshnet.model.packet import TCP, Family, Packet
from meshnet.model.ruleset import Ruleset
from meshnet.model.snapshot import SCHEMA, Flow, Namespace, Snapshot, Socket
from meshnet.model.spec import CaptureSpec, Cidrs, Form, Ports
from meshnet.reason.connections import join
from meshnet.reason.drift import drift
from meshnet.reason.walk import Walker

ROUNDS = 15
SYN = Packet(
    Family.IP, TCP, src=0x0A000002, dst=0x5DB8D822, sport=40000, dport=443, oif="eth0", uid=1000,
    gid=1000,
)  # fmt: skip


def spread_of(action: Callable[[int], object], rounds: int = ROUNDS) -> str:
    """Median and middle half in milliseconds of processor time."""
    times = []
    for number in range(rounds):
        began = time.process_time()
        action(number)
        times.append((time.process_time() - began) * 1000)
    first, _, third = statistics.quantiles(times, n=4)
    return f"{statistics.median(times):>10.2f}{f'{first:.2f}-{third:.2f}':>16}"


def istio() -> Ruleset:
    """Istio's default rules."""
    spec = CaptureSpec(in_ports=Ports(every=True), out_cidrs=Cidrs(every=True))
    return compile_spec(spec, Form.IPTABLES)


def foreign(count: int) -> Ruleset:
    """As many rules of somebody else in nat OUTPUT, none of which holds."""
    rules = "".join(
        f"-A OUTPUT -d 172.16.{n % 250}.{n // 250}/32 -p tcp -m tcp --dport {n + 1} -j ACCEPT\n"
        for n in range(count)
    )
    return parse_save(f"*nat\n:OUTPUT ACCEPT [0:0]\n{rules}COMMIT\n", Family.IP)


def crowd(count: int) -> Snapshot:
    """A pod with ``count`` connections, half of them captured."""
    sockets, flows = [], []
    for n in range(count // 2):
        near, port = f"10.9.{n >> 8 & 255}.{n & 255}", 10_000 + n
        for dport in (80 + n % 7, 9000 + n % 5):
            sockets.append(
                Socket(
                    "ip", "tcp", "established", "10.0.0.2", port, near, dport, 1000, dport * n, (1,)
                )
            )
        flows.append(
            Flow(
                "ip", TCP, "10.0.0.2", port, near, 80 + n % 7, "127.0.0.1", 15001, "10.0.0.2", port
            )
        )
    space = Namespace(1, "crowd")
    return Snapshot(SCHEMA, "", "", "", space, sockets=tuple(sockets), flows=tuple(flows))


def measure_reasoning() -> None:
    """Measure and print; nothing here has a limit yet."""
    default = istio()
    cold = [replace(default, tables=default.tables) for _ in range(ROUNDS)]
    walker, many = Walker({"legacy": default}), Walker({"legacy": foreign(5000)})
    snapshot = crowd(50_000)
    print(f"\n{'in this process, ms of processor time':<42}{'median':>10}{'middle half':>16}")
    rows: dict[str, str] = {
        "walk, Istio's default rules": spread_of(
            lambda n: walker.walk(replace(SYN, dport=n + 1), "output")
        ),
        "walk, 5,000 foreign rules": spread_of(
            lambda n: many.walk(replace(SYN, dport=n + 1), "output")
        ),
        "drift, Istio's default rules": spread_of(lambda n: drift(cold[n], Form.IPTABLES)),
        "conns, 50,000 connections": spread_of(lambda _: join(snapshot, {"legacy": default}), 3),
    }
    for name, text in rows.items():
        print(f"{name:<42}{text}")
