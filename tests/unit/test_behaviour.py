"""What two rulesets do to every packet: Istio's own differences, and nothing for strict."""

from __future__ import annotations

import random

import pytest

from meshnet.cli.flags import FLAGS
from meshnet.dialects.iptables import parse_save
from meshnet.model.packet import Family
from meshnet.model.rule import DROP, Rule
from meshnet.model.ruleset import Chain, Ruleset, Table
from meshnet.reason.behaviour import Behaviour, Side, compare_behaviour
from tests.support import istio_goldens
from tests.support.cases import CASES
from tests.support.symbolic import MISTAKES, disagreements, mistaken
from tests.support.walks import compiled

pytest.importorskip("z3", reason="cannot run here: z3 is not installed (the extra prove)")

ENOUGH = 1000
STRICT = [name for name, words in CASES.items() if "strict" in words]
GOLDENS = istio_goldens.cases()
PLAIN = {name: "" for flag in FLAGS for name in flag.sources()}


def told(found: Behaviour) -> list[str]:
    """Each class as one line."""
    return [
        f"{'+'.join(d.families)} {d.hook}: {', '.join(d.conditions)}: "
        f"{d.one.verdict} {d.one.port} | {d.other.verdict} {d.other.port}"
        for d in (parting.divergence for parting in found.partings)
    ]


def compare(one: dict[str, Ruleset], other: dict[str, Ruleset], most: int = 24) -> Behaviour:
    """The comparison; the walk has to confirm all of it."""
    sides = Side(one), Side(other)
    found = compare_behaviour(*sides, most)
    for parting in found.partings:
        assert parting.divergence.confirmed, parting
    if not found.partings:
        assert not found.more
        assert disagreements(*sides, seed=1, count=ENOUGH) == []
    return found


@pytest.mark.parametrize("case", STRICT)
def test_strict_is_the_same_for_every_packet_on_all_backends(case: str) -> None:
    forms = [compiled(CASES[case], backend) for backend in ("nft-compat", "nft")]
    assert told(compare(*forms)) == []
    assert told(compare(forms[0], compiled(CASES[case], "legacy"))) == []


def without_socket(condition: str) -> bool:
    """A packet without a socket over lo: `! --uid-owner` matches it, `skuid !=` does not."""
    return "no socket" in condition.split(", ") and "oif lo" in condition


def of_ipv6_off(line: str) -> bool:
    """IPv6 is not looked at by iptables' form, and captured by nft's (dropped where invalid)."""
    new = line.startswith("ip6 ") and ": direct 0 | captured" in line
    return new or (line.startswith("ip6 ") and line.endswith("ct invalid: direct 0 | dropped 0"))


def of_invalid(line: str) -> bool:
    """--drop-invalid: every protocol in iptables' form, TCP in nft's."""
    return ": not tcp" in line and "ct invalid" in line and "dropped 0 | direct 0" in line


def known(line: str, ipv6_off: bool, drop_invalid: bool) -> bool:
    """Whether docs/profiles.md lists the difference."""
    if ipv6_off and of_ipv6_off(line):
        return True
    if drop_invalid and of_invalid(line):
        return True
    return without_socket(line.partition(": ")[2])


ISTIO = [name for name in CASES if name not in STRICT]


@pytest.mark.parametrize("case", ISTIO)
def test_istio_on_iptables_and_on_nft_differ_where_it_is_known(case: str) -> None:
    found = told(compare(compiled(CASES[case], "nft-compat"), compiled(CASES[case], "nft")))
    off = "on" not in CASES[case]
    unknown = [x for x in found if not known(x, off, "--drop-invalid" in CASES[case])]
    assert unknown == []


@pytest.mark.parametrize("case", ["default", "both-families"])
def test_the_known_differences_are_there(case: str) -> None:
    found = told(compare(compiled(CASES[case], "nft-compat"), compiled(CASES[case], "nft")))
    assert any(without_socket(line.partition(": ")[2]) for line in found)
    assert any(of_ipv6_off(line) for line in found) is (case == "default")


if GOLDENS:

    def golden(name: str, backend: str) -> dict[str, Ruleset]:
        """What one of Istio's own cases compiles to."""
        case = GOLDENS[name]
        servers = [word for server in case["dns_servers"] for word in ("--dns-server", server)]
        flags = ["--profile", "istio", *case["argv"], "--ipv6", "on" if case["ipv6"] else "off"]
        env = {**PLAIN, **{k: istio_goldens.numbered(v) for k, v in case["env"].items()}}
        return compiled([*flags, *servers], backend, env)

    @pytest.mark.parametrize("name", GOLDENS)
    def test_istios_own_cases_differ_where_it_is_known(name: str) -> None:
        case = GOLDENS[name]
        found = told(compare(*(golden(name, form) for form in ("nft-compat", "nft"))))
        dropping = "--drop-invalid" in case["argv"] or case["env"].get("INVALID_DROP") == "true"
        assert [x for x in found if not known(x, not case["ipv6"], dropping)] == []


