"""Input that looks odd and is right, and machines that lack something."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from meshnet.cli.flags import FLAGS
from tests.support.namespaces import Namespace, meshnet_init

BACKENDS = ("nft-compat", "nft", "legacy")
PLAIN = {name: "" for flag in FLAGS for name in flag.sources()}
WITHOUT = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
NEEDS = "needs CAP_NET_ADMIN in this network namespace"


def rules(netns: Namespace, backend: str) -> str:
    """The rules of IPv4's nat, as the backend's own tool shows them."""
    if backend == "nft":
        return netns.nft()
    return netns.dump("iptables-legacy-save" if backend == "legacy" else "iptables-nft-save")


def applied(
    netns: Namespace, *argv: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = netns.init(*argv, env={**PLAIN, **(env or {})})
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("meshnet-init: profile ")
    return done


@pytest.mark.parametrize("backend", BACKENDS)
def test_host_bits_are_masked_with_a_warning(netns: Namespace, backend: str) -> None:
    argv = ["-i", "10.1.2.3/8", "-x", "10.1.2.3", "--backend", backend]
    done = applied(netns, *argv)
    (warning,) = (line for line in done.stderr.splitlines() if "host bits" in line)
    assert warning.endswith(
        "warning: -i --istio-service-cidr: 10.1.2.3/8 has host bits; 10.0.0.0/8 is taken"
    )
    held = rules(netns, backend)
    assert "10.0.0.0/8" in held
    assert ("10.1.2.3/32" in held) is (backend != "nft")
    assert "10.1.2.3" in held
    again = applied(netns, *argv)
    assert "nothing to change" in again.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_entries_are_skipped(netns: Namespace, backend: str) -> None:
    applied(netns, "-b", "80,, 90 ,", "-x", ",10.0.0.0/8,", "-c", "", "--backend", backend)
    odd = rules(netns, backend)
    netns.init("--cleanup-only", env=PLAIN)
    applied(netns, "-b", "80,90", "-x", "10.0.0.0/8", "--backend", backend)
    assert rules(netns, backend) == odd


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name", ["not-there-yet", "eth0.100", "veth+", "drop", "counter", "1234", "0x10", "1.2",
             "-t", "-j",
             "a=b", "(x)", "a,b"],
)  # fmt: skip
def test_any_name_that_an_interface_can_have(netns: Namespace, backend: str, name: str) -> None:
    applied(netns, f"-c={name}", f"--istio-exclude-interfaces={name}", "--backend", backend)
    held = rules(netns, backend)
    for part in name.split(","):
        shown = part[:-1] + "*" if part.endswith("+") and backend == "nft" else part
        wanted = f'iifname "{shown}"' if backend == "nft" else f"-i {shown} -j RETURN"
        bare = held.replace('-i "', "-i ").replace('" -j', " -j")
        assert wanted in (held if backend == "nft" else bare)
    again = applied(netns, f"--istio-exclude-interfaces={name}", "--backend", backend)
    assert "nothing to change" in again.stderr


def port_of(netns: Namespace, *argv: str, env: dict[str, str]) -> str:
    """The port that outbound connections would be redirected to."""
    done = netns.init("--dry-run", "--backend", "nft-compat", *argv, env={**PLAIN, **env})
    (line,) = (r for r in done.stdout.splitlines() if r.startswith("-A ISTIO_REDIRECT"))
    return line.split()[-1]


def test_a_flag_wins_over_a_variable_and_that_over_the_file(
    netns: Namespace, tmp_path: Path
) -> None:
    (tmp_path / "meshnet.yaml").write_text("proxy: {port: 15103}")
    file = {"MESHNET_CONFIG": str(tmp_path / "meshnet.yaml")}
    both = {**file, "ENVOY_PORT": "15102"}
    istio = ("--profile", "istio")
    assert port_of(netns, *istio, "-p", "15101", env=both) == "15101"
    assert port_of(netns, *istio, env=both) == "15102"
    assert port_of(netns, *istio, env=file) == "15103"
    assert port_of(netns, *istio, env={}) == "15001"
    assert port_of(netns, *istio, env={**file, "ENVOY_PORT": ""}) == "15103"


def test_the_second_name_of_a_variable_counts_where_the_first_is_not_set(netns: Namespace) -> None:
    def dropped(**env: str) -> bool:
        done = netns.init("--dry-run", "--backend", "nft-compat", env={**PLAIN, **env})
        return "ISTIO_DROP" in done.stdout

    assert dropped(INVALID_DROP="true") and dropped(DROP_INVALID="1")
    assert not dropped() and not dropped(DROP_INVALID="false", INVALID_DROP="true")


def test_the_proxys_user_is_looked_up_where_no_uid_is_given(netns: Namespace) -> None:
    def uid(*argv: str, **env: str) -> str:
        done = netns.init("--dry-run", "--backend", "nft-compat", *argv, env={**PLAIN, **env})
        found = [r for r in done.stdout.splitlines() if "--uid-owner" in r and "!" not in r]
        return found[-1].split("--uid-owner ")[1].split()[0]

    assert uid("-b", "80") == "1337"
    assert uid("-b", "80", ENVOY_USER="daemon") == "1"
    assert uid("-b", "80", ENVOY_USER="no-such-user") == "1337"
    assert uid("-b", "80", "-u", "7", ENVOY_USER="daemon") == "7"


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_a_missing_capability_is_named(netns: Namespace, backend: str) -> None:
    before = netns.everything()
    for argv in (["-b", "*"], ["--cleanup-only"], ["-b", "*", "-m", "TPROXY"]):
        done = netns.run(
            *WITHOUT, meshnet_init(), *argv, "--backend", backend, check=False, env=PLAIN
        )
        assert (done.returncode, done.stdout) == (5, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"meshnet-init: error: {NEEDS}")
    assert netns.everything() == before


def test_a_dry_run_needs_no_capability(netns: Namespace) -> None:
    argv = [meshnet_init(), "-b", "*", "--dry-run", "--ipv6", "off"]
    done = netns.run(*WITHOUT, *argv, env=PLAIN)
    assert done.stdout == netns.run(*argv, env=PLAIN).stdout
    assert "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT" in done.stdout
    nobody = netns.run("setpriv", "--reuid=65534", "--clear-groups", *argv, check=False, env=PLAIN)
    assert nobody.stdout == done.stdout or "Permission denied" in nobody.stderr


def test_entering_another_namespace_needs_its_own_capability(netns: Namespace) -> None:
    argv = [meshnet_init(), "-b", "*", "--network-namespace", netns.path]
    bare = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    done = netns.run(*bare, *argv, check=False, env=PLAIN)
    assert (done.returncode, done.stdout) == (5, "")
    (line,) = done.stderr.splitlines()
    assert "CAP_SYS_ADMIN" in line and netns.path in line


#: In a mount namespace of its own: the folder of the tools, without some of them.
HIDE = """
set -e
mount --make-rprivate /
mkdir "$1/all" "$1/some"
mount --bind "$2" "$1/all"
for tool in "$1/all"/*; do ln -s "$tool" "$1/some/"; done
for tool in $3; do rm "$1/some/$tool"; done
mount --bind "$1/some" "$2"
shift 3
exec "$@"
"""


def run_without(
    netns: Namespace, place: Path, tools: str, *argv: str
) -> subprocess.CompletedProcess[str]:
    """Run meshnet-init where ``tools`` are not installed; nobody else notices."""
    folder = str(Path(shutil.which("nft") or "/usr/sbin/nft").resolve().parent)
    inside = ["unshare", "-m", "sh", "-c", HIDE, "hide", str(place), folder, tools]
    env = {**PLAIN, "PATH": os.environ["PATH"]}
    return netns.run(*inside, meshnet_init(), *argv, check=False, env=env)


@pytest.mark.parametrize(
    ("backend", "tool", "usable"),
    [
        ("nft-compat", "iptables-nft-restore", ("nft", "legacy")),
        ("nft-compat", "ip6tables-nft-save", ("nft", "legacy")),
        ("nft", "nft", ("nft-compat", "legacy")),
        ("legacy", "iptables-legacy-restore", ("nft-compat", "nft")),
    ],
)
def test_a_missing_tool_is_named_with_what_still_works(
    netns: Namespace, tmp_path: Path, backend: str, tool: str, usable: tuple[str, ...]
) -> None:
    before = netns.everything()
    done = run_without(netns, tmp_path, tool, "-b", "*", "--backend", backend)
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert f"backend {backend} cannot work here" in line
    assert f"the program {tool} is not installed" in line
    assert f"usable here: {', '.join(usable)}" in line
    assert netns.everything() == before


def test_auto_takes_what_works_and_says_why(netns: Namespace, tmp_path: Path) -> None:
    done = run_without(netns, tmp_path, "iptables-nft-restore", "-b", "*", "--verbose")
    assert done.returncode == 0, done.stderr
    assert (
        "backend nft: nft-compat cannot work here: the program iptables-nft-restore" in done.stderr
    )
    assert "istio-proxy-nat" in netns.nft()


def test_nothing_works_where_no_tool_is_there(netns: Namespace, tmp_path: Path) -> None:
    before = netns.everything()
    tools = "nft iptables-nft-restore iptables-legacy-restore"
    done = run_without(netns, tmp_path, tools, "-b", "*")
    assert (done.returncode, done.stdout) == (4, "")
    (line,) = done.stderr.splitlines()
    for tool in tools.split():
        assert tool in line
    assert netns.everything() == before
