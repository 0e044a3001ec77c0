"""Settings from where people write them: a flag wins over a variable, a variable over the file."""

from __future__ import annotations

from meshnet.cli.flags import FLAGS
from meshnet.errors import UsageError, printable
from meshnet.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_DNS_CAPTURE = {"off": (), "servers": ("redirect-dns",), "all": ("redirect-dns", "capture-all-dns")}


def gather(
    given: Mapping[str, list[str]],
    environment: Mapping[str, str],
    only: frozenset[str] | None = None,
) -> dict[str, Value]:
    """The settings that were given, by the flags' long names; ``only`` some of them.

    ``given`` has the texts given to each flag. An empty variable counts as none, as it
    does for Istio's tool; an empty flag is a value.
    """
    found: dict[str, Value] = {}
    for flag in FLAGS:
        if only is not None and flag.name not in only:
            continue
        texts = given.get(flag.name)
        if texts:
            # The last one wins, as in Go; a repeatable flag's are one list.
            text = ",".join(texts) if flag.kind == "many" else texts[-1]
            origin = f"-{flag.short} --{flag.name}" if flag.short else f"--{flag.name}"
            found[flag.name] = Value(text, origin)
            continue
        variable = next((v for v in flag.sources() if environment.get(v)), None)
        if variable is not None:
            found[flag.name] = Value(environment[variable], f"${variable}")
    if "config" in found:
        found = {**read_file(found["config"].text, found["config"].origin), **found}
    return found


def read_file(path: str, origin: str = "--config") -> dict[str, Value]:
    """The settings in a YAML file: docs/config.md has its keys.

    Raises UsageError with the key's path for a key that is not known, or a value of
    another type than text, number, boolean or a list of those.
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as f:
            # Every scalar stays the text that was written: 0100 is no octal, 1:59 no time.
            document = yaml.load(f, Loader=yaml.BaseLoader)
    except OSError as e:
        raise UsageError(f"{origin}: cannot read {printable(path)}: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as e:
        text = printable(" ".join(str(e).split()))
        raise UsageError(f"{origin}: {printable(path)} is no YAML: {text}") from e
    found: dict[str, Value] = {}
    try:
        for key, content in _flatten(f"{origin}: {printable(path)}", "", document or {}):
            found.update(_setting(path, key, content))
    except RecursionError as e:
        raise UsageError(f"{origin}: {printable(path)} nests without end") from e
    return found


def _known() -> dict[str, str]:
    return {flag.key: flag.name for flag in FLAGS if flag.key} | {"dns.capture": ""}


def _flatten(where: str, prefix: str, node: Any) -> list[tuple[str, Any]]:
    if not isinstance(node, dict):
        raise UsageError(f"{where}: {prefix or 'the document'} is not a mapping")
    pairs: list[tuple[str, Any]] = []
    sections = {key.rpartition(".")[0] for key in _known() if "." in key}
    for name, content in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if key in sections:
            pairs += _flatten(where, key, content or {})
        elif key in _known():
            pairs.append((key, content))
        else:
            raise UsageError(f"{where}: {printable(key)} is not known", _nearest(key))
    return pairs


def _nearest(key: str) -> str:
    import difflib

    sections = {known.rpartition(".")[0] for known in _known() if "." in known}
    close = difflib.get_close_matches(key, [*_known(), *sorted(sections)], 1, 0.0)
    return f"the nearest is {close[0]}" if close else ""


def _setting(path: str, key: str, content: Any) -> dict[str, Value]:
    origin = f"{printable(path)}: {key}"
    if key == "dns.capture":
        choice = _text(content, origin)
        if choice not in _DNS_CAPTURE:
            raise Value(choice, origin).refuse("is not known here", " | ".join(_DNS_CAPTURE))
        return {name: Value("true", origin) for name in _DNS_CAPTURE[choice]}
    if key == "outbound.exclude_ports_for_uids":
        return {_known()[key]: Value(_ports_for_uids(content, origin), origin)}
    return {_known()[key]: Value(_text(content, origin), origin)}


def _text(content: Any, origin: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return ",".join(_text(part, origin) for part in content)
    raise UsageError(f"{origin} is neither a text, a number nor a list")


def _ports_for_uids(content: Any, origin: str) -> str:
    entries = content if isinstance(content, list) else [content]
    texts = []
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"ports", "uids"}:
            raise UsageError(f"{origin}: each entry has ports and uids, and nothing else")
        ports, uids = _text(entry["ports"], origin), _text(entry["uids"], origin)
        if any(c.isspace() for c in ports + uids):
            raise UsageError(f"{origin}: {printable(f'{ports} {uids}')!r} has a blank in it")
        texts.append(f"{ports}:{uids}")
    return " ".join(texts)
