"""The JSON Schema of an explanation, made from its types, so that the two cannot differ."""

from __future__ import annotations

from meshnet.model.explanation import SCHEMA, Explanation
from meshnet.model.verdict import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_VERDICTS = [verdict.value for verdict in Verdict]
#: Fields of which only some texts are possible, by type and name.
_ONLY: dict[tuple[str, str], list[str]] = {
    ("Explanation", "schema"): [SCHEMA],
    ("Explanation", "expected"): ["", *(v for v in _VERDICTS if v != "maybe")],
    ("Leg", "verdict"): _VERDICTS,
    ("Leg", "hook"): ["output", "prerouting"],
    ("PossibleFate", "verdict"): _VERDICTS,
    ("MetRule", "held"): ["yes", "no", "maybe"],
    ("MetRule", "kind"): ["rule", "run", "policy"],
    ("ShownPacket", "family"): ["ip", "ip6"],
    ("Way", "origin"): ["kernel", "snapshot", "told", "assumed"],
}


def explanation_schema() -> dict[str, Any]:
    """The schema: every field is there, and no other; ``docs/explanation.schema.json`` is this."""
    import msgspec

    made: dict[str, Any] = msgspec.json.schema(Explanation)
    for name, kind in made["$defs"].items():
        kind["description"] = " ".join(kind.get("description", "").replace("``", "").split())
        kind["additionalProperties"] = False
        # A document has every field, also one that is as usual.
        kind["required"] = list(kind["properties"])
        for field, body in kind["properties"].items():
            body.pop("default", None)
            if (name, field) in _ONLY:
                body["enum"] = _ONLY[name, field]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA}
    return {**head, **made}
