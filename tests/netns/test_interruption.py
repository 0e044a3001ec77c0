"""Killed at each touch of the kernel: every transaction is the old one or the new one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.netns.test_convergence import without_empty_tables
from tests.support import observed
from tests.support.cases import BACKENDS, CASES, DEFAULT, DNS, ON, TPROXY
from tests.support.namespaces import Namespace

ROOT = Path(__file__).parents[2]


def run_observed(netns: Namespace, log: Path, kill: int, *arguments: str) -> int:
    """The exit code of meshnet-init with its touches logged; negative when it was killed."""
    log.unlink(missing_ok=True)
    done = subprocess.run(
        [
            *("nsenter", f"--net={netns.path}", sys.executable, observed.__file__),
            *(str(log), str(kill), *arguments),
        ],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=60,
    )
    return done.returncode


def transactions(netns: Namespace) -> dict[str, str]:
    """What one commit makes: all nft tables of ours together, each iptables table by itself."""
    state = netns.everything()
    found = {"nft": "", "rules": state["rules -4"] + state["rules -6"]}
    for key, text in state.items():
        if key in ("iptables-nft-save", "ip6tables-nft-save"):
            for table in text.split("*")[1:]:
                rows = [r for r in table.splitlines() if r.startswith(("-A", ":ISTIO", ":MESH"))]
                if rows:
                    found[f"{key} {table.split()[0]}"] = "\n".join(rows)
        elif key.startswith("legacy") and "-A" in text:
            found[key] = text
    ours = [t for t in state["nft"].split("table ") if t.startswith(("inet istio", "inet mesh"))]
    found["nft"] = "".join(ours)
    del found["rules"]
    return found


CHANGES = {
    "first": ((), (*DNS, *ON)),
    "tproxy": ((*DEFAULT, *ON), (*TPROXY, *ON)),
    "profile": (DEFAULT, CASES["strict-refused"]),
    "cleanup": ((*TPROXY, *ON), ("--cleanup-only",)),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("change", CHANGES)
def test_killed_at_every_touch(netns: Namespace, tmp_path: Path, change: str, backend: str) -> None:
    old, new = ((*a, "--backend", backend) if a and "--cleanup-only" not in a else a
                for a in CHANGES[change])  # fmt: skip
    log = tmp_path / "touches"

    def prepare() -> None:
        netns.init("--cleanup-only")
        if old:
            netns.init(*old)

    def settled() -> dict[str, str]:
        state = without_empty_tables(netns.everything())
        if backend == "nft-compat":
            # Killed before it could tidy up, a run leaves empty base chains behind.
            state = {k: v for k, v in state.items() if k[:3] not in ("nft", "ipt", "ip6")}
        return state | transactions(netns)

    prepare()
    untouched, before = netns.everything(), transactions(netns)
    assert run_observed(netns, log, 0, *new) == 0
    after = transactions(netns)
    expected = settled()
    touches = len(log.read_text().splitlines())
    assert touches > 4
    assert before != after
    seen = set()
    prepare()
    for kill in range(1, touches + 1):
        code = run_observed(netns, log, kill, *new)
        # The order among children may differ by a touch; then the last ones do not come.
        assert code in (-9, 0)
        if netns.everything() == untouched:
            seen.add(False)
            continue
        now = transactions(netns)
        for key in set(before) | set(after) | set(now):
            value = now.get(key, "")
            assert value in (before.get(key, ""), after.get(key, "")), (kill, key)
            seen.add(value == after.get(key, ""))
        netns.init(*new)
        assert settled() == expected, kill
        prepare()
        untouched = netns.everything()
    assert seen == {True, False}


def test_legacy_writes_without_a_restore_process(netns: Namespace, tmp_path: Path) -> None:
    log = tmp_path / "touches"
    for arguments in (CASES["classic"], DEFAULT):
        assert run_observed(netns, log, 0, *arguments, "--backend", "legacy") == 0
        touches = log.read_text()
        assert "legacy ip nat" in touches
        assert "restore" not in touches
        assert "ISTIO_OUTPUT" in netns.dump("iptables-legacy-save")


def test_legacy_restores_only_what_the_library_writes_wrong(
    netns: Namespace, tmp_path: Path
) -> None:
    log = tmp_path / "touches"
    arguments = (*TPROXY, *ON, "--backend", "legacy")
    assert run_observed(netns, log, 0, *arguments) == 0
    before = [row for row in log.read_text().splitlines() if row.startswith("before")]
    assert [row for row in before if "restore" in row] == [
        "before ip6tables-legacy-restore --noflush"
    ]
    assert "before legacy ip mangle" in before and "before legacy ip6 nat" in before
    assert "--tproxy-mark 0x539/0xffffffff" in netns.dump("ip6tables-legacy-save")
