"""What everything else speaks about: packets, matches, rules, rulesets, capture specs.

Pure: frozen dataclasses over the standard library.
"""

from __future__ import annotations
