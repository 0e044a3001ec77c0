"""Runs a pod by CRI, as kubelet does. A program of its own: gRPC's threads do not like forks.

    python -m tests.support.cri_pod SOCKET NAMESPACE POD UID CGROUP IMAGE CONTAINER...

prints the sandbox's id and the containers', a line each.
"""

from __future__ import annotations

import sys

import grpc
from cri_api.v1 import api_pb2 as api
from cri_api.v1 import api_pb2_grpc

TIMEOUT = 60


def main(socket: str, pod: tuple[str, str, str], cgroup: str, image: str, names: list[str]) -> None:
    """Make the pod; each container's argument is its name, by which its process is found."""
    namespace, name, uid = pod
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        stub = api_pb2_grpc.RuntimeServiceStub(channel)
        sandbox = api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=name, namespace=namespace, uid=uid),
            hostname=name,
            linux=api.LinuxPodSandboxConfig(cgroup_parent=cgroup),
        )
        request = api.RunPodSandboxRequest(config=sandbox)
        box = stub.RunPodSandbox(request, timeout=TIMEOUT).pod_sandbox_id
        print(box)
        for container in names:
            config = api.ContainerConfig(
                metadata=api.ContainerMetadata(name=container),
                image=api.ImageSpec(image=image),
                command=["/wait", f"{name}-{container}"],
            )
            create = api.CreateContainerRequest(
                pod_sandbox_id=box, config=config, sandbox_config=sandbox
            )
            made = stub.CreateContainer(create, timeout=TIMEOUT).container_id
            stub.StartContainer(api.StartContainerRequest(container_id=made), timeout=TIMEOUT)
            print(made)


if __name__ == "__main__":
    socket, namespace, name, uid, cgroup, image, *containers = sys.argv[1:]
    main(socket, (namespace, name, uid), cgroup, image, containers)
