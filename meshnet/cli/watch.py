"""``meshnet inspect --watch``: the counters of the rules, again and again, with rates."""

from __future__ import annotations

import time
from contextlib import suppress

from meshnet.render.console import console
from meshnet.render.watch import Look, counters_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rich.console import Console, Group

    from meshnet.host.target import Target


def watch_counters(
    name: str, interval: float, count: int | None, limit: int, timeout: float
) -> None:
    """Look every ``interval`` seconds, ``count`` times or until interrupted.

    On a terminal one table that changes; elsewhere a table a look. Raises as collecting
    does when the first look fails, and when the namespace is gone later.
    """
    from meshnet.host.target import resolve

    target = resolve(name)
    out = console()
    before = _look(target, timeout)
    looks = 1
    try:
        if out.is_terminal:
            from rich.live import Live

            # What was last seen stays on the terminal, also after an interrupt.
            shown = counters_table(before, None, limit)
            live = Live(shown, console=out, auto_refresh=False, screen=True)
            with suppress(KeyboardInterrupt), live:
                while count is None or looks < count:
                    time.sleep(interval)
                    now = _look(target, timeout)
                    shown = counters_table(now, before, limit)
                    live.update(shown, refresh=True)
                    before, looks = now, looks + 1
            out.print(shown)
            return
        _print(out, counters_table(before, None, limit))
        while count is None or looks < count:
            time.sleep(interval)
            now = _look(target, timeout)
            _print(out, counters_table(now, before, limit))
            before, looks = now, looks + 1
    except KeyboardInterrupt:
        return


def _print(out: Console, table: Group) -> None:
    """A look, and an empty line after it; at once, also into a pipe."""
    out.print(table)
    out.print()
    out.file.flush()


def _look(target: Target, timeout: float) -> Look:
    from meshnet.dialects.dumps import rulesets
    from meshnet.ops.collect import collect
    from meshnet.reason.inspection import shown_tables

    snapshot = collect(target, ("rules",), timeout=timeout)
    return Look(snapshot.namespace.name, time.monotonic(), shown_tables(rulesets(snapshot)))
