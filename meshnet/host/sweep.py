"""One job in many network namespaces: a child each, a few at once, each with its time limit.

Results come in the order in which they are ready, and the reader sets the pace: no child
is started before there is room, so that memory and handles do not grow with the number
of namespaces.
"""

from __future__ import annotations

import gc
import json  # noqa: F401 - children answer in it: loaded here, not in each of them
import os
import select
import time
from _signal import SIGKILL, SIGTERM, signal  # type: ignore[import-not-found]
from typing import Any, Generic, TypeVar

from meshnet.errors import MeshnetError, ToolFailed, unforeseen
from meshnet.host.netns import Child, Door, call, start_child, too_slow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
_PR_SET_PDEATHSIG = 1
# Loads libc: here, not in each child.
call("getppid")


def sweep(
    items: Iterable[T],
    job: Callable[[T], Any],
    *,
    door: Callable[[T], Door],
    workers: int = 0,
    timeout: float = 30.0,
) -> Iterator[tuple[T, Any | MeshnetError]]:
    """(item, result of ``job(item)``) for each of ``items``, as they become ready.

    Each job runs in a child inside the namespaces that ``door(item)`` names; its result is
    JSON-able, or bytes. In place of a result there is the MeshnetError that it raised, that
    entering raised, or ToolFailed where the child was killed after ``timeout`` seconds or
    died. At most ``workers`` at once (0: as many as this process has CPUs). Whoever stops
    reading, by close(), an exception or an interrupt, ends the children that are at work,
    with the tools that those started; they also end when this process dies.
    """
    limit = workers or max(1, len(os.sched_getaffinity(0)))
    waiting = iter(items)
    running: dict[int, _Running[T]] = {}
    poll = select.poll()
    parent = os.getpid()
    ready: list[tuple[T, Any | MeshnetError]] = []
    more = True
    try:
        while more or running or ready:
            while more and len(running) < limit and len(ready) < 2 * limit:
                try:
                    item = next(waiting)
                except StopIteration:
                    more = False
                    break
                try:
                    child = start_child(_bound(job, item, parent), door(item), leads=True)
                except MeshnetError as e:
                    ready.append((item, e))
                    continue
                running[child.reader] = _Running(item, child, timeout)
                poll.register(child.reader, select.POLLIN)
            # The next ones are at work while the reader deals with these.
            yield from ready
            ready = _advance(running, poll)
    finally:
        for one in running.values():
            one.child.end()


class _Running(Generic[T]):
    """A child at work, for which item, and until when."""

    def __init__(self, item: T, child: Child, timeout: float) -> None:
        self.item = item
        self.child = child
        self.timeout = timeout
        self.ends = time.monotonic() + timeout

    def take(self) -> bool:
        """Read what is there; False when that was all.

        A job answers at once or not at all: what counts from then on is our own pace.
        """
        self.ends = time.monotonic() + self.timeout
        return self.child.take()

    def outcome(self) -> Any | MeshnetError:
        """What the job gave or raised."""
        try:
            return self.child.result()
        except MeshnetError as e:
            return e


def _advance(
    running: dict[int, _Running[T]], poll: select.poll
) -> list[tuple[T, Any | MeshnetError]]:
    """Wait until something happens; the items that are done, with what became of them."""
    if not running:
        return []
    wait = min(one.ends for one in running.values()) - time.monotonic()
    readable = {fd for fd, _ in poll.poll(max(0.0, wait) * 1000)}
    now = time.monotonic()
    done: list[tuple[T, Any | MeshnetError]] = []
    for reader, one in list(running.items()):
        if reader in readable:
            if one.take():
                continue
            poll.unregister(reader)
            done.append((one.item, one.outcome()))
        elif now >= one.ends:
            poll.unregister(reader)
            one.child.end()
            done.append((one.item, too_slow(one.timeout)))
        else:
            continue
        del running[reader]
    return done


def _bound(job: Callable[[T], Any], item: T, parent: int) -> Callable[[], Any]:
    """``job(item)``, in a child that does not outlive ``parent``."""

    def run() -> Any:
        # A collection would touch, and so copy, every page that we share with the parent.
        gc.disable()
        _end_with(parent)
        try:
            return job(item)
        except MeshnetError:
            raise
        except (OSError, MemoryError) as e:
            raise ToolFailed(f"it could not be looked at: {e}") from e
        except Exception as e:
            # One odd namespace is one line, and the others are looked at all the same.
            raise ToolFailed(f"meshnet failed at it: {unforeseen(e)}") from e

    return run


def _end_with(parent: int) -> None:
    """When ``parent`` dies, end this child's whole group: its tools know nothing of ``parent``."""
    signal(SIGTERM, lambda *_: os.killpg(0, SIGKILL))
    call("prctl", _PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os.killpg(0, SIGKILL)
