"""``python -m tests.bench [--check]``: how long programming takes, against the floor.

The floor is what nobody can go below: an empty Python start plus one bare restore of the
same rules. Everything is measured in turns within one run, so that a busy machine
stretches all of it alike; the ratios are what counts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

from tests.bench.explaining import measure_explaining
from tests.bench.proving import measure_proving
from tests.bench.reasoning import measure_reasoning
from tests.bench.sweeping import measure_sweeps
from tests.bench.tracing import measure_tracing
from tests.support.namespaces import Namespace, Namespaces, meshnet_init, remove_leftovers

ROUNDS = 20
LIMIT_RATIO, LIMIT_MEMORY = 3.0, 30.0
ARGUMENTS = ("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT")
ARGUMENTS += ("-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020")
BACKENDS = ("nft", "nft-compat", "legacy")
#: Counts the programs that a run starts.
COUNTER = """
import json, os, sys
from meshnet.cli.init import run
from meshnet.host import process
seen, spawn = [], process._spawn
def count(path, argv, *rest):
    seen.append(argv[0] + (" (reads)" if "save" in argv[0] or "list" in argv else " (writes)"))
    return spawn(path, argv, *rest)
process._spawn = count
run(sys.argv[1:], os.environ)
print(json.dumps(seen))
"""


class Sample:
    """Times in milliseconds, and the highest memory in MiB, of one kind of run."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.memory = 0.0

    def measure(self, netns: Namespace, *argv: str, text: str = "") -> None:
        """One run of ``argv`` in ``netns``; it has to succeed."""
        began = time.perf_counter()
        process = subprocess.Popen(
            ["nsenter", f"--net={netns.path}", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None
        process.stdin.write(text.encode())
        process.stdin.close()
        _, status, usage = os.wait4(process.pid, 0)
        self.times.append((time.perf_counter() - began) * 1000)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{argv} ended with {process.returncode}")
        self.memory = max(self.memory, usage.ru_maxrss / 1024)

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    def spread(self) -> str:
        """The middle half of the times."""
        first, _, third = statistics.quantiles(self.times, n=4)
        return f"{first:.1f}-{third:.1f}"


def measure(netns: Namespace) -> dict[str, Sample]:
    """All samples, taken in turns."""
    plan = netns.init(*ARGUMENTS, "--backend", "nft-compat", "--dry-run").stdout
    names = ["python", "restore", "nsenter"]
    names += [f"{b} {verb}" for b in BACKENDS for verb in ("first", "again", "cleanup")]
    samples = {name: Sample() for name in names}
    for _ in range(ROUNDS):
        samples["nsenter"].measure(netns, "true")
        samples["python"].measure(netns, sys.executable, "-c", "")
        samples["restore"].measure(netns, "iptables-nft-restore", text=plan)
        netns.run("nft", "flush", "ruleset")
        for backend in BACKENDS:
            apply = (meshnet_init(), *ARGUMENTS, "--backend", backend)
            samples[f"{backend} first"].measure(netns, *apply)
            samples[f"{backend} again"].measure(netns, *apply)
            samples[f"{backend} cleanup"].measure(netns, meshnet_init(), "--cleanup-only")
    return samples


def count_tools(netns: Namespace, backend: str) -> dict[str, int]:
    """How often each program is started by a first apply and by one that changes the rules."""
    most: dict[str, int] = {}
    for extra in ((), ("--drop-invalid",)):
        argv = (*ARGUMENTS, "--ipv6", "on", "--backend", backend, *extra)
        done = netns.run(sys.executable, "-c", COUNTER, *argv)
        tools = json.loads(done.stdout.splitlines()[-1])
        most = {name: max(most.get(name, 0), tools.count(name)) for name in {*most, *tools}}
    netns.init("--cleanup-only")
    return most


def report(samples: dict[str, Sample], tools: dict[str, dict[str, int]]) -> list[str]:
    """Print the table; give what is beyond the limits."""
    entry = samples["nsenter"].median
    floor = samples["python"].median + samples["restore"].median - 2 * entry
    beyond = []
    print(f"floor {floor:.1f} ms: an empty Python start {samples['python'].median - entry:.1f} ms,")
    print(f"      a bare restore of the same rules {samples['restore'].median - entry:.1f} ms")
    print(f"{'':<12}{'':<10}{'median ms':>10}{'middle half':>14}{'x floor':>9}{'peak MiB':>10}")
    for backend in BACKENDS:
        for verb in ("first", "again", "cleanup"):
            sample = samples[f"{backend} {verb}"]
            ratio = (sample.median - entry) / floor
            row = f"{backend:<12}{verb:<10}{sample.median - entry:>10.1f}{sample.spread():>14}"
            print(f"{row}{ratio:>9.2f}{sample.memory:>10.1f}")
            if backend != "legacy" and verb != "cleanup" and ratio > LIMIT_RATIO:
                beyond.append(f"{backend} {verb}: {ratio:.2f} x floor, at most {LIMIT_RATIO:g}")
            if backend != "legacy" and sample.memory > LIMIT_MEMORY:
                beyond.append(
                    f"{backend} {verb}: {sample.memory:.1f} MiB, at most {LIMIT_MEMORY:g}"
                )
    for backend, counts in tools.items():
        shown = ", ".join(f"{name} x {n}" for name, n in sorted(counts.items()))
        print(f"programs started by one run, {backend}, both families: {shown}")
        if backend != "legacy" and any(n > 1 for n in counts.values()):
            beyond.append(f"{backend}: more than one reader or writer a family: {shown}")
    return beyond


def main() -> None:
    """Measure, show, and with ``--check`` fail beyond the limits."""
    remove_leftovers()
    made = Namespaces("bench")
    try:
        netns = made.make()
        tools = {backend: count_tools(netns, backend) for backend in BACKENDS}
        beyond = report(measure(netns), tools)
        beyond += measure_sweeps(made)
        measure_reasoning()
        beyond += measure_explaining()
        beyond += measure_proving()
        beyond += measure_tracing(made)
    finally:
        made.remove()
    for line in beyond:
        print(f"beyond the limit: {line}")
    if beyond and "--check" in sys.argv:
        raise SystemExit(1)


main()
