"""Where rules come from that commands reason about: a target, a snapshot, a dump, a spec."""

from __future__ import annotations

import sys

from meshnet.compile import compile_spec, plumbing_of
from meshnet.dialects.dumps import rulesets as rulesets_of
from meshnet.dialects.ruleset_text import dumps_of, read_ruleset_text
from meshnet.errors import MeshnetError, ParseError, UsageError, printable
from meshnet.model.frozen import dataclass
from meshnet.model.ruleset import Ruleset
from meshnet.model.snapshot import SCHEMA, Dump, Namespace, Snapshot
from meshnet.model.spec import CaptureSpec, Form
from meshnet.reason.findings.dormant import awake
from meshnet.reason.unseen import unseen_tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshnet.host.target import Target
    from meshnet.model.plumbing import Part

__all__ = ["Source", "from_snapshot", "from_spec", "from_text", "read_ruleset_text", "source_of"]

#: What explaining and proving ask of a live target.
SECTIONS = ("rules", "routes", "sysctls", "processes", "sockets")
#: A file larger than this is refused, in bytes.
LARGEST = 1 << 30
FORMS = {"legacy": Form.IPTABLES, "nft-compat": Form.IPTABLES, "nft": Form.NFT}


@dataclass(frozen=True)
class Source:
    """Rules, and what is known of the namespace around them.

    ``name`` is for people, escaped. ``rulesets`` are by backend, and only what hooks run:
    dormant tables are left out. ``snapshot`` is None where there is no namespace, ``spec`` None
    where the rules were not compiled here; ``plumbing`` is what that spec needs beside rules.
    ``dumps`` are what they were read from, where they were. ``target`` is set for a live one.
    ``notes`` are sentences that a reader must be told: what
    was assumed, and what there is that no walk looks at.
    """

    name: str
    rulesets: Mapping[str, Ruleset]
    snapshot: Snapshot | None = None
    spec: CaptureSpec | None = None
    plumbing: tuple[Part, ...] = ()
    target: Target | None = None
    notes: tuple[str, ...] = ()
    dumps: tuple[Dump, ...] = ()


def source_of(
    target: str | None = None,
    from_file: str | None = None,
    ruleset: str | None = None,
    spec: CaptureSpec | None = None,
    backend: str = "nft-compat",
    sections: tuple[str, ...] = SECTIONS,
    timeout: float = 20.0,
) -> Source:
    """The one source that was named; ``backend`` is what ``spec`` is compiled for.

    Raises UsageError where none or several are named, MeshnetError for a file that cannot be
    read, ParseError for one that is not what it should be, and what collecting raises.
    """
    given = [value for value in (target, from_file, ruleset, spec) if value is not None]
    if len(given) != 1:
        raise UsageError("name one source", "a TARGET, --from FILE, --ruleset FILE or --spec SPEC")
    if spec is not None:
        return from_spec(spec, backend)
    if ruleset is not None:
        data = read_bytes(ruleset)
        return from_text(data.decode("utf-8", "backslashreplace"), ruleset)
    if from_file is not None:
        from meshnet.dialects.snapshot_json import read_snapshot

        return from_snapshot(read_snapshot(read_bytes(from_file)))
    if target == "all":
        raise UsageError("'all' is no single namespace", "name one TARGET")
    from meshnet.host.target import resolve
    from meshnet.ops.collect import collect

    found = resolve(str(target))
    return from_snapshot(collect(found, sections, timeout=timeout), found)


def from_snapshot(snapshot: Snapshot, target: Target | None = None) -> Source:
    """The rules that a namespace ran; raises ParseError that names the dump."""
    running, asleep = awake(snapshot, rulesets_of(snapshot))
    notes = [
        f"{name} {family} {table} is dormant and runs no rule" for name, (family, table) in asleep
    ]
    notes += [f"{gap.section}: {gap.reason}" for gap in snapshot.gaps if gap.section == "rules"]
    notes += unseen_tables(snapshot.dumps)
    if "rules" not in snapshot.sections:
        raise ParseError("the snapshot has no rules", "take it with all of its sections")
    name = printable(snapshot.namespace.name, 60)
    said = tuple(printable(note) for note in notes)
    return Source(name, running, snapshot, target=target, notes=said, dumps=snapshot.dumps)


def from_text(text: str, name: str) -> Source:
    """The rules of a plain dump; raises ParseError with line and column."""
    held = read_ruleset_text(text, name)
    dumps = tuple(dumps_of(text))
    bare = Snapshot(SCHEMA, "", "", "", Namespace(0, ""), dumps=dumps)
    running, asleep = awake(bare, held)
    notes = [f"{b} {family} {table} is dormant and runs no rule" for b, (family, table) in asleep]
    notes += unseen_tables(dumps)
    said = tuple(printable(note) for note in notes)
    return Source(printable(name, 60), running, notes=said, dumps=dumps)


def from_spec(spec: CaptureSpec, backend: str = "nft-compat", name: str = "") -> Source:
    """The rules that ``spec`` compiles to on ``backend``: they need not be applied anywhere."""
    shown = name or f"profile {spec.profile.value} on {backend}, applied nowhere"
    compiled = compile_spec(spec, FORMS[backend])
    return Source(shown, {backend: compiled}, spec=spec, plumbing=plumbing_of(spec))


def read_bytes(path: str) -> bytes:
    """What is in the file, or on standard input for "-"; MeshnetError where it cannot be had."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with open(path, "rb") as f:
                data = f.read(LARGEST + 1)
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        raise MeshnetError(f"cannot read {printable(path)}: {why}") from e
    if len(data) > LARGEST:
        raise MeshnetError(f"{printable(path)} is larger than 1 GiB", "it holds no rules of ours")
    return data
