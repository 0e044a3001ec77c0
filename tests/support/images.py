"""The one image that test containers run, made here: a static program that waits."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path

IMAGE = "docker.io/library/wait:1"
#: The whole image: it waits, and its argument says which container it is.
PROGRAM = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"


@cache
def program() -> bytes:
    """The program, compiled."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "wait")
        argv = ["gcc", "-static", "-Os", "-s", "-x", "c", "-o", str(out), "-"]
        subprocess.run(argv, input=PROGRAM, text=True, check=True, capture_output=True)
        return out.read_bytes()


def _tar(files: dict[str, bytes | None], mode: int = 0o755) -> bytes:
    """A tar file; a name without content is a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            entry.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            entry.size = len(content or b"")
            archive.addfile(entry, io.BytesIO(content or b""))
    return out.getvalue()


def root_file_system() -> bytes:
    """What a container sees, as a tar file."""
    folders = ("proc", "sys", "dev", "etc", "tmp")
    return _tar({**dict.fromkeys(folders), "wait": program()})


def image_archive() -> bytes:
    """The same as an image, as ``docker save`` writes one."""
    layer = root_file_system()
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Cmd": ["/wait"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }
    data = json.dumps(config).encode()
    name = hashlib.sha256(data).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    files = {name: data, "manifest.json": json.dumps(manifest).encode(), "layer.tar": layer}
    return _tar(files)  # type: ignore[arg-type]
