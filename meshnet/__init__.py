"""meshnet: hand a pod's traffic to its sidecar, prove it, explain it.

Importing this package has no side effects and needs neither root, nor Linux,
nor any of the heavy libraries: those are imported where they are used.
"""

__version__ = "0.1.0"
