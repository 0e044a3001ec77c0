"""The goldens of Istio's own init tool, where a checkout has them beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.support.namespaces import Namespace

FOLDER = Path(__file__).parents[2].parent / "shared" / "peers" / "istio"
#: Groups that the goldens name and no machine has, as free numbers.
GROUPS = {"java": "5001", "ftp": "5002"}


def cases() -> dict[str, dict[str, Any]]:
    """The configurations by name; none where the folder is not there."""
    path = FOLDER / "cases.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    return found


def numbered(text: str) -> str:
    """``text`` with the names of groups as their numbers."""
    for name, number in GROUPS.items():
        text = re.sub(rf"\b{name}\b", number, text)
    return text


def restore_inputs(golden: str) -> tuple[str, str]:
    """What an iptables golden sends for IPv4 and for IPv6; "" where there is nothing.

    It is a log: beside restore input it has the names of commands. A table that comes for
    the second time begins IPv6's part.
    """
    kept = [line for line in golden.splitlines() if line[:1] in ("*", "-", "C", ":")]
    tables = re.split(r"^(?=\*)", "\n".join(kept) + "\n", flags=re.M)[1:]
    inputs: tuple[list[str], list[str]] = ([], [])
    seen: set[str] = set()
    at = 0
    for table in tables:
        name = table.split("\n")[0]
        at = 1 if name in seen else at
        seen.add(name)
        inputs[at].append(table.replace("* ", "*", 1))
    return "".join(inputs[0]), "".join(inputs[1])


def load(netns: Namespace, name: str, backend: str) -> None:
    """Load a golden with the tools of ``backend``."""
    if backend == "nft":
        netns.run(
            "nft", "-f", "-", text=numbered((FOLDER / "nftables" / f"{name}.golden").read_text())
        )
        return
    variant = backend.removesuffix("-compat")
    golden = numbered((FOLDER / "iptables" / f"{name}.golden").read_text())
    for prefix, text in zip(("iptables", "ip6tables"), restore_inputs(golden), strict=True):
        if text:
            netns.run(f"{prefix}-{variant}-restore", "--noflush", text=text)
