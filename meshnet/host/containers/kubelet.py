"""Names without any runtime: the log files that kubelet keeps for every container.

``/var/log/pods/<namespace>_<pod>_<uid>/<container>/`` names pods by UID,
``/var/log/containers/<pod>_<namespace>_<container>-<id>.log`` containers by id
(pkg/kubelet/kuberuntime/legacy.go and helpers.go). Neither says what runs: cgroups do.
"""

from __future__ import annotations

import os
import re

from meshnet.host.containers.container import Container
from meshnet.model.frozen import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshnet.host.containers.membership import Membership

#: Where logs are; a parameter of every function here.
LOGS = "/var/log"

_POD = re.compile(r"(?P<namespace>[^_]+)_(?P<pod>[^_]+)_(?P<uid>[0-9a-f-]{32,36})")
_CONTAINER = re.compile(
    r"(?P<pod>[^_]+)_(?P<namespace>[^_]+)_(?P<name>.+)-(?P<id>[0-9a-f]{64})\.log"
)


@dataclass(frozen=True)
class Logs:
    """What the log files say: pods by UID; container name and pod by id.

    ``refused``: they may not be read.
    """

    pods: dict[str, str]
    containers: dict[str, tuple[str, str]]
    refused: bool = False


def read_logs(root: str | None = None) -> Logs:
    """The names below ``root``; empty on a node without kubelet."""
    root = LOGS if root is None else root
    pods: dict[str, str] = {}
    containers: dict[str, tuple[str, str]] = {}
    refused = False
    for folder in ("pods", "containers"):
        try:
            entries = os.listdir(f"{root}/{folder}")
        except PermissionError:
            refused = True
            continue
        except OSError:
            continue
        for entry in entries:
            if folder == "pods" and (found := _POD.fullmatch(entry)):
                pods[found["uid"]] = f"{found['namespace']}/{found['pod']}"
            elif folder == "containers" and (found := _CONTAINER.fullmatch(entry)):
                containers[found["id"]] = found["name"], f"{found['namespace']}/{found['pod']}"
    return Logs(pods, containers, refused)


def containers_of(seen: Iterable[tuple[int, Membership]], logs: Logs) -> list[Container]:
    """The containers that processes (oldest first) belong to, by the names that the logs give.

    Kubelet writes no log of a pause container: in a pod whose other containers all have one
    that is how it is told.
    """
    found: dict[str, Container] = {}
    for pid, member in seen:
        if not member.id or member.id in found:
            continue
        name, pod = logs.containers.get(member.id, ("", ""))
        pod = pod or logs.pods.get(member.uid, "")
        sandbox = bool(pod and not name and pod in {p for _, p in logs.containers.values()})
        found[member.id] = Container(member.id, name, pod, member.runtime, pid, sandbox)
    return list(found.values())
