"""Containers for real: each runtime runs, and what it runs is found through its socket."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshnet.errors import MeshnetError, UsageError
from meshnet.host.containers import kubelet, sources
from meshnet.host.target import Target, netns_of, resolve, resolve_all
from tests.support.images import IMAGE
from tests.support.namespaces import meshnet_init
from tests.support.runtimes import (
    Containerd,
    Docker,
    Podman,
    Runtime,
    hierarchies,
    process_of,
    remove_leftovers,
)

UID = "0b1f2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
OTHER_UID = "11111111-2222-3333-4444-555555555555"
OWN = "/proc/self/ns/net"
SHOP, TEST = "shop/cart-7d9f", "test/cart-5c8b"
APP, SIDECAR = "app", "istio-proxy"


@pytest.fixture(scope="module", autouse=True)
def _clean_start() -> None:
    remove_leftovers()


def started(kind: type[Runtime]) -> Iterator[Runtime]:
    """A runtime for as long as the tests of this module need it."""
    if missing := kind.missing():
        pytest.skip(f"{missing} is not installed: scripts/packages test")
    if not any(os.access(top, os.W_OK) for top in hierarchies()):
        pytest.skip("cannot run here: no cgroup can be made")
    ours = Path("/proc/self/cgroup").read_text()
    runtime = kind()
    try:
        runtime.start()
        yield runtime
    finally:
        runtime.stop()
    assert not runtime.folder.exists()
    assert not [top for top in hierarchies() if (top / runtime.stem).exists()]
    assert Path("/proc/self/cgroup").read_text() == ours


@pytest.fixture(scope="module")
def docker() -> Iterator[Runtime]:
    yield from started(Docker)


@pytest.fixture(scope="module")
def podman() -> Iterator[Runtime]:
    yield from started(Podman)


@pytest.fixture(scope="module")
def containerd() -> Iterator[Runtime]:
    yield from started(Containerd)


@pytest.fixture(scope="module")
def pods(containerd: Containerd) -> dict[str, list[str]]:
    """Two pods of CRI: the ids of their sandbox and containers."""
    return {
        SHOP: containerd.run_pod(SHOP, UID, APP, SIDECAR),
        TEST: containerd.run_pod(TEST, OTHER_UID, APP),
    }


@pytest.fixture(autouse=True)
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Makes one runtime the only one of this machine, and leaves no log files of kubelet."""
    monkeypatch.setattr(kubelet, "LOGS", str(tmp_path))

    def choose(*runtimes: Runtime, leave_out: str = "") -> None:
        for source in sources.SOURCES:
            monkeypatch.setenv(source.variable, str(tmp_path / "no such socket"))
        for runtime in runtimes:
            for variable in runtime.variables:
                if variable != leave_out:
                    monkeypatch.setenv(variable, f"unix://{runtime.socket}")

    choose()
    return choose


def wait_until(condition: Callable[[], bool]) -> None:
    """Until it holds, for at most five seconds."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def inode_of(argument: str) -> int:
    """The namespace of a container's process, as /proc has it."""
    return os.stat(f"/proc/{process_of(argument)}/ns/net").st_ino


def assert_found(asked: str, argument: str) -> Target:
    """``asked`` resolves to the namespace of the process that was started with ``argument``."""
    found = resolve(asked)
    assert found.inode == inode_of(argument), asked
    assert found.inode != os.stat(OWN).st_ino
    assert found.path is not None and os.stat(found.path).st_ino == found.inode
    assert process_of(argument) in found.pids
    return found


@pytest.mark.parametrize("kind", ["docker", "podman"])
def test_id_name_and_prefix_resolve(kind: str, request: pytest.FixtureRequest, only) -> None:
    runtime = request.getfixturevalue(kind)
    one, other = f"{kind}-web.1", f"{kind}-db"
    ids = {name: runtime.run(name) for name in (one, other)}
    only(runtime)
    for name, identity in ids.items():
        assert len(identity) == 64
        for asked in (name, identity, identity[:12], f"container:{name}", f"{kind}://{identity}"):
            found = assert_found(asked, name)
            assert found.name == name and found.pod == ""
            assert [(c.id, c.name, c.runtime) for c in found.containers] == [(identity, name, kind)]
    assert_found(f"{kind}-w", one)
    with pytest.raises(MeshnetError, match=f"{kind}-db.*{kind}-web.1") as ambiguous:
        resolve(f"{kind}-")
    assert ambiguous.value.exit_code == 1
    with pytest.raises(MeshnetError, match=f"no pod '{one}'"):
        resolve(f"pod:{one}")
    named = {target.inode: target.name for target in resolve_all()}
    assert {named[inode_of(name)] for name in ids} == set(ids)


