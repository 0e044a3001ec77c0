"""The table of features is complete, nothing is loaded by looking, and every line can be read."""

from __future__ import annotations

import configparser
import gzip
import io
import os
from pathlib import Path

import pytest

from meshnet.cli.doctor import HOW, manual
from meshnet.errors import KernelLacks, NotPermitted
from meshnet.host.features import FEATURES
from meshnet.host.modules import KernelParts, Presence, read_parts
from meshnet.host.probes_apart import APART
from meshnet.host.probes_bpf import BPF_PROBES, MAPS, PROGRAMS
from meshnet.host.probes_here import HERE
from meshnet.model.feature import (
    Answer,
    Area,
    Checkup,
    Diagnosis,
    Module,
    State,
    degraded,
    missing,
    ok,
)
from meshnet.ops import doctor
from meshnet.render.console import console
from meshnet.render.doctor import as_document, sentence, show

ROOT = Path(__file__).parents[2]
NOTHING = KernelParts(True, frozenset(), frozenset(), frozenset(), {})
HOSTILE = "\x1b[31mred\x1b[0m [bold]x[/bold] \r\n\x07" + "word " * 40 + "x" * 300


def checkup(*answers: Answer) -> Checkup:
    """A checkup in which the answers go round over all features."""
    rows = (Diagnosis(f, answers[n % len(answers)]) for n, f in enumerate(FEATURES))
    return Checkup("6.1.0\x1b[1m", "x86_64", 0, False, tuple(rows), ("nft",))


def printed(seen: Checkup) -> str:
    """What the command writes to something that is no terminal."""
    out = io.StringIO()
    show(seen, console(out))
    return out.getvalue()


def test_names_are_unique_and_rows_are_whole() -> None:
    names = [feature.name for feature in FEATURES]
    assert len(set(names)) == len(names)
    assert {feature.area for feature in FEATURES} == set(Area)
    for feature in FEATURES:
        assert feature.needed_by and all(feature.needed_by), feature.name
        assert feature.name.isprintable()
        assert not feature.mend.endswith("."), feature.name
    kernel = (Area.NETFILTER, Area.NETWORK)
    assert [f.name for f in FEATURES if f.area in kernel and not f.since] == []


def test_every_probe_exists_and_every_kind_is_used_and_explained() -> None:
    places = [set(HERE), set(APART), set(BPF_PROBES), {"backend"}]
    kinds = set.union(*places)
    assert len(kinds) == sum(len(place) for place in places)
    assert {feature.probe[0] for feature in FEATURES} == kinds == set(HOW)
    loaded = {w for f in FEATURES if f.probe[0] in ("program", "link") for w in f.probe[1:]}
    assert loaded == set(PROGRAMS)
    assert {f.probe[1] for f in FEATURES if f.probe[0] == "map"} == set(MAPS)


def test_what_uses_parts_of_the_kernel_names_them() -> None:
    uses = ("nf_tables", "nft", "owner-table", "iptables", "xt", "dump", "veth")
    assert [f.name for f in FEATURES if f.probe[0] in uses and not f.modules] == []


def test_every_dependency_is_in_the_table() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    lists = [text for name, text in extras.items() if name not in ("test", "lint", "bpf")]
    lines = [
        line.strip()
        for text in (config["options"]["install_requires"], *lists)
        for line in text.splitlines()
    ]
    wanted = {line.split()[0] for line in lines if line and line[:1] not in "#"}
    wanted = {name for name in wanted if not name.startswith("meshnet[")}
    listed = {f.name for f in FEATURES if f.probe[0] == "package"}
    assert wanted <= listed
    asked = {f.mend.split("[")[1].split("]")[0] for f in FEATURES if "meshnet[" in f.mend}
    assert asked <= set(extras)


def test_the_page_is_current() -> None:
    assert (ROOT / "docs/doctor.md").read_text() == manual()


@pytest.mark.parametrize("why", ["short", "words " * 60, "x" * 500, HOSTILE])
def test_every_state_fits_and_is_escaped(why: str) -> None:
    text = printed(checkup(ok(why), degraded(why, why), missing(why, "do this")))
    assert max(map(len, text.splitlines())) <= 100
    assert all(c.isprintable() or c == "\n" for c in text)
    for feature in FEATURES:
        assert feature.name.split()[0] in text
    said = sentence(checkup(ok(HOSTILE)).diagnoses[0])
    assert said.startswith(r"\x1b[31mred\x1b[0m [bold]x[/bold] \r\n\x07")


def test_what_is_not_ok_says_who_needs_it_and_what_mends_it() -> None:
    seen = checkup(missing("gone", "bring it back")).diagnoses
    for row in seen:
        said = sentence(row)
        assert said.startswith("gone") and said.endswith("to mend: bring it back")
        if row.feature.area is not Area.BACKENDS:
            assert row.feature.needed_by[0] in said


