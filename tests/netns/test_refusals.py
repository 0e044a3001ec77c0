"""What the kernel, or a tool, refuses half-way is put back."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.support.cases import CASES, DEFAULT, DNS, ON, TPROXY
from tests.support.namespaces import Namespace

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
#: A tool that passes a restore on, and refuses the one that matters to the test.
REFUSES = """#!/bin/sh
echo "{tool}: the kernel says no" >&2
exit 1
"""


def hide(folder: Path, tool: str) -> dict[str, str]:
    """An environment in which ``tool`` refuses whatever it is asked."""
    program = folder / tool
    program.write_text(REFUSES.format(tool=tool))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}:{PATH}"}


@pytest.mark.parametrize(
    ("backend", "tool", "old", "new"),
    [
        ("nft-compat", "ip6tables-nft-restore", (), (*DEFAULT, *ON)),
        ("nft-compat", "ip6tables-nft-restore", CASES["ports"], (*TPROXY, *ON)),
        ("nft-compat", "ip6tables-nft-restore", CASES["strict-ipv4"], CASES["strict-everything"]),
        ("nft", "nft", (), (*TPROXY, *ON)),
        ("legacy", "ip6tables-legacy-restore", (*DNS, *ON), (*TPROXY, *ON)),
    ],
)
def test_a_refused_step_leaves_what_was_there(
    netns: Namespace,
    tmp_path: Path,
    backend: str,
    tool: str,
    old: tuple[str, ...],
    new: tuple[str, ...],
) -> None:
    netns.run("ip", "link", "set", "lo", "up")
    if old:
        netns.init(*old, "--backend", backend)
    before = netns.everything()
    done = netns.init(*new, "--backend", backend, check=False, env=hide(tmp_path, tool))
    assert done.returncode == 1
    assert done.stderr.startswith("meshnet-init: error: ") and done.stderr.count("\n") == 1
    assert "the kernel says no" in done.stderr
    after = netns.everything()
    if backend == "legacy":
        # A table that came to be stays, empty.
        after = {k: v for k, v in after.items() if k in before}
        before = {k: before[k] for k in after}
    assert after == before
    netns.init(*new, "--backend", backend)


def test_a_move_that_is_refused_leaves_the_rules_where_they_were(
    netns: Namespace, tmp_path: Path
) -> None:
    netns.init(*DEFAULT, *ON, "--backend", "nft-compat")
    before = netns.everything()
    env = hide(tmp_path, "ip6tables-nft-restore")
    move = (*DEFAULT, *ON, "--backend", "nft", "--migrate")
    done = netns.init(*move, check=False, env=env)
    assert done.returncode == 1 and "the kernel says no" in done.stderr
    after = netns.everything()
    assert "istio-proxy" not in after["nft"]
    assert after["ip6tables-nft-save"] == before["ip6tables-nft-save"]
    assert after["iptables-nft-save"] == before["iptables-nft-save"]
    assert "moved from nft-compat" in netns.init(*move).stderr


def test_lo_that_refuses_ipv6_is_said(netns: Namespace) -> None:
    netns.run("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1")
    done = netns.init(*DEFAULT, *ON)
    assert "IPv6 is disabled on lo" in done.stderr
    again = netns.init(*DEFAULT, *ON)
    assert "IPv6 is disabled on lo" in again.stderr and "nothing to change" in again.stderr


def test_lo_that_is_down_is_set_up_and_said(namespaces) -> None:
    netns = namespaces.make(up=False)
    done = netns.init(*TPROXY)
    assert "lo was down and is up now" in done.stderr
    assert "local default" in netns.everything()["routes -4"]
