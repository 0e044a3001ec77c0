"""Real container runtimes, each alone: in a network and a mount namespace of its own.

State lies in one directory, processes in cgroups of one name in every hierarchy; both are
called ``mnt-<pid>-<start>-<runtime>`` after the process that made them, so that a later run
takes away what a killed one left. No registry is asked: the image is one static program.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker

from meshnet.lab.leftovers import started_at
from tests.support.images import IMAGE, image_archive, root_file_system
from tests.support.namespaces import PREFIX

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
#: Inside: what is mounted stays there, and folders and locks that a daemon insists on are its own.
#: It joins its cgroup first: podman in the root cgroup would move everybody there elsewhere.
SCRIPT = """
set -e
for folder in /run /dev/shm /opt /var/lib; do mount -t tmpfs tmpfs "$folder"; done
ip link set lo up
echo $$ > "$CGROUP/cgroup.procs"
exec "$@"
"""


def hierarchies() -> list[Path]:
    """Where cgroups are mounted, the unified hierarchy first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith(("cgroup2 ", "cgroup ")):
            found.append((kind.split()[0] == "cgroup", Path(fields.split()[4])))
    return [path for _, path in sorted(found)]


def own_environment() -> dict[str, str]:
    """The environment without what a test told meshnet: podman obeys $CONTAINER_HOST too."""
    ours = {variable for kind in (Docker, Podman, Containerd) for variable in kind.variables}
    return {name: value for name, value in os.environ.items() if name not in ours}


class Runtime:
    """A daemon that runs. Subclasses say how it is started and how it starts containers."""

    name = ""
    #: Programs without which it cannot run, and what Debian calls their packages.
    needs: tuple[tuple[str, str], ...] = ()
    #: The variables by which its clients find it.
    variables: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.stem = f"{PREFIX}-{os.getpid()}-{started_at(os.getpid())}-{self.name}"
        self.folder = Path(tempfile.gettempdir(), self.stem)
        self.socket = self.folder / f"{self.name}.sock"
        self.daemon: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> str:
        """The packages that are not installed, "" when all are."""
        absent = {package for tool, package in cls.needs if shutil.which(tool) is None}
        return " ".join(sorted(absent))

    def start(self) -> None:
        """Start the daemon, wait until it answers and give it the image."""
        self.folder.mkdir(mode=0o700)
        cgroup = hierarchies()[0] / self.stem / "daemon"
        cgroup.mkdir(parents=True)
        log = self.folder / "log"
        isolate = ["unshare", "--mount", "--net", "--propagation", "private"]
        with log.open("wb") as out:
            self.daemon = subprocess.Popen(
                [*isolate, "sh", "-c", SCRIPT, "sh", *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**own_environment(), "CGROUP": str(cgroup), **self.environment()},
            )
        deadline = time.monotonic() + START_SECONDS
        while not (self.socket.exists() and self.answers()):
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.05)
        self.load_image()

    def command(self) -> list[str]:
        """The daemon and its arguments."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Variables for the daemon."""
        return {}

    def client(self, *argv: str, text: bytes = b"") -> str:
        """Run the runtime's own client; its output."""
        argv = (*self.client_command(), *argv)
        done = subprocess.run(argv, input=text, capture_output=True, env=own_environment())
        if done.returncode:
            log = (self.folder / "log").read_text()[-2000:]
            raise AssertionError(f"{argv}: {done.stdout!r} {done.stderr.decode()}\n{log}")
        return done.stdout.decode().strip()

    def client_command(self) -> list[str]:
        """The client, told where the socket is."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether the daemon is ready."""
        argv = [*self.client_command(), "version"]
        return subprocess.run(argv, capture_output=True, env=own_environment()).returncode == 0

    def load_image(self) -> None:
        """Give it the image, from memory."""
        self.client("import", "-", IMAGE, text=root_file_system())

    def kill(self, name: str) -> None:
        """End a container."""
        self.client("kill", name)

    def stop(self) -> None:
        """End everything that it started and remove what it left."""
        remove(self.stem)
        if self.daemon is not None:
            self.daemon.wait(10)


