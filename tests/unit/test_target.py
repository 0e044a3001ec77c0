"""The grammar of targets, and which pod or container a name means."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshnet.errors import MeshnetError, NotPermitted, UsageError
from meshnet.host import naming, resolving
from meshnet.host.containers import membership
from meshnet.host.containers.container import Container, merge
from meshnet.host.containers.membership import Membership, is_process_of
from meshnet.host.containers.sources import Census
from meshnet.host.namespaces import unescape
from meshnet.host.resolving import how_called, resolve_one
from meshnet.host.target import KINDS, netns_of, resolve, split
from meshnet.model.frozen import replace

A, B, C = "a1" * 32, "a2" * 32, "c0" * 32


@pytest.mark.parametrize(
    ("target", "kind", "name"),
    [
        ("self", "self", ""),
        ("all", "all", ""),
        ("pid:4140", "pid", "4140"),
        ("4140", "pid", "4140"),
        ("container:3f2a", "container", "3f2a"),
        ("container:4140", "container", "4140"),
        ("container:containerd://3f2a", "container", "3f2a"),
        ("docker://3f2a", "container", "3f2a"),
        ("pod:shop/cart-7d9f", "pod", "shop/cart-7d9f"),
        ("netns:/run/netns/blue", "netns", "/run/netns/blue"),
        ("netns:blue", "netns", "blue"),
        ("netns:two words", "netns", "two words"),
        ("cgroup:/sys/fs/cgroup/shop", "cgroup", "/sys/fs/cgroup/shop"),
        ("/proc/4140/ns/net", "path", "/proc/4140/ns/net"),
        ("/with:colon", "path", "/with:colon"),
        ("cart-7d9f", "name", "cart-7d9f"),
        ("shop/cart-7d9f", "name", "shop/cart-7d9f"),
        ("k8s_app.1_x", "name", "k8s_app.1_x"),
    ],
)
def test_what_a_target_can_be(target: str, kind: str, name: str) -> None:
    assert split(target, "TARGET") == (kind, name)


@pytest.mark.parametrize(
    "target",
    [
        *("", ":", "pid:", "pid:one", "pid:-1", "pid:+1", "pid:1.0", "pid:99999999999", "-1"),
        *("netns:", "netns:.", "netns:..", "netns:a/b", "netns:a\0", "cgroup:shop", "cgroup:"),
        *("pod:", "pod:a b", "pod:a/b/c", "container:", "container:-f", "nonsense:x", "self:"),
        *("a\nb", "a b", "a;b", "$(a)", "../etc/passwd", "Ünicode", "४", "a//b/c", "all:x"),
    ],
)
def test_what_is_no_target(target: str) -> None:
    with pytest.raises(UsageError, match="is no target") as refused:
        split(target, "--target")
    assert "--target" in str(refused.value) and "netns:" in refused.value.hint
    assert str(refused.value).isprintable()


@given(st.text(max_size=30))
@example("pid:٣")
def test_any_text_is_a_target_or_a_usage_error(text: str) -> None:
    try:
        kind, name = split(text, "TARGET")
    except UsageError as e:
        assert e.exit_code == 2 and str(e).isprintable()
    else:
        assert kind in (*KINDS, "self", "all", "path", "name")
        assert name in text and (kind in ("self", "all") or name)


def test_light_targets_ask_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr(resolving, "resolve_one", fail)
    assert netns_of("self") is None
    pid = os.getpid()
    for target in (f"pid:{pid}", str(pid), f"000{pid}"):
        assert netns_of(target) == f"/proc/{pid}/ns/net"
    assert netns_of(f"netns:/proc/{pid}/ns/net") == f"/proc/{pid}/ns/net"


def test_all_is_not_one() -> None:
    for ask in (resolve, netns_of):
        with pytest.raises(UsageError, match="more than one"):
            ask("all")


CART = Container(A, "app", "shop/cart-7d9f", "containerd")
BOX = Container(B, "", "shop/cart-7d9f", "containerd", sandbox=True)
WEB = Container(C, "web", "", "docker")


@pytest.mark.parametrize(
    ("kind", "name", "called"),
    [
        ("name", "app", 2),
        ("name", "shop/cart-7d9f", 2),
        ("name", "cart-7d9f", 2),
        ("name", "cart", 1),
        ("name", "shop/", 1),
        ("name", "a1a1", 1),
        ("name", A, 2),
        ("name", "b", 0),
        ("name", "7d9f", 0),
        ("container", "cart", 0),
        ("container", "ap", 1),
        ("pod", "app", 0),
        ("pod", "a1a1", 0),
    ],
)
def test_how_a_container_is_called(kind: str, name: str, called: int) -> None:
    assert how_called(CART, kind, name) == called


def known(monkeypatch: pytest.MonkeyPatch, *containers: Container, **census: object) -> None:
    """Makes the sources say so; all containers run in this very process."""
    here = [replace(one, pid=os.getpid()) for one in containers]
    said = Census(tuple(here), ("docker at /x (1)",), ("podman: no socket",), **census)  # type: ignore[arg-type]
    monkeypatch.setattr(resolving, "take_census", lambda *_: said)
    monkeypatch.setattr(resolving, "is_process_of", lambda *_: True)
    monkeypatch.setattr(naming, "is_process_of", lambda *_: True)


def test_a_name_that_several_have(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Container("a3" * 32, "app", "test/cart-1", "containerd")
    known(monkeypatch, CART, BOX, other, WEB)
    for asked, names in {
        "app": ("pod:shop/cart-7d9f", "pod:test/cart-1"),
        "cart": ("pod:shop/cart-7d9f", "pod:test/cart-1"),
        "container:a": ("pod:shop/cart-7d9f", "pod:test/cart-1"),
    }.items():
        with pytest.raises(MeshnetError, match="2 pods or containers") as ambiguous:
            resolve_one(asked, "TARGET")
        assert type(ambiguous.value) is MeshnetError and ambiguous.value.exit_code == 1
        assert all(name in str(ambiguous.value) for name in names)
    # Several containers of one pod are one answer, and an exact name beats a beginning.
    for asked, name in {"cart-7": "shop/cart-7d9f", "test/": "test/cart-1", "web": "web"}.items():
        assert resolve_one(asked, "TARGET").name == name


def test_a_long_list_of_candidates_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, *(Container(f"{i:064x}", f"web-\x1b{i:02}") for i in range(20)))
    with pytest.raises(MeshnetError, match=r"20 pods or containers.* and 12 more") as ambiguous:
        resolve_one("web", "TARGET")
    assert str(ambiguous.value).isprintable() and "\\x1b00" in str(ambiguous.value)


def test_nothing_says_who_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, WEB)
    with pytest.raises(MeshnetError) as missing:
        resolve_one("pod:cart", "TARGET")
    for part in ("TARGET: there is no pod 'cart'", "docker at /x (1)", "/var/log/pods"):
        assert part in str(missing.value)
    assert "not asked: podman: no socket" in str(missing.value)
    assert missing.value.exit_code == 1
    known(monkeypatch, WEB, refused=True)
    with pytest.raises(NotPermitted):
        resolve_one("pod:cart", "TARGET")


def test_a_pid_of_another_container_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a runtime in another PID namespace: the number is somebody else's here."""
    known(monkeypatch, WEB)
    monkeypatch.setattr(resolving, "is_process_of", is_process_of)
    monkeypatch.setattr(membership, "membership_of", lambda _: Membership(A))
    with pytest.raises(MeshnetError, match="no process that can be seen"):
        resolve_one("web", "TARGET")


