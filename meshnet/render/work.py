"""The work of a run: as tool input, as a sentence, as JSON."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def as_input(work: dict[str, Any]) -> str:
    """Exactly what is sent, in the tools' own languages; parts beside rules as ``#`` lines.

    IPv4 first, IPv6 under a ``# ip6tables`` line. Nothing to send is one ``#`` line.
    """
    if not work["changes"]:
        return "# nothing to send: the namespace holds what is wanted\n"
    lines = [f"# {part}\n" for part in work["add"]]
    lines += [_step(step) for step in work["steps"]]
    for other in work["elsewhere"]:
        lines.append(f"# backend {other['backend']}\n")
        lines += [_step(step) for step in other["steps"]]
    lines += [f"# {part}\n" for part in work["remove"]]
    return "".join(lines)


def _step(step: dict[str, Any]) -> str:
    head = "# ip6tables\n" if step["families"] == ["ip6"] else ""
    return f"{head}{step['input']}"


def as_sentence(work: dict[str, Any], profile: str) -> str:
    """What a run did, in one line. ``profile`` is "" for a cleanup."""
    if not profile:
        return _cleanup_sentence(work)
    if not work["changes"]:
        return f"profile {profile} by {work['backend']}: nothing to change, the rules are in place"
    rules = sum(_is_rule(line) for step in work["steps"] for line in step["input"].splitlines())
    said = f"profile {profile} by {work['backend']}: {rules} rules written"
    for other in work["elsewhere"]:
        said += f", moved from {other['backend']}"
    beside = len(work["add"]) + len(work["remove"])
    return said + (f", {beside} routes and addresses changed" if beside else "")


def _cleanup_sentence(work: dict[str, Any]) -> str:
    if not work["changes"]:
        return "nothing of ours was here"
    backends = [other["backend"] for other in work["elsewhere"]]
    parts = [f"rules of {name}" for name in backends]
    if work["remove"]:
        parts.append(f"{len(work['remove'])} routes and addresses")
    return f"removed: {', '.join(parts)}"


def _is_rule(line: str) -> bool:
    return line.startswith(("-A ", "-I ", "add rule "))


def as_document(work: dict[str, Any], dry_run: bool, profile: str) -> dict[str, Any]:
    """The work as a document: schema meshnet/v1/plan, or meshnet/v1/work once it was done."""
    kind = "plan" if dry_run else "work"
    return {"schema": f"meshnet/v1/{kind}", "profile": profile or None, **work}
