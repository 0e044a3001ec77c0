"""What must never read as proven, and what must not be overlooked."""

from __future__ import annotations

import json
import random
import shlex
import sys
from pathlib import Path

import pytest

from meshnet.cli.diff import command as diff
from meshnet.cli.lint import command as lint
from meshnet.cli.prove import command as prove
from meshnet.dialects.iptables import parse_save, print_save
from meshnet.errors import MeshnetError
from meshnet.model.packet import Family
from meshnet.model.ruleset import Ruleset
from meshnet.reason.behaviour import FAMILIES, HOOKS, Side, _Scene, compare_behaviour
from meshnet.reason.symbolic.fate import CAPTURED
from meshnet.reason.symbolic.names import Names
from meshnet.reason.symbolic.question import Question
from tests.support.cases import CASES, DEFAULT
from tests.support.symbolic import Crowd, fate, there_is
from tests.support.walks import compiled
from tests.unit.test_prove import ISTIO, SNAPSHOTS, STRICT, refusal, run

pytest.importorskip("z3", reason="cannot run here: z3 is not installed (the extra prove)")

HEAD = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"


def dump(*rules: str) -> dict[str, Ruleset]:
    """Rules of legacy's nat."""
    lines = "".join(f"-A {rule}\n" for rule in rules)
    return {"legacy": parse_save(f"{HEAD}{lines}COMMIT\n", Family.IP)}


def listing(path: Path, expression: list[object], elements: list[object]) -> str:
    """A listing of nft: one rule at output, and a named set."""
    table = {"family": "ip", "table": "t"}
    chain = {"name": "o", "type": "nat", "hook": "output", "prio": -100, "policy": "accept"}
    items = [
        {"table": {"family": "ip", "name": "t"}},
        {"set": {**table, "name": "s", "type": "ipv4_addr", "elem": elements}},
        {"chain": {**table, **chain}},
        {"rule": {**table, "chain": "o", "expr": expression}},
    ]
    path.write_text(json.dumps({"nftables": items}))
    return str(path)


# Classes.


PAIRS = {
    "profiles": (compiled((*CASES["default"], "--profile", "istio"), "nft-compat"),
                 compiled((*CASES["default"], "--profile", "strict"), "nft")),
    "users": (compiled(CASES["two-proxies"], "nft-compat"), compiled(CASES["default"], "nft")),
    "a hole": (dump("OUTPUT -p tcp -j REDIRECT --to-ports 9"),
               dump("OUTPUT -d 10.0.0.0/8 -j ACCEPT", "OUTPUT -p tcp -j REDIRECT --to-ports 9")),
    "holes": (dump("OUTPUT -p tcp -j REDIRECT --to-ports 9"),
              dump(*(f"OUTPUT -d 10.{2 * n}.0.0/16 -j ACCEPT" for n in range(40)),
                   "OUTPUT -p tcp -j REDIRECT --to-ports 9")),
    "sent": (dump("OUTPUT -p tcp -j DNAT --to-destination 10.0.0.1:80"),
             dump("OUTPUT -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1")),
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_who_parts_is_in_a_class_and_nobody_else(pair: str) -> None:
    one, other = (Side(rulesets) for rulesets in PAIRS[pair])
    walkers, crowd = (one.walker(), other.walker()), Crowd(random.Random(pair), one, other)
    met = 0
    for hook in HOOKS:
        for family in FAMILIES:
            scene = _Scene((one.program(), other.program()), hook, family)
            regions = list(scene.regions(100))
            assert len(regions) < 100
            crowd.names = scene.world.names
            question = Question(scene.world)
            for packet, _, local in (crowd.packet(hook, family) for _ in range(120)):
                if not there_is(packet):
                    continue
                fates = [fate(w.walk(packet, hook, local=local)) for w in walkers]
                here = scene.world.is_packet(packet, local)
                inside = any(question.possible(here, region.condition) for region in regions)
                if packet.ctstate != "related":
                    assert inside is (fates[0] != fates[1]), packet
                met += inside
    assert met > 5


def test_where_it_is_sent_is_part_of_behaviour() -> None:
    one, other = PAIRS["sent"]
    told = [parting.divergence for parting in compare_behaviour(Side(one), Side(other)).partings]
    # Of port 80 both make the same.
    (away,) = told
    assert away.confirmed and away.conditions[1] == "dport not 80"
    assert (away.one.to, away.other.to) == ("10.0.0.1:80", "")
    # Sent to one place by two rules is no difference.
    alike = dump("OUTPUT -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1:80")
    whole = dump("OUTPUT -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1")
    found = compare_behaviour(Side(alike), Side(whole))
    assert not found.partings and not found.more


def test_there_is_always_an_interface_that_no_rule_names() -> None:
    links = ["lo", "eth0", "net1", "ens3", "wan0", "zz9"]
    kept = [f"OUTPUT -o {link} -j ACCEPT" for link in links]
    (parting,) = compare_behaviour(
        Side(dump(*kept, "OUTPUT -p tcp -j REDIRECT --to-ports 9")), Side({})
    ).partings
    assert "oif not ens3,eth0,lo,net1,wan0,zz9" in parting.divergence.conditions
    names = Names([])
    assert names.other == 2 and names.members[2] == "eth0"


def test_of_many_rules_fewer_classes_are_told_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("meshnet.reason.behaviour.MANY_RULES", 1)
    found = compare_behaviour(*(Side(rulesets) for rulesets in PAIRS["users"]))
    assert found.more


# What is undecided.


def test_sets_of_different_content_are_not_answered_alike(tmp_path: Path) -> None:
    asks = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}},
                      "right": "@s"}}  # fmt: skip
    rule = [asks, {"redirect": {"port": 15001}}]
    near = listing(tmp_path / "near", rule, [{"prefix": {"addr": "10.0.0.0", "len": 8}}])
    far = listing(tmp_path / "far", rule, ["203.0.113.1", "203.0.113.2"])
    twin = listing(tmp_path / "twin", rule, ["203.0.113.2", {"elem": {"val": "203.0.113.1"}}])
    told = run(diff, near, far, code=3).output
    assert "nft set ip t s" in told and "holds 10.0.0.0/8" in told
    assert "if the answer is yes: " in told
    same = run(diff, far, twin).output
    assert "the same for every packet, proven, where what is undecided is answered alike" in same
    assert "text       the same" in same


