"""Netlink's messages: cut ones, errors at the end of a list, lists that change while read."""

from __future__ import annotations

import _socket
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import NotPermitted, ToolFailed
from meshnet.host import netlink
from meshnet.host.netlink import Changed, NetlinkError, attribute, attributes, messages

ERROR, DONE, ITEM = 2, 3, 20
MULTI, CHANGED = 2, 0x10


def message(kind: int, flags: int, body: bytes = b"") -> bytes:
    """A message of the kernel, padded."""
    return (
        struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body + b"\0" * (-len(body) % 4)
    )


def number(code: int) -> bytes:
    return struct.pack("=i", -code)


class Kernel:
    """Stands for a netlink socket; each one that is opened gives the next of ``answers``."""

    def __init__(self, *answers: list[bytes]) -> None:
        self.answers = list(answers)
        self.open = 0

    def socket(self, *_: object) -> Kernel:
        self.open += 1
        self.parts = list(self.answers.pop(0))
        return self

    def setsockopt(self, *_: object) -> None:
        pass

    bind = send = setsockopt

    def close(self) -> None:
        self.open -= 1

    def recvmsg(self, room: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        part = self.parts.pop(0)
        if part == b"":
            raise BlockingIOError
        sender = 99 if part == b"forged" else 0
        return part, [], _socket.MSG_TRUNC if len(part) > room else 0, (sender, 0)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kernel]:
    def make(*answers: list[bytes]) -> Kernel:
        made = Kernel(*answers)
        monkeypatch.setattr(netlink._socket, "socket", made.socket)
        return made

    return make


def exchange() -> list[bytes]:
    return netlink.exchange(0, ITEM, netlink.DUMP, b"", "things")


def stream() -> list[bytes]:
    return list(netlink.stream(0, ITEM, netlink.DUMP, b"", "things"))


READERS = pytest.mark.parametrize("read", [exchange, stream])
END = message(DONE, MULTI, number(0))


@READERS
def test_a_list_in_parts(kernel: Callable[..., Kernel], read: Callable[[], list[bytes]]) -> None:
    parts = [message(ITEM, MULTI, b"abc"), message(ITEM, MULTI, b"de")]
    opened = kernel([parts[0] + parts[1], b"forged", parts[0], END])
    assert read() == [b"abc", b"de", b"abc"]
    assert opened.open == 0


@READERS
def test_an_error_at_the_end_of_a_list(
    kernel: Callable[..., Kernel], read: Callable[[], list[bytes]]
) -> None:
    for kind in (DONE, ERROR):
        opened = kernel([message(ITEM, MULTI, b"x"), message(kind, MULTI, number(2))])
        with pytest.raises(NetlinkError, match="things: No such file") as caught:
            read()
        assert (caught.value.code, opened.open) == (2, 0)
        kernel([message(kind, MULTI, number(1))])
        with pytest.raises(NotPermitted, match="things: needs CAP_NET_ADMIN"):
            read()


@READERS
@pytest.mark.parametrize("part", [message(ITEM, MULTI, b"x" * 70000), b"\1", b"", b"\0" * 40])
def test_what_cannot_be_read_is_no_answer(
    kernel: Callable[..., Kernel], read: Callable[[], list[bytes]], part: bytes
) -> None:
    opened = kernel([part])
    with pytest.raises(ToolFailed, match="things: "):
        read()
    assert opened.open == 0


@READERS
def test_a_stream_that_is_left_closes_its_socket(
    kernel: Callable[..., Kernel], read: Callable[[], list[bytes]]
) -> None:
    opened = kernel([message(ITEM, MULTI, b"x"), END])
    answers = netlink.stream(0, ITEM, netlink.DUMP, b"", "things")
    assert (next(answers), opened.open) == (b"x", 1)
    answers.close()
    assert opened.open == 0


def test_a_list_that_changed_is_asked_for_again(kernel: Callable[..., Kernel]) -> None:
    changed = [message(ITEM, MULTI, b"old"), message(ITEM, MULTI | CHANGED, b"x"), END]
    late = [message(ITEM, MULTI, b"old"), message(DONE, MULTI | CHANGED, number(0))]
    opened = kernel(changed, late, [message(ITEM, MULTI, b"new"), END])
    assert exchange() == [b"new"]
    assert opened.open == 0
    kernel(*[changed] * 20)
    with pytest.raises(Changed, match="things: changed while being read"):
        exchange()
    kernel(changed)
    with pytest.raises(Changed):
        stream()


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(data: bytes) -> None:
    try:
        found = list(messages(data, "things"))
    except ToolFailed as e:
        assert str(e) == "things: the kernel's answer is cut short"
    else:
        assert sum(16 + len(body) for _, _, body in found) <= len(data)


@given(st.lists(st.tuples(st.integers(16, 999), st.integers(0, 99), st.binary(max_size=30))))
def test_messages_are_taken_apart_as_they_were_made(wanted: list[tuple[int, int, bytes]]) -> None:
    data = b"".join(message(*one) for one in wanted)
    assert list(messages(data, "things")) == wanted


@given(st.binary(max_size=200), st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=20)))
def test_attributes(noise: bytes, wanted: dict[int, bytes]) -> None:
    attributes(noise)
    assert attributes(b"".join(attribute(*one) for one in wanted.items())) == wanted
