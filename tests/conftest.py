"""Tiers: a test belongs to the directory that it lies in, and every run says what became of each.

At the end one line a tier (``tier netns: 120 passed, 0 skipped``) and one for each reason why
something was left out. With ``MESHNET_TIERS_REQUIRED=unit,netns`` in the environment the run fails
when one of these tiers ran no test, or skipped one that this machine could have run: a skip that
is not to count begins with ``cannot run here: ``.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

TIERS = ("unit", "golden", "netns", "bpf", "lab", "fuzz")
HERE = Path(__file__).parent
EXCUSE = "cannot run here: "

outcomes: dict[str, Counter[str]] = {tier: Counter() for tier in TIERS}
left_out: dict[str, Counter[str]] = {tier: Counter() for tier in TIERS}


def tier_of(path: Path) -> str:
    """The tier of a test file: the first directory below tests/, or "" when there is none."""
    parts = path.relative_to(HERE).parts if path.is_relative_to(HERE) else ()
    return parts[0] if parts and parts[0] in TIERS else ""


@cache
def obstacle(tier: str) -> str:
    """Why this machine cannot run ``tier``; "" when it can."""
    if tier in ("unit", "golden", "fuzz"):
        return ""
    if sys.platform != "linux":
        return "needs Linux"
    if os.geteuid() != 0:
        return "needs root"
    unshare = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    if unshare.returncode:
        return "needs a network namespace of its own: " + unshare.stderr.decode().strip()
    if tier == "bpf" and importlib.util.find_spec("bcc") is None:
        return "needs bcc (Debian: python3-bpfcc)"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if tier := tier_of(item.path):
            item.add_marker(tier)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if reason := obstacle(tier_of(item.path)):
        pytest.skip(EXCUSE + reason)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    tier = tier_of(HERE.parent / report.nodeid.partition("::")[0])
    if not tier:
        return
    if hasattr(report, "wasxfail"):
        outcomes[tier]["failed as expected"] += report.when == "call"
    elif report.skipped:
        outcomes[tier]["skipped"] += 1
        left_out[tier][skip_reason(report)] += 1
    elif report.failed:
        outcomes[tier]["failed"] += 1
    elif report.when == "call":
        outcomes[tier]["passed"] += 1


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A module that skips itself, by importorskip or at its top, is left out as well."""
    tier = tier_of(HERE.parent / report.nodeid.partition("::")[0])
    if tier and report.skipped:
        outcomes[tier]["skipped"] += 1
        left_out[tier][skip_reason(report)] += 1


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The sentence given to skip(), without pytest's own word before it."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def shortfalls() -> list[str]:
    """What is missing of the tiers in MESHNET_TIERS_REQUIRED, one sentence each."""
    missing = []
    for tier in filter(None, os.environ.get("MESHNET_TIERS_REQUIRED", "").split(",")):
        if tier not in TIERS:
            missing.append(f"tier {tier}: there is no such tier, only {', '.join(TIERS)}")
            continue
        skips = [reason for reason in left_out[tier] if not reason.startswith(EXCUSE)]
        ran = outcomes[tier]["passed"] + outcomes[tier]["failed"]
        if skips:
            missing.append(f"tier {tier}: required, and this machine could run what was skipped")
        elif not ran and not left_out[tier]:
            missing.append(f"tier {tier}: required, and ran no test")
    return missing


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    listing_only = session.config.option.collectonly
    if shortfalls() and not listing_only and session.exitstatus in (0, 5):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.config.option.collectonly:
        return
    terminalreporter.section("tiers")
    for tier in TIERS:
        counts = outcomes[tier]
        if not counts:
            terminalreporter.write_line(f"tier {tier}: no tests")
            continue
        rare = "".join(f", {counts[o]} {o}" for o in ("failed", "failed as expected") if counts[o])
        terminalreporter.write_line(
            f"tier {tier}: {counts['passed']} passed, {counts['skipped']} skipped{rare}"
        )
    for tier in TIERS:
        for reason, count in left_out[tier].items():
            tests = "1 test" if count == 1 else f"{count} tests"
            terminalreporter.write_line(f"left out: {tests} of tier {tier}: {reason}")
    for sentence in shortfalls():
        terminalreporter.write_line(f"FAILED {sentence}", red=True)