def test_no_answer_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Question, "_check", lambda *_: 0)
    for command, arguments in (
        (diff, ("--profile", "istio", "strict")),
        (lint, ("--spec", ISTIO)),
        (prove, ("--spec", STRICT, "captured")),
    ):
        error = refusal(command, *arguments)
        assert type(error) is MeshnetError and error.exit_code == 1
        assert error.message.startswith("not proven, and no packet was found: z3 had no answer")


def test_a_wish_without_an_answer_costs_nothing_but_the_wish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = (Side(rulesets) for rulesets in PAIRS["a hole"])
    scene = _Scene((one.program(), other.program()), "output", Family.IP)
    question, asked = Question(scene.world), []
    check = question._check

    def first_only(names: list[object]) -> int:
        asked.append(names)
        return check(names) if len(asked) == 1 else 0

    monkeypatch.setattr(question, "_check", first_only)
    found = question.likely(scene.parts)
    assert found is not None and len(asked) > 2


@pytest.fixture
def partly(tmp_path: Path) -> str:
    """A snapshot whose IPv6 rules could not be read."""
    document = json.loads((SNAPSHOTS / "sound.json").read_text())
    document["gaps"] = [{"section": "rules", "reason": "ip6tables-save hung"}]
    path = tmp_path / "partly.json"
    path.write_text(json.dumps(document))
    return str(path)


def test_what_could_not_be_read_is_not_proven(partly: str) -> None:
    told = run(diff, partly, partly, code=1).output
    assert "behaviour  the same for every packet, by the rules that could be read" in told
    assert "note: " in told and "ip6tables-save hung" in told
    told = run(prove, partly, "no-loop", code=1).output
    assert told.startswith("so far  no-loop") and "proven" not in told
    document = json.loads(run(prove, partly, "no-loop", "-o", "json", code=1).output)
    assert document["whole"] is False
    run(lint, partly, "--fail-on", "none", code=1)


# Invariants.


def proxied(path: Path, before: str = "", inside: str = "") -> str:
    """A dump of strict's rules, with rules in front of ours, and in front of our chain's."""
    held = compiled((*DEFAULT, "--profile", "strict"), "legacy")["legacy"]
    text = ""
    for family in ("ip", "ip6"):
        tables = tuple(table for table in held.tables if table.family.value == family)
        part = print_save(Ruleset(tables))
        if family == "ip":
            part = part.replace("-A OUTPUT ", f"{before}-A OUTPUT ", 1)
            part = part.replace("-A MESHNET_OUTPUT ", f"{inside}-A MESHNET_OUTPUT ", 1)
        text += f"# Generated by {family}tables-save v1.8.9\n{part}"
    path.write_text(text)
    return str(path)


def test_what_another_port_captures_is_a_leak(tmp_path: Path) -> None:
    assert run(prove, proxied(tmp_path / "sound"), "no-leak").exit_code == 0
    stolen = "-A OUTPUT -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 9999\n"
    told = run(prove, proxied(tmp_path / "stolen", before=stolen), "no-leak", code=3).output
    assert "captured by :9999" in told and "report it" not in told


def test_the_proxy_captured_by_its_own_way_out_is_a_loop_over_lo_too(tmp_path: Path) -> None:
    assert run(prove, proxied(tmp_path / "sound"), "no-loop").exit_code == 0
    loop = "-A MESHNET_OUTPUT -o lo -p tcp -j REDIRECT --to-ports 15001\n"
    told = run(prove, proxied(tmp_path / "loop", inside=loop), "no-loop", code=3).output
    assert "oif lo" in told and "captured by :15001" in told
    for case in ("default", "two-proxies", "dns", "strict", "classic"):
        assert run(prove, "--spec", shlex.join(CASES[case]), "no-loop").exit_code == 0


def test_a_captured_fate_keeps_its_port() -> None:
    assert CAPTURED | 65535 < 1 << 17


# Words on the command line.


def test_the_first_option_is_the_first_side(tmp_path: Path) -> None:
    path = proxied(tmp_path / "rules")
    for words in (("--spec", STRICT, "--ruleset", path), ("--ruleset", path, "--spec", STRICT)):
        first = run(diff, *words, code=3).output.splitlines()[0]
        assert ("applied nowhere" in first) is (words[0] == "--spec")


def test_files_that_hold_nothing_and_names_of_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    assert "empty is an empty file" in refusal(lint, "empty").message
    assert "folder is a directory" in refusal(lint, "folder").message
    assert "there is no file rules.json" in refusal(lint, "rules.json").message
    assert (
        "there is no statement 'no-loops'" in refusal(prove, "--spec", STRICT, "no-loops").message
    )
    (tmp_path / "ring").write_text(f"{HEAD}:a - [0:0]\n-A OUTPUT -j a\n-A a -j a\nCOMMIT\n")
    proxied(tmp_path / "sound")
    message = refusal(diff, "sound", "ring").message
    assert message == "ring: legacy ip nat a: chains go round: a -> a"


def test_rules_come_by_standard_input_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(proxied(tmp_path / "rules"), "rb") as stream:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": stream}))
        from meshnet.cli.any_source import any_source

        assert any_source("-").rulesets["legacy"].tables
