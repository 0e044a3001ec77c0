"""Every network namespace of a node, each looked at and understood."""

from __future__ import annotations

from meshnet.errors import MeshnetError, unforeseen
from meshnet.model.node import NodeLine
from meshnet.ops.collect import collect_all
from meshnet.reason.node import failed_line, line_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meshnet.host.target import Target


def inspect_each(targets: Iterable[Target], timeout: float) -> Iterator[NodeLine]:
    """A line for each of ``targets``, as they become ready; what fails is a line, too.

    ``timeout`` is in seconds, for each namespace. Children collect; this process examines
    what they bring while the next ones are at work: in a fresh child the same takes three
    times as long, because each page that it touches has to be copied first.
    """
    for target, found in collect_all(targets, timeout=timeout):
        try:
            if isinstance(found, MeshnetError):
                raise found
            yield line_of(found)
        except MeshnetError as e:
            yield failed_line(target.name, target.inode, e)
        except Exception as e:
            # A defect of ours: it costs its own line, not those of all others.
            defect = MeshnetError(f"meshnet failed at it: {unforeseen(e)}")
            yield failed_line(target.name, target.inode, defect)
