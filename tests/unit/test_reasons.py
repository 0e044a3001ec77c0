"""Every rule says what it is called, why it exists, and which setting made it."""

from __future__ import annotations

import pytest

from meshnet.cli.arguments import read_arguments
from meshnet.cli.flags import FLAGS
from meshnet.cli.gather import gather
from meshnet.compile import compile_spec
from meshnet.errors import UsageError
from meshnet.model.intent import read_intent
from meshnet.model.spec import Form
from tests.support.cases import CASES

KNOWN = {flag.key for flag in FLAGS if flag.key} | {"dns.capture", "profile", "ipv6"}
#: Not traffic, so no part of an intent.
OTHER = {flag.name for flag in FLAGS if not flag.traffic} - {"profile"}


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("case", CASES)
def test_rules_have_reasons(case: str, form: Form) -> None:
    given = read_arguments(CASES[case], "test")
    settings = {k: v for k, v in gather(given, {}).items() if k not in OTHER}
    spec = read_intent(settings, lambda name: None).spec
    rules = [rule for _, _, rule in compile_spec(spec, form).rules()]
    assert rules
    for rule in rules:
        assert rule.id and "." in rule.id and " " not in rule.id, rule
        assert rule.why and "\n" not in rule.why and len(rule.why) < 100, rule
        assert rule.setting in KNOWN, rule


def profile_of(*argv: str) -> str:
    settings = gather(read_arguments(argv, "test"), {})
    return read_intent(settings, lambda name: None).spec.profile.value


def test_p_and_u_together_and_alone_are_classic() -> None:
    assert profile_of("-p", "15001", "-u", "1337") == "classic"
    assert profile_of("-p", "7", "-u", "1,2") == "classic"
    for argv in ((), ("-p", "1"), ("-u", "1"), ("-p", "1", "-u", "1", "-b", ""), ("-g", "1")):
        assert profile_of(*argv) == "istio"


def test_the_mark_of_the_proxy_s_own_calls_is_taken() -> None:
    with pytest.raises(UsageError, match="own calls"):
        profile_of("-m", "TPROXY", "-t", "1338")