class Docker(Runtime):
    """dockerd, with a containerd that it starts itself."""

    name = "docker"
    needs = (("dockerd", "docker.io"), ("containerd", "containerd"), ("runc", "runc"))
    variables = ("DOCKER_HOST",)

    def command(self) -> list[str]:
        return [
            *("dockerd", "--host", f"unix://{self.socket}", "--pidfile", f"{self.folder}/pid"),
            *("--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"),
            # No network of its own: it would set FORWARD to DROP, if only in its namespace.
            *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
            *("--storage-driver=vfs", "--cgroup-parent", f"/{self.stem}"),
            *("--exec-opt", "native.cgroupdriver=cgroupfs"),
            # Without CAP_SYS_RESOURCE it cannot be lowered.
            "--oom-score-adjust=0",
        ]

    @contextmanager
    def library(self) -> Iterator[docker.APIClient]:
        """PyPI's docker, connected: Debian has the client in a package of its own since 13."""
        client = docker.APIClient(f"unix://{self.socket}", version="auto", timeout=60)
        try:
            yield client
        finally:
            client.close()

    def answers(self) -> bool:
        try:
            with self.library() as client:
                return bool(client.ping())
        except docker.errors.DockerException:
            return False

    def load_image(self) -> None:
        repository, _, tag = IMAGE.rpartition(":")
        with self.library() as client:
            client.import_image_from_data(root_file_system(), repository=repository, tag=tag)

    def kill(self, name: str) -> None:
        with self.library() as client:
            client.kill(name)

    def run(self, name: str) -> str:
        """Run a container; its id."""
        with self.library() as client:
            host = client.create_host_config(network_mode="none")
            command = ["/wait", name]
            made = client.create_container(IMAGE, command, name=name, host_config=host)
            client.start(made)
            return str(made["Id"])


class Podman(Runtime):
    """Podman's API service."""

    name = "podman"
    needs = (("podman", "podman"), ("conmon", "conmon"), ("runc", "runc"))
    variables = ("CONTAINER_HOST",)

    def command(self) -> list[str]:
        places = ("--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run")
        places += ("--tmpdir", f"{self.folder}/tmp", "--storage-driver=vfs")
        return ["podman", *places, "system", "service", "--time=0", f"unix://{self.socket}"]

    def environment(self) -> dict[str, str]:
        config = self.folder / "containers.conf"
        config.write_text(
            # More than the default is not ours to give without CAP_SYS_RESOURCE; crun refuses
            # a machine that has controllers both in cgroup v1 and v2.
            '[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=1024:1024"]\n'
            '[engine]\nruntime="runc"\ncgroup_manager="cgroupfs"\nevents_logger="file"\n'
        )
        return {"CONTAINERS_CONF": str(config)}

    def client_command(self) -> list[str]:
        return ["podman", "--remote", "--url", f"unix://{self.socket}"]

    def run(self, name: str, *options: str) -> str:
        """Run a container; its id."""
        where = ("--network=none", "--cgroup-parent", f"/{self.stem}", "--pids-limit=0")
        argv = ("--detach", *(options or where), "--name", name, IMAGE, "/wait", name)
        return self.client("run", *argv)


