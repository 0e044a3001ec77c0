"""The values that people write into flags, variables and files, read one kind at a time.

Every function takes a :class:`Value`, the text with where it came from, and raises
UsageError in one line that names the origin, the text and what is allowed. Entries of
a list are separated by commas; empty entries are skipped, as Istio's init tool does.
"""

from __future__ import annotations

from meshnet.errors import UsageError, printable
from meshnet.model.address import read_cidr
from meshnet.model.frozen import dataclass
from meshnet.model.spec import Cidr, Cidrs, Ports

#: The last id is -1 to the kernel, "no change" (include/linux/uidgid.h).
LAST_ID = 0xFFFFFFFE
LAST_PORT = 65535
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "\u03bcs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
#: What the kernel refuses in a name (net/core/dev.c, dev_valid_name), and what rule
#: languages read as something else than itself.
_NOT_IN_NAMES = set("/:\"'\\!*$`;{}#")


@dataclass(frozen=True)
class Value:
    """A text and where it was written: "-b --istio-inbound-ports", "$ISTIO_INBOUND_PORTS"."""

    text: str
    origin: str

    def refuse(self, why: str, allowed: str, part: str | None = None) -> UsageError:
        """The error that says so."""
        shown = printable(self.text if part is None else part)
        return UsageError(f"{self.origin}: '{shown}' {why}", allowed)

    def entries(self) -> list[str]:
        """The entries of a list, blanks around them and empty ones dropped."""
        return [e for e in (part.strip(" ") for part in self.text.split(",")) if e]


def read_number(value: Value, first: int, last: int, what: str, part: str | None = None) -> int:
    """A decimal number of ``first``..``last``."""
    text = value.text if part is None else part
    if not (text.isascii() and text.isdigit() and len(text) < 12 and first <= int(text) <= last):
        raise value.refuse(f"is not {what}", f"a number of {first} to {last}", text)
    return int(text)


def read_port(value: Value) -> int:
    """One port, 1..65535."""
    return read_number(value, 1, LAST_PORT, "a port")


def read_bool(value: Value) -> bool:
    """True or false in the spellings of Go's strconv.ParseBool."""
    if value.text in _TRUE:
        return True
    if value.text in _FALSE:
        return False
    raise value.refuse("is neither true nor false", "true, false, 1 or 0")


def read_choice(value: Value, *allowed: str) -> str:
    """One of ``allowed``, as it is written there."""
    if value.text not in allowed:
        raise value.refuse("is not known here", " | ".join(a for a in allowed if a))
    return value.text


def read_duration(value: Value) -> float:
    """A Go duration such as ``5s``, ``1m30s`` or ``500ms``, in seconds; more than none."""
    rest, total = value.text, 0.0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        unit = next(
            (u for u in sorted(_UNITS, key=len, reverse=True) if rest[digits:].startswith(u)), ""
        )
        try:
            total += float(rest[:digits]) * _UNITS[unit]
        except (ValueError, KeyError):
            total = 0.0
            break
        rest = rest[digits + len(unit) :]
    if not 0 < total < 1e6:
        raise value.refuse("is not a duration", "such as 5s, 500ms or 1m30s")
    return total


def read_span(value: Value, part: str, dashes: str, last: int, what: str) -> tuple[int, int]:
    """``N`` or ``N-M``, ascending, of 0..``last``; ``dashes`` are what may stand between."""
    for dash in dashes:
        head, found, tail = part.partition(dash)
        if found:
            break
    ends = [head, tail] if found else [part]
    if not all(e.isascii() and e.isdigit() and len(e) < 12 for e in ends):
        raise value.refuse(f"is not {what}", f"numbers of 0 to {last}, ranges as 1000-2000", part)
    first, end = int(ends[0]), int(ends[-1])
    if not first <= end <= last:
        raise value.refuse(f"is not {what}", f"at most {last}, ranges ascending", part)
    return first, end


def read_ids(value: Value, ranges: bool) -> tuple[tuple[int, int], ...]:
    """User or group ids, never looked up by name. Ranges only where ``ranges``."""
    spans = [read_span(value, part, "-", LAST_ID, "a numeric id") for part in value.entries()]
    if not ranges and any(a != b for a, b in spans):
        raise value.refuse("has a range", "ranges of ids need --profile strict")
    if not spans:
        raise value.refuse("names no id", "numbers, comma separated")
    return tuple(dict.fromkeys(spans))


def read_ports(value: Value, ranges: bool, wildcard: bool = True) -> Ports:
    """Ports in their order, each once; ``*`` for all where ``wildcard``."""
    entries = value.entries()
    if "*" in entries:
        if not wildcard or len(set(entries)) > 1:
            raise value.refuse(
                "mixes * with ports" if wildcard else "may not be *", "ports of 1 to 65535"
            )
        return Ports(every=True)
    allowed = "* or ports of 1 to 65535" if wildcard else "ports of 1 to 65535"
    spans = []
    for part in entries:
        try:
            first, last = read_span(value, part, "-:", LAST_PORT, "a port")
        except UsageError as e:
            raise value.refuse("is not a port", allowed, part) from e
        if first == 0:
            raise value.refuse("is not a port", allowed, part)
        spans.append((first, last))
    if not ranges and any(a != b for a, b in spans):
        raise value.refuse("has a range of ports", "ranges of ports need --profile strict")
    return Ports(tuple(dict.fromkeys(spans)))


def read_block(value: Value, part: str, warnings: list[str]) -> Cidr:
    """One block or bare address; host bits are masked off, with a warning."""
    try:
        cidr, masked = read_cidr(part)
    except ValueError as e:
        raise value.refuse(
            "is not an address block", "such as 10.0.0.0/8, 10.1.2.3 or fd00::/8", part
        ) from e
    if masked:
        warnings.append(f"{value.origin}: {printable(part)} has host bits; {cidr} is taken")
    return cidr


def read_cidrs(value: Value, warnings: list[str], wildcard: bool = True) -> Cidrs:
    """Blocks in their order, each once; ``*`` for all where ``wildcard``."""
    entries = value.entries()
    if "*" in entries:
        if not wildcard:
            raise value.refuse(
                "may not be *", "address blocks; to capture nothing, include nothing"
            )
        if len(set(entries)) > 1:
            raise value.refuse("mixes * with blocks", "either * or blocks")
        return Cidrs(every=True)
    return Cidrs(tuple(dict.fromkeys(read_block(value, part, warnings) for part in entries)))


def read_interfaces(value: Value) -> tuple[str, ...]:
    """Names of interfaces, which need not exist yet; a last ``+`` stands for any ending."""
    for name in value.entries():
        bare = name[:-1] if name.endswith("+") else name
        bad = len(name) > 15 or name in (".", "..") or not bare or "+" in bare
        if bad or any(c in _NOT_IN_NAMES or not "!" <= c <= "~" for c in name):
            raise value.refuse(
                "is not a name that an interface can have",
                "1 to 15 characters without blanks, / and :",
                name,
            )
    return tuple(dict.fromkeys(value.entries()))
