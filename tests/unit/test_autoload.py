"""Whether a question loads a module, by each source that can tell."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshnet.host.autoload import loads_nothing
from meshnet.model.feature import Module

DIAG = Module("tcp_diag", "INET_TCP_DIAG")
BUILTIN = f"lib/modules/{os.uname().release}/modules.builtin"
CONFIG = f"boot/config-{os.uname().release}"
OTHER = "nf_tables 1 0 - Live 0x0\nxtcp_diag 1 0 - Live 0x0\ntcp_diag2 1 0 - Live 0x0\n"


def machine(root: Path, files: dict[str, str]) -> str:
    """A root with these files below it."""
    (root / "proc/sys/kernel").mkdir(parents=True)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("files", "safe"),
    [
        ({}, True),
        ({"proc/modules": ""}, False),
        ({"proc/modules": OTHER}, False),
        ({"proc/modules": OTHER + "tcp_diag 16384 0 - Live 0x0\n"}, True),
        ({"proc/modules": "tcp_diag 16384 0 - Live 0x0\n" + OTHER}, True),
        ({"proc/modules": OTHER, BUILTIN: "kernel/net/ipv4/tcp_diag.ko\n"}, True),
        ({"proc/modules": OTHER, BUILTIN: "kernel/net/mptcp/mptcp_diag.ko\n"}, False),
        ({"proc/modules": OTHER, "proc/sys/kernel/modules_disabled": "1\n"}, True),
        ({"proc/modules": OTHER, "proc/sys/kernel/modules_disabled": "0\n"}, False),
        ({"proc/modules": OTHER, "proc/sys/kernel/modprobe": "\n"}, True),
        ({"proc/modules": OTHER, "proc/sys/kernel/modprobe": "/sbin/modprobe\n"}, False),
        ({"proc/modules": OTHER, CONFIG: "CONFIG_INET_TCP_DIAG=y\n"}, True),
        ({"proc/modules": OTHER, CONFIG: "CONFIG_INET_TCP_DIAG=m\n"}, False),
        ({"proc/modules": OTHER, BUILTIN: "", CONFIG: "CONFIG_INET_TCP_DIAG=y\n"}, False),
    ],
)
def test_each_source(tmp_path: Path, files: dict[str, str], safe: bool) -> None:
    assert loads_nothing(DIAG, machine(tmp_path, files)) is safe


def test_without_a_whole_proc_nothing_is_asked(tmp_path: Path) -> None:
    assert loads_nothing(DIAG, str(tmp_path)) is False
