"""From values to what a person or a program reads. Never looks at the machine."""

from __future__ import annotations
