"""What a run leaves behind when it is killed, and how the next one takes it away.

A namespace of ours is called ``<prefix>-<pid>-<start>-<pod>``: the process that made it, and
that process's start in clock ticks after boot, so that a later process with the same pid is not
taken for the maker. Links and rules live inside the namespace and go away with it.
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

NAMESPACES = Path("/run/netns")

#: Seconds that killed processes get until they are gone from the process table.
KILL_SECONDS = 5.0


def started_at(pid: int) -> int | None:
    """Start of process ``pid`` in clock ticks after boot; None when it does not run any more."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the name in parentheses and may hold anything; "state" follows it.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def own_prefix(prefix: str) -> str:
    """The beginning of the names of all namespaces that this process makes."""
    return f"{prefix}-{os.getpid()}-{started_at(os.getpid())}-"


def identify(namespace: Path) -> tuple[int, int]:
    """Device and inode number: what tells one namespace from every other that lives."""
    status = os.stat(namespace)
    return status.st_dev, status.st_ino


def processes_in(namespace: Path) -> list[int]:
    """Pids of the processes whose network namespace is ``namespace``; none when it is gone."""
    return processes_of(identify(namespace)) if namespace.exists() else []


def processes_of(wanted: tuple[int, int]) -> list[int]:
    """As ``processes_in``, for a namespace that may have lost its name; none for our own one."""
    if wanted == identify(Path("/proc/self/ns/net")):
        return []
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if identify(Path("/proc", entry, "ns/net")) == wanted:
                    found.append(int(entry))
            except OSError:
                continue  # it ended meanwhile
    return found


def remove_namespace(namespace: Path) -> int:
    """Kill what runs in ``namespace``, then unmount and delete it.

    Returns the number of processes killed. One that does not exist is no error.
    """
    killed = 0
    deadline = time.monotonic() + KILL_SECONDS
    while (pids := processes_in(namespace)) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                continue
        time.sleep(0.01)
    from pyroute2 import netns  # 0.1 s: only when there is something to do

    if namespace.exists():
        netns.remove(str(namespace))
    return killed


def find_stale(prefix: str) -> list[Path]:
    """Namespaces of ``prefix`` whose maker does not run any more, in order of name."""
    pattern = re.compile(re.escape(prefix) + r"-(\d+)-(\d+)-\w+")
    names = sorted(os.listdir(NAMESPACES)) if NAMESPACES.is_dir() else []
    return [
        NAMESPACES / name
        for name in names
        if (match := pattern.fullmatch(name)) and started_at(int(match[1])) != int(match[2])
    ]


def remove_stale(prefix: str) -> list[str]:
    """Remove every namespace that a killed run of ``prefix`` left; returns their names."""
    stale = find_stale(prefix)
    for namespace in stale:
        remove_namespace(namespace)
    return [namespace.name for namespace in stale]
