"""Targets that are namespaces, processes and cgroups; and finding every namespace there is."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshnet.errors import MeshnetError, NotPermitted, UsageError
from meshnet.host import namespaces as finding
from meshnet.host.namespaces import find_namespaces
from meshnet.host.netns import run_child
from meshnet.host.target import netns_of, resolve, resolve_all
from tests.support.namespaces import Namespace, Namespaces
from tests.support.runtimes import hierarchies

OWN = "/proc/self/ns/net"


def inode_of(path: object) -> int:
    return os.stat(str(path)).st_ino


@contextmanager
def process_in(*enter: str, command: tuple[str, ...] = ("sleep", "60")) -> Iterator[int]:
    """A process that got to its place by ``enter``; its pid."""
    child = subprocess.Popen([*enter, *command], stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: comm_of(child.pid) == Path(command[0]).name)
        yield child.pid
    finally:
        child.kill()
        child.wait()


def comm_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().removesuffix("\n")


def wait_until(condition: Callable[[], bool]) -> None:
    """Until it holds, for at most five seconds."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def bound(namespaces: Namespaces, tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A namespace that nothing holds but a bind mount far from /run, with a name to escape."""
    made = namespaces.make()
    inode = inode_of(made.path)
    path = tmp_path / "a b\\c\td\nz"
    path.touch()
    subprocess.run(["mount", "--bind", made.path, str(path)], check=True)
    try:
        subprocess.run(["ip", "netns", "del", made.name], check=True)
        yield path, inode
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_all_finds_each_namespace_once(
    namespaces: Namespaces, bound: tuple[Path, int], tmp_path: Path
) -> None:
    by_path, shared = namespaces.make(), namespaces.make()
    path, bound_inode = bound
    with process_in("unshare", "--net") as alone, process_in(*_enter(shared)) as guest:
        targets = resolve_all()
        found = {target.inode: target for target in targets}
        assert len(found) == len(targets)
        assert targets[0].inode == inode_of(OWN)
        assert targets[0].name in ("host", "self") and targets[0].path is None
        held = found[inode_of(by_path.path)]
        assert (held.name, held.path, held.pids) == (f"netns {by_path.name}", by_path.path, ())
        both = found[inode_of(shared.path)]
        assert (both.name, both.pids) == (f"netns {shared.name}", (guest,))
        assert both.names == (f"netns {shared.name}", f"pid {guest} (sleep)")
        lone = found[inode_of(f"/proc/{alone}/ns/net")]
        assert (lone.name, lone.path) == (f"pid {alone} (sleep)", f"/proc/{alone}/ns/net")
        mounted = found[bound_inode]
        assert (mounted.name, mounted.path) == (f"netns {path}", str(path))
        for target in (held, both, lone, mounted):
            assert target.path is not None and run_child(_where, netns=target.path) == target.inode


def _enter(namespace: Namespace) -> tuple[str, str]:
    return "nsenter", f"--net={namespace.path}"


def _where() -> int:
    return inode_of(OWN)


def test_a_link_to_a_process_is_a_name(namespaces: Namespaces) -> None:
    """How a container's namespace is shown to ``ip netns``: a link in /run/netns."""
    link = Path("/run/netns", f"{namespaces.stem}-link")
    with process_in("unshare", "--net") as pid:
        link.symlink_to(f"/proc/{pid}/ns/net")
        try:
            inode = inode_of(link)
            found = {target.inode: target for target in resolve_all()}[inode]
            assert (found.name, found.pids) == (f"netns {link.name}", (pid,))
            assert resolve(f"netns:{link.name}").inode == inode
        finally:
            link.unlink()


def test_what_lies_in_the_folder_and_is_no_namespace_is_left_out(namespaces: Namespaces) -> None:
    made = [Path("/run/netns", f"{namespaces.stem}-{kind}") for kind in ("file", "uts", "dead")]
    made[0].touch()
    made[1].symlink_to("/proc/self/ns/uts")
    made[2].symlink_to("/proc/0/ns/net")
    try:
        names = {name for target in resolve_all() for name in target.names}
        assert not {f"netns {path.name}" for path in made} & names
        with pytest.raises(UsageError, match="no network namespace"):
            resolve(f"netns:{made[1].name}")
        with pytest.raises(MeshnetError, match="no network namespace") as gone:
            resolve(f"netns:{made[2].name}")
        assert gone.value.exit_code == 1
    finally:
        for path in made:
            path.unlink()


def test_every_way_to_say_it(netns: Namespace) -> None:
    inode = inode_of(netns.path)
    with process_in(*_enter(netns)) as pid:
        asked = (str(pid), f"pid:{pid}", f"netns:{netns.name}", f"netns:{netns.path}")
        for target in (*asked, netns.path, f"/proc/{pid}/ns/net"):
            found = resolve(target)
            assert (found.asked, found.inode, found.pids) == (target, inode, (pid,))
            assert found.name == f"netns {netns.name}"
            path = netns_of(target)
            assert path is not None and inode_of(path) == inode
    assert netns_of("self") is None
    assert resolve("self").inode == inode_of(OWN)
    own = resolve(str(os.getpid()))
    assert own.path is None and os.getpid() in own.pids


