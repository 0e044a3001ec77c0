"""``make demo``: one request between two pods, seen to pass a real Envoy at either end.

Every line marked ``ok`` is something that was looked at after it happened; a claim that does not
hold is marked ``NO`` and makes the exit code 1. Whatever ends the run, what it made is removed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import Any

from meshnet.errors import KernelLacks, MeshnetError, NotPermitted
from meshnet.lab.envoy import (
    INBOUND_SOURCE,
    await_envoy,
    read_counters,
    start_envoy,
    two_port_bootstrap,
)
from meshnet.lab.interruption import Interrupted, Interruptible
from meshnet.lab.leftovers import processes_in
from meshnet.lab.listing import ListedChain, read_listing
from meshnet.lab.processes import (
    APP_UID,
    PROXY_UID,
    Service,
    fetch,
    find_meshnet_init,
    run,
    run_in,
    serve_http,
)
from meshnet.lab.report import Report
from meshnet.lab.topology import Pod, Topology

PREFIX = "meshnet-demo"
APP_PORT = 8080

#: What Istio's injector writes into a pod, word for word; the namespace comes behind it.
ISTIO_FLAGS = ["-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*"]
ISTIO_FLAGS += ["-x", "", "-b", "*", "-d", "15090,15021,15020"]
CLASSIC_FLAGS = ["-p", "15001", "-u", "1337"]

#: The rules of Istio 0.2, chain and comment, in the order in which they must be listed.
CLASSIC_RULES = [
    ("PREROUTING", "istio/install-istio-prerouting"),
    ("OUTPUT", "istio/install-istio-output"),
    ("ISTIO_OUTPUT", "istio/bypass-envoy"),
    ("ISTIO_OUTPUT", "istio/bypass-envoy"),
    ("ISTIO_OUTPUT", "istio/bypass-explicit-loopback"),
    ("ISTIO_OUTPUT", "istio/redirect-default-outbound"),
    ("ISTIO_REDIRECT", "istio/redirect-to-envoy-port"),
]


@dataclass(frozen=True)
class Seen:
    """One request as it was seen: the answer, and the counters of both Envoys before and after."""

    answer: dict[str, Any]
    before: dict[str, dict[str, int]]
    after: dict[str, dict[str, int]]

    def moved(self, pod: Pod, counter: str) -> int:
        """By how much ``counter`` of the Envoy in ``pod`` grew."""
        return self.after[pod.name].get(counter, 0) - self.before[pod.name].get(counter, 0)

    @property
    def app(self) -> dict[str, str]:
        """What the application answered: ``app``, its name, and ``saw``, its peer's address."""
        body: dict[str, str] = json.loads(self.answer["body"])
        return body


def main() -> int:
    """Run the demo; returns its exit code: 0, 1 (a claim failed), 4, 5, or 128 + signal."""
    report = Report()
    topology = Topology(PREFIX)
    started = time.monotonic()
    try:
        check_machine()
        with Interruptible() as interruptible:
            try:
                with topology:
                    show(report, topology)
            finally:
                # Once more, for a signal that came in the midst of the removal.
                interruptible.ignore()
                topology.remove()
            show_end(report, topology)
    except Interrupted as interrupted:
        report.error(f"interrupted by {interrupted}; everything it made is removed")
        return interrupted.exit_code
    except MeshnetError as error:
        report.error(str(error))
        return error.exit_code
    return finish(report, time.monotonic() - started)


def check_machine() -> None:
    """Raise KernelLacks or NotPermitted where the demo cannot run."""
    if sys.platform != "linux":
        raise KernelLacks("network namespaces: not on this system", "the demo needs Linux")
    if os.geteuid() != 0:
        raise NotPermitted("network namespaces: not as an ordinary user", "run as root: make demo")


