"""meshnet doctor on this machine: what it says is so, for whoever asks, and it leaves no trace."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.namespaces import Namespace

DOCTOR = (sys.executable, "-m", "meshnet.cli", "doctor", "-o", "json")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
BARE = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
#: What doctor must not load, hold or make, where the machine shows it.
SHOWN = ("/proc/modules", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names")


def ask(
    netns: Namespace, *prefix: str, env: dict[str, str] | None = None
) -> tuple[int, dict[str, dict], dict]:
    """Run doctor in ``netns`` behind ``prefix``: its exit code, its lines by name, the document."""
    done = netns.run(*prefix, *DOCTOR, check=False, env=env)
    assert done.stderr == "", done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "meshnet/v1/doctor"
    return done.returncode, {row["name"]: row for row in document["features"]}, document


def without(*names: str) -> tuple[str, ...]:
    """Run as root without these capabilities, and without the way back to them."""
    dropped = ",".join(f"-{name}" for name in names)
    return ("setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}")


def shown(netns: Namespace) -> dict[str, str]:
    return {path: netns.run("cat", path, check=False).stdout for path in SHOWN}


@pytest.mark.parametrize("prefix", [(), BARE, without("sys_admin")], ids=["root", "bare", "some"])
def test_nothing_here_changes_by_being_looked_at(netns: Namespace, prefix: tuple[str, ...]) -> None:
    netns.run("nft", "add table inet foreign { chain c { type filter hook output priority 0; }; }")
    before = netns.everything(), shown(netns)
    ask(netns, *prefix)
    assert (netns.everything(), shown(netns)) == before
    assert shown(netns)["/proc/net/ip_tables_names"] == ""


#: Where nobody else writes: an empty /run (with its netns and xtables.lock), an own bpffs.
ALONE = """
set -e
mount --make-rprivate /
mount -t tmpfs none /run
mkdir /run/netns /run/tmp
export TMPDIR=/run/tmp
mount -t bpf none /sys/fs/bpf
look() {
    find /run /sys/fs/bpf -mindepth 1
    head /proc/sys/net/netfilter/nf_log/* /proc/sys/net/ipv4/conf/all/route_localnet
}
before=$(look)
"$@" > /dev/null
after=$(look)
[ "$before" = "$after" ] || { echo "$before"; echo; echo "$after"; exit 1; }
echo "$before" | grep -c .
"""


def test_no_file_lock_namespace_or_pin_is_left(netns: Namespace) -> None:
    done = netns.run("unshare", "-m", "sh", "-c", ALONE, "alone", *DOCTOR)
    assert int(done.stdout) > 3
    assert done.stderr == ""


def test_no_process_is_left(netns: Namespace) -> None:
    ask(netns)
    pids = subprocess.run(["ip", "netns", "pids", netns.name], capture_output=True, text=True)
    assert (pids.returncode, pids.stdout) == (0, "")


def test_root_is_told_everything(netns: Namespace) -> None:
    code, lines, document = ask(netns)
    assert code == 0 and document["usable_backends"]
    assert [row["name"] for row in lines.values() if "could not be told" in row["why"]] == []
    assert lines["CAP_NET_ADMIN"]["state"] == "ok"


def test_a_backend_called_usable_is(netns: Namespace) -> None:
    _, lines, document = ask(netns)
    for backend in ("nft-compat", "nft", "legacy"):
        done = netns.init("-b", "*", "--backend", backend, check=False)
        assert (done.returncode == 0) is (backend in document["usable_backends"]), lines
        netns.init("--cleanup-only")


def test_every_line_says_why_and_how_to_mend(netns: Namespace) -> None:
    for prefix in ((), BARE):
        for row in ask(netns, *prefix)[1].values():
            assert row["why"], row
            assert bool(row["mend"]) is (row["state"] != "ok"), row


def test_text_fits_in_a_hundred_columns(netns: Namespace) -> None:
    for prefix in ((), BARE):
        done = netns.run(*prefix, *DOCTOR[:-2], check=False)
        assert max(map(len, done.stdout.splitlines())) <= 100
        assert all(c.isprintable() for c in done.stdout.replace("\n", ""))


@pytest.mark.parametrize(
    ("capability", "hit", "usable"),
    [
        ("net_admin", ("backend nft", "backend nft-compat", "backend legacy"), False),
        ("net_raw", ("backend legacy",), True),
    ],
)
def test_a_missing_capability_takes_its_backends(
    netns: Namespace, capability: str, hit: tuple[str, ...], usable: bool
) -> None:
    code, lines, document = ask(netns, *without(capability))
    name = f"CAP_{capability.upper()}"
    assert lines[name]["state"] == "missing" and "run as root" in lines[name]["mend"]
    for backend in hit:
        assert lines[backend]["state"] == "missing"
        assert lines[backend]["why"] == f"this process lacks {name}"
    assert bool(document["usable_backends"]) is usable
    assert code == (0 if usable else 5)


def test_without_the_right_to_a_namespace_the_kernel_is_not_called_lacking(
    netns: Namespace,
) -> None:
    """An init container's capabilities: rules can be written here, and tried nowhere else."""
    few = ("setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all")
    code, lines, document = ask(netns, *few)
    assert code == 0 and "nft" in document["usable_backends"]
    for name in ("xt_owner", "nft redirect, inet NAT", "nftrace"):
        assert lines[name]["state"] in ("ok", "degraded"), lines[name]
        if lines[name]["state"] == "degraded":
            assert "namespace of its own" in lines[name]["why"]
    assert lines["network namespaces"]["state"] != "ok"


def test_without_cap_bpf_programs_cannot_be_told(netns: Namespace) -> None:
    _, lines, _ = ask(netns, *without("bpf", "perfmon", "sys_admin"))
    for name in ("bpf connect4, connect6", "bpf sk_lookup", "bpf map SK_STORAGE"):
        assert lines[name]["state"] == "degraded"
        assert lines[name]["why"] == "could not be told: bpf(2) needs CAP_BPF, CAP_PERFMON"


def test_perfmon_alone_is_told_apart(netns: Namespace) -> None:
    """Only tracing needs it to be loaded."""
    _, whole, _ = ask(netns)
    _, lines, _ = ask(netns, *without("perfmon", "sys_admin"))
    if whole["bpf tp_btf"]["state"] == "ok":
        assert lines["bpf tp_btf"]["why"] == "could not be told: bpf(2) needs CAP_PERFMON"
    assert lines["bpf connect4, connect6"]["state"] == whole["bpf connect4, connect6"]["state"]


def test_a_user_namespace_does_not_pretend(netns: Namespace) -> None:
    inside = ("unshare", "--user", "--map-root-user")
    if netns.run(*inside, "true", check=False).returncode:
        pytest.skip("cannot run here: user namespaces are not allowed")
    code, lines, document = ask(netns, *inside)
    assert document["first_user_namespace"] is False
    assert lines["CAP_BPF"]["state"] == "degraded"
    assert lines["bpf sk_msg"]["why"].startswith("could not be told: bpf(2) refuses")
    # The test's namespace belongs to the first user namespace: no capability reaches it.
    assert "no capability held here counts" in lines["backend nft"]["why"]
    assert lines["backend legacy"]["state"] == "missing" and code == 5


def test_an_ordinary_user_learns_what_the_kernel_can(netns: Namespace) -> None:
    probe = (*NOBODY, sys.executable, "-c", "import meshnet.cli.doctor, rich")
    if netns.run(*probe, check=False).returncode:
        pytest.skip("cannot run here: this Python lies below a directory closed to other users")
    code, lines, document = ask(netns, *NOBODY)
    assert code == 5 and document["uid"] == 65534 and document["usable_backends"] == []
    assert lines["backend nft"]["why"] == "this process lacks CAP_NET_ADMIN"
    if lines["user namespaces"]["state"] == "ok":
        _, whole, _ = ask(netns)
        for name in ("xt_owner", "nft redirect, inet NAT", "legacy ip_tables", "sock_diag"):
            assert lines[name]["state"] == whole[name]["state"], lines[name]
    else:
        assert (
            "could not be told" in lines["nftrace"]["why"] or "not tried" in lines["nftrace"]["why"]
        )


def test_a_machine_without_programs_is_told_so(netns: Namespace) -> None:
    """In a mount namespace in which the folders of the programs are empty."""
    hide = "mount --make-rprivate / && for d in /usr/sbin /sbin; do mount -t tmpfs none $d; done"
    inside = ("unshare", "-m", "sh", "-c", f'{hide} && exec "$@"', "hide")
    code, lines, document = ask(netns, *inside)
    assert code == 4 and document["usable_backends"] == []
    assert lines["nft"]["why"] == "the program nft is not installed"
    assert "Debian: nftables" in lines["nft"]["mend"]
    assert lines["nftrace"]["why"] == "could not be told: the program nft is not installed"
    assert lines["backend legacy"]["state"] == "missing"
