"""containerd's own interface: containers of ctr and nerdctl, which CRI does not show.

PyPI's ``containerd`` has stubs of 2021 that no protobuf since 4 can load. The three requests
need four small messages: they are described here (api/services/{namespaces,containers,tasks}/v1
of containerd, unchanged since 1.0), for grpcio and protobuf to use.
"""

from __future__ import annotations

from meshnet.host.containers.container import CONTAINER_NAME, ID_LENGTH, Container, pod_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from meshnet.host.containers.container import WantsPid

#: A container's description has its whole specification: more than gRPC's 4 MB at some hundred.
_LARGEST = 64 << 20
#: nerdctl's name of a container, and what containerd's CRI calls its own.
_NERDCTL, _CRI_KIND = "nerdctl/name", "io.cri-containerd.kind"

#: message: {field: (number, type)}; a type in a list repeats. A map repeats its pairs.
_MESSAGES: dict[str, dict[str, tuple[int, str | list[str]]]] = {
    "Pair": {"key": (1, "string"), "value": (2, "string")},
    "Named": {"id": (1, "string"), "labels": (2, ["Pair"])},
    "Task": {"id": (2, "string"), "pid": (3, "uint32"), "status": (4, "uint32")},
    "NamedList": {"items": (1, ["Named"])},
    "TaskList": {"items": (1, ["Task"])},
}
#: api/types/task/task.proto: RUNNING, PAUSED and PAUSING have processes.
_ALIVE = frozenset({2, 4, 5})


def running(socket: str, timeout: float, wants_pid: WantsPid) -> list[Container]:
    """The containers with a living task, of every containerd namespace; all with their pids.

    ``timeout`` in seconds is for each request.
    """
    import grpc

    options = [("grpc.max_receive_message_length", _LARGEST)]
    with grpc.insecure_channel(f"unix://{socket}", options=options) as channel:
        ask = _Requests(channel, timeout)
        found = []
        for space in ask("namespaces.v1.Namespaces", "NamedList"):
            tasks = {
                task.id: task.pid
                for task in ask("tasks.v1.Tasks", "TaskList", space.id)
                if task.status in _ALIVE
            }
            for row in ask("containers.v1.Containers", "NamedList", space.id) if tasks else ():
                if row.id in tasks:
                    labels = {pair.key: pair.value for pair in row.labels}
                    found.append(_container(row.id, labels, tasks[row.id]))
        return found


def _container(identity: str, labels: dict[str, str], pid: int) -> Container:
    sandbox = labels.get(_CRI_KIND) == "sandbox"
    # ctr has no names: its users choose the id.
    chosen = identity if len(identity) != ID_LENGTH else ""
    name = labels.get(CONTAINER_NAME) or labels.get(_NERDCTL, chosen)
    return Container(
        identity, "" if sandbox else name, pod_of(labels), "containerd", int(pid), sandbox
    )


class _Requests:
    """Sends ``List`` to one of containerd's services; requests are empty messages."""

    def __init__(self, channel: Any, timeout: float) -> None:
        self.channel = channel
        self.timeout = timeout
        self.messages = _message_classes()

    def __call__(self, service: str, answer: str, namespace: str = "") -> Any:
        call = self.channel.unary_unary(
            f"/containerd.services.{service}/List",
            request_serializer=bytes,
            response_deserializer=self.messages[answer].FromString,
        )
        metadata = (("containerd-namespace", namespace),) if namespace else ()
        return call(b"", timeout=self.timeout, metadata=metadata).items


def _message_classes() -> dict[str, Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    package = "meshnet.containerd"
    file = descriptor_pb2.FileDescriptorProto(name=package, package=package, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            repeated, kind = isinstance(kind, list), kind[0] if isinstance(kind, list) else kind
            added = message.field.add(name=field, number=number)
            added.label = added.LABEL_REPEATED if repeated else added.LABEL_OPTIONAL
            if kind in _MESSAGES:
                added.type, added.type_name = added.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                added.type = added.TYPE_STRING if kind == "string" else added.TYPE_UINT32
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = message_factory.GetMessageClassesForFiles([package], pool)
    return {name: made[f"{package}.{name}"] for name in _MESSAGES}
