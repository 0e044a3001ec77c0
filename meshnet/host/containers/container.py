"""A container as one of the sources knows it."""

from __future__ import annotations

from meshnet.model.frozen import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Labels that kubelet gives to every container, whatever runs it (pkg/kubelet/types/labels.go).
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
CONTAINER_NAME = "io.kubernetes.container.name"
#: Hexadecimal digits of an id that a runtime made up.
ID_LENGTH = 64


@dataclass(frozen=True)
class Container:
    """A running container.

    ``pod`` is "namespace/name" (Podman's pods have no namespace: "name"), "" without one.
    ``pid`` is the first process as this machine counts, 0 where it was not asked for or
    is not known. ``sandbox`` is the pause container, which stands for the pod itself; its
    name is "".
    """

    id: str
    name: str = ""
    pod: str = ""
    runtime: str = ""
    pid: int = 0
    sandbox: bool = False

    @property
    def called(self) -> str:
        """What to call it: its name, or the beginning of its id."""
        return self.name or (self.id if len(self.id) < ID_LENGTH else f"container {self.id[:12]}")


if TYPE_CHECKING:
    #: Whether the pid of a container is wanted, where asking for it costs a request.
    WantsPid = Callable[[Container], bool]


def pod_of(labels: dict[str, str]) -> str:
    """The pod that kubelet's labels tell of, "" without them."""
    namespace, name = labels.get(POD_NAMESPACE, ""), labels.get(POD_NAME, "")
    return f"{namespace}/{name}" if namespace and name else ""


def merge(containers: Iterable[Container]) -> list[Container]:
    """One entry an id: the first source's word, and of the others what it left empty."""
    merged: dict[object, Container] = {}
    for new in containers:
        # containerd lets its users choose ids, which are unique in one of its namespaces only.
        key = new.id if len(new.id) == ID_LENGTH else (new.id, new.pid)
        old = merged.setdefault(key, new)
        if old is not new:
            # A pause container has no name; another source may call it by its id.
            merged[key] = replace(
                old,
                name=old.name if old.name or old.sandbox else new.name,
                pod=old.pod or new.pod,
                runtime=old.runtime or new.runtime,
                pid=old.pid or new.pid,
                # The logs only guess it: by the name that they lack.
                sandbox=old.sandbox or (new.sandbox and not old.name),
            )
    return list(merged.values())
