"""Podman, asked over its API service's socket by PyPI's ``podman``."""

from __future__ import annotations

from meshnet.host.containers.container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.host.containers.container import WantsPid


def running(socket: str, timeout: float, wants_pid: WantsPid) -> list[Container]:
    """The containers that run; a list has their pids already.

    ``timeout`` in seconds is for each request.
    """
    import podman

    # Otherwise the library looks for machines and connections in the user's configuration.
    with podman.PodmanClient(base_url=f"unix://{socket}", timeout=timeout) as client:
        return [_container(found.attrs) for found in client.containers.list()]


def _container(row: dict[str, object]) -> Container:
    names, pid = row.get("Names"), row.get("Pid")
    sandbox = bool(row.get("IsInfra"))
    name = str(names[0]) if isinstance(names, list) and names and not sandbox else ""
    return Container(
        str(row["Id"]),
        name,
        str(row.get("PodName") or ""),
        "podman",
        pid if isinstance(pid, int) else 0,
        sandbox,
    )