FIRST = ", first of its connection"
ISTIO_AND_STRICT = {
    "default": [
        # The GID rules for lo of istio can never match.
        "ip output: tcp, uid not 1337, gid 1337, oif lo, dst not 127.0.0.1, dport not 15008, "
        "src not 127.0.0.6: bypassed 0 | captured 15006",
        # IPv6 hangs on the first address there, and is captured here.
        "ip6 output: tcp, uid not 1337 or no socket, gid not 1337, oif not lo: "
        "direct 0 | captured 15001",
        "ip6 output: tcp, a socket, gid 1337, oif lo, dst not ::1, dport not 15008, src not ::6: "
        "direct 0 | captured 15006",
        "ip6 output: tcp, uid 1337, oif lo, dst not ::1, dport not 15008, src not ::6: "
        "direct 0 | captured 15006",
        "ip6 prerouting: tcp, dport not 15008,15020-15021,15090: direct 0 | captured 15006",
    ],
    "both-families": [
        "ip output: tcp, uid not 1337, gid 1337, oif lo, dst not 127.0.0.1, dport not 15008, "
        "src not 127.0.0.6: bypassed 0 | captured 15006",
        "ip6 output: tcp, uid not 1337, gid 1337, oif lo, dst not ::1, dport not 15008, "
        "src not ::6: bypassed 0 | captured 15006",
    ],
    "two-proxies": [
        "ip output: tcp, uid not 3, gid 1-2, oif lo, dst not 127.0.0.1, dport not 15008, "
        "src not 127.0.0.6: bypassed 0 | captured 15006",
        # Of several UIDs only the first one's calls to its own pod are captured there.
        "ip output: tcp, uid 4, oif lo, dst not 127.0.0.1, dport not 15008, "
        "src not 127.0.0.6: bypassed 0 | captured 15006",
        "ip6 output: tcp, uid not 3, gid 1-2, oif lo, dst not ::1, dport not 15008, "
        "src not ::6: bypassed 0 | captured 15006",
        "ip6 output: tcp, uid 4, oif lo, dst not ::1, dport not 15008, "
        "src not ::6: bypassed 0 | captured 15006",
    ],
}


@pytest.mark.parametrize("case", ISTIO_AND_STRICT)
def test_istio_and_strict_differ_where_it_is_intended(case: str) -> None:
    words = CASES[case]
    plain = words[: words.index("--ipv6")] if "--ipv6" in words else words
    one = compiled((*words, "--profile", "istio"), "nft-compat")
    other = compiled((*plain, "--profile", "strict"), "nft-compat")
    found = told(compare(one, other))
    assert [line.replace(FIRST, "") for line in found] == ISTIO_AND_STRICT[case]
    # What nat decides, it decides about first packets.
    assert all(FIRST in line for line in found)


def check_mistake(right: dict[str, Ruleset], mistake: str, rng: random.Random) -> None:
    """Where the proof says that a mistake is none, a thousand packets agree."""
    wrong = mistaken(right, mistake, rng)
    if wrong is None or wrong == right:
        return
    # Of no class at all compare() asks a thousand packets, of one the walk.
    compare(right, wrong, most=1)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_told_or_proven_to_be_none(case: str, mistake: str) -> None:
    rng = random.Random(f"{case} {mistake}")
    check_mistake(compiled(CASES[case], rng.choice(("nft-compat", "nft"))), mistake, rng)


if GOLDENS:

    @pytest.mark.parametrize("name", GOLDENS)
    def test_a_mistake_in_istios_own_cases_too(name: str) -> None:
        rng = random.Random(name)
        backend = rng.choice(("nft-compat", "nft"))
        for mistake in MISTAKES:
            check_mistake(golden(name, backend), mistake, rng)


def test_a_ruleset_is_the_same_as_itself_whatever_is_undecided() -> None:
    text = (
        "*nat\n:OUTPUT ACCEPT [0:0]\n"
        "-A OUTPUT -m statistic --mode random --probability 0.5 -j ACCEPT\n"
        "-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n"
    )
    rulesets = {"legacy": parse_save(text, Family.IP)}
    found = compare_behaviour(Side(rulesets), Side(dict(rulesets)))
    assert not found.partings and not found.more
    assert any("statistic" in name for name in found.undecided)
    nothing = compare_behaviour(Side(rulesets), Side({}))
    (parting,) = nothing.partings
    assert any("statistic" in name for name in parting.divergence.depends)
    assert parting.divergence.confirmed


def test_more_classes_than_are_told_are_said() -> None:
    chain = Chain("c", (Rule((), DROP),), "filter", "output", 0)
    dropping = {"nft": Ruleset((Table(Family.INET, "t", (chain,)),))}
    found = compare_behaviour(Side(dropping), Side({}), most=0)
    assert found.more and not found.partings
    (parting,) = compare_behaviour(Side(dropping), Side({})).partings
    assert parting.divergence.families == ("ip", "ip6")
    assert parting.divergence.conditions == ()
