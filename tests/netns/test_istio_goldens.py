"""Profile istio against what Istio's own tool programs: the kernel's dumps are the same.

Collected where the goldens lie beside the checkout; the project's own ones are in
``tests/golden``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshnet.cli.flags import FLAGS
from tests.support import istio_goldens
from tests.support.namespaces import Namespace, Namespaces, meshnet_init

PLAIN = {name: "" for flag in FLAGS for name in flag.sources()}
BACKENDS = ("nft-compat", "legacy", "nft")
CASES = istio_goldens.cases()
#: A resolv.conf that names no server, seen by one program only.
BARE = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


def dumps(netns: Namespace, backend: str) -> dict[str, str]:
    """All that the backend's own tools show, in their order, without counters."""
    if backend == "nft":
        return {"nft": netns.nft()}
    variant = backend.removesuffix("-compat")
    tools = [f"{prefix}-{variant}-save" for prefix in ("iptables", "ip6tables")]
    shown = {tool: netns.dump(tool) for tool in tools}
    # nf_tables lists tables and chains in the order in which they came to be.
    return shown | {"nft": netns.nft()} if backend == "nft-compat" else shown


def program(netns: Namespace, case: dict[str, Any], backend: str, place: Path) -> None:
    """The same configuration by meshnet-init."""
    servers = [word for server in case["dns_servers"] for word in ("--dns-server", server)]
    argv = ["--profile", "istio", *case["argv"], "--ipv6", "on" if case["ipv6"] else "off"]
    argv += [*servers, "--backend", backend]
    env = {**PLAIN, **{k: istio_goldens.numbered(v) for k, v in case["env"].items()}}
    if "--redirect-dns" in argv and not servers:
        empty = place / "resolv.conf"
        empty.write_text("")
        inside = ["unshare", "-m", "sh", "-c", BARE, "bare", str(empty), meshnet_init()]
        netns.run(*inside, *argv, env=env)
    else:
        netns.init(*argv, env=env)


def compare(namespaces: Namespaces, name: str, backend: str, place: Path) -> None:
    golden, ours = namespaces.make(), namespaces.make()
    istio_goldens.load(golden, name, backend)
    program(ours, CASES[name], backend, place)
    assert dumps(ours, backend) == dumps(golden, backend)
    assert any("ISTIO" in text or "istio" in text for text in dumps(ours, backend).values())


if CASES:

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("name", CASES)
    def test_the_kernel_holds_what_istios_tool_would_make_it_hold(
        namespaces: Namespaces, name: str, backend: str, tmp_path: Path
    ) -> None:
        compare(namespaces, name, backend, tmp_path)

    def test_the_goldens_cover_what_they_are_known_for() -> None:
        assert len(CASES) >= 20
        assert {"tproxy", "dns-uid-gid", "drop-invalid", "kube-virt-interfaces"} <= set(CASES)
        assert any(case["ipv6"] for case in CASES.values())
