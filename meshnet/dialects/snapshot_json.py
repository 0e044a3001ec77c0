"""Snapshots as JSON documents, written and read by msgspec.

A document says first which kind and version it is; a reader takes this version only. What
it takes is checked: types by msgspec, addresses, families and ranges here, so that nobody
behind it has to ask again whether a port is one.
"""

from __future__ import annotations

from meshnet.errors import ParseError, printable
from meshnet.model.address import read_address, read_cidr
from meshnet.model.frozen import dataclass
from meshnet.model.snapshot import SCHEMA, Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeVar

    T = TypeVar("T")

_FAMILIES = ("ip", "ip6")
#: The highest number of a field; of all others it is the highest of 64 bits.
_HIGHEST = dict.fromkeys(("lport", "rport", "sport", "dport", "reply_sport", "reply_dport"), 65535)
_HIGHEST |= dict.fromkeys(("uid", "gid", "host_uid", "host_gid", "mark", "mask"), 0xFFFFFFFF)
_HIGHEST |= dict.fromkeys(("table", "priority", "metric", "status"), 0xFFFFFFFF)
_HIGHEST |= {"zone": 65535, "length": 128, "proto": 255, "protocol": 255, "pid": 0x7FFFFFFF}
_ANY = (1 << 64) - 1
#: Fields that are an address, a block, or either of them or "".
_ADDRESSES = ("address", "local", "remote", "src", "dst", "reply_src", "reply_dst")
_BLOCKS = ("source", "destination", "gateway")
_PARTS = ("links", "addresses", "routes", "policies", "processes", "sockets", "flows")


@dataclass(frozen=True)
class _Envelope:
    """What every document of ours begins with."""

    schema: str


def write_snapshot(snapshot: Snapshot) -> bytes:
    """The document: one line, the schema first, a line end."""
    import msgspec

    return msgspec.json.encode(snapshot) + b"\n"


def read_snapshot(data: bytes) -> Snapshot:
    """The snapshot that ``data`` is.

    Raises ParseError where it is none, is of another schema, or holds what no snapshot can
    hold; the message names the place.
    """
    found = _decode(data, _Envelope).schema
    if found != SCHEMA:
        raise ParseError(
            f"this is {printable(found, 80) or 'no document of ours'}, not {SCHEMA}",
            "read it with the version of meshnet that wrote it",
        )
    snapshot = _decode(data, Snapshot)
    for place, problem in _problems(snapshot):
        raise ParseError(f"the snapshot is not sound at {place}: {problem}")
    return snapshot


def _decode(data: bytes, kind: type[T]) -> T:
    import msgspec

    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as e:
        raise ParseError(f"this is no snapshot: {printable(str(e))}") from e
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as e:
        raise ParseError(f"this is no JSON document: {printable(str(e))}") from e
    except RecursionError as e:
        raise ParseError("this is no snapshot: it is nested too deeply") from e


def _problems(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """Where ``snapshot`` holds what its types allow and no snapshot has, and what that is."""
    for name in _PARTS:
        for index, part in enumerate(getattr(snapshot, name)):
            for problem in _part_problems(part.__dict__):
                yield f"$.{name}[{index}]", problem
    if any(dump.family not in ("", *_FAMILIES) for dump in snapshot.dumps):
        yield "$.dumps", "an unknown family"
    inodes = (snapshot.namespace.inode, snapshot.namespace.owner)
    if not all(0 <= inode <= _ANY for inode in inodes):
        yield "$.namespace", "an impossible inode"


def _part_problems(fields: dict[str, Any]) -> Iterator[str]:
    family = fields.get("family", "")
    if family not in _FAMILIES and "family" in fields:
        yield f"family is {printable(family, 20)!r}"
        return
    for name, value in fields.items():
        if isinstance(value, int):
            if not 0 <= value <= _HIGHEST.get(name, _ANY):
                yield f"{name} is out of range"
        elif name in _ADDRESSES:
            if not _is_address(family, value):
                yield f"{name} is no address of its family"
        elif name in _BLOCKS and value:
            if not _is_block(value):
                yield f"{name} is no address block"
        elif name == "pids" and not all(0 <= pid <= _HIGHEST["pid"] for pid in value):
            yield "pids are out of range"
    if family == "ip" and fields.get("length", 0) > 32:
        yield "length is out of range"


def _is_address(family: str, text: str) -> bool:
    try:
        return read_address(text)[0].value == family
    except ValueError:
        return False


def _is_block(text: str) -> bool:
    try:
        read_cidr(text)
    except ValueError:
        return False
    return True
