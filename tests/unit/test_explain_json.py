"""The JSON of an explanation: its schema is that of its types, and documents obey it."""

from __future__ import annotations

import json
import os

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.cli.target_options import _plain
from meshnet.dialects.explanation_schema import explanation_schema
from meshnet.model.explanation import SCHEMA, Explanation
from meshnet.reason.explanation import Explainer
from tests.support.explaining import SCHEMA_FILE, document
from tests.support.lottery import as_packet
from tests.unit.test_explain_same_fate import drawn

SPEC = "-p 15001 -u 1337 -b * -i 10.0.0.0/8"


def test_the_schema_file_is_that_of_the_types() -> None:
    text = json.dumps(explanation_schema(), indent=2) + "\n"
    if os.environ.get("MESHNET_UPDATE_GOLDENS"):
        SCHEMA_FILE.write_text(text)
    assert SCHEMA_FILE.read_text() == text


@pytest.mark.parametrize(
    "packet",
    {
        "captured": ("--uid", "1000", "--out", "eth0", "tcp", "10.1.2.3:80"),
        "followed": ("--uid", "1000", "--out", "eth0", "--follow", "tcp", "10.1.2.3:80"),
        "maybe": ("--out", "eth0", "tcp", "10.1.2.3:80"),
        "inbound": ("--in", "eth0", "udp", "10.1.2.3:80"),
        "v6": ("--uid", "none", "--out", "eth0", "icmpv6", "2001:db8::1"),
    }.items(),
    ids=lambda row: row[0],
)
def test_documents_obey_the_schema(packet: tuple[str, tuple[str, ...]]) -> None:
    found = document("--spec", SPEC, *packet[1])
    assert found["schema"] == SCHEMA
    assert len(found["legs"]) == (2 if packet[0] == "followed" else 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1_000_000), st.booleans())
def test_whatever_the_rules_the_document_obeys(seed: int, every: bool) -> None:
    rulesets, lottery = drawn(seed)
    explainer = Explainer(rulesets)
    packet, hook, local = as_packet(lottery.packet())
    leg = explainer.explain(packet, hook, local=local, every=every)
    whole = Explanation(SCHEMA, "random", tuple(rulesets), (leg,))
    found = json.loads(msgspec.json.encode(whole, enc_hook=_plain))
    jsonschema.validate(found, json.loads(SCHEMA_FILE.read_text()))
