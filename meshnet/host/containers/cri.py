"""The Container Runtime Interface: containerd, CRI-O and others, as kubelet talks to them.

Stubs by PyPI's ``container-runtime-interface-api``. Pause containers are the sandboxes.
"""

from __future__ import annotations

from meshnet.host.containers.container import Container
from meshnet.model.frozen import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from meshnet.host.containers.container import WantsPid


def running(socket: str, timeout: float, wants_pid: WantsPid) -> list[Container]:
    """The sandboxes that are ready, and the containers that run in them.

    ``timeout`` in seconds is for each request. A pid costs a request a container.
    """
    import grpc

    with grpc.insecure_channel(f"unix://{socket}") as channel:
        api, stub, runtime = _connect(channel, timeout)
        pods: dict[str, str] = {}
        found = []
        for box in stub.ListPodSandbox(_ready(api), timeout=timeout).items:
            pods[box.id] = f"{box.metadata.namespace}/{box.metadata.name}"
            found.append(Container(box.id, "", pods[box.id], runtime, 0, True))
        for row in stub.ListContainers(_started(api), timeout=timeout).containers:
            pod = pods.get(row.pod_sandbox_id, "")
            found.append(Container(row.id, row.metadata.name, pod, runtime))
        return [
            replace(one, pid=_pid(api, stub, one, timeout)) if wants_pid(one) else one
            for one in found
        ]


def _connect(channel: object, timeout: float) -> tuple[Any, Any, str]:
    """Messages and stub of the version that the runtime speaks, and the runtime's name."""
    import grpc
    from cri_api.v1 import api_pb2, api_pb2_grpc

    make: Any = api_pb2_grpc.RuntimeServiceStub
    stub = make(channel)
    try:
        answer = stub.Version(api_pb2.VersionRequest(), timeout=timeout)
    except grpc.RpcError as e:
        if e.code() != grpc.StatusCode.UNIMPLEMENTED:
            raise
        # containerd before 1.6 and CRI-O before 1.23.
        from cri_api.v1alpha2 import api_pb2 as older
        from cri_api.v1alpha2 import api_pb2_grpc as older_grpc

        make = older_grpc.RuntimeServiceStub
        stub = make(channel)
        answer = stub.Version(older.VersionRequest(), timeout=timeout)
        return older, stub, str(answer.runtime_name)
    return api_pb2, stub, str(answer.runtime_name)


def _ready(api: Any) -> object:
    state = api.PodSandboxStateValue(state=api.SANDBOX_READY)
    return api.ListPodSandboxRequest(filter=api.PodSandboxFilter(state=state))


def _started(api: Any) -> object:
    state = api.ContainerStateValue(state=api.CONTAINER_RUNNING)
    return api.ListContainersRequest(filter=api.ContainerFilter(state=state))


def _pid(api: Any, stub: Any, container: Container, timeout: float) -> int:
    """The first process: the interface has none, but every runtime adds it to a verbose answer."""
    import json

    import grpc

    try:
        if container.sandbox:
            asked = api.PodSandboxStatusRequest(pod_sandbox_id=container.id, verbose=True)
            answer = stub.PodSandboxStatus(asked, timeout=timeout)
        else:
            asked = api.ContainerStatusRequest(container_id=container.id, verbose=True)
            answer = stub.ContainerStatus(asked, timeout=timeout)
    except grpc.RpcError as e:
        if e.code() == grpc.StatusCode.NOT_FOUND:  # it ended meanwhile
            return 0
        raise
    try:
        return int(json.loads(answer.info["info"])["pid"])
    except (KeyError, TypeError, ValueError):
        return 0
