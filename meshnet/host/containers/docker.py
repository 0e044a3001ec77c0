"""The Docker Engine, asked over its socket by PyPI's ``docker``."""

from __future__ import annotations

from meshnet.host.containers.container import CONTAINER_NAME, Container, pod_of
from meshnet.model.frozen import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.host.containers.container import WantsPid

#: cri-dockerd and kubelets before 1.24 mark the pause container with it.
_KIND = "io.kubernetes.docker.type"


def running(socket: str, timeout: float, wants_pid: WantsPid) -> list[Container]:
    """The containers that run; ``timeout`` in seconds is for each request."""
    import docker

    client = docker.APIClient(base_url=f"unix://{socket}", timeout=timeout, version="auto")
    try:
        containers = []
        for row in client.containers():
            labels = row.get("Labels") or {}
            sandbox = labels.get(_KIND) == "podsandbox"
            name = labels.get(CONTAINER_NAME) or _name(row.get("Names") or [])
            found = Container(
                row["Id"], "" if sandbox else name, pod_of(labels), "docker", 0, sandbox
            )
            if wants_pid(found):
                found = replace(found, pid=_pid(client, found.id))
            containers.append(found)
        return containers
    finally:
        client.close()


def _name(names: list[str]) -> str:
    """The container's own name; the others are "/other/alias" of links."""
    own = [name[1:] for name in names if name.count("/") == 1]
    return own[0] if own else ""


def _pid(client: object, container: str) -> int:
    from docker.errors import NotFound

    try:
        return int(client.inspect_container(container)["State"]["Pid"])  # type: ignore[attr-defined]
    except NotFound:  # it ended meanwhile
        return 0
