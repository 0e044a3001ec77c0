"""Where settings come from: every flag, its variables, the file, and who wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshnet.cli.arguments import read_arguments
from meshnet.cli.flags import BY_NAME, FLAGS, Flag
from meshnet.cli.gather import gather
from meshnet.errors import UsageError
from meshnet.model.intent import read_intent
from meshnet.model.spec import Inbound, Profile
from meshnet.model.values import Value

#: Istio's flags with their short forms, from pilot/cmd and tools/istio-iptables.
ISTIO = """
p envoy-port, z inbound-capture-port, e inbound-tunnel-port, u proxy-uid, g proxy-gid,
m istio-inbound-interception-mode, b istio-inbound-ports, d istio-local-exclude-ports,
c istio-exclude-interfaces, i istio-service-cidr, x istio-service-exclude-cidr,
q istio-outbound-ports, o istio-local-outbound-ports-exclude, k kube-virt-interfaces,
t istio-inbound-tproxy-mark, r istio-inbound-tproxy-route-table, n dry-run,
iptables-probe-port, probe-timeout, skip-rule-apply, run-validation, redirect-dns, drop-invalid,
dual-stack, capture-all-dns, network-namespace, cni-mode, reconcile, cleanup-only, force-apply,
native-nftables, force-iptables-binary
"""
WITHOUT_FLAG = {
    "istio-outbound-owner-groups",
    "istio-outbound-owner-groups-exclude",
    "istio-outbound-ipv4-loopback-cidr",
}
OWN = {
    "profile", "backend", "config", "ipv6", "dns-server", "target", "output", "comments", "migrate",
    "lock-wait", "verbose", "log-as-json", "exclude-ports-for-uids", "exclude-sources",
}  # fmt: skip
MORE = {
    "redirect-dns": "ISTIO_META_DNS_CAPTURE",
    "drop-invalid": "INVALID_DROP",
    "dual-stack": "ISTIO_DUAL_STACK",
}
SHORTS = {
    words[1]: words[0]
    for entry in ISTIO.replace("\n", " ").split(",")
    if len(words := entry.split()) == 2
}
ISTIOS = {entry.split()[-1] for entry in ISTIO.replace("\n", " ").split(",")}


def variable(name: str) -> str:
    """The variable of a setting, by the rule that the manual states."""
    plain = name.upper().replace("-", "_")
    return f"MESHNET_{plain}" if name in OWN else plain


def name_of(flag: Flag) -> str:
    return flag.name


def test_every_flag_of_istio_is_there_and_every_other_is_ours() -> None:
    assert set(BY_NAME) == ISTIOS | WITHOUT_FLAG | OWN
    assert {flag.name: flag.short for flag in FLAGS if flag.short} == SHORTS
    assert len(BY_NAME) == len(FLAGS)


@pytest.mark.parametrize("flag", FLAGS, ids=name_of)
def test_each_setting_has_its_variables(flag: Flag) -> None:
    names = [variable(flag.name), *([MORE[flag.name]] if flag.name in MORE else [])]
    assert list(flag.sources()) == names
    if flag.name == "config":
        return
    for name in names:
        assert gather({}, {name: "5"})[flag.name] == Value("5", f"${name}")
        assert flag.name not in gather({}, {name: ""})
        assert flag.name not in gather({}, {})


@pytest.mark.parametrize("flag", [f for f in FLAGS if f.name != "config"], ids=name_of)
def test_a_flag_wins_over_its_variable_and_that_over_the_file(flag: Flag, tmp_path: Path) -> None:
    path = tmp_path / "meshnet.yaml"
    config = {"MESHNET_CONFIG": str(path)}
    path.write_text("")
    if flag.key:
        section, _, key = flag.key.rpartition(".")
        entry = "[{ports: 1, uids: 2}]" if flag.name == "exclude-ports-for-uids" else "'1'"
        path.write_text(f"{section}: {{{key}: {entry}}}" if section else f"{key}: {entry}")
        from_file = gather({}, config)[flag.name]
        assert from_file.text.startswith("1")
        assert str(path) in from_file.origin and flag.key in from_file.origin
    environment = {**config, variable(flag.name): "2"}
    assert gather({}, environment)[flag.name] == Value("2", f"${variable(flag.name)}")
    if flag.hidden:
        return
    found = gather({flag.name: ["3"]}, environment)[flag.name]
    assert found.text == "3"
    assert f"--{flag.name}" in found.origin
    assert found.origin.startswith(f"-{flag.short} " if flag.short else "--")


def test_an_empty_flag_is_a_value_and_an_empty_variable_is_none() -> None:
    found = gather({"istio-inbound-ports": [""]}, {"ISTIO_INBOUND_PORTS": "*"})
    assert found["istio-inbound-ports"].text == ""


@pytest.mark.parametrize("flag", [f for f in FLAGS if not f.hidden], ids=name_of)
def test_each_flag_parses_in_all_of_its_forms(flag: Flag) -> None:
    def parsed(*argv: str) -> object:
        return read_arguments(argv, "meshnet-init").get(flag.name)

    assert parsed(f"--{flag.name}=1") == ["1"]
    assert parsed(f"--{flag.name}=") == [""]
    assert parsed() is None
    if flag.kind == "bool":
        # As Go's pflag has it, the next word is not a boolean flag's value.
        assert parsed(f"--{flag.name}", "-p", "1") == ["true"]
    else:
        assert parsed(f"--{flag.name}", "1") == ["1"]
        assert parsed(f"--{flag.name}", "1", f"--{flag.name}", "-2") == ["1", "-2"]
        with pytest.raises(UsageError, match="expected a value"):
            parsed(f"--{flag.name}")
    if flag.short and flag.kind != "bool":
        short = f"-{flag.short}"
        assert parsed(short, "1") == parsed(f"{short}1") == parsed(f"{short}=1") == ["1"]
        assert parsed(f"-n{flag.short}", "*") == parsed(f"-n{flag.short}*") == ["*"]
    with pytest.raises(UsageError):
        parsed(f"--{flag.name[:-1]}x=1")


@pytest.mark.parametrize("flag", [f for f in FLAGS if f.hidden], ids=name_of)
def test_what_has_no_flag_is_no_flag(flag: Flag) -> None:
    with pytest.raises(UsageError):
        read_arguments([f"--{flag.name}=1"], "meshnet-init")


def intent_of(**settings: str) -> Profile:
    """The profile that settings (with _ for -) select."""
    values = {k.replace("_", "-"): Value(v, k) for k, v in settings.items()}
    return read_intent(values, lambda name: None).spec.profile


def test_the_profile_is_classic_for_the_port_and_the_uid_alone() -> None:
    assert intent_of(envoy_port="15001", proxy_uid="1337") is Profile.CLASSIC
    assert intent_of(envoy_port="9999", proxy_uid="7,8") is Profile.CLASSIC
    assert intent_of(envoy_port="15001", proxy_uid="1337", proxy_gid="1337") is Profile.ISTIO
    assert intent_of(envoy_port="15001", proxy_uid="1", istio_inbound_ports="") is Profile.ISTIO
    assert intent_of(envoy_port="15001", proxy_uid="1", profile="istio") is Profile.ISTIO
    assert intent_of(profile="strict") is Profile.STRICT
    assert intent_of(proxy_uid="1337") is Profile.ISTIO


def test_a_gid_not_given_is_the_uids_number() -> None:
    spec = read_intent({"proxy-uid": Value("7,9", "-u")}, lambda name: None).spec
    assert spec.uids == spec.gids == ((7, 7), (9, 9))


def test_an_empty_mode_is_redirect() -> None:
    mode = {"istio-inbound-interception-mode": Value("", "-m")}
    assert read_intent(mode, lambda name: None).spec.inbound is Inbound.REDIRECT
