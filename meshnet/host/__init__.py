"""The machine: processes, namespaces, netlink, capabilities. Nothing else touches the kernel."""

from __future__ import annotations
