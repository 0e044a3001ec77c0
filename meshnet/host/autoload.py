"""Whether asking the kernel something would load a module; looking must change nothing.

sock_diag and ctnetlink load what they need on the first question (``net/core/sock_diag.c``,
sock_load_diag_module; ``net/netfilter/nfnetlink.c``, nfnetlink_rcv_msg).
"""

from __future__ import annotations

import os
from functools import cache

from meshnet.host.modules import Presence, read_parts
from meshnet.model.feature import Module


def loads_nothing(module: Module, root: str = "") -> bool:
    """Whether the part of the kernel that ``module`` names can be asked without loading it.

    So where it is loaded or built in, and where this kernel loads no modules at all. False
    where that cannot be told. ``root`` stands before every path, for tests.
    """
    try:
        with open(f"{root}/proc/modules", encoding="ascii", errors="replace") as f:
            if f"\n{module.name} " in "\n" + f.read():
                return True
    except FileNotFoundError:
        # A kernel without modules; or a /proc that shows processes only (subset=pid), or none.
        return os.path.isdir(f"{root}/proc/sys")
    except OSError:
        return False
    return _stays_as_it_is(root) or _built_in(module, root)


def _stays_as_it_is(root: str) -> bool:
    """Whether loading is switched off: for good, or because there is no program for it."""
    kernel = f"{root}/proc/sys/kernel"
    return _content(f"{kernel}/modules_disabled") == "1" or _content(f"{kernel}/modprobe") == ""


def _content(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return None


@cache
def _built_in(module: Module, root: str) -> bool:
    try:
        path = f"{root}/lib/modules/{os.uname().release}/modules.builtin"
        with open(path, encoding="ascii", errors="replace") as f:
            return f"/{module.name}.ko" in f.read()
    except OSError:
        # A container has none of its own; what is left takes ten milliseconds to read.
        return read_parts(root).presence(module) is Presence.THERE
