"""Network namespaces that bear a test's name and go away with it, also when it is killed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from meshnet.lab.leftovers import started_at

PREFIX = "mnt"
#: What a bare namespace's dump tools are.
DUMPS = (
    ("iptables-nft-save",),
    ("ip6tables-nft-save",),
    ("nft", "-s", "list", "ruleset"),
)


class Namespace:
    """A namespace that exists. Tools run in it as root, without touching any other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/run/netns/{name}"

    def run(
        self, *argv: str, text: str = "", check: bool = True, timeout: float = 60, env=None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in here; ``nsenter`` leaves /sys and /run as they are."""
        done = subprocess.run(
            ["nsenter", f"--net={self.path}", *argv],
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
        )
        if check and done.returncode:
            raise AssertionError(f"{argv} gave {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def init(
        self, *arguments: str, check: bool = True, env=None
    ) -> subprocess.CompletedProcess[str]:
        """Run the installed meshnet-init in here."""
        return self.run(meshnet_init(), *arguments, check=check, env=env)

    def dump(self, tool: str) -> str:
        """The output of an iptables save program, without counters and comment lines."""
        text = self.run(tool).stdout
        lines = (re.sub(r"\[\d+:\d+\]", "[]", line) for line in text.splitlines())
        return "\n".join(line for line in lines if not line.startswith("#"))

    def nft(self) -> str:
        """``nft list ruleset`` without counters."""
        return self.run("nft", "-s", "list", "ruleset").stdout

    def everything(self) -> dict[str, str]:
        """All that the kernel holds here and that meshnet may touch, by what it is.

        Legacy tables are dumped only where they exist: asking would create them.
        """
        shown = {tool: self.dump(tool) for tool in ("iptables-nft-save", "ip6tables-nft-save")}
        shown["nft"] = self.nft()
        for family, prefix in (("ip", "iptables"), ("ip6", "ip6tables")):
            names = self.run("cat", f"/proc/self/net/{family}_tables_names").stdout.split()
            for table in sorted(names):
                dump = self.run(f"{prefix}-legacy-save", "-t", table).stdout
                rules = [
                    re.sub(r"\[\d+:\d+\]", "[]", r) for r in dump.splitlines() if r[:1] in "-:"
                ]
                shown[f"legacy {family} {table}"] = "\n".join(rules)
        for version in ("-4", "-6"):
            shown[f"rules {version}"] = self.run("ip", version, "rule").stdout
            routes = self.run("ip", version, "route", "show", "table", "133", check=False)
            shown[f"routes {version}"] = routes.stdout
        shown["lo"] = self.run("ip", "-o", "addr", "show", "lo").stdout
        return shown


def meshnet_init() -> str:
    """The path of the installed entry point: beside the Python that runs the tests."""
    beside = Path(sys.executable).parent / "meshnet-init"
    return str(beside) if beside.exists() else str(shutil.which("meshnet-init"))


class Namespaces:
    """Makes namespaces named after a test, and removes them."""

    def __init__(self, test: str) -> None:
        safe = re.sub(r"[^a-z0-9]+", "-", test.lower()).strip("-")[-24:]
        self.stem = f"{PREFIX}-{os.getpid()}-{started_at(os.getpid())}-{safe}"
        self.made: list[Namespace] = []

    def make(self, up: bool = True) -> Namespace:
        """A fresh namespace, with lo up unless told otherwise."""
        name = f"{self.stem}-{len(self.made)}"
        subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        namespace = Namespace(name)
        self.made.append(namespace)
        if up:
            namespace.run("ip", "link", "set", "lo", "up")
        return namespace

    def connect(self, one: Namespace, other: Namespace, link: str = "eth0") -> None:
        """A veth pair between two namespaces, called ``link`` in both, up, without addresses."""
        a, b = f"v{os.getpid() % 100000}a", f"v{os.getpid() % 100000}b"
        one.run("ip", "link", "add", a, "type", "veth", "peer", "name", b, "netns", other.name)
        one.run("ip", "link", "set", a, "name", link, "up")
        other.run("ip", "link", "set", b, "name", link, "up")

    def remove(self) -> None:
        """Remove all of them, with the processes that are still inside."""
        for namespace in self.made:
            remove(namespace.name)


def remove(name: str) -> None:
    """Remove a namespace and end what still runs in it; nothing where it is gone."""
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout
    for pid in pids.split():
        if int(pid) != os.getpid():
            subprocess.run(["kill", "-9", pid], capture_output=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)


def remove_leftovers() -> None:
    """Remove what test runs left that were killed: namespaces of ours whose maker is gone."""
    folder = Path("/run/netns")
    for entry in folder.iterdir() if folder.exists() else ():
        found = re.match(rf"{PREFIX}-(\d+)-(\d+)-", entry.name)
        if found and started_at(int(found[1])) != int(found[2]):
            remove(entry.name)
