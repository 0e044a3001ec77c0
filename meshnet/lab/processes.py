"""What runs inside a pod: short commands, and services with an end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from meshnet.errors import KernelLacks, MeshnetError, ToolFailed, printable
from meshnet.lab.topology import Pod

#: The user of an application, and the user of its proxy, as Istio numbers them.
APP_UID = 1000
PROXY_UID = 1337

#: Seconds until a service must be ready, and until an answer must be there.
READY_SECONDS = 10.0

#: Seconds until a command must have ended.
RUN_SECONDS = 40.0


@dataclass
class Service:
    """A process that runs in a pod until the pod is removed.

    Its output goes to ``log``, a file without a name: nothing stays, however the run ends.
    """

    pod: Pod
    what: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    @classmethod
    def start(cls, pod: Pod, what: str, argv: Sequence[str], uid: int, **extra: Any) -> Service:
        """Start ``argv`` in ``pod`` as user and group ``uid``; ``what`` names it in messages.

        ``extra`` goes to Popen. The process has a session of its own: Ctrl-C is for the caller.
        """
        log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the service
        process = subprocess.Popen(
            pod.command(argv, uid),
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            **{"stdin": subprocess.DEVNULL, **extra},
        )
        service = cls(pod, what, process, log)
        pod.closers.append(service.close)
        return service

    def await_line(self, text: str) -> None:
        """Wait until the output holds ``text``. Raises ToolFailed with the output's last line."""
        deadline = time.monotonic() + READY_SECONDS
        while text not in self.output():
            self.check_alive()
            if time.monotonic() > deadline:
                raise ToolFailed(f"{self.what}: not ready in {READY_SECONDS:.0f} s{self._last()}")
            time.sleep(0.01)

    def check_alive(self) -> None:
        """Raise ToolFailed when the process has ended."""
        if self.process.poll() is not None:
            code = self.process.returncode
            raise ToolFailed(f"{self.what}: ended at once with code {code}{self._last()}")

    def output(self) -> str:
        """All that the process wrote so far."""
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), size, 0).decode(errors="replace")

    def close(self) -> None:
        """End the process if need be; its output can no longer be read."""
        self.process.kill()
        self.process.wait()
        self.log.close()

    def _last(self) -> str:
        lines = self.output().strip().splitlines()
        return f": {printable(lines[-1])}" if lines else ""


def run_in(
    pod: Pod, argv: Sequence[str], uid: int | None = None, **extra: Any
) -> subprocess.CompletedProcess[str]:
    """As ``run``, in ``pod``, as root or as ``uid``."""
    return run(pod.command(argv, uid), **extra)


def run(argv: Sequence[str], **extra: Any) -> subprocess.CompletedProcess[str]:
    """Run ``argv`` to its end, whatever its exit code; output is captured as text.

    It has a session of its own: Ctrl-C is for the caller, who then ends it. Raises KernelLacks
    when the program is missing, ToolFailed when it does not end within RUN_SECONDS.
    """
    if "input" not in extra:
        extra["stdin"] = subprocess.DEVNULL
    extra |= {"capture_output": True, "text": True, "start_new_session": True, "cwd": "/"}
    try:
        return subprocess.run(argv, timeout=RUN_SECONDS, check=False, **extra)
    except FileNotFoundError as error:
        raise KernelLacks(f"{error.filename}: not installed", "run 'make setup'") from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(f"{argv[0]}: not done after {RUN_SECONDS:.0f} s") from error


def serve_http(pod: Pod, port: int) -> Service:
    """Start the plain HTTP server in ``pod`` as APP_UID; returns when it listens."""
    argv = [find_python(APP_UID), "-I", "-", "serve", pod.name, str(port)]
    with tempfile.TemporaryFile() as source:
        source.write(_app_source().encode())
        source.seek(0)
        service = Service.start(pod, f"HTTP server in pod {pod.name}", argv, APP_UID, stdin=source)
    service.await_line("listening")
    return service


def fetch(pod: Pod, url: str, uid: int = APP_UID, seconds: float = 0.0) -> dict[str, Any]:
    """GET ``url`` from inside ``pod``: ``status``, ``body`` (text), ``ms`` that the answer took.

    One try, or more for ``seconds``; raises ToolFailed when there is no answer by then.
    """
    argv = [find_python(uid), "-I", "-", "get", url, str(seconds)]
    done = run_in(pod, argv, uid, input=_app_source())
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise ToolFailed(f"request in pod {pod.name}: {printable(reason)}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@cache
def find_python(uid: int) -> str:
    """A Python that user ``uid`` may run: ours often lies below a home directory closed to it."""
    candidates = ("/usr/bin/python3", os.path.realpath(sys.executable), shutil.which("python3"))
    for python in filter(None, candidates):
        as_user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", python]
        probe = run([*as_user, "-I", "-c", "import http.server"])
        if probe.returncode == 0:
            return python
    raise KernelLacks(f"no Python that user {uid} may run", "install the python3 package")


def find_meshnet_init() -> Path:
    """The ``meshnet-init`` that belongs to this Python, or else the one in PATH."""
    beside = Path(sys.executable).parent / "meshnet-init"
    if beside.exists():
        return beside
    if found := shutil.which("meshnet-init"):
        return Path(found)
    raise MeshnetError("meshnet-init: not installed", "run 'make setup'")


@cache
def _app_source() -> str:
    return Path(__file__).with_name("app.py").read_text()
