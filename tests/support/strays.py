"""What becomes of crafted packets between the pod and the world."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.support.namespaces import Namespace
from tests.support.traffic import Pod

PROGRAM = str(Path(__file__).parent / "crafted.py")
#: In the world: the pod's TCP stays unanswered for a while, so that it is sent again.
_DEAF = """
table inet deaf {
  chain c { type filter hook prerouting priority 0; tcp dport 9000 drop; }
}
"""


def start(namespace: Namespace, *arguments: str) -> subprocess.Popen[str]:
    """Run crafted.py in a namespace; its first line has come when this returns."""
    argv = ["nsenter", f"--net={namespace.path}", sys.executable, "-I", "-S", PROGRAM, *arguments]
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    if not process.stdout.readline():
        raise AssertionError(f"crafted.py {arguments} ended early")
    return process


def stray_tcp(pod: Pod, address: str) -> str:
    """What the pod answers to a SYN-ACK that nobody asked for: reset or silence."""
    argv = (sys.executable, "-I", "-S", PROGRAM, "tcp", address)
    return pod.world.run(*argv).stdout.strip()


def stray_icmp(pod: Pod, address: str) -> str:
    """Whether an echo reply that nobody asked for gets into the pod: heard or silence."""
    listener = start(pod.namespace, "hear", address)
    pod.world.run(sys.executable, "-I", "-S", PROGRAM, "icmp", address)
    return listener.communicate(timeout=10)[0].strip()


def orphaned_data(pod: Pod, address: str, gid: int, arguments: list[str] | None, env=None) -> bool:
    """Whether data that the kernel sends again without a socket reaches the world.

    The connection is older than the rules that ``arguments`` make (None: no rules), so the
    data is the first that conntrack sees of it.
    """
    process = start(pod.namespace, "orphan", address, "9000", str(gid))
    pod.world.run("nft", "-f", "-", text=_DEAF)
    process.communicate("close\n", timeout=10)
    if arguments is not None:
        pod.init(*arguments, env=env)
    pod.world.run("nft", "delete", "table", "inet", "deaf")
    end = time.monotonic() + 10
    while time.monotonic() < end and _has_orphan(pod):
        time.sleep(0.05)
    # What came before the first question has been read before the second one.
    pod.agents["world"].ask("heard")
    return "orphan" in pod.agents["world"].ask("heard")


def _has_orphan(pod: Pod) -> bool:
    """Whether the kernel still holds the closed connection, to send its data again."""
    table = pod.namespace.run("cat", "/proc/self/net/tcp").stdout
    return any(line.split()[2].endswith(f":{9000:04X}") for line in table.splitlines()[1:])
