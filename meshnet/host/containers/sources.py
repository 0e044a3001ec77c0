"""Asking every container runtime of the node what runs: a child each, all at the same time.

A child, because the libraries keep threads, sockets and memory, and because a runtime that
hangs must cost its limit and no more.
"""

from __future__ import annotations

import os
import stat

from meshnet.errors import MeshnetError, NotPermitted, printable
from meshnet.host.containers.container import Container
from meshnet.model.frozen import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from meshnet.host.containers.container import WantsPid

#: Seconds that a runtime gets for one request, and for all of them with loading its library.
REQUEST = 2.0
LIMIT = 4.0


@dataclass(frozen=True)
class Source:
    """A kind of runtime: where its socket is, which variable names another, which extra asks it.

    ``library`` is what the extra installs, ``local`` the sockets of a user's own daemon
    below $XDG_RUNTIME_DIR.
    """

    name: str
    variable: str
    sockets: tuple[str, ...]
    library: str
    local: tuple[str, ...] = ()

    @property
    def extra(self) -> str:
        """The extra of meshnet that this needs; it is called as the source is."""
        return self.name


#: In the order in which their words count: a pod's name is CRI's before anybody's.
SOURCES = (
    Source(
        "cri",
        "CONTAINER_RUNTIME_ENDPOINT",
        (
            "/run/containerd/containerd.sock",
            "/run/crio/crio.sock",
            "/run/cri-dockerd.sock",
            "/run/k3s/containerd/containerd.sock",
            "/run/k0s/containerd.sock",
            "/var/snap/microk8s/common/run/containerd.sock",
        ),
        "cri_api",
    ),
    Source("docker", "DOCKER_HOST", ("/var/run/docker.sock",), "docker", ("docker.sock",)),
    Source(
        "podman", "CONTAINER_HOST", ("/run/podman/podman.sock",), "podman", ("podman/podman.sock",)
    ),
    Source(
        "containerd",
        "CONTAINERD_ADDRESS",
        ("/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock"),
        "grpc",
    ),
)


@dataclass(frozen=True)
class Inquiry:
    """A socket that is to be asked."""

    source: Source
    socket: str

    def __str__(self) -> str:
        return f"{self.source.name} at {printable(self.socket)}"


@dataclass(frozen=True)
class Census:
    """What the sources said: the containers, who was asked, and who was not and why.

    ``asked`` and ``unasked`` are sentences for the user. ``refused``: somebody did not let
    us ask, so that what is missing here may exist.
    """

    containers: tuple[Container, ...] = ()
    asked: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()
    refused: bool = False


def nobody(container: Container) -> bool:
    """The :data:`WantsPid` of those who need names only."""
    return False


def take_census(wants_pid: WantsPid = nobody, limit: float = LIMIT) -> Census:
    """Ask every runtime whose socket is there; one that cannot answer costs a sentence.

    ``limit`` is in seconds, for each runtime; they are asked at the same time. The
    containers come unmerged, in the order of :data:`SOURCES`.
    """
    inquiries, unasked, refused = [], [], False
    for source in SOURCES:
        try:
            inquiries += [Inquiry(source, socket) for socket in find_sockets(source)]
        except NotPermitted as e:
            unasked.append(e.message)
            refused = True
        except MeshnetError as e:
            unasked.append(e.message)
    if not inquiries:
        return Census((), (), tuple(unasked), refused)
    answers = _ask(inquiries, wants_pid, limit)
    containers: list[Container] = []
    asked = []
    for inquiry in inquiries:
        answer = answers[inquiry]
        if isinstance(answer, MeshnetError):
            unasked.append(f"{inquiry}: {answer.message}")
            refused = refused or isinstance(answer, NotPermitted)
        else:
            containers += (Container(*row) for row in answer)
            asked.append(f"{inquiry} ({len(answer)})")
    return Census(tuple(containers), tuple(asked), tuple(unasked), refused)


def find_sockets(source: Source) -> list[str]:
    """The sockets of ``source`` on this machine, one path each.

    Raises MeshnetError, with the reason, where there is none or its library is missing;
    NotPermitted where it may not be used.
    """
    asked_for = os.environ.get(source.variable, "")
    if asked_for and not (asked_for.startswith(("unix:", "/"))):
        where = f"${source.variable} names {printable(asked_for)}"
        raise MeshnetError(f"{source.name}: {where}, which is no socket of this machine")
    home = os.environ.get("XDG_RUNTIME_DIR", "")
    local = tuple(f"{home}/{name}" for name in source.local) if home.startswith("/") else ()
    candidates = (_path_of(asked_for),) if asked_for else source.sockets + local
    found = {os.path.realpath(path): path for path in candidates if _is_socket(path)}
    if not found:
        where = f" at ${source.variable} {printable(asked_for)}" if asked_for else ""
        raise MeshnetError(f"{source.name}: no socket{where}")
    if not _is_installed(source.library):
        raise MeshnetError(
            f"{source.name}: {printable(min(found.values()))} is there, but not the library to "
            f"ask it: install meshnet with its extra {source.extra}"
        )
    usable = [path for path in found.values() if os.access(path, os.W_OK, effective_ids=True)]
    if not usable:
        raise NotPermitted(f"{source.name}: {printable(min(found.values()))} is not for this user")
    return usable


def _path_of(endpoint: str) -> str:
    path = endpoint.removeprefix("unix:")
    return "/" + path.lstrip("/")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _is_installed(library: str) -> bool:
    from importlib.util import find_spec

    return find_spec(library) is not None


def _ask(
    inquiries: Iterable[Inquiry], wants_pid: WantsPid, limit: float
) -> dict[Inquiry, list[list[Any]] | MeshnetError]:
    from meshnet.host.netns import Door
    from meshnet.host.sweep import sweep

    def job(inquiry: Inquiry) -> list[list[Any]]:
        found = _answer(inquiry, wants_pid)
        return [[c.id, c.name, c.pod, c.runtime, c.pid, c.sandbox] for c in found]

    everybody = list(inquiries)
    outcomes = sweep(
        everybody, job, door=lambda _: Door(None), workers=len(everybody), timeout=limit
    )
    return dict(outcomes)


def _answer(inquiry: Inquiry, wants_pid: WantsPid) -> list[Container]:
    """What one runtime says; whatever its library raises becomes one line."""
    try:
        return _asker(inquiry.source.name)(inquiry.socket, REQUEST, wants_pid)
    except MeshnetError:
        raise
    except Exception as e:
        raise MeshnetError(_reason(e)) from e


def _asker(name: str) -> Callable[[str, float, WantsPid], list[Container]]:
    if name == "docker":
        from meshnet.host.containers.docker import running
    elif name == "podman":
        from meshnet.host.containers.podman import running
    elif name == "cri":
        from meshnet.host.containers.cri import running
    else:
        from meshnet.host.containers.containerd import running
    return running


def _reason(error: Exception) -> str:
    """The first sentence of what a library said: gRPC's details, or its exception's text."""
    details = getattr(error, "details", None)
    text = details() if callable(details) else ""
    first = str(text or error or type(error).__name__).strip().partition("\n")[0]
    return printable(first, 160)
