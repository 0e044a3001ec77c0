"""Pods as network namespaces, real Envoys in them, and the demo that shows both at work."""

from __future__ import annotations

from meshnet.lab.envoy import find_envoy, one_port_bootstrap, two_port_bootstrap
from meshnet.lab.processes import Service, run_in
from meshnet.lab.topology import Pod, Topology

__all__ = [
    "Pod",
    "Service",
    "Topology",
    "find_envoy",
    "one_port_bootstrap",
    "run_in",
    "two_port_bootstrap",
]
