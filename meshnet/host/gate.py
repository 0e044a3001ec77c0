"""The one place through which meshnet touches the kernel: a tool run, a netlink request, a commit.

Production code never sets :data:`observer`. A test does, to kill the process just
before or just after the nth touch and to see that the namespace holds the old state
or the new one.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

#: Called with ("before" or "after", what is touched).
observer: Callable[[str, str], None] | None = None


def touch(what: str, action: Callable[[], T]) -> T:
    """Run ``action``, which talks to the kernel about ``what``, and give its result."""
    if observer is not None:
        observer("before", what)
    result = action()
    if observer is not None:
        observer("after", what)
    return result