def show(report: Report, topology: Topology) -> None:
    """All steps, in order."""
    report.title("meshnet: a request between two pods, through a real Envoy at either end")
    if topology.stale:
        report.note(f"Removed first, left by a run that was killed: {', '.join(topology.stale)}.")
    one, other = make_pods(report, topology)
    show_uncaptured(report, one, other)
    start_proxies(report, one, other)
    program(report, one, other)
    show_captured(report, one, other)
    show_classic(report, topology)
    show_current(report, other)


def make_pods(report: Report, topology: Topology) -> tuple[Pod, Pod]:
    """Two connected pods, each with its application."""
    report.step("Two pods, each a network namespace, and a veth pair between them")
    start = time.monotonic()
    one, other = topology.add_pod("a", "10.77.0.1"), topology.add_pod("b", "10.77.0.2")
    topology.connect(one, other)
    for pod in (one, other):
        server = serve_http(pod, APP_PORT)
        runs = server.process.pid in processes_in(pod.path)
        uid = os.stat(f"/proc/{server.process.pid}").st_uid
        report.claim(
            f"pod {pod.name} is {pod.address}; its app, an HTTP server on port {APP_PORT}, "
            f"runs there as UID {uid}",
            runs and uid == APP_UID,
        )
    report.note(f"That took {time.monotonic() - start:.1f} s.", "dim")
    return one, other


def show_uncaptured(report: Report, one: Pod, other: Pod) -> None:
    """The request as it goes without any rule, to have something to compare with."""
    report.step("Without rules, app a talks to app b directly")
    answer = fetch(one, app_url(other))
    app = json.loads(answer["body"])
    report.claim(
        f"app {app['app']} answered {answer['status']} and saw its peer at {app['saw']}: pod a",
        answer["status"] == 200 and app["saw"] == one.address,
    )


def start_proxies(report: Report, *pods: Pod) -> None:
    """An Envoy in each pod."""
    report.step("An Envoy in each pod, listening on 15001 (outbound) and 15006 (inbound)")
    start = time.monotonic()
    envoys: list[Service] = []
    for pod in pods:
        envoys.append(start_envoy(pod, two_port_bootstrap(f"pod-{pod.name}")))
    for envoy in envoys:
        await_envoy(envoy)
    uids = {os.stat(f"/proc/{envoy.process.pid}").st_uid for envoy in envoys}
    report.claim(
        f"both say that they are ready, {time.monotonic() - start:.1f} s after their start; "
        f"they run as UID {', '.join(map(str, sorted(uids)))}",
        uids == {PROXY_UID},
    )


def program(report: Report, *pods: Pod) -> None:
    """meshnet-init, in each pod, as Istio's injector would call it."""
    init = str(find_meshnet_init())
    report.step("meshnet-init for each pod, with the arguments that Istio's injector writes")
    report.command(["meshnet-init", *ISTIO_FLAGS, "--network-namespace", str(pods[0].path)])
    for pod in pods:
        start = time.monotonic()
        done = run([init, *ISTIO_FLAGS, "--network-namespace", str(pod.path)])
        say_init(report, pod, done, time.monotonic() - start)


def show_captured(report: Report, one: Pod, other: Pod) -> None:
    """The same request again, and what both Envoys counted."""
    report.step("The same request again")
    seen = request(one, other)
    out, into = "listener.outbound.downstream_cx_total", "listener.inbound.downstream_cx_total"
    sent, passed = "cluster.outbound.upstream_cx_total", "cluster.inbound.upstream_cx_total"
    rows = [
        (f"pod {pod.name}", counter, seen.before[pod.name][counter], seen.after[pod.name][counter])
        for pod, counters in ((one, (out, sent, into)), (other, (into, passed, out)))
        for counter in counters
    ]
    report.claim(
        f"app {seen.app['app']} answered {seen.answer['status']} in {seen.answer['ms']:.1f} ms",
        seen.answer["status"] == 200 and seen.app["app"] == other.name,
    )
    report.counters(rows)
    for pod, counters, which in (
        (one, (out, sent), "outbound"),
        (other, (into, passed), "inbound"),
    ):
        report.claim(
            f"Envoy {pod.name} took it on its {which} listener and passed it on "
            f"(connections: +{seen.moved(pod, counters[0])}, +{seen.moved(pod, counters[1])})",
            all(seen.moved(pod, counter) == 1 for counter in counters),
        )
    report.claim(
        "neither Envoy saw it on the other listener: what an Envoy sends is not captured again",
        seen.moved(one, into) == 0 and seen.moved(other, out) == 0,
    )
    report.claim(
        f"app b saw its peer at {seen.app['saw']}: its own Envoy comes from {INBOUND_SOURCE}, "
        f"pod a from {one.address}",
        seen.app["saw"] == INBOUND_SOURCE,
    )