@pytest.mark.parametrize("kind", ["docker", "podman"])
def test_a_stopped_container_is_not_found(kind: str, request: pytest.FixtureRequest, only) -> None:
    runtime = request.getfixturevalue(kind)
    only(runtime)
    runtime.run(f"{kind}-gone")
    assert_found(f"{kind}-gone", f"{kind}-gone")
    runtime.kill(f"{kind}-gone")
    with pytest.raises(MeshnetError, match=f"asked: {kind} at") as missing:
        resolve(f"{kind}-gone")
    assert missing.value.exit_code == 1 and "cri: no socket" in str(missing.value)


def test_a_pod_of_podman(podman: Podman, only) -> None:
    own = ("--infra-image", IMAGE, "--infra-command", "/wait", "--network=none")
    podman.client("pod", "create", *own, "--cgroup-parent", f"/{podman.stem}", "--name", "basket")
    for name in ("basket-web", "basket-db"):
        podman.run(name, "--pod=basket", "--pids-limit=0")
    only(podman)
    for asked in ("pod:basket", "bask", "container:basket-web"):
        found = assert_found(asked, "basket-web")
        assert (found.name, found.pod) == ("basket", "basket")
        assert sorted(c.name for c in found.containers) == ["basket-db", "basket-web", "pause"]


def test_a_pod_by_cri(containerd: Containerd, pods: dict[str, list[str]], only) -> None:
    only(containerd, leave_out="CONTAINERD_ADDRESS")
    box, app, sidecar = pods[SHOP]
    asked = [SHOP, f"pod:{SHOP}", "cart-7d9f", "pod:cart-7", "shop/", box, box[:10], sidecar]
    for target in (*asked, app[:12], f"containerd://{app}", SIDECAR, "container:istio"):
        found = assert_found(target, "cart-7d9f-app")
        assert (found.name, found.pod) == (SHOP, SHOP)
        assert {(c.id, c.name) for c in found.containers} >= {(app, APP), (sidecar, SIDECAR)}
        assert found.inode == inode_of("cart-7d9f-istio-proxy")
    # The pause container's process is in the pod's namespace, and a part of it.
    assert found.inode == os.stat(f"/proc/{found.pids[0]}/ns/net").st_ino
    assert len(found.pids) == 3
    with pytest.raises(MeshnetError, match=f"pod:{SHOP}, pod:{TEST}"):
        resolve("cart-")
    with pytest.raises(MeshnetError, match=f"pod:{SHOP}, pod:{TEST}"):
        resolve(f"container:{APP}")
    targets = {target.name: target for target in resolve_all()}
    assert targets[SHOP].inode == inode_of("cart-7d9f-app")
    assert targets[TEST].inode == inode_of("cart-5c8b-app")
    assert {c.name for c in targets[SHOP].containers} == {"pause", APP, SIDECAR}


def test_containers_of_ctr(containerd: Containerd, pods: dict[str, list[str]], only) -> None:
    """They have no id that a cgroup would show: only containerd's own interface knows them."""
    containerd.run("box")
    only(containerd, leave_out="CONTAINER_RUNTIME_ENDPOINT")
    for asked in ("box", "bo", "container:box"):
        found = assert_found(asked, "box")
        assert (found.name, found.containers[0].runtime) == ("box", "containerd")
    only(containerd)
    named = {target.inode: target.name for target in resolve_all()}
    assert named[inode_of("box")] == "box" and named[inode_of("cart-7d9f-app")] == SHOP


