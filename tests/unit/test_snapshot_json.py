"""Snapshots as documents: written, read, and refused where they are not what they say."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.dialects.snapshot_json import read_snapshot, write_snapshot
from meshnet.errors import MeshnetError, ParseError
from meshnet.model.snapshot import SCHEMA, Namespace, Process, Snapshot, Socket
from tests.support.snapshots import snapshots

SMALL = Snapshot(
    SCHEMA,
    "0.1.0",
    "2025-01-01T00:00:00Z",
    "6.1.0",
    Namespace(4026531840, "shop/cart", "", "shop/cart"),
    sockets=(Socket("ip", "tcp", "listen", "0.0.0.0", 15001, "0.0.0.0", 0, 1337, 99, (7,)),),
    processes=(Process(7, 1, "envoy", 1337, 1337, 1337, 1337),),
)


@given(snapshots())
def test_what_is_written_is_read_back(snapshot: Snapshot) -> None:
    assert read_snapshot(write_snapshot(snapshot)) == snapshot


def test_the_schema_comes_first_and_the_document_is_one_line() -> None:
    data = write_snapshot(SMALL)
    assert data.startswith(b'{"schema":"meshnet/v1/snapshot",')
    assert data.count(b"\n") == 1 and data.endswith(b"\n")


def changed(path: str, value: object) -> bytes:
    """SMALL's document with ``value`` at ``path``."""
    document = json.loads(write_snapshot(SMALL))
    *way, last = path.split(".")
    at = document
    for step in way:
        at = at[int(step) if step.isdigit() else step]
    at[int(last) if last.isdigit() else last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("schema", "meshnet/v2/snapshot", "this is meshnet/v2/snapshot, not meshnet/v1/snapshot"),
        ("schema", "\x1b[2J", "this is \\x1b[2J, not"),
        ("schema", "", "no document of ours"),
        ("schema", 1, "at `$.schema`"),
        ("sockets.0.lport", "80", "at `$.sockets[0].lport`"),
        ("sockets.0.lport", 65536, "$.sockets[0]: lport is out of range"),
        ("sockets.0.uid", -1, "$.sockets[0]: uid is out of range"),
        ("sockets.0.uid", 10**30, "$.sockets[0]"),
        ("sockets.0.uid", 1.5, "at `$.sockets[0].uid`"),
        ("sockets.0.uid", True, "at `$.sockets[0].uid`"),
        ("sockets.0.family", "inet", "$.sockets[0]: family is 'inet'"),
        ("sockets.0.local", "::1", "$.sockets[0]: local is no address of its family"),
        ("sockets.0.local", "a\x00b", "$.sockets[0]: local is no address of its family"),
        ("sockets.0.pids", [-7], "$.sockets[0]: pids are out of range"),
        ("processes.0.pid", 1 << 40, "$.processes[0]: pid is out of range"),
        ("processes.0.command", None, "at `$.processes[0].command`"),
        ("processes", {}, "at `$.processes`"),
        ("namespace", [], "at `$.namespace`"),
        ("namespace.inode", -1, "$.namespace"),
        ("sysctls", {"net.ipv4.ip_forward": 1}, "at `$.sysctls[...]`"),
    ],
)
def test_a_refusal_names_the_place(path: str, value: object, said: str) -> None:
    with pytest.raises(ParseError) as caught:
        read_snapshot(changed(path, value))
    assert said in caught.value.message
    assert caught.value.message.isprintable()


HOSTILE = {
    "empty": b"",
    "not UTF-8": write_snapshot(SMALL).replace(b"envoy", b"\xff\xfe"),
    "not JSON": b"*nat\nCOMMIT\n",
    "cut": write_snapshot(SMALL)[:-9],
    "two": write_snapshot(SMALL) * 2,
    "deep": b'{"schema":' + b"[" * 200_000,
    "deep, unknown": write_snapshot(SMALL)[:-2] + b',"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "a number of a million digits": changed("namespace.inode", 0).replace(
        b'"inode": 0', b'"inode": ' + b"9" * 1_000_000
    ),
    "exponent": changed("namespace.inode", 0).replace(b'"inode": 0', b'"inode": 1e999999'),
    "half a surrogate": write_snapshot(SMALL).replace(b"envoy", b"\\ud800"),
    "a list": b"[]",
    "null": b"null",
    "zeros": b"\0" * 100,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_documents_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(ParseError) as caught:
        read_snapshot(HOSTILE[name])
    assert caught.value.message.isprintable() and len(caught.value.message) < 400


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    with pytest.raises(MeshnetError):
        read_snapshot(data)


@settings(max_examples=300)
@given(st.integers(0, len(write_snapshot(SMALL)) - 1), st.integers(0, 255))
def test_a_changed_byte_gives_a_snapshot_or_a_refusal(at: int, byte: int) -> None:
    data = bytearray(write_snapshot(SMALL))
    data[at] = byte
    with contextlib.suppress(ParseError):
        assert isinstance(read_snapshot(bytes(data)), Snapshot)


def test_what_a_later_version_adds_is_passed_over() -> None:
    assert read_snapshot(changed("later", {"a": [1]})) == SMALL