class Containerd(Runtime):
    """containerd with its CRI plugin."""

    name = "containerd"
    needs = (("containerd", "containerd"), ("ctr", "containerd"), ("runc", "runc"))
    needs += (("/usr/lib/cni/ptp", "containernetworking-plugins"),)
    variables = ("CONTAINER_RUNTIME_ENDPOINT", "CONTAINERD_ADDRESS")

    def command(self) -> list[str]:
        network = {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "ptp",
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": "10.99.0.0/24"}]],
                        "dataDir": f"{self.folder}/addresses",
                    },
                }
            ],
        }
        (self.folder / "cni").mkdir()
        (self.folder / "cni/10-pods.conflist").write_text(json.dumps(network))
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        (self.folder / "config.toml").write_text(
            f'version = 2\nroot = "{self.folder}/root"\nstate = "{self.folder}/state"\n'
            f'[grpc]\naddress = "{self.socket}"\n'
            f'[{cri}]\nsandbox_image = "{IMAGE}"\nrestrict_oom_score_adj = true\n'
            f"disable_apparmor = true\ndisable_tcp_service = true\n"
            f'[{cri}.cni]\nbin_dir = "/usr/lib/cni"\nconf_dir = "{self.folder}/cni"\n'
            f'[{cri}.containerd]\nsnapshotter = "native"\n'
        )
        return ["containerd", "--config", f"{self.folder}/config.toml"]

    def client_command(self) -> list[str]:
        # It shares files below /run with the daemon.
        assert self.daemon is not None
        inside = f"--mount=/proc/{self.daemon.pid}/ns/mnt"
        return ["nsenter", inside, "ctr", "--address", str(self.socket)]

    def load_image(self) -> None:
        for space in ("k8s.io", "default"):
            argv = ("--namespace", space, "images", "import", "--snapshotter", "native", "-")
            self.client(*argv, text=image_archive())

    def run(self, name: str) -> str:
        """Run a container outside of CRI; its id is its name."""
        argv = ("--detach", "--null-io", "--snapshotter", "native")
        argv += ("--cgroup", f"/{self.stem}/{name}")
        self.client("--namespace", "default", "run", *argv, IMAGE, name, "/wait", name)
        return name

    def run_pod(self, pod: str, uid: str, *containers: str) -> list[str]:
        """Run a pod ("namespace/name") by CRI; the ids of its sandbox and its containers."""
        namespace, _, name = pod.partition("/")
        cgroup = f"/{self.stem}/kubepods/burstable/pod{uid}"
        argv = [sys.executable, "-m", "tests.support.cri_pod", str(self.socket)]
        done = subprocess.run(
            [*argv, namespace, name, uid, cgroup, IMAGE, *containers],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            log = (self.folder / "log").read_text()[-2000:]
            raise AssertionError(f"{done.stderr[-2000:]}\n{log}")
        return done.stdout.split()


def process_of(argument: str, patience: float = 10.0) -> int:
    """The pid of the container's program with that argument, seen without any runtime.

    A runtime answers before its container has begun its program: that is waited for,
    ``patience`` seconds at most.
    """
    deadline = time.monotonic() + patience
    while True:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if words[:2] == [b"/wait", argument.encode()]:
                    return int(entry.name)
        if time.monotonic() > deadline:
            raise AssertionError(f"no process was started with {argument!r}")
        time.sleep(0.05)


def remove(stem: str) -> None:
    """End what runs in the cgroups of that name and remove them and the state."""
    tops = [top / stem for top in hierarchies() if (top / stem).is_dir()]
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pids = {pid for top in tops for pid in _pids_below(top)}
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not pids and not any(map(_remove_cgroup, tops)):
            break
        time.sleep(0.02)
    shutil.rmtree(Path(tempfile.gettempdir(), stem), ignore_errors=True)


def _pids_below(top: Path) -> list[int]:
    found: list[int] = []
    for procs in top.rglob("cgroup.procs"):
        try:
            found += map(int, procs.read_text().split())
        except OSError:
            continue
    return found


def _remove_cgroup(top: Path) -> bool:
    """Remove a cgroup and those below it; whether it is still there."""
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            continue
    return top.exists()


def remove_leftovers() -> None:
    """Remove runtimes whose maker was killed."""
    kinds = "|".join(kind.name for kind in (Docker, Podman, Containerd))
    pattern = re.compile(rf"{PREFIX}-(\d+)-(\d+)-({kinds})")
    for folder in (*hierarchies(), Path(tempfile.gettempdir())):
        for entry in list(folder.iterdir()):
            found = pattern.fullmatch(entry.name)
            if found and started_at(int(found[1])) != int(found[2]):
                remove(entry.name)