def request(one: Pod, other: Pod) -> Seen:
    """GET from app to app, with the counters read on both sides of it."""
    before = {pod.name: read_counters(pod) for pod in (one, other)}
    answer = fetch(one, app_url(other))
    return Seen(answer, before, {pod.name: read_counters(pod) for pod in (one, other)})


def show_classic(report: Report, topology: Topology) -> None:
    """A third namespace, with the rules that Istio 0.2 had."""
    report.step("The rules as they began: one port for both directions (profile classic)")
    pod = topology.add_pod("classic")
    report.command(["meshnet-init", *CLASSIC_FLAGS])
    start = time.monotonic()
    done = run_in(pod, [str(find_meshnet_init()), *CLASSIC_FLAGS])
    say_init(report, pod, done, time.monotonic() - start)
    chains = read_listing(pod)
    report.command(["iptables", "-t", "nat", "-L", "-n", "-v"])
    report.listing(chains)
    found = [(chain.name, rule.rest) for chain in chains for rule in chain.rules]
    fits = len(found) == len(CLASSIC_RULES) and all(
        chain == name and comment in rest
        for (chain, rest), (name, comment) in zip(found, CLASSIC_RULES, strict=True)
    )
    report.claim(f"{len(found)} rules, the {len(CLASSIC_RULES)} of Istio 0.2 in their order", fits)


def show_current(report: Report, pod: Pod) -> None:
    """The rules that the request above met, with the kernel's counters."""
    report.step(f"The rules as they are now: those of pod {pod.name}, with what they counted above")
    report.command(["iptables", "-t", "nat", "-L", "-n", "-v"])
    chains = [chain for chain in read_listing(pod) if chain.rules]
    report.listing(chains)
    hits = sum(packets(chain, "REDIRECT") for chain in chains if chain.name == "ISTIO_IN_REDIRECT")
    report.claim(
        f"connections that the kernel handed to Envoy's inbound port here: {hits}", hits == 1
    )


def packets(chain: ListedChain, target: str) -> int:
    """How often the rules of ``chain`` with ``target`` matched; in nat that is connections."""
    return sum(int(rule.words[0]) for rule in chain.rules if rule.target == target)


def say_init(report: Report, pod: Pod, done: CompletedProcess[str], seconds: float) -> None:
    """Claim what came of a run of meshnet-init, in its own words."""
    said = (done.stdout.strip() or done.stderr.strip()).rpartition("\n")[2]
    report.claim(
        f"pod {pod.name}: exit code {done.returncode} after {seconds * 1000:.0f} ms: {said}",
        done.returncode == 0,
    )


def app_url(pod: Pod) -> str:
    """Where the application of ``pod`` answers."""
    return f"http://{pod.address}:{APP_PORT}/"


def show_end(report: Report, topology: Topology) -> None:
    """Look for what should be gone; a namespace's links and rules go away with it."""
    report.step("Cleaning up")
    left = topology.find_survivors()
    report.claim(f"left of this run: {', '.join(left) or 'no namespace and no process'}", not left)


def finish(report: Report, seconds: float) -> int:
    """The last line; returns the exit code."""
    report.console.print()
    if report.failed:
        total = report.held + len(report.failed)
        report.error(f"{len(report.failed)} of {total} claims did not hold")
        return 1
    report.title(f"All {report.held} claims were seen to hold, in {seconds:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
