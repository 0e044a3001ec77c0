"""What is wrong in a namespace: pure functions over a snapshot and its rules."""

from meshnet.reason.findings.find import find
from meshnet.reason.findings.proxy import proxy_of

__all__ = ["find", "proxy_of"]
