"""Rule languages: each prints what the model holds and parses what it prints. Pure."""

from __future__ import annotations