def test_a_thread_is_a_process_too() -> None:
    """Whoever reads a number in a trace may hold the number of a thread."""
    thread = int(os.listdir("/proc/self/task")[0])
    assert resolve(str(thread)).inode == inode_of(OWN)


def test_cgroups(namespaces: Namespaces) -> None:
    top = hierarchies()[0] / namespaces.stem
    below = top / "below"
    below.mkdir(parents=True)
    one, other = namespaces.make(), namespaces.make()
    try:
        with pytest.raises(MeshnetError, match="no process is in the cgroup"):
            resolve(f"cgroup:{top}")
        with process_in(*_enter(one)) as first, process_in(*_enter(other)) as second:
            (below / "cgroup.procs").write_text(str(first))
            for target in (f"cgroup:{top}", str(below)):
                found = resolve(target)
                assert found.inode == inode_of(one.path)
                assert found.cgroup == target.removeprefix("cgroup:")
            (top / "cgroup.procs").write_text(str(second))
            with pytest.raises(MeshnetError, match=f"2 namespaces: .*pid:{first}") as ambiguous:
                resolve(f"cgroup:{top}")
            assert ambiguous.value.exit_code == 1 and f"pid:{second}" in str(ambiguous.value)
    finally:
        below.rmdir()
        top.rmdir()
    with pytest.raises(MeshnetError, match="no cgroup at"):
        resolve(f"cgroup:{top}")
    with pytest.raises(UsageError, match="is no cgroup"):
        resolve("cgroup:/etc")


def test_a_namespace_that_disappears_while_it_is_listed(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its processes and mounts were read, and before anybody asks for its name."""
    first, second = namespaces.make(), namespaces.make()
    stays, mounts = namespaces.make(), finding._mounts
    inodes = [inode_of(n.path) for n in (first, second, stays)]
    with process_in(*_enter(second)) as pid:

        def read_then_remove() -> list[tuple[int, str]]:
            found = mounts()
            os.kill(pid, 9)
            for made in (first, second):
                subprocess.run(["ip", "netns", "del", made.name], check=True)
            return found

        with monkeypatch.context() as patched:
            patched.setattr(finding, "_mounts", read_then_remove)
            targets = {target.inode: target for target in resolve_all()}
    assert inodes[0] not in targets and inodes[2] in targets
    # Its process was seen; entering it will say that it is gone.
    assert targets[inodes[1]].path == f"/proc/{pid}/ns/net"
    with pytest.raises(MeshnetError):
        run_child(_where, netns=targets[inodes[1]].path)
    with pytest.raises(MeshnetError, match=r"no process|is gone"):
        resolve(str(pid))


NASTY = "\x1b[31m[red]\u202e"


def test_hostile_names_are_escaped_in_messages(namespaces: Namespaces, tmp_path: Path) -> None:
    program = tmp_path / NASTY
    program.symlink_to("/bin/sleep")
    cgroup = hierarchies()[0] / namespaces.stem
    cgroup.mkdir()
    sleeper = (str(program), "60")
    try:
        with (
            process_in("unshare", "--net", command=sleeper) as one,
            process_in("unshare", "--net", command=sleeper) as other,
        ):
            assert resolve(str(one)).name == f"pid {one} ({NASTY})"
            for pid in (one, other):
                (cgroup / "cgroup.procs").write_text(str(pid))
            with pytest.raises(MeshnetError) as ambiguous:
                resolve(str(cgroup))
            assert "\\x1b[31m[red]\\u202e" in str(ambiguous.value)
            assert str(ambiguous.value).isprintable()
    finally:
        cgroup.rmdir()
    for target in (f"netns:/run/{NASTY}", f"cgroup:/{NASTY}", f"/run/{NASTY}", NASTY):
        with pytest.raises(MeshnetError) as refused:
            resolve(target)
        assert str(refused.value).isprintable()


def test_others_processes_need_a_capability(netns: Namespace) -> None:
    """Exit 5, with the capability, rather than a list with holes."""
    said = run_child(_unprivileged, netns=netns.path)
    assert len(said) == 3
    for line in said:
        assert line.startswith("5 ") and "CAP_SYS_PTRACE" in line


def _unprivileged() -> list[str]:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    said = []
    for job in (resolve_all, lambda: resolve("1"), lambda: resolve("pod:x")):
        try:
            job()
        except NotPermitted as e:
            said.append(f"{e.exit_code} {e}")
    return said


def test_many_namespaces_are_found_and_no_handle_stays_open(namespaces: Namespaces) -> None:
    for _ in range(40):
        namespaces.make(up=False)
    before = len(os.listdir("/proc/self/fd"))
    found = find_namespaces()
    assert {inode_of(made.path) for made in namespaces.made} <= set(found.namespaces)
    assert len(os.listdir("/proc/self/fd")) == before
