"""Collecting snapshots: of one network namespace, or of many at once.

A child enters each namespace, looks, and sends back the document; what all of them need
(who lives where, who holds which socket) is read once before they start.
"""

from __future__ import annotations

import codecs
from functools import cache

from meshnet.errors import MeshnetError, ToolFailed, printable
from meshnet.host.netns import Door
from meshnet.host.sweep import sweep
from meshnet.host.sysctls import read_global
from meshnet.model.snapshot import SECTIONS, Snapshot
from meshnet.ops.inhabitants import Inhabitants, look_around
from meshnet.ops.observation import Limits, Order, observe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    import msgspec

    from meshnet.host.target import Target

__all__ = ["Limits", "collect", "collect_all", "condense"]

TIMEOUT = 20.0
LIMITS = Limits()


def collect(
    target: Target,
    sections: tuple[str, ...] = SECTIONS,
    limits: Limits = LIMITS,
    timeout: float = TIMEOUT,
) -> Snapshot:
    """What the network namespace of ``target`` shows now, in at most ``timeout`` seconds.

    A part that cannot be had, or is more than ``limits``, is a gap. Raises NotPermitted,
    naming the capability, where the namespace cannot be entered or its rules not be read;
    MeshnetError where it is gone, ToolFailed where it takes too long.
    """
    (found,) = _sweep([target], _document, _order(sections, limits, timeout), 1, timeout)
    if isinstance(found[1], ToolFailed):
        raise ToolFailed(f"{printable(target.name)}: {found[1].message}", found[1].hint)
    return _read(found[1])


def collect_all(
    targets: Iterable[Target],
    sections: tuple[str, ...] = SECTIONS,
    limits: Limits = LIMITS,
    timeout: float = TIMEOUT,
    workers: int = 0,
) -> Iterator[tuple[Target, Snapshot | MeshnetError]]:
    """(target, snapshot) for each of ``targets``, as they become ready.

    In place of a snapshot there is the error that :func:`collect` would raise; ``timeout`` is
    for each namespace, ``workers`` are at work at once (0: one a CPU).
    """
    for target, found in condense(targets, _document, sections, limits, timeout, workers):
        yield target, found if isinstance(found, MeshnetError) else _read(found)


def condense(
    targets: Iterable[Target],
    reduce: Callable[[Snapshot], Any],
    sections: tuple[str, ...] = SECTIONS,
    limits: Limits = LIMITS,
    timeout: float = TIMEOUT,
    workers: int = 0,
) -> Iterator[tuple[Target, Any | MeshnetError]]:
    """As :func:`collect_all`, with ``reduce(snapshot)`` in place of the snapshot.

    ``reduce`` runs in the children, so that its work is shared among the CPUs and only its
    result, JSON-able or bytes, comes back; a MeshnetError that it raises does too.
    """
    inhabitants = look_around("sockets" in sections) if _need_them(sections) else None
    order = _order(sections, limits, timeout, inhabitants)
    yield from _sweep(targets, reduce, order, workers, timeout)


def _need_them(sections: tuple[str, ...]) -> bool:
    return not {"processes", "sockets"}.isdisjoint(sections)


def _order(
    sections: tuple[str, ...],
    limits: Limits,
    timeout: float,
    inhabitants: Inhabitants | None = None,
) -> Order:
    known = read_global() if "sysctls" in sections else {}
    # Tools that hang shall cost their own part only.
    return Order(sections, limits, timeout * 0.8, inhabitants, known)


def _sweep(
    targets: Iterable[Target],
    reduce: Callable[[Snapshot], Any],
    order: Order,
    workers: int,
    timeout: float,
) -> Iterator[tuple[Target, Any | MeshnetError]]:
    # What is loaded and prepared here need not be in each child.
    _decoder()
    codecs.lookup("ascii")

    def job(target: Target) -> Any:
        return reduce(observe(target, order))

    def door(target: Target) -> Door:
        return Door(target.path, target.inode)

    return sweep(targets, job, door=door, workers=workers, timeout=timeout)


def _document(snapshot: Snapshot) -> bytes:
    import msgspec

    return msgspec.json.encode(snapshot)


def _read(document: bytes | MeshnetError) -> Snapshot:
    if isinstance(document, MeshnetError):
        raise document
    return _decoder().decode(document)


@cache
def _decoder() -> msgspec.json.Decoder[Snapshot]:
    import msgspec

    return msgspec.json.Decoder(Snapshot)
