"""How long a look at many network namespaces takes, what it needs, and that it grows evenly."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.cases import CASES
from tests.support.namespaces import Namespace, Namespaces

COUNTS = (25, 50, 100, 200)
ROUNDS = 5
#: For the last of COUNTS, in seconds, on two CPUs with nothing else to do.
LIMIT_SECONDS = 2.0
#: How much more one namespace may cost in a large sweep than in a small one.
LIMIT_GROWTH = 1.5
LIMIT_MEMORY_GROWTH, LIMIT_HANDLES = 4.0, 8
#: One sweep: seconds, namespaces read, the highest memory of it and of a child, handles more.
SWEEP = """
import json, os, resource, sys, time
from meshnet.host.target import Target
from meshnet.model.snapshot import Snapshot
from meshnet.ops.collect import collect_all
targets = [Target(p, p, os.stat(p).st_ino, p) for p in sys.stdin.read().split()]
before, most, read = len(os.listdir("/proc/self/fd")), 0, 0
began = time.perf_counter()
for _, found in collect_all(targets):
    read += isinstance(found, Snapshot) and bool(found.dumps) and not found.gaps
    most = max(most, len(os.listdir("/proc/self/fd")))
seconds = time.perf_counter() - began
usage = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
memory = [one.ru_maxrss / 1024 for one in usage]
print(json.dumps([seconds, read, *memory, most - before]))
"""


def make(made: Namespaces) -> list[Namespace]:
    """As many namespaces as the largest sweep has, with rules of both families in each."""
    found = [made.make()]
    found[0].init(*CASES["both-families"], "--backend", "nft-compat")
    dumps = {p: found[0].run(f"{p}-nft-save").stdout for p in ("iptables", "ip6tables")}
    while len(found) < COUNTS[-1]:
        found.append(made.make())
        for prefix, text in dumps.items():
            found[-1].run(f"{prefix}-nft-restore", text=text)
    return found


def sweep(namespaces: list[Namespace]) -> list[float]:
    """What SWEEP says of ``namespaces``; each has to be read without a gap."""
    done = subprocess.run(
        [sys.executable, "-c", SWEEP],
        input="\n".join(n.path for n in namespaces),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[float] = json.loads(done.stdout)
    if found[1] != len(namespaces):
        raise SystemExit(f"a sweep read {found[1]} of {len(namespaces)} namespaces")
    return found


def measure_sweeps(made: Namespaces) -> list[str]:
    """Print the table; give what is beyond the limits. The best of a few rounds counts."""
    namespaces = make(made)
    best: dict[int, list[float]] = {}
    for _ in range(ROUNDS):
        for count in COUNTS:
            found = sweep(namespaces[:count])
            best[count] = min(best.get(count, found), found)
    print(f"{'sweep of':<12}{'s':>8}{'ms each':>10}{'MiB':>8}{'child':>8}{'handles':>9}")
    for count, (seconds, _, memory, child, handles) in best.items():
        each = seconds * 1000 / count
        print(f"{count:<12}{seconds:>8.2f}{each:>10.1f}{memory:>8.1f}{child:>8.1f}{handles:>9.0f}")
    few, many = best[COUNTS[0]], best[COUNTS[-1]]
    growth = (many[0] / COUNTS[-1]) / (few[0] / COUNTS[0])
    beyond = {
        f"a sweep of {COUNTS[-1]} takes {many[0]:.2f} s": many[0] > LIMIT_SECONDS,
        f"a namespace costs {growth:.2f} times as much in it": growth > LIMIT_GROWTH,
        f"memory grows by {many[2] - few[2]:.1f} MiB": many[2] - few[2] > LIMIT_MEMORY_GROWTH,
        f"{many[4]:.0f} handles are open at once": many[4] > LIMIT_HANDLES,
    }
    return [sentence for sentence, holds in beyond.items() if holds]