def test_the_document_has_every_line() -> None:
    document = as_document(checkup(ok("fine"), missing(HOSTILE)))
    assert document["schema"] == "meshnet/v1/doctor"
    assert [row["name"] for row in document["features"]] == [f.name for f in FEATURES]
    assert {row["state"] for row in document["features"]} == {"ok", "missing"}
    assert all(row["why"].isprintable() for row in document["features"])


# What the kernel is made of, without using it.


def fake_root(root: Path, files: dict[str, str]) -> KernelParts:
    release = os.uname().release
    for name, text in files.items():
        path = root / name.format(release=release)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text)
    return read_parts(str(root))


OWNER = Module("xt_owner", "NETFILTER_XT_MATCH_OWNER")


def test_modules_are_told_by_their_lists(tmp_path: Path) -> None:
    parts = fake_root(
        tmp_path,
        {
            "proc/modules": "nf_tables 303104 0 - Live 0x0\nxt-odd 1 0 - Live 0x0\n",
            "lib/modules/{release}/modules.builtin": "kernel/net/ipv4/inet_diag.ko\n",
            "lib/modules/{release}/modules.dep": (
                "kernel/net/netfilter/xt_owner.ko.xz: kernel/x_tables.ko.xz\n"
                "kernel/drivers/net/veth.ko:\nkernel/net/netfilter/nft-dash.ko.zst:\n"
            ),
        },
    )
    told = {
        name: parts.presence(Module(name, "X"))
        for name in ("nf_tables", "inet_diag", "xt_owner", "veth", "nft_dash", "xt_TPROXY")
    }
    assert told == {
        "nf_tables": Presence.THERE,
        "inet_diag": Presence.THERE,
        "xt_owner": Presence.LOADABLE,
        "veth": Presence.LOADABLE,
        "nft_dash": Presence.LOADABLE,
        "xt_TPROXY": Presence.ABSENT,
    }
    assert parts.unsafe((Module("nf_tables", "X"), OWNER)) == OWNER


@pytest.mark.parametrize(
    ("option", "presence"),
    [
        ("CONFIG_NETFILTER_XT_MATCH_OWNER=y", Presence.THERE),
        ("CONFIG_NETFILTER_XT_MATCH_OWNER=m", Presence.LOADABLE),
        ("# CONFIG_NETFILTER_XT_MATCH_OWNER is not set", Presence.ABSENT),
    ],
)
@pytest.mark.parametrize("file", ["proc/config.gz", "boot/config-{release}"])
def test_modules_are_told_by_the_configuration(
    tmp_path: Path, file: str, option: str, presence: Presence
) -> None:
    parts = fake_root(tmp_path, {"proc/modules": "", file: f"CONFIG_NET=y\n{option}\n"})
    assert parts.presence(OWNER) is presence


def test_in_a_bare_container_nothing_is_known(tmp_path: Path) -> None:
    parts = fake_root(tmp_path, {"proc/modules": "overlay 1 0 - Live 0x0\n"})
    assert parts.presence(OWNER) is Presence.UNKNOWN
    assert parts.unsafe((OWNER,)) == OWNER


@pytest.mark.parametrize(
    "files", [{}, {"proc/modules": "", "proc/sys/kernel/modules_disabled": "1\n"}]
)
def test_a_kernel_that_loads_nothing_can_be_tried(tmp_path: Path, files: dict[str, str]) -> None:
    parts = fake_root(tmp_path, files)
    assert not parts.loads and parts.unsafe((OWNER,)) is None


def test_a_part_that_only_some_kernels_have_may_be_absent_but_not_waiting() -> None:
    syslog = Module("nf_log_syslog", "NF_LOG_SYSLOG")

    def unsafe(loaded: set[str], available: set[str]) -> Module | None:
        parts = KernelParts(True, frozenset(loaded), frozenset(), frozenset(available), None)
        return parts.unsafe((OWNER,), (syslog,))

    assert unsafe({"xt_owner"}, set()) is None
    assert unsafe({"xt_owner", "nf_log_syslog"}, {"nf_log_syslog"}) is None
    assert unsafe({"xt_owner"}, {"nf_log_syslog"}) == syslog
    bare = KernelParts(True, frozenset({"xt_owner"}), None, None, None)
    assert bare.unsafe((OWNER,), (syslog,)) == syslog


