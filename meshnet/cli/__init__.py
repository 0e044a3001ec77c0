"""The commands: parse, call, render, exit."""

from __future__ import annotations
