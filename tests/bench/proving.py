"""How long proofs take, in this process; medians with spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from meshnet.compile import compile_spec
from meshnet.model.frozen import replace
from meshnet.model.ruleset import Ruleset
from meshnet.model.spec import CaptureSpec, Cidrs, Form, IPv6, Ports, Profile
from meshnet.reason.behaviour import Side, compare_behaviour
from meshnet.reason.expression import read_expression
from meshnet.reason.lint.check import lint
from meshnet.reason.proving import Prover
from tests.bench.reasoning import foreign

ROUNDS = 5
LIMIT = 500.0
USUAL = CaptureSpec(
    in_ports=Ports(every=True), out_cidrs=Cidrs(every=True), ipv6=IPv6.CAPTURE, dns=True
)
SAMPLE = "uid != 1337 and gid != 1337 and proto == tcp and oif != lo implies captured"


def side(profile: Profile, form: Form) -> Side:
    """What the usual configuration compiles to."""
    backend = "nft" if form is Form.NFT else "nft-compat"
    return Side({backend: compile_spec(replace(USUAL, profile=profile), form)})


def among(count: int) -> Side:
    """Istio's rules with rules of somebody else in front, ``count`` rules in all."""
    (ours,) = side(Profile.ISTIO, Form.IPTABLES).rulesets.values()
    theirs = foreign(count - sum(1 for _ in ours.rules())).tables[0].chains[0].rules
    tables = []
    for table in ours.tables:
        here = table.name == "nat" and table.family.value == "ip"
        tables.append(
            replace(
                table,
                chains=tuple(
                    replace(c, rules=(*theirs, *c.rules)) if here and c.name == "OUTPUT" else c
                    for c in table.chains
                ),
            )
        )
    return Side({"legacy": Ruleset(tuple(tables))})


def spread_of(action: Callable[[], object]) -> tuple[float, str]:
    """The median in milliseconds of processor time, and it with the middle half as text."""
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        action()
        times.append((time.process_time() - began) * 1000)
    first, _, third = statistics.quantiles(times, n=4)
    median = statistics.median(times)
    return median, f"{median:>10.2f}{f'{first:.2f}-{third:.2f}':>16}"


def measure_proving() -> list[str]:
    """Measure and print; give what is beyond the limits."""
    istio, strict = side(Profile.ISTIO, Form.IPTABLES), side(Profile.STRICT, Form.IPTABLES)
    native, istio_native = side(Profile.STRICT, Form.NFT), side(Profile.ISTIO, Form.NFT)
    mixed, strangers = among(200), Side({"legacy": foreign(200)})
    many = among(5_000)
    sample = read_expression(SAMPLE)
    rows: dict[str, tuple[Callable[[], object], float]] = {
        "diff, Istio's rules, iptables and nft": (
            lambda: compare_behaviour(istio, istio_native),
            LIMIT,
        ),
        "diff, Istio's rules and strict's": (lambda: compare_behaviour(istio, strict), LIMIT),
        "diff, strict on nft and nft-compat": (lambda: compare_behaviour(native, strict), LIMIT),
        "lint, Istio's rules": (lambda: lint(istio), LIMIT),
        "lint, 200 rules, Istio's among them": (lambda: lint(mixed), LIMIT),
        "lint, 200 foreign rules": (lambda: lint(strangers), LIMIT),
        "prove, the sample": (lambda: Prover(strict).prove("", SAMPLE, sample), LIMIT),
        "prove, the sample, 5,000 foreign rules": (
            lambda: Prover(many).prove("", SAMPLE, sample),
            0,
        ),
    }
    # z3 is loaded, and what it warms up is warm.
    compare_behaviour(native, strict)
    print(f"\n{'in this process, ms of processor time':<42}{'median':>10}{'middle half':>16}")
    beyond = []
    for name, (action, limit) in rows.items():
        median, text = spread_of(action)
        print(f"{name:<42}{text}", flush=True)
        if limit and median > limit:
            beyond.append(f"{name}: {median:.0f} ms, at most {limit:g}")
    return beyond


if __name__ == "__main__":
    for line in measure_proving():
        print(f"beyond the limit: {line}")