def test_a_torn_configuration_is_none(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_A=y\n" * 99)[:40])
    assert read_parts(str(tmp_path)).options is None


# What is tried, and what is not.


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """check_up() with every probe replaced: which ran, and what each says."""
    ran: dict[str, list[str]] = {"here": [], "apart": [], "bpf": []}
    for place, probes in (("here", HERE), ("apart", APART), ("bpf", BPF_PROBES)):

        def note(feature, parts, place=place):
            ran[place].append(feature.name)
            return ok("fine")

        for kind in probes:
            monkeypatch.setitem(probes, kind, note)
    monkeypatch.setattr(doctor, "run_apart", lambda job: job())
    monkeypatch.setattr(doctor, "run_child", lambda job, timeout: job())
    monkeypatch.setattr(doctor, "_silence", lambda: None)
    monkeypatch.setattr(doctor, "held", lambda: frozenset({"CAP_NET_ADMIN", "CAP_NET_RAW"}))
    return ran


def parts_with(monkeypatch: pytest.MonkeyPatch, parts: KernelParts) -> None:
    monkeypatch.setattr(doctor, "read_parts", lambda: parts)


def states(seen: Checkup) -> dict[str, Diagnosis]:
    return {d.feature.name: d for d in seen.diagnoses}


ALL = frozenset(module.name for f in FEATURES for module in f.modules)


def test_what_is_not_loaded_is_not_tried(
    monkeypatch: pytest.MonkeyPatch, checked: dict[str, list[str]]
) -> None:
    monkeypatch.setattr(doctor, "load_backend", lambda *_: pytest.fail("it asks over netlink"))
    parts_with(monkeypatch, KernelParts(True, frozenset(), frozenset(), ALL, None))
    seen = states(doctor.check_up())
    assert set(checked["apart"]) == {"route_localnet", "policy routes by mark"}
    for feature in FEATURES:
        answer = seen[feature.name].answer
        if feature.probe[0] in APART and feature.modules:
            assert answer.state is State.OK and "not loaded" in answer.why
            assert feature.modules[0].name in answer.why
    # nf_tables loads itself when it is asked; legacy's own probe does not ask.
    assert seen["backend nft"].answer.state is State.OK
    assert seen["backend legacy"].answer.state is State.MISSING
    assert "modprobe -a " in seen["backend legacy"].answer.mend


@pytest.mark.parametrize(("available", "said"), [({"nf_log_syslog"}, "not loaded"), (None, "seen")])
def test_a_helper_that_would_be_loaded_stops_the_probe(
    monkeypatch: pytest.MonkeyPatch,
    checked: dict[str, list[str]],
    available: set[str] | None,
    said: str,
) -> None:
    loaded = ALL - {"nf_log_syslog"}
    listed = None if available is None else frozenset(available)
    parts_with(monkeypatch, KernelParts(True, loaded, listed and frozenset(), listed, None))
    monkeypatch.setattr(doctor, "load_backend", lambda *_: Ready())
    seen = states(doctor.check_up())
    assert "TRACE" not in checked["apart"] and "xt_owner" in checked["apart"]
    assert said in seen["TRACE"].answer.why


def test_what_the_kernel_lacks_is_missing_with_its_option(
    monkeypatch: pytest.MonkeyPatch, checked: dict[str, list[str]]
) -> None:
    parts_with(monkeypatch, NOTHING)
    seen = doctor.check_up()
    assert seen.usable == () and not seen.refused
    answer = states(seen)["xt_owner"].answer
    assert answer.state is State.MISSING and "xt_owner" in answer.why
    assert "CONFIG_NETFILTER_XT_MATCH_OWNER" in answer.mend
    for row in seen.diagnoses:
        assert row.answer.state is State.OK or row.answer.mend, row.feature.name


def test_what_cannot_be_seen_is_not_guessed(
    monkeypatch: pytest.MonkeyPatch, checked: dict[str, list[str]]
) -> None:
    parts_with(monkeypatch, KernelParts(True, frozenset(), None, None, None))
    answer = states(doctor.check_up())["nftrace"].answer
    assert answer.state is State.DEGRADED
    assert answer.why.startswith("could not be told: ") and "modprobe" in answer.mend


@pytest.mark.parametrize("place", ["run_apart", "run_child"])
def test_a_child_that_cannot_be_made_costs_its_lines(
    monkeypatch: pytest.MonkeyPatch, checked: dict[str, list[str]], place: str
) -> None:
    def refuse(*_, **__):
        raise NotPermitted("needs this", "have that")

    parts_with(monkeypatch, KernelParts(True, ALL, frozenset(), frozenset(), {}))
    monkeypatch.setattr(doctor, place, refuse)
    monkeypatch.setattr(doctor, "load_backend", lambda *_: Ready())
    seen = states(doctor.check_up())
    probes = APART if place == "run_apart" else BPF_PROBES
    for row in seen.values():
        hit = row.feature.probe[0] in probes
        assert ("needs this" in row.answer.why) is hit
        assert row.answer.state is (State.DEGRADED if hit else row.answer.state)
    if place == "run_apart":
        assert seen["xt_owner"].answer.why.startswith("in this kernel, but not tried")
        assert seen["backend nft"].answer.state is State.DEGRADED


class Ready:
    """A backend whose own probe has nothing against it."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason

    def probe(self) -> str:
        return self.reason


def test_a_backend_falls_with_what_is_vital_and_limps_with_the_rest(
    monkeypatch: pytest.MonkeyPatch, checked: dict[str, list[str]]
) -> None:
    there = ALL - {"nft_tproxy", "xt_owner"}
    parts_with(monkeypatch, KernelParts(True, there, frozenset(), frozenset(), {}))
    monkeypatch.setattr(doctor, "load_backend", lambda *_: Ready())
    seen = doctor.check_up()
    rows = states(seen)
    assert seen.usable == ("nft",)
    assert rows["backend nft"].answer == degraded("usable, without nft tproxy", "see their lines")
    assert rows["backend legacy"].answer.why.startswith("xt_owner: ")


def test_a_missing_capability_is_no_missing_kernel(
    monkeypatch: pytest.MonkeyPatch, checked: dict[str, list[str]]
) -> None:
    parts_with(monkeypatch, KernelParts(True, ALL, frozenset(), frozenset(), {}))
    monkeypatch.setattr(doctor, "load_backend", lambda *_: Ready())
    monkeypatch.setattr(doctor, "held", lambda: frozenset({"CAP_NET_ADMIN"}))
    seen = doctor.check_up()
    assert seen.usable == ("nft-compat", "nft")
    assert "CAP_NET_RAW" in states(seen)["backend legacy"].answer.why
    monkeypatch.setattr(doctor, "held", frozenset)
    seen = doctor.check_up()
    assert seen.usable == () and seen.refused


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (Checkup("6", "x", 0, True, (), ("nft",), True), 0),
        (Checkup("6", "x", 0, True, (), (), True), NotPermitted.exit_code),
        (Checkup("6", "x", 0, True, (), (), False), KernelLacks.exit_code),
    ],
)
def test_the_exit_code_says_who_stands_in_the_way(
    monkeypatch: pytest.MonkeyPatch, seen: Checkup, code: int
) -> None:
    from click.testing import CliRunner

    from meshnet.cli.doctor import command

    monkeypatch.setattr(doctor, "check_up", lambda: seen)
    assert CliRunner().invoke(command, []).exit_code == code
    assert CliRunner().invoke(command, ["-o", "json"]).exit_code == code


@pytest.mark.parametrize(
    "failure", [OSError("broken\x1b"), KernelLacks("lacks"), ValueError("odd")]
)
def test_a_probe_that_fails_costs_its_line(
    monkeypatch: pytest.MonkeyPatch, checked: dict[str, list[str]], failure: Exception
) -> None:
    def fail(feature, parts):
        raise failure

    parts_with(monkeypatch, NOTHING)
    monkeypatch.setitem(HERE, "mount", fail)
    answer = states(doctor.check_up())["bpffs"].answer
    assert answer.state is State.DEGRADED and answer.why.startswith("could not be told: ")


def test_an_old_kernel_is_named() -> None:
    row = next(f for f in FEATURES if f.name == "nft owner tables")
    assert doctor._mended(row, missing("no"), "5.4.0-42-generic").mend == "boot Linux 5.12 or later"
    assert "CONFIG_NF_TABLES" in doctor._mended(row, missing("no"), "6.1.0").mend


# Programs of others.


def test_what_a_program_says_of_itself_is_escaped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "ip"
    tool.write_text("#!/bin/sh\nprintf '\\033[31mip \\007[bold] \\377 %s\\n' " + "y" * 500)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    row = next(f for f in FEATURES if f.name == "ip")
    answer = HERE["tool"](row, NOTHING)
    assert answer.state is State.OK
    said = sentence(Diagnosis(row, answer))
    assert said.startswith(r"\x1b[31mip \x07[bold] ") and said.isprintable()
    tool.write_text("#!/bin/sh\nexit 3\n")
    assert HERE["tool"](row, NOTHING).state is State.DEGRADED
    tool.write_text("no program at all")
    assert HERE["tool"](row, NOTHING).state is State.DEGRADED


def test_a_version_that_would_load_a_module_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nft"
    tool.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    row = next(f for f in FEATURES if f.name == "nft")
    answer = HERE["tool"](row, NOTHING)
    assert answer.state is State.OK and "nfnetlink" in answer.why
    assert not (tmp_path / "ran").exists()


def test_a_module_of_the_name_bcc_is_not_yet_bcc(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = next(f for f in FEATURES if f.name == "bcc")
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc/__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "another package" in HERE["bcc"](row, NOTHING).why
    (tmp_path / "bcc/libbcc.py").touch()
    assert HERE["bcc"](row, NOTHING) == ok(str(tmp_path / "bcc"))
