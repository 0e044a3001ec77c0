"""Odd surroundings: tables nobody can read, missing programs, foreign routes, closed streams."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.cases import CASES, DEFAULT, TPROXY
from tests.support.namespaces import Namespace, meshnet_init

#: iptables cannot say this rule, and so shows nothing of the whole table.
UNSAYABLE = """\
table ip nat {
  set s {
    type ipv4_addr
    elements = { 192.0.2.4 }
  }
  chain PREROUTING {
    type nat hook prerouting priority dstnat
    ip daddr @s tcp dport { 80, 81 } dnat to 192.0.2.5
  }
}
"""
HIDDEN = {
    "nft": ("/usr/sbin/nft", "holds"),
    "nft-compat": ("/usr/sbin/xtables-nft-multi", "holds"),
    "legacy": ("/usr/sbin/xtables-legacy-multi", "may hold"),
}


def test_a_table_that_iptables_cannot_show_is_not_taken_for_an_empty_one(netns: Namespace) -> None:
    netns.run("nft", "-f", "-", text=UNSAYABLE)
    before = netns.everything()
    refused = netns.init(*DEFAULT, "--backend", "nft-compat", check=False)
    assert refused.returncode == 4
    assert "Table `nat' is incompatible" in refused.stderr
    assert netns.everything() == before
    chosen = netns.init(*DEFAULT, "--verbose")
    assert "backend nft: nft-compat cannot work here" in chosen.stderr
    netns.init("--cleanup-only")
    assert netns.everything() == before


def test_rules_that_got_out_of_sight_are_not_reported_as_gone(netns: Namespace) -> None:
    netns.init(*DEFAULT, "--backend", "nft-compat")
    netns.run(
        "nft",
        "-f",
        "-",
        text=UNSAYABLE.replace("chain PREROUTING {\n    type", "chain odd {\n    #"),
    )
    for arguments in ((*DEFAULT,), ("--cleanup-only",)):
        done = netns.init(*arguments, check=False)
        assert done.returncode == 4
        assert "backend nft-compat holds rules of ours" in done.stderr


@pytest.mark.parametrize("backend", HIDDEN)
def test_without_its_program_a_backend_is_not_forgotten(netns: Namespace, backend: str) -> None:
    program, verb = HIDDEN[backend]
    netns.init(*DEFAULT, "--backend", backend)
    before = netns.everything()
    # In a mount namespace of its own: nobody else misses the program.
    hide = f'mount --bind /dev/null {program} && exec "$@"'
    for arguments in ((*DEFAULT,), ("--cleanup-only",)):
        shell = ["unshare", "-m", "sh", "-c", hide, "hide", meshnet_init(), *arguments]
        done = netns.run(*shell, check=False)
        assert done.returncode == 4
        assert f"backend {backend} {verb} rules of ours" in done.stderr
        assert done.stderr.count("\n") == 1
    assert netns.everything() == before
    netns.init("--cleanup-only")


def test_legacy_tables_of_others_do_not_stand_in_the_way(netns: Namespace) -> None:
    netns.run("iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT")
    hide = 'mount --bind /dev/null /usr/sbin/xtables-legacy-multi && exec "$@"'
    for arguments in ((*DEFAULT,), ("--cleanup-only",)):
        netns.run("unshare", "-m", "sh", "-c", hide, "hide", meshnet_init(), *arguments)
    assert "-p udp" in netns.dump("iptables-legacy-save")


def test_parts_that_somebody_made_before_us_are_used_and_left(netns: Namespace) -> None:
    netns.run("ip", "rule", "add", "fwmark", "1337", "lookup", "133")
    netns.run("ip", "route", "add", "local", "default", "dev", "lo", "table", "133")
    before = netns.everything()
    assert "routes and addresses" not in netns.init(*TPROXY).stderr
    assert "nothing to change" in netns.init(*TPROXY).stderr
    netns.init("--cleanup-only")
    assert netns.everything() == before


def test_our_number_on_something_of_another_shape_makes_it_not_ours(netns: Namespace) -> None:
    netns.run("ip", "route", "add", "10.77.0.0/16", "dev", "lo", "proto", "155")
    netns.run("ip", "rule", "add", "fwmark", "5/0xff", "lookup", "77", "protocol", "155")
    netns.run("ip", "rule", "add", "fwmark", "6", "iif", "lo", "lookup", "78", "protocol", "155")
    netns.init(*TPROXY)
    assert "nothing to change" in netns.init(*TPROXY).stderr
    netns.init("--cleanup-only")
    assert "nothing of ours" in netns.init("--cleanup-only").stderr
    assert "10.77.0.0/16" in netns.run("ip", "route").stdout
    rules = netns.run("ip", "rule").stdout
    assert "0x5/0xff" in rules and "iif lo" in rules


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ('"$@" --dry-run >&-', "standard output is closed"),
        ('"$@" --dry-run >/dev/full', "cannot write to standard output: No space left"),
        ('exec 3>&2; { "$@" --dry-run; echo $? >&3; } | true', "Broken pipe"),
        ('PYTHONIOENCODING=ascii "$@" --help', ""),
        ('"$@" <&-', "rules written"),
    ],
)
def test_streams_that_fail_are_said_in_one_line(netns: Namespace, shell: str, said: str) -> None:
    argv = ["sh", "-c", shell, "shell", meshnet_init(), *DEFAULT]
    done = netns.run(*argv, check=False)
    assert "Traceback" not in done.stderr
    assert said in done.stderr


def test_a_warning_never_gets_into_what_a_dry_run_prints(netns: Namespace) -> None:
    argv = [meshnet_init(), *CASES["ports"], "-d", "99", "--dry-run"]
    done = netns.run("sh", "-c", '"$@" 2>&-', "shell", *argv)
    assert done.stdout.startswith("*nat\n")
    netns.run("iptables-nft-restore", "--noflush", text=done.stdout)


def test_a_dry_run_of_a_change_is_loadable_and_does_the_same(namespaces) -> None:
    one, other = namespaces.make(), namespaces.make()
    for netns in (one, other):
        netns.init(*CASES["dns"], "--backend", "nft")
    plan = one.init(*CASES["strict-everything"], "--backend", "nft", "--dry-run").stdout
    one.run("nft", "-f", "-", text=plan)
    other.init(*CASES["strict-everything"], "--backend", "nft")
    assert one.nft() == other.nft()


def test_a_user_namespace_of_ones_own_is_enough(netns: Namespace) -> None:
    """An init container in a user namespace: root there, nobody here."""
    argv = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c"]
    script = 'ip link set lo up; "$@" && "$@" && iptables-nft-save -t nat'
    done = subprocess.run(
        [*argv, script, "shell", meshnet_init(), *DEFAULT, "-u", "0", "-g", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "nothing to change" in done.stderr and "ISTIO_OUTPUT" in done.stdout


def test_a_cleanup_is_kept_from_its_work_by_nothing_else(netns: Namespace) -> None:
    before = netns.everything()
    netns.init(*DEFAULT)
    env = {
        "MESHNET_CONFIG": "/nowhere",
        "PROBE_TIMEOUT": "x",
        "ENVOY_PORT": "no",
        "PROXY_UID": "me",
    }
    done = netns.init("--cleanup-only", "-b", "80-", env=env)
    assert "removed" in done.stderr
    assert netns.everything() == before


def test_the_dns_servers_are_the_target_s(netns: Namespace, tmp_path) -> None:
    """A process's own resolv.conf counts, not that of whoever runs meshnet-init."""
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 10.9.8.7\n")
    inside = f"mount --bind {conf} /etc/resolv.conf && echo ready && exec sleep 60"
    pod = subprocess.Popen(
        ["nsenter", f"--net={netns.path}", "unshare", "-m", "sh", "-c", inside],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert pod.stdout is not None and pod.stdout.readline() == "ready\n"
        argv = [meshnet_init(), *DEFAULT, "--redirect-dns", "--target", f"pid:{pod.pid}"]
        subprocess.run(argv, check=True, capture_output=True)
    finally:
        pod.kill()
        pod.communicate()
    assert "-d 10.9.8.7/32" in netns.dump("iptables-nft-save")


def test_an_interrupted_run_leaves_no_tool_and_no_change(netns: Namespace, tmp_path) -> None:
    slow, began = tmp_path / "nft", tmp_path / "began"
    slow.write_text(f'#!/bin/sh\n: > {began}\nsleep 5\nexec /usr/sbin/nft "$@"\n')
    slow.chmod(0o755)
    before = netns.everything()
    env = f"PATH={tmp_path}:/usr/sbin:/usr/bin:/bin"
    argv = ["nsenter", f"--net={netns.path}", "env", env, meshnet_init(), *DEFAULT]
    run = subprocess.Popen([*argv, "--backend", "nft"], stderr=subprocess.PIPE, text=True)
    while not began.exists():
        assert run.poll() is None
    run.send_signal(2)
    assert run.communicate(timeout=20)[1].count("interrupted") == 1
    assert run.returncode == 130
    assert netns.everything() == before
