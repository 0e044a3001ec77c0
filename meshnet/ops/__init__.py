"""The use cases behind the commands, callable from Python."""

from __future__ import annotations
