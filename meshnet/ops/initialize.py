"""What ``meshnet-init`` does: the right job, in the right namespace."""

from __future__ import annotations

from meshnet.host.netns import TIMEOUT, run_child
from meshnet.model.intent import Intent
from meshnet.ops.program import Options, apply_intent, remove_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def initialize(intent: Intent | None, options: Options, netns: str | None) -> dict[str, Any]:
    """Apply ``intent`` in the namespace at ``netns`` (None: this one); clean up where it is None.

    Gives the work as plain data. Raises what the job raises.
    """

    def job() -> dict[str, Any]:
        return remove_all(options) if intent is None else apply_intent(intent, options)

    # Another namespace is entered by a child; in one's own there is nothing to enter.
    if netns is None:
        return job()
    result: dict[str, Any] = run_child(job, netns=netns, timeout=options.lock_wait + TIMEOUT)
    return result
