"""Pods as network namespaces, and the wires between them.

Everything is made inside the new namespaces: no link, address or rule ever exists in the
namespace of the caller. pyroute2 does the work; it enters a namespace in a child of its own.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from meshnet.errors import KernelLacks, NotPermitted
from meshnet.lab.leftovers import (
    NAMESPACES,
    identify,
    own_prefix,
    processes_of,
    remove_namespace,
    remove_stale,
)

#: Length of the network that two connected pods share.
NETWORK_BITS = 24


@dataclass(frozen=True)
class Pod:
    """One network namespace that plays a pod.

    ``address`` is the IPv4 address that ``eth0`` has once the pod is connected; "" for a pod
    that stays alone. ``closers`` are called after all that ran in the pod has been killed.
    """

    name: str
    namespace: str
    address: str = ""
    closers: list[Callable[[], object]] = field(default_factory=list, repr=False, compare=False)

    @property
    def path(self) -> Path:
        """Where the namespace is mounted, as ``--network-namespace`` takes it."""
        return NAMESPACES / self.namespace

    def command(self, argv: Sequence[str], uid: int | None = None) -> list[str]:
        """``argv`` as it is started inside this pod: as root, or as user and group ``uid``.

        A process with a ``uid`` has no capability, and dies with the one that started it.
        """
        inside = ["nsenter", f"--net={self.path}", "--"]
        if uid is not None:
            inside += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            inside += ["--inh-caps=-all", "--pdeathsig=KILL", "--"]
        return [*inside, *argv]


class Topology:
    """A context manager that owns pods, and on leaving removes them and all that runs in them.

    ``prefix`` begins every namespace's name. Entering removes what earlier runs with the same
    prefix left when they were killed; their names are in ``stale``.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.pods: list[Pod] = []
        self.stale: list[str] = []
        self._made: dict[Path, tuple[int, int]] = {}

    def __enter__(self) -> Topology:
        self.stale = remove_stale(self.prefix)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def add_pod(self, name: str, address: str = "") -> Pod:
        """Make a namespace with ``lo`` up; ``name`` is a word. Raises NotPermitted, KernelLacks."""
        from pyroute2 import IPRoute, netns  # 0.1 s: not at import

        pod = Pod(name, own_prefix(self.prefix) + name, address)
        self.pods.append(pod)  # first: what is half made is removed, too
        with _translated(pod), _signals_held():
            netns.create(pod.namespace)
            self._made[pod.path] = identify(pod.path)
            with IPRoute(netns=pod.namespace) as link:
                link.link("set", index=_index(link, "lo"), state="up")
        return pod

    def connect(self, one: Pod, other: Pod) -> None:
        """Put a veth pair between two pods, ``eth0`` in each, with their addresses; both up."""
        from pyroute2 import IPRoute

        with _translated(one), _signals_held():
            with IPRoute(netns=one.namespace) as link:
                peer = {"ifname": "eth0", "net_ns_fd": other.namespace}
                link.link("add", ifname="eth0", kind="veth", peer=peer)
            for pod in (one, other):
                with IPRoute(netns=pod.namespace) as link:
                    index = _index(link, "eth0")
                    link.addr("add", index=index, address=pod.address, prefixlen=NETWORK_BITS)
                    link.link("set", index=index, state="up")

    def remove(self) -> int:
        """Kill all processes in the pods, delete the pods; returns how many were killed.

        Doing it twice is no error.
        """
        killed = 0
        while self.pods:
            killed += remove_namespace(self.pods[-1].path)
            for close in self.pods.pop().closers:
                close()
        return killed

    def find_survivors(self) -> list[str]:
        """What is still there of the pods made: namespaces, and processes whether named or not."""
        paths = [f"namespace {path.name}" for path in self._made if path.exists()]
        pids = [pid for identity in self._made.values() for pid in processes_of(identity)]
        return paths + [f"process {pid}" for pid in pids]


def _index(link: object, name: str) -> int:
    found = link.link_lookup(ifname=name)  # type: ignore[attr-defined]
    if not found:
        raise KernelLacks(f"interface {name}: not there after it was made")
    return int(found[0])


@contextmanager
def _translated(pod: Pod) -> Iterator[None]:
    """Turn pyroute2's errors into ours: one line that names the namespace."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except PermissionError as error:
        raise NotPermitted(
            f"network namespace {pod.namespace}: {error.strerror}",
            "needs CAP_SYS_ADMIN: run as root",
        ) from error
    except (OSError, NetlinkError) as error:
        raise KernelLacks(f"network namespace {pod.namespace}: {error}") from error


@contextmanager
def _signals_held() -> Iterator[None]:
    """Deliver Ctrl-C and its like after the block: a child of pyroute2 half-way leaves nothing."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
