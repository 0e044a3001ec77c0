"""Addresses and blocks as text and as integers, with no import that costs start-up time."""

from __future__ import annotations

import _socket

from meshnet.model.packet import Family
from meshnet.model.spec import Cidr

_AF = {Family.IP: _socket.AF_INET, Family.IP6: _socket.AF_INET6}


def read_address(text: str) -> tuple[Family, int]:
    """The family and the number of an address in its usual text form.

    Raises ValueError for anything else (a prefix, a name, "1.2.3").
    """
    family = Family.IP6 if ":" in text else Family.IP
    try:
        return family, int.from_bytes(_socket.inet_pton(_AF[family], text), "big")
    except (OSError, UnicodeError) as e:
        raise ValueError(f"not an IP address: {text!r}") from e


def show_address(family: Family, number: int) -> str:
    """The text form of an address: as the kernel's tools print it."""
    width = 4 if family is Family.IP else 16
    return str(_socket.inet_ntop(_AF[family], number.to_bytes(width, "big")))


def read_cidr(text: str) -> tuple[Cidr, bool]:
    """A block from ``A/N`` or a bare address (/32, /128), and whether host bits were masked off.

    Raises ValueError where it is neither.
    """
    address, slash, length_text = text.partition("/")
    family, number = read_address(address)
    bits = 32 if family is Family.IP else 128
    if slash and not (length_text.isascii() and length_text.isdigit() and int(length_text) <= bits):
        raise ValueError(f"not a prefix length of 0 to {bits}: {length_text!r}")
    length = int(length_text) if slash else bits
    network = number >> (bits - length) << (bits - length)
    return Cidr(family, network, length), network != number


def cidr_of_span(family: Family, first: int, last: int) -> Cidr | None:
    """The block that is exactly ``first``..``last``, or None where there is no such block."""
    bits = 32 if family is Family.IP else 128
    size = last - first + 1
    if size & (size - 1) or first % size:
        return None
    return Cidr(family, first, bits - (size.bit_length() - 1))


def cidrs_of_span(family: Family, first: int, last: int) -> list[Cidr]:
    """The fewest blocks that together are ``first``..``last``, ascending."""
    bits = 32 if family is Family.IP else 128
    blocks = []
    while first <= last:
        size = first & -first if first else 1 << bits
        while size > last - first + 1:
            size >>= 1
        blocks.append(Cidr(family, first, bits - (size.bit_length() - 1)))
        first += size
    return blocks
