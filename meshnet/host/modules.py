"""Which parts of the kernel are there, told without using them: using one may load its module.

Sources, each of which may be out of sight (a container has no /lib/modules): /proc/modules,
modules.builtin and modules.dep of the running kernel, and the kernel's configuration.
"""

from __future__ import annotations

import os

from meshnet.model.choices import Enum
from meshnet.model.feature import Module
from meshnet.model.frozen import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Presence(Enum):
    """``there``: using it loads nothing. ``loadable``: a module that its first use loads."""

    THERE = "there"
    LOADABLE = "loadable"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class KernelParts:
    """What the sources say; None where one is out of sight.

    ``loads`` is False where this kernel loads no modules at all (CONFIG_MODULES is off, or
    kernel.modules_disabled is set): whatever is used then, nothing is loaded by it.
    """

    loads: bool
    loaded: frozenset[str]
    builtin: frozenset[str] | None
    available: frozenset[str] | None
    options: dict[str, str] | None

    def presence(self, module: Module) -> Presence:
        """What is known of one part, from the surest source on."""
        name = module.name
        option = (self.options or {}).get(module.option, "")
        if name in self.loaded or name in (self.builtin or ()) or option == "y":
            return Presence.THERE
        if self.loads and (name in (self.available or ()) or option == "m"):
            return Presence.LOADABLE
        if self.options is not None or (self.builtin is not None and self.available is not None):
            return Presence.ABSENT
        return Presence.UNKNOWN

    def unsafe(self, modules: Iterable[Module], perhaps: Iterable[Module] = ()) -> Module | None:
        """The first whose use might load something; None: all may be used.

        ``modules`` must be there; those of ``perhaps`` may be absent as well.
        """
        if not self.loads:
            return None
        found = [m for m in modules if self.presence(m) is not Presence.THERE]
        waiting = (Presence.LOADABLE, Presence.UNKNOWN)
        found += [m for m in perhaps if self.presence(m) in waiting]
        return found[0] if found else None


def read_parts(root: str = "") -> KernelParts:
    """What this machine shows; ``root`` stands before every path, for tests."""
    release = os.uname().release
    modules = f"{root}/lib/modules/{release}"
    loaded = _lines(f"{root}/proc/modules")
    disabled = _lines(f"{root}/proc/sys/kernel/modules_disabled") or ["0"]
    return KernelParts(
        loaded is not None and disabled[0].strip() != "1",
        frozenset(line.split()[0] for line in loaded or () if line.strip()),
        _names(_lines(f"{modules}/modules.builtin")),
        _names(_lines(f"{modules}/modules.dep")),
        _options(f"{root}/proc/config.gz", f"{root}/boot/config-{release}", f"{modules}/config"),
    )


def _lines(path: str) -> list[str] | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read().splitlines()
    except OSError:
        return None


def _names(lines: list[str] | None) -> frozenset[str] | None:
    """``kernel/net/netfilter/xt_owner.ko.xz: …`` is xt_owner; a dash is an underscore."""
    if lines is None:
        return None
    paths = (line.partition(":")[0] for line in lines if ".ko" in line)
    return frozenset(
        path.rpartition("/")[2].partition(".ko")[0].replace("-", "_") for path in paths
    )


def _options(packed: str, *plain: str) -> dict[str, str] | None:
    import gzip
    import zlib

    text = None
    try:
        with gzip.open(packed, "rt", encoding="utf-8", errors="replace") as f:
            text = f.read().splitlines()
    except (OSError, EOFError, zlib.error):
        text = next((lines for path in plain if (lines := _lines(path)) is not None), None)
    if text is None:
        return None
    pairs = (line.removeprefix("CONFIG_").partition("=") for line in text if line[:7] == "CONFIG_")
    return {name: value for name, _, value in pairs}
