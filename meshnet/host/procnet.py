"""Sockets by ``/proc/net/{tcp,udp}{,6}``: what is left where sock_diag is not there.

The kernel prints an address as 32-bit words of the machine's own byte order
(``net/ipv4/tcp_ipv4.c``, get_tcp4_sock; ``net/ipv6/tcp_ipv6.c``).
"""

from __future__ import annotations

import sys

from meshnet.errors import NotPermitted, ToolFailed
from meshnet.host.socket_list import LISTENING, SocketList

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def read_table(proto: str, family: str, found: SocketList, listening_only: bool = False) -> None:
    """Add the sockets of one table of the current namespace; none where the kernel lacks it.

    Raises NotPermitted or ToolFailed where it is there and cannot be read.
    """
    # The namespace of the thread: the process's first thread may be in another.
    path = f"/proc/thread-self/net/{proto}{'6' if family == 'ip6' else ''}"
    try:
        with open(path, "rb") as f:
            collect_lines(f, proto, found, listening_only)
    except FileNotFoundError:
        return
    except PermissionError as e:
        raise NotPermitted(f"cannot read {path}: {e.strerror}") from e
    except OSError as e:
        raise ToolFailed(f"cannot read {path}: {e.strerror}") from e


def collect_lines(
    lines: Iterable[bytes], proto: str, found: SocketList, listening_only: bool = False
) -> None:
    """Add the sockets of such a table, its heading included. Raises ToolFailed for other text."""
    for number, line in enumerate(lines):
        if not number or not line.strip():
            continue
        fields = line.split(None, 10)
        try:
            state = int(fields[3], 16)
            if (listening_only and state != LISTENING[proto]) or not found.has_room(proto, state):
                continue
            local, _, lport = fields[1].partition(b":")
            remote, _, rport = fields[2].partition(b":")
            ends = (_address(local), int(lport, 16), _address(remote), int(rport, 16))
            found.add(proto, state, ends, int(fields[7]), int(fields[9]))
        except (IndexError, ValueError) as e:
            raise ToolFailed(f"{proto} sockets in /proc: line {number + 1} makes no sense") from e


def _address(text: bytes) -> bytes:
    raw = bytes.fromhex(text.decode("ascii"))
    if len(raw) not in (4, 16):
        raise ValueError("neither 4 nor 16 bytes")
    if sys.byteorder == "big":
        return raw
    if len(raw) == 4:
        return raw[::-1]
    return raw[3::-1] + raw[7:3:-1] + raw[11:7:-1] + raw[15:11:-1]
