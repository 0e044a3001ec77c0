"""A connection of a namespace: who holds it, what it dialled, and the way it took."""

from __future__ import annotations

from meshnet.model.choices import Enum
from meshnet.model.frozen import dataclass
from meshnet.model.snapshot import Flow, Socket


class Path(Enum):
    """The way that a connection took. What it rests on is the connection's ``reason``.

    ============== ==================================================================
    older          a rule of now would capture it, and it is not: it was there before
    direct         past the proxy, to the address it dialled
    captured       handed to the proxy
    leg            the proxy's own: to the application, or to the world
    loopback       both ends are here, and the proxy is not between them
    forwarded      neither end is here: it passes through (a virtual machine's)
    unknown        what was read does not tell
    ============== ==================================================================
    """

    OLDER = "older"
    DIRECT = "direct"
    CAPTURED = "captured"
    LEG = "leg"
    LOOPBACK = "loopback"
    FORWARDED = "forwarded"
    UNKNOWN = "unknown"


class Direction(Enum):
    """Who dialled: somebody here, somebody elsewhere, or both ends are here ("inside")."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"
    INSIDE = "inside"
    THROUGH = "through"


@dataclass(frozen=True)
class Endpoint:
    """An address and a port (0: not known)."""

    address: str
    port: int

    def __str__(self) -> str:
        shown = f"[{self.address}]" if ":" in self.address else self.address
        return f"{shown}:{self.port}"


@dataclass(frozen=True)
class Owner:
    """Who holds one end. ``pid`` 0: nobody could be seen to; ``others`` hold it as well.

    ``uid`` is the socket's, as rules have it, None where no socket is left to ask.
    ``proxy`` says that it is the proxy.
    """

    pid: int
    command: str
    uid: int | None
    others: tuple[int, ...] = ()
    proxy: bool = False


@dataclass(frozen=True)
class Connection:
    """A connection that lives, seen from the namespace.

    ``source`` dialled ``dialled``: the address that it asked for, before any translation.
    ``taken`` is the end that it arrived at where that is another one: the proxy's. ``owner``
    holds the end that this row is about (the one that dialled, where it is here), ``peer``
    the other end where that is here, too.

    ``reason`` is the evidence for ``path``, in one line. ``rule`` is the place of the rule
    that decides today ("ISTIO_OUTPUT 4"), "" where none was asked or none decides. ``leg_of``
    belongs to a leg: the ``source`` of the connection that it continues, "shared" where
    several could be meant, "" where it is the proxy's own. ``fate`` belongs to
    ``Path.OLDER``: "direct" or "reset", and "" where that cannot be told. ``code`` is the
    finding that it is an instance of, or "".

    ``sockets`` are the one or two sockets that are this connection, ``flow`` its entry of
    connection tracking.
    """

    family: str
    proto: str
    direction: Direction
    state: str
    source: Endpoint
    dialled: Endpoint
    path: Path
    reason: str
    owner: Owner | None = None
    peer: Owner | None = None
    taken: Endpoint | None = None
    rule: str = ""
    leg_of: str = ""
    fate: str = ""
    code: str = ""
    sockets: tuple[Socket, ...] = ()
    flow: Flow | None = None

    @property
    def pids(self) -> tuple[int, ...]:
        """Every process that holds an end of it."""
        return tuple(dict.fromkeys(pid for socket in self.sockets for pid in socket.pids))