def test_a_pod_without_any_runtime_socket(pods: dict[str, list[str]], tmp_path: Path, only) -> None:
    """By the cgroups of its processes, and by the names of kubelet's log files."""
    _, app, sidecar = pods[SHOP]
    with pytest.raises(MeshnetError, match="no pod or container"):
        resolve(SHOP)
    found = assert_found(app, "cart-7d9f-app")
    assert found.name == f"container {app[:12]}"
    (tmp_path / f"pods/shop_cart-7d9f_{UID}/{APP}").mkdir(parents=True)
    for asked in (SHOP, "cart-7d9f", "pod:shop/cart", app[:12]):
        found = assert_found(asked, "cart-7d9f-app")
        assert found.name == SHOP
    logs = tmp_path / "containers"
    logs.mkdir()
    for name, identity in ((APP, app), (SIDECAR, sidecar)):
        (logs / f"cart-7d9f_shop_{name}-{identity}.log").symlink_to("/nowhere")
    found = assert_found("container:istio-proxy", "cart-7d9f-istio-proxy")
    assert [c.name for c in found.containers] == ["pause", APP, SIDECAR]
    assert found.name == SHOP
    assert SHOP in {target.name for target in resolve_all()}


def test_other_targets_get_the_best_name_too(
    containerd: Containerd, pods: dict[str, list[str]], only
) -> None:
    only(containerd)
    pid = process_of("cart-7d9f-app")
    cgroup = next(
        top / containerd.stem / f"kubepods/burstable/pod{UID}"
        for top in hierarchies()
        if (top / containerd.stem / "kubepods").exists()
    )
    for asked in (f"pid:{pid}", str(pid), f"/proc/{pid}/ns/net", f"cgroup:{cgroup}", str(cgroup)):
        found = resolve(asked)
        assert (found.name, found.inode) == (SHOP, inode_of("cart-7d9f-app"))
        assert found.asked == asked
    assert found.cgroup == str(cgroup)
    with pytest.raises(MeshnetError, match="2 namespaces"):
        resolve(f"cgroup:{cgroup.parent}")


def test_meshnet_init_takes_a_container(
    containerd: Containerd, pods: dict[str, list[str]], only
) -> None:
    only(containerd)
    path = netns_of(f"pod:{SHOP}")
    assert path is not None and os.stat(path).st_ino == inode_of("cart-7d9f-app")
    argv = [meshnet_init(), "-p", "15001", "-u", "1337", "--backend", "nft"]
    subprocess.run([*argv, "--target", f"container:{SIDECAR}"], check=True, timeout=30)
    enter = ["nsenter", f"--net={path}", "nft", "list", "ruleset"]
    assert "15001" in subprocess.run(enter, capture_output=True, text=True, check=True).stdout
    with pytest.raises(UsageError, match="'all' is more than one"):
        netns_of("all")


def test_a_namespace_made_inside_a_container(
    containerd: Containerd, pods: dict[str, list[str]], only
) -> None:
    """It bears the pod's name with an addition; the pod's own keeps the plain one."""
    only(containerd)
    cgroup = f"{containerd.stem}/kubepods/burstable/pod{OTHER_UID}/{pods[TEST][1]}"
    with subprocess.Popen(["unshare", "--net", "sleep", "60"]) as other:
        try:
            for top in hierarchies():
                if (top / cgroup).exists():
                    (top / cgroup / "cgroup.procs").write_text(str(other.pid))
            wait_until(lambda: os.stat(f"/proc/{other.pid}/ns/net").st_ino != os.stat(OWN).st_ino)
            named = {target.name: target.inode for target in resolve_all()}
            assert named[TEST] == inode_of("cart-5c8b-app")
            inner = os.stat(f"/proc/{other.pid}/ns/net").st_ino
            assert named[f"{TEST} pid {other.pid} (sleep)"] == inner
            assert resolve(TEST).inode == named[TEST]
            assert resolve(str(other.pid)).inode == inner
        finally:
            other.kill()


KILLED = """
import os, signal
from tests.support.runtimes import Podman
runtime = Podman()
runtime.start()
runtime.run("left-behind")
print(runtime.stem, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_leaves_is_taken_away(podman: Podman) -> None:
    """Daemon, monitor and container, their cgroups and their files; what lives stays."""
    root = Path(__file__).parents[2]
    argv = [sys.executable, "-c", KILLED]
    killed = subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=60)
    stem = killed.stdout.strip()
    assert stem and process_of("left-behind"), killed.stderr
    remove_leftovers()
    with pytest.raises(AssertionError, match="no process"):
        process_of("left-behind", patience=0)
    assert not [top for top in hierarchies() if (top / stem).exists()]
    assert not (podman.folder.parent / stem).exists()
    assert podman.folder.exists() and podman.answers()
