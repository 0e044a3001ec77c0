"""The sidecar proxy of a namespace, as far as it was seen."""

from __future__ import annotations

from meshnet.model.frozen import dataclass
from meshnet.model.snapshot import Socket


@dataclass(frozen=True)
class Proxy:
    """Who takes what the rules redirect.

    ``pids`` are the listeners on the redirect ports, with their ancestors and descendants
    of the same UID, ascending; none where nobody was seen. ``uid``, ``gid`` and ``name``
    (which came from outside) are the first listener's, -1 and "" where there is none.
    ``ports`` are the redirect ports, ascending, whether or not anybody listens; ``listens``
    every socket that these processes listen on. ``by_name`` says that nobody listens on a
    redirect port, and that it was recognised by its name, its UID or its usual ports.
    """

    pids: tuple[int, ...] = ()
    uid: int = -1
    gid: int = -1
    name: str = ""
    ports: tuple[int, ...] = ()
    listens: tuple[Socket, ...] = ()
    by_name: bool = False

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self.pids)
