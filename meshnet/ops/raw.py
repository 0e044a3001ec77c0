"""The untouched output of the tools that people read by hand, run in a namespace."""

from __future__ import annotations

import time

from meshnet.errors import MeshnetError
from meshnet.host.netns import Door
from meshnet.host.process import find_tool, run_tool
from meshnet.host.sweep import sweep
from meshnet.model.frozen import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.host.target import Target
    from meshnet.model.snapshot import Snapshot

#: The tables in the order in which people ask for them.
_TABLES = ("nat", "mangle", "raw", "filter", "security")


@dataclass(frozen=True)
class Listing:
    """What ``command`` printed. Control characters in ``text`` are escaped, lines are kept."""

    command: str
    text: str


def raw_listings(target: Target, timeout: float) -> list[Listing]:
    """``iptables -t TABLE -L -n -v`` of every table that exists, ``nft list ruleset``, listeners.

    A table that does not exist is not asked for: listing would create it. Raises as
    :func:`meshnet.host.netns.run_child` does. A tool that hangs says so in its place.
    """
    # A sweep of one: its child takes the tools with it when it is given up or interrupted.
    (given,) = sweep(
        [target],
        lambda _: _listings(timeout * 0.8),
        door=lambda one: Door(one.path, one.inode),
        timeout=timeout,
    )
    found = given[1]
    if isinstance(found, MeshnetError):
        raise found
    return [Listing(command, _harmless(text)) for command, text in found]


def stored_listings(snapshot: Snapshot) -> list[Listing]:
    """The dumps that ``snapshot`` holds; none where it holds none."""
    return [Listing(dump.tool, _harmless(dump.text)) for dump in snapshot.dumps]


def _listings(timeout: float) -> list[tuple[str, str]]:
    ends = time.monotonic() + timeout
    commands = [*_rules_commands(), _sockets_command()]
    shown = []
    for argv in commands:
        try:
            done = run_tool(argv, timeout=max(0.1, ends - time.monotonic()))
        except MeshnetError as e:
            shown.append((" ".join(argv), str(e)))
            continue
        shown.append((" ".join(argv), done.out + (done.err if done.code else "")))
    return shown


def _rules_commands() -> list[list[str]]:
    from meshnet.backends.legacy import existing_tables
    from meshnet.host.nfnetlink import table_names
    from meshnet.model.packet import Family

    commands = []
    names = table_names()
    for family, prefix in ((Family.IP, "iptables"), (Family.IP6, "ip6tables")):
        compat = [t for t in _TABLES if (family, t) in names]
        legacy = [t for t in _TABLES if t in existing_tables(family)]
        for variant, tables in (("nft", compat), ("legacy", legacy)):
            if find_tool(f"{prefix}-{variant}"):
                commands += [[f"{prefix}-{variant}", "-t", t, "-L", "-n", "-v"] for t in tables]
    builtin = {(f, t) for f in (Family.IP, Family.IP6) for t in _TABLES}
    if names - builtin:
        commands.append(["nft", "list", "ruleset"])
    return commands


def _sockets_command() -> list[str]:
    return ["netstat", "-tulpn"] if find_tool("netstat") else ["ss", "-tulpn"]


def _harmless(text: str) -> str:
    """Escaped but for line ends and tabs."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )
