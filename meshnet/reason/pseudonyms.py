"""Other words for addresses and names: the same word for the same thing, everywhere.

Addresses keep their prefixes: two that had n leading bits in common have n in common
afterwards, so that an address is in a block exactly if its replacement is in the block's.
Each bit is flipped or not by what a keyed hash says of the bits before it (the scheme of
Crypto-PAn), except on the way to a block whose meaning everybody knows.
"""

from __future__ import annotations

import hashlib

from meshnet.model.address import read_address, show_address
from meshnet.model.packet import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_BITS = {Family.IP: 32, Family.IP6: 128}
#: Blocks that stay what they are: first address, length, and how many bits of what is in them.
_KINDS = (
    ("0.0.0.0", 32, 32),
    ("127.0.0.0", 8, 32),
    ("169.254.0.0", 16, 16),
    ("224.0.0.0", 4, 8),
    ("255.255.255.255", 32, 32),
    ("::", 128, 128),
    ("::1", 128, 128),
    # What Istio's rules know its sidecar's own calls by.
    ("::6", 128, 128),
    ("::ffff:0.0.0.0", 96, 96),
    ("fe80::", 64, 64),
    ("ff00::", 8, 16),
)
#: A block with fewer free bits than this tells nobody anything, and can hardly become another.
_TELLING = 3
_LOOPBACK = "lo"
_LETTERS = "abcdefghijkmnopqrstuvwxyz0123456"


class Pseudonyms:
    """The replacements under one key. Whoever lacks the key cannot turn them back.

    ``patterns`` are beginnings of interface names that rules ask for (``eth`` for ``eth+``):
    a name begins with one exactly if its replacement begins with that of the pattern.
    """

    def __init__(self, key: bytes, patterns: Iterable[str] = ()) -> None:
        self.key = key
        self.patterns = sorted({p for p in patterns if p}, key=len)
        self.addresses: dict[tuple[Family, int], int] = {}
        self.names: dict[str, str] = {}
        self.shown: dict[str, str] = {}
        self._asked: set[tuple[str, str]] = set()
        self._flips: dict[tuple[Family, int, int], int] = {}
        self._kinds: dict[Family, list[tuple[int, int, int]]] = {f: [] for f in _BITS}
        for text, length, pinned in _KINDS:
            family, number = read_address(text)
            self._kinds[family].append((number, length, pinned))

    def number(self, family: Family, number: int) -> int:
        """The replacement of an address."""
        if family is Family.IP6 and number >> 32 == 0xFFFF:
            return 0xFFFF << 32 | self.number(Family.IP, number & 0xFFFFFFFF)
        found = self.addresses.get((family, number))
        if found is None:
            found = self.addresses[family, number] = self._scramble(family, number)
        return found

    def _scramble(self, family: Family, number: int) -> int:
        bits = _BITS[family]
        pinned = self.pinned(family, number)
        result = number
        for start in range(0, bits, 8):
            flips = self._flips_below(family, start, number >> (bits - start))
            for depth in range(8):
                at = start + depth
                if at < pinned:
                    continue
                path = number >> (bits - at) & ((1 << depth) - 1)
                if flips >> ((1 << depth) - 1 + path) & 1:
                    result ^= 1 << (bits - 1 - at)
        return result

    def _flips_below(self, family: Family, start: int, prefix: int) -> int:
        """A bit for each of the 255 ways through the next eight bits behind ``prefix``."""
        where = (family, start, prefix)
        if where not in self._flips:
            text = f"{family.value} {start} {prefix}".encode()
            self._flips[where] = int.from_bytes(self._hash(text), "big")
        return self._flips[where]

    def _hash(self, text: bytes) -> bytes:
        return hashlib.blake2b(text, key=self.key, digest_size=32).digest()

    def pinned(self, family: Family, number: int) -> int:
        """How many leading bits of an address stay as they are, because of what they mean."""
        if family is Family.IP6 and number >> 32 == 0xFFFF:
            return 96 + self.pinned(Family.IP, number & 0xFFFFFFFF)
        bits, most = _BITS[family], 0
        for kind, length, inside in self._kinds[family]:
            same = bits - (kind ^ number).bit_length()
            # On the way to it the bits stay, the one that leads elsewhere too.
            most = max(most, inside if same >= length else same + 1)
        return most

    def clashes(self) -> bool:
        """Whether a replacement is an address that was to be replaced, itself or another."""
        return any(new in self.shown for new in self.shown.values())

    def again(self, key: bytes) -> Pseudonyms:
        """The same addresses under another key."""
        other = Pseudonyms(key, self.patterns)
        for text, length in self._asked:
            other.block(f"{text}/{length}")
        return other

    def address(self, text: str) -> str:
        """The replacement of an address. Raises ValueError where ``text`` is none."""
        family, _ = read_address(text)
        return self.block(f"{text}/{_BITS[family]}").partition("/")[0]

    def block(self, text: str) -> str:
        """The replacement of ``ADDRESS/LENGTH``: the block that holds the replacements.

        Host bits that are set stay set, to other values. Raises ValueError for anything else.
        """
        address, slash, length = text.partition("/")
        family, number = read_address(address)
        if not slash:
            return self.address(text)
        free = _BITS[family] - int(length)
        if free < 0:
            raise ValueError("no prefix length")
        found = self.number(family, number)
        if number & ((1 << free) - 1) == 0:
            found = found >> free << free
        shown = show_address(family, found)
        self._asked.add((address, length))
        if int(length) - self.pinned(family, number) >= _TELLING:
            self.shown[show_address(family, number)] = shown
        return f"{shown}/{length}"

    def name(self, kind: str, text: str) -> str:
        """The replacement of a name, "" for ""; ``kind`` is what it then begins with."""
        if not text:
            return ""
        digest = self._hash(f"{kind} {text}".encode("utf-8", "backslashreplace")).hex()
        return self.names.setdefault(text, f"{kind}-{digest[:10]}")

    def interface(self, text: str) -> str:
        """The replacement of an interface's name, or of a pattern's part before its wildcard."""
        if not text or _LOOPBACK.startswith(text):
            return text
        cuts = [p for p in self.patterns if text.startswith(p)]
        whole, before = "", ""
        for part in [*cuts, text]:
            rest = part[len(before) :]
            if _LOOPBACK.startswith(part):
                whole = part
            elif rest:
                whole += self._segment(before, rest)
            before = part
        self.names.setdefault(text, whole)
        return whole

    def _segment(self, before: str, rest: str) -> str:
        number = int.from_bytes(self._hash(f"interface {before} {rest}".encode())[:8], "big")
        return "i" + "".join(_LETTERS[number >> 5 * at & 31] for at in range(6))
