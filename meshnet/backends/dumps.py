"""The raw dumps of every backend that holds a table in this network namespace.

Looking changes nothing: a legacy table is listed only where it exists, nf_tables is asked
only where that loads no module, and no counter is reset. What cannot be had is a gap.
"""

from __future__ import annotations

import signal
import time
from resource import RLIM_INFINITY, RLIMIT_FSIZE, getrlimit, setrlimit

from meshnet.backends import iptables
from meshnet.backends.nft_listing import LIST, is_document, list_by_chain
from meshnet.errors import KernelLacks, MeshnetError, NotPermitted, printable
from meshnet.host import nfnetlink
from meshnet.host.autoload import loads_nothing
from meshnet.host.modules import Presence, read_parts
from meshnet.host.nfnetlink import DORMANT
from meshnet.host.process import find_tool, run_tool
from meshnet.model.feature import Module
from meshnet.model.packet import Family
from meshnet.model.snapshot import Dump, Gap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_NF_TABLES = Module("nf_tables", "NF_TABLES")
#: What iptables-nft-save asks the kernel for (NFNL_MSG_COMPAT_GET), and would load. Where they
#: are not there no rule uses them, and nft can tell everything.
_COMPAT = (Module("nft_compat", "NFT_COMPAT"), Module("xt_tcpudp", "NETFILTER_XTABLES"))
_NAMES = {
    Family.IP: "/proc/thread-self/net/ip_tables_names",
    Family.IP6: "/proc/thread-self/net/ip6_tables_names",
}
_COMPAT_TABLES = frozenset((*iptables.TABLES, "security"))
#: In bytes. Twenty thousand rules are three megabytes of iptables-save, twelve of nft's JSON.
LARGEST = 64 << 20


def read_dumps(
    *, largest: int = LARGEST, timeout: float = 30.0
) -> tuple[tuple[Dump, ...], tuple[Gap, ...]]:
    """What each backend holds here, in its own tool's words, with counters.

    ``largest`` bounds one dump, in bytes, ``timeout`` all tools together, in seconds. A tool
    that is missing, fails or prints too much is a gap. Nothing at all where no backend holds a
    table. Raises NotPermitted without CAP_NET_ADMIN in this namespace.
    """
    reading = _Reading(largest, timeout)
    tables: dict[tuple[str, str], int] = {}
    if loads_nothing(_NF_TABLES):
        tables = nfnetlink.every_table()
        if all(map(loads_nothing, _COMPAT)):
            reading.read_compat(tables)
    elif read_parts().presence(_NF_TABLES) is Presence.UNKNOWN:
        reading.lacks("whether nf_tables is there cannot be told without loading it")
    for family in iptables.PREFIX:
        if _legacy_tables(family):
            reading.read("legacy", family, [f"{iptables.PREFIX[family]}-legacy-save", "-c"])
    # The compat tool shows what it understands: of the rest nft alone can tell.
    if set(tables) - reading.shown:
        text = reading.read("nft", None, [*LIST, "ruleset"])
        if text and any(tables.values()) and not is_document(text):
            reading.mend_listing(set(tables) - reading.shown)
    return tuple(reading.dumps), tuple(reading.gaps)


def read_dormant() -> tuple[tuple[str, str], ...]:
    """(family, name) of the nf_tables tables that no hook reaches; raises as :func:`read_dumps`.

    The tools' dumps do not say it (nft 1.0.6).
    """
    if not loads_nothing(_NF_TABLES):
        return ()
    return tuple(
        (family, printable(name))
        for (family, name), flags in nfnetlink.every_table().items()
        if flags & DORMANT
    )


def _legacy_tables(family: Family) -> bool:
    """Whether this namespace has a legacy table of ``family``."""
    try:
        with open(_NAMES[family], encoding="ascii") as f:
            return bool(f.read().strip())
    except FileNotFoundError:
        return False
    except OSError as e:
        raise NotPermitted(
            f"cannot read {_NAMES[family]}: needs CAP_NET_ADMIN in this network namespace"
        ) from e


class _Reading:
    """The dumps so far, the gaps, and the nf_tables tables that a dump shows."""

    def __init__(self, largest: int, timeout: float) -> None:
        self.largest = largest
        self.ends = time.monotonic() + timeout
        self.dumps: list[Dump] = []
        self.gaps: list[Gap] = []
        self.shown: set[tuple[str, str]] = set()

    def left(self) -> float:
        """The seconds that the next tool may take: a little, also when the time is up."""
        return max(0.1, self.ends - time.monotonic())

    def lacks(self, reason: str) -> None:
        self.gaps.append(Gap("rules", reason))

    def read_compat(self, tables: Iterable[tuple[str, str]]) -> None:
        """What iptables-nft makes of the tables with the built-in names."""
        for family, prefix in iptables.PREFIX.items():
            if any(f == family.value and name in _COMPAT_TABLES for f, name in tables):
                text = self.read("nft-compat", family, [f"{prefix}-nft-save", "-c"])
                lines = text.split("\n*") if text.startswith("*") else text.split("\n*")[1:]
                names = (line.partition("\n")[0].lstrip("*") for line in lines)
                self.shown |= {(family.value, name) for name in names}

    def mend_listing(self, tables: set[tuple[str, str]]) -> None:
        """Put a listing made chain by chain in the place of one that broke off."""
        self.dumps.pop()
        try:
            text, left_out = list_by_chain(
                tables, lambda argv: _run(argv, self.largest, self.left())
            )
        except NotPermitted:
            raise
        except MeshnetError as e:
            self.lacks(e.message)
            return
        self.dumps.append(Dump("nft", "nft -j list chain, each", text))
        if left_out:
            self.lacks(f"nft breaks off at {left_out:,} tables with flags: they are left out")

    def read(self, backend: str, family: Family | None, argv: list[str]) -> str:
        """Keep the output of ``argv``, and give it; "" where there is a gap instead."""
        if not find_tool(argv[0]):
            self.lacks(f"the program {argv[0]} is not installed: {backend} rules are not shown")
            return ""
        try:
            text = _run(argv, self.largest, self.left())
        except NotPermitted:
            raise
        except MeshnetError as e:
            self.lacks(e.message)
            return ""
        self.dumps.append(Dump(backend, " ".join(argv), text, family.value if family else ""))
        return text


def _run(argv: list[str], largest: int, timeout: float) -> str:
    """The output of a tool that may not write more than ``largest`` bytes."""
    soft, hard = getrlimit(RLIMIT_FSIZE)
    # Python ignores the signal, and what is ignored stays so in a program that is started.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    setrlimit(RLIMIT_FSIZE, (largest if hard == RLIM_INFINITY else min(largest, hard), hard))
    try:
        done = run_tool(argv, timeout=timeout)
    finally:
        setrlimit(RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    if done.code == -signal.SIGXFSZ:
        size = f"{largest >> 20} MiB" if largest >= 1 << 20 else f"{largest:,} bytes"
        raise KernelLacks(f"{argv[0]} printed more than {size}: its dump is left out")
    iptables.check(done, argv[0])
    return done.out