def test_whose_pid_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the cgroup; where that tells nothing, only in the first PID namespace."""
    pid, member = os.getpid(), membership.membership_of
    assert not is_process_of(0, A)
    for told in (None, Membership("", "uid")):
        monkeypatch.setattr(membership, "membership_of", lambda _, told=told: told)
        for first in (os.stat("/proc/self/ns/pid").st_ino, 5):
            monkeypatch.setattr(membership, "_FIRST_PID_NAMESPACE", first)
            assert is_process_of(pid, A) == (first != 5)
    monkeypatch.setattr(membership, "membership_of", lambda _: Membership(A))
    assert is_process_of(pid, A) and not is_process_of(pid, B)
    assert member(1 << 30) is None


def test_merging_what_sources_say() -> None:
    cri = Container(A, "", "shop/cart", "containerd", 0, True)
    own = Container(A, "k8s_POD", "", "containerd", 17)
    assert merge([cri, own, WEB]) == [Container(A, "", "shop/cart", "containerd", 17, True), WEB]
    # Whose log file is not there yet is no pause container for that.
    guess = Container(C, "", "shop/cart", "", 9, True)
    assert merge([WEB, guess]) == [replace(WEB, pod="shop/cart", pid=9)]
    # Two namespaces of containerd may have a container of one name each.
    boxes = [Container("box", "box", pid=3), Container("box", "box", pid=4)]
    assert merge(boxes) == boxes


@given(st.binary(max_size=40).filter(lambda b: b"\0" not in b))
def test_paths_of_mountinfo(path: bytes) -> None:
    escaped = b"".join(b"\\%03o" % c if c in b" \t\n\\" else bytes((c,)) for c in path)
    assert os.fsencode(unescape(escaped)) == path
