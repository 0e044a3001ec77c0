"""Cgroup paths of every runtime and driver, and the names of kubelet's log files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.host.containers.container import Container
from meshnet.host.containers.kubelet import containers_of, read_logs
from meshnet.host.containers.membership import Membership, membership, membership_in

ID, INNER = "0f" * 32, "a9" * 32
UID = "0b1f2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
FLAT = UID.replace("-", "_")
STATIC = "d0c1" * 8
SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{FLAT}.slice"
NODE = f"/docker/{ID}"

PATHS = {
    # kubelet with cgroupfs
    f"/kubepods/burstable/pod{UID}/{ID}": (ID, UID, ""),
    f"/kubepods/besteffort/pod{UID}/{ID}": (ID, UID, ""),
    f"/kubepods/pod{UID}/{ID}": (ID, UID, ""),
    f"/kubepods/pod{STATIC}/{ID}": (ID, STATIC, ""),
    f"/kubepods/burstable/pod{UID}/crio-{ID}": (ID, UID, "cri-o"),
    f"/kubepods/burstable/pod{UID}": ("", UID, ""),
    # kubelet with systemd
    f"{SLICE}/cri-containerd-{ID}.scope": (ID, UID, "containerd"),
    f"{SLICE}/crio-{ID}.scope": (ID, UID, "cri-o"),
    f"{SLICE}/crio-{ID}.scope/container": (ID, UID, "cri-o"),
    f"{SLICE}/docker-{ID}.scope": (ID, UID, "docker"),
    f"/kubepods.slice/kubepods-pod{FLAT}.slice/cri-containerd-{ID}.scope": (ID, UID, "containerd"),
    SLICE: ("", UID, ""),
    # containerd with cgroupfs under a kubelet with systemd
    f"/system.slice/containerd.service/kubepods-burstable-pod{FLAT}.slice:cri-containerd:{ID}": (
        *(ID, UID, "containerd"),
    ),
    f"/kubepods-pod{FLAT}.slice:cri-containerd:{ID}": (ID, UID, "containerd"),
    # Docker
    f"/docker/{ID}": (ID, "", "docker"),
    f"/system.slice/docker-{ID}.scope": (ID, "", "docker"),
    f"/system.slice/docker-{ID}.scope/init.scope": (ID, "", "docker"),
    f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope": (
        *(ID, "", "docker"),
    ),
    f"/some-parent/{ID}": (ID, "", ""),
    # Podman
    f"/machine.slice/libpod-{ID}.scope": (ID, "", "podman"),
    f"/machine.slice/libpod-{ID}.scope/container": (ID, "", "podman"),
    f"/machine.slice/machine-libpod_pod_{INNER}.slice/libpod-{ID}.scope": (ID, "", "podman"),
    f"/libpod_parent/libpod-{ID}": (ID, "", "podman"),
    f"/libpod_parent/{INNER}/libpod-{ID}": (ID, "", "podman"),
    f"/user.slice/user-0.slice/session-1.scope/libpod-payload-{ID}": (ID, "", "podman"),
    # nerdctl
    f"/system.slice/nerdctl-{ID}.scope": (ID, "", "containerd"),
    f"/default/{ID}": (ID, "", ""),
    # kind: a node is a container of Docker, its pods are inside
    f"{NODE}/init.scope": (ID, "", "docker"),
    f"{NODE}/kubelet/kubepods/besteffort/pod{UID}/{INNER}": (INNER, UID, ""),
    f"{NODE}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
    f"kubelet-kubepods-besteffort-pod{FLAT}.slice/cri-containerd-{INNER}.scope": (
        *(INNER, UID, "containerd"),
    ),
    # Docker in a pod: the inner container is none of kubelet's
    f"/kubepods/pod{UID}/{ID}/docker/{INNER}": (INNER, "", "docker"),
    # as a reader in a cgroup namespace of its own sees others
    f"/../../pod{UID}/{ID}": (ID, UID, ""),
}
NOBODY = [
    "/",
    "",
    "/init.scope",
    "/user.slice/user-1000.slice/session-2.scope",
    "/system.slice/ssh.service",
    "/kubepods.slice/kubepods-burstable.slice",
    "/kubepods/burstable",
    f"/machine.slice/libpod-conmon-{ID}.scope",
    f"{SLICE}/crio-conmon-{ID}.scope",
    "/libpod_parent/conmon",
    f"/docker/{ID[:-1]}",
    f"/docker/{ID}0",
    f"/docker/{ID.upper()}",
    "/default/box",
    "/podinfo",
    f"/pod{UID[:-1]}",
]


@pytest.mark.parametrize("path", PATHS)
def test_every_runtime_and_driver(path: str) -> None:
    assert membership(path) == Membership(*PATHS[path])


@pytest.mark.parametrize("path", NOBODY)
def test_what_belongs_to_no_container(path: str) -> None:
    assert membership(path) is None


@pytest.mark.parametrize("path", PATHS)
def test_any_hierarchy_may_tell(path: str) -> None:
    """cgroup v2 alone, v1 alone, and both with one of them empty."""
    wanted = Membership(*PATHS[path])
    for text in (
        f"0::{path}\n",
        f"12:pids:{path}\n1:name=systemd:{path}\n",
        f"9:name=systemd:/\n4:memory:{path}\n0::/init.scope\n",
        f"3:cpu,cpuacct:/\n0::{path}\n",
    ):
        assert membership_in(text) == wanted


def test_a_container_beats_a_pod() -> None:
    text = f"2:cpu:/kubepods/pod{UID}\n1:name=systemd:/kubepods/pod{UID}/{ID}\n"
    assert membership_in(text) == Membership(ID, UID)


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    for found in (membership(text), membership_in(text)):
        assert found is None or found.id or found.uid


HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
UIDS = st.uuids().map(str)
LEVELS = st.lists(st.sampled_from(["kubepods", "a.slice", "x", "kubelet", "init"]), max_size=4)


@given(LEVELS, UIDS, HEX, st.sampled_from(["", "container", "init.scope"]))
def test_the_innermost_container_and_its_pod(
    above: list[str], uid: str, identity: str, below: str
) -> None:
    start = "".join(f"/{level}" for level in above)
    end = f"/{below}" if below else ""
    flat = uid.replace("-", "_")
    for middle, runtime in {
        f"/pod{uid}/{identity}": "",
        f"/kubepods-pod{flat}.slice/cri-containerd-{identity}.scope": "containerd",
        f"/kubepods-burstable-pod{flat}.slice:cri-containerd:{identity}": "containerd",
        f"/kubepods-pod{flat}.slice/crio-{identity}.scope": "cri-o",
    }.items():
        assert membership(start + middle + end) == Membership(identity, uid, runtime)


def test_log_files_name_pods_and_containers(tmp_path: Path) -> None:
    assert read_logs(str(tmp_path)).pods == {}
    (tmp_path / f"pods/shop_cart-7d9f_{UID}/app").mkdir(parents=True)
    (tmp_path / f"pods/kube-system_etcd-node_{STATIC}").mkdir()
    (tmp_path / "pods/strange").mkdir()
    logs = tmp_path / "containers"
    logs.mkdir()
    (logs / f"cart-7d9f_shop_istio-proxy-{ID}.log").symlink_to("/nowhere")
    (logs / "unrelated.log").touch()
    found = read_logs(str(tmp_path))
    assert found.pods == {UID: "shop/cart-7d9f", STATIC: "kube-system/etcd-node"}
    assert found.containers == {ID: ("istio-proxy", "shop/cart-7d9f")}
    assert not found.refused

    members = [
        (7, Membership(INNER, UID, "containerd")),
        (9, Membership(ID, UID, "containerd")),
        (10, Membership(ID, UID, "containerd")),
        (11, Membership("", UID)),
        (12, Membership("cc" * 32, STATIC)),
        (13, Membership("dd" * 32, "", "docker")),
    ]
    assert containers_of(members, found) == [
        Container(INNER, "", "shop/cart-7d9f", "containerd", 7, True),
        Container(ID, "istio-proxy", "shop/cart-7d9f", "containerd", 9),
        Container("cc" * 32, "", "kube-system/etcd-node", "", 12),
        Container("dd" * 32, "", "", "docker", 13),
    ]


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), max_size=80))
def test_any_file_name_is_read(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    from meshnet.host.containers import kubelet

    for pattern in (kubelet._POD, kubelet._CONTAINER):
        found = pattern.fullmatch(name)
        assert found is None or all(found.groupdict().values())
