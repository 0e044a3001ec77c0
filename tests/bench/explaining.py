"""How long an explanation takes, in this process; medians with spread."""

from __future__ import annotations

from meshnet.model.frozen import replace
from meshnet.reason.explanation import Explainer
from tests.bench.reasoning import SYN, foreign, istio, spread_of

#: What each row may take at most, in milliseconds.
LIMITS = {
    "explain, Istio's rules, captured": 1.0,
    "explain, Istio's rules, the proxy's": 1.0,
    "explain, 5,000 foreign rules": 50.0,
}


def measure_explaining() -> list[str]:
    """Measure and print; give what is beyond its limit."""
    default, many = Explainer({"legacy": istio()}), Explainer({"legacy": foreign(5000)})
    for one in (default, many):
        one.explain(SYN, "output")
    proxy = replace(SYN, uid=1337, gid=1337)
    print(f"\n{'in this process, ms of processor time':<42}{'median':>10}{'middle half':>16}")
    rows = {
        "explain, Istio's rules, captured": spread_of(
            lambda n: default.explain(replace(SYN, dport=n + 1), "output")
        ),
        "explain, Istio's rules, the proxy's": spread_of(
            lambda n: default.explain(replace(proxy, dport=n + 1), "output")
        ),
        "explain, 5,000 foreign rules": spread_of(
            lambda n: many.explain(replace(SYN, dport=n + 6001), "output")
        ),
        "explain, made ready for Istio's rules": spread_of(
            lambda n: Explainer({"legacy": istio()}).explain(SYN, "output")
        ),
    }
    for name, text in rows.items():
        print(f"{name:<42}{text}")
    return [
        f"{name}: {rows[name].split()[0]} ms, at most {limit:g}"
        for name, limit in LIMITS.items()
        if float(rows[name].split()[0]) > limit
    ]


if __name__ == "__main__":
    measure_explaining()
