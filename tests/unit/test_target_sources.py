"""Asking runtimes: where their sockets are, what is said of those that do not answer."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshnet.errors import MeshnetError, NotPermitted
from meshnet.host.containers import sources
from meshnet.host.containers.sources import SOURCES, find_sockets, take_census

BY_NAME = {source.name: source for source in SOURCES}


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path: a socket's may have 107 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """No runtime of this machine is asked."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    for source in SOURCES:
        monkeypatch.setenv(source.variable, str(place / "absent"))


def listening(path: Path) -> socket.socket:
    """A socket that takes connections into its queue and never says a word."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


def test_without_sockets_nobody_is_asked(place: Path) -> None:
    census = take_census()
    assert census.containers == census.asked == () and not census.refused
    assert len(census.unasked) == len(SOURCES)
    for source, said in zip(SOURCES, census.unasked, strict=True):
        assert said.startswith(f"{source.name}: no socket at ${source.variable} ")


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_runtime_that_hangs_costs_its_limit(
    source: sources.Source, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place / "hung.sock"
    monkeypatch.setenv(source.variable, f"unix://{path}")
    monkeypatch.setattr(sources, "REQUEST", 60.0)
    with listening(path):
        started = time.monotonic()
        census = take_census(limit=0.8)
        took = time.monotonic() - started
    # Not how quick it is: that it ends long before the request's own sixty seconds.
    assert 0.7 < took < 30
    (said,) = (said for said in census.unasked if "hung.sock" in said)
    assert said.startswith(f"{source.name} at {path}: ") and "0.8 s" in said


def test_all_that_hang_cost_one_limit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "REQUEST", 60.0)
    held = []
    for source in SOURCES:
        path = place / f"{source.name}.sock"
        held.append(listening(path))
        monkeypatch.setenv(source.variable, f"unix://{path}")
    started = time.monotonic()
    census = take_census(limit=0.8)
    assert time.monotonic() - started < 30
    assert len(census.unasked) == len(SOURCES)
    for one in held:
        one.close()


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_what_a_library_raises_is_one_line(
    source: sources.Source, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that nobody listens on any more, as a stopped daemon leaves it."""
    path = place / "dead.sock"
    listening(path).close()
    monkeypatch.setenv(source.variable, str(path))
    (said,) = (said for said in take_census().unasked if "dead.sock" in said)
    assert said.startswith(f"{source.name} at {path}: ")
    assert said.isprintable() and len(said) < 300


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_missing_library_names_the_extra(
    source: sources.Source, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place / "here.sock"
    monkeypatch.setenv(source.variable, str(path))
    monkeypatch.setattr(sources, "_is_installed", lambda _: False)
    with listening(path), pytest.raises(MeshnetError, match="not the library") as missing:
        find_sockets(source)
    assert f"install meshnet with its extra {source.name}" in missing.value.message
    assert not isinstance(missing.value, NotPermitted)


def test_every_extra_exists() -> None:
    from configparser import ConfigParser

    config = ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    extras = config["options.extras_require"]
    assert {source.extra for source in SOURCES} <= set(extras)
    assert all(source.extra in extras["containers"] for source in SOURCES)
    assert "meshnet[containers]" in extras["test"]


def test_a_socket_of_others(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "root.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    monkeypatch.setattr(sources.os, "access", lambda *_, **__: False)
    with listening(path):
        with pytest.raises(NotPermitted, match="not for this user"):
            find_sockets(BY_NAME["docker"])
        census = take_census()
    assert census.refused and any("not for this user" in said for said in census.unasked)


@pytest.mark.parametrize("endpoint", ["tcp://10.0.0.1:2375", "ssh://root@host", "npipe:////x"])
def test_another_machine_is_not_asked(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pids are numbers of other processes here."""
    monkeypatch.setenv("DOCKER_HOST", endpoint)
    with pytest.raises(MeshnetError, match="no socket of this machine"):
        find_sockets(BY_NAME["docker"])


@pytest.mark.parametrize("form", ["unix://{}", "unix:{}", "{}"])
def test_forms_of_an_endpoint(form: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "some.sock"
    monkeypatch.setenv("CONTAINER_HOST", form.format(path))
    with listening(path):
        assert find_sockets(BY_NAME["podman"]) == [str(path)]


def test_a_users_own_daemon(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTAINER_HOST")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    (place / "podman").mkdir()
    path = place / "podman/podman.sock"
    with listening(path):
        assert str(path) in find_sockets(BY_NAME["podman"])


def test_one_socket_under_two_names_is_asked_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, link = place / "a.sock", place / "b.sock"
    link.symlink_to(path)
    twice = sources.Source("docker", "NO_SUCH_VARIABLE", (str(path), str(link)), "docker")
    with listening(path):
        assert len(find_sockets(twice)) == 1
