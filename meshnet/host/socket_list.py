"""Sockets as they are gathered: from raw numbers to values, and no more of them than asked for."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop

from meshnet.host.userns import SAME, IdMap
from meshnet.model.snapshot import UNMAPPED, Socket

#: How many sockets are kept unless told otherwise.
LIMIT = 50_000
#: The kernel's numbers (include/net/tcp_states.h) in ss's words; UDP uses the first and "unconn".
STATES = {
    1: "established",
    2: "syn-sent",
    3: "syn-recv",
    4: "fin-wait-1",
    5: "fin-wait-2",
    6: "time-wait",
    7: "unconn",
    8: "close-wait",
    9: "last-ack",
    10: "listen",
    11: "closing",
    12: "syn-recv",
}
#: The state in which a socket takes what comes from anybody.
LISTENING = {"tcp": 10, "udp": 7}
#: States of sockets that no process has a handle of, whose UID the kernel gives as 0 or not at all.
_UNHELD = (3, 6, 12)
_MAPPED = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"


class SocketList:
    """At most ``limit`` sockets, those that listen first. UIDs go through ``uids``."""

    def __init__(self, limit: int = LIMIT, uids: IdMap = SAME) -> None:
        self.limit = max(0, limit)
        self._uids = uids
        self._listening: list[Socket] = []
        self._others: list[Socket] = []
        self._cut = 0
        self._shown: dict[int, int] = {}
        self._texts: dict[bytes, str] = {}

    def has_room(self, proto: str, state: int) -> bool:
        """Whether another one in ``state`` is wanted; where not, it counts as cut."""
        kept = self._listening if state == LISTENING[proto] else self._others
        if len(kept) < self.limit:
            return True
        self._cut += 1
        return False

    def add(
        self,
        proto: str,
        state: int,
        ends: tuple[bytes, int, bytes, int],
        uid: int,
        inode: int,
        link: str = "",
        only6: bool = False,
        transparent: bool | None = None,
    ) -> None:
        """Add a socket; ``ends`` are local and remote, addresses of 4 or 16 raw bytes.

        Two IPv4 addresses in IPv6's clothes make it one of IPv4.
        """
        src, sport, dst, dport = ends
        family = "ip"
        if len(src) == 16:
            if src[:12] == _MAPPED or dst[:12] == _MAPPED:
                src, dst = src[12:], dst[12:]
            else:
                family = "ip6"
        texts = self._texts
        local = texts.get(src) or self._text(src)
        remote = texts.get(dst) or self._text(dst)
        shown = UNMAPPED if state in _UNHELD else self._shown.get(uid)
        if shown is None:
            shown = self._shown[uid] = self._uids.shown(uid)
        word = STATES.get(state, "unknown")
        socket = Socket(
            family, proto, word, local, sport, remote, dport, shown, inode, (), link, only6,
            transparent,
        )  # fmt: skip
        (self._listening if state == LISTENING[proto] else self._others).append(socket)

    def _text(self, raw: bytes) -> str:
        text = self._texts[raw] = inet_ntop(AF_INET if len(raw) == 4 else AF_INET6, raw)
        return text

    def result(self) -> tuple[list[Socket], int]:
        """(the sockets, how many were left out)."""
        found = self._listening + self._others
        return found[: self.limit], self._cut + max(0, len(found) - self.limit)
