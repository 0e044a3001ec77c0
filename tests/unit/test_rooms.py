"""The rooms of meshnet: who imports whom, how long things may be, and what a start loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshnet.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "meshnet"
FILES = sorted(PACKAGE.rglob("*.py"))
#: From the ground up: a module imports from its own room and from rooms before it.
ROOMS = ("errors", "model", "compile", "dialects", "reason", "host", "backends", "ops", "lab")
#: What a room may import where that is not "all before it".
ALLOWED = {room: frozenset(ROOMS[: ROOMS.index(room) + 1]) for room in ROOMS}
ALLOWED["render"] = frozenset({"errors", "model", "render"})
ALLOWED["cli"] = frozenset({*ROOMS, "render", "cli"})
#: What touches the machine, by module; os itself is everywhere, these names of it are not.
KERNEL = frozenset({"ctypes", "_ctypes", "socket", "_socket", "subprocess", "_posixsubprocess"})
KERNEL |= {"fcntl", "multiprocessing", "pyroute2", "iptc", "bcc"}
KERNEL_OF_OS = frozenset({"fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen"})
KERNEL_OF_OS |= {"setns", "unshare", "kill", "execv", "execve", "execvp", "execvpe"}
MAY_TOUCH = frozenset({"host", "backends"})
#: Who else imports such a module, and why that is right.
EXCEPTIONS = {
    ("model/address.py", "_socket"): "inet_pton and inet_ntop, which are pure",
    ("lab/processes.py", "subprocess"): "the lab's own servers and Envoys are started here",
    ("lab/demo.py", "subprocess"): "it names a type of what lab/processes.py gives",
    ("lab/leftovers.py", "pyroute2"): "the lab's own namespaces are removed here",
    ("lab/topology.py", "pyroute2"): "the lab's own namespaces and links are made here",
}
HEAVY = ("pyroute2", "iptc", "rich", "z3", "bcc", "yaml")
LONGEST_FILE = 400
LONGEST_FUNCTION = 60


def name_of(path: Path) -> str:
    """A file as the messages name it: ``model/spec.py``."""
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    """The room that a file lies in; "" for the package's own ``__init__``."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py") if parts != ("__init__.py",) else ""


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, wherever in it, with the line."""
    package = ["meshnet", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "__import__")
        ):
            found = node.args[0] if node.args else None
            if isinstance(found, ast.Constant):
                yield node.lineno, found.value
            elif name_of(path) == "cli/main.py":
                # A command is loaded by the name that stands in the table of commands.
                yield from ((node.lineno, module) for module, _ in COMMANDS.values())
            else:
                yield node.lineno, "?"


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 30
    assert {room_of(path) for path in FILES} >= {"errors", "model", "compile", "cli", "render"}


def test_every_file_lies_in_a_room() -> None:
    assert {room_of(path) for path in FILES} - {""} <= set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    allowed = ALLOWED[room] if room else frozenset()
    known = {*ALLOWED}
    wrong = []
    for line, module in imports_of(path):
        parts = module.split(".")
        if parts[0] == "meshnet" and len(parts) > 1 and parts[1] in known - allowed:
            wrong.append(f"{name_of(path)}:{line} imports {module}: {room or 'the root'} may not")
        assert module != "?", f"{name_of(path)}:{line} imports what no reader can see"
    assert not wrong, "\n".join(sorted(set(wrong)))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_host_and_backends_touch_the_machine(path: Path) -> None:
    if room_of(path) in MAY_TOUCH:
        return
    wrong = [
        f"{name_of(path)}:{line} imports {module}"
        for line, module in imports_of(path)
        if (top := module.split(".")[0]) in KERNEL and (name_of(path), top) not in EXCEPTIONS
    ]
    for node in ast.walk(ast.parse(path.read_text())):
        name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if name.startswith("os.") and name[3:] in KERNEL_OF_OS and room_of(path) != "lab":
            wrong.append(f"{name_of(path)}:{node.lineno} uses {name}")
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_no_exception_outlives_its_reason() -> None:
    held = {
        (name_of(path), module.split(".")[0]) for path in FILES for _, module in imports_of(path)
    }
    assert set(EXCEPTIONS) <= held


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_can_be_read_at_once(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE, f"{name_of(path)} is too long"
    long = [
        f"{name_of(path)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not long, "\n".join(long)


def test_no_file_is_a_drawer() -> None:
    drawers = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}
    assert not [name_of(path) for path in FILES if path.name in drawers]


def run_child(code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh Python that finds this checkout first."""
    argv = [sys.executable, "-c", code]
    return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)


#: What a machine that is not Linux, or a bare Python, does not have.
ELSEWHERE = """
import os, sys
for name in ('memfd_create', 'posix_spawn', 'posix_spawnp', 'pidfd_open', 'setns', 'unshare',
             'sched_getaffinity', 'eventfd', 'splice', 'O_CLOEXEC', 'POSIX_SPAWN_DUP2',
             'CLONE_NEWNET', 'waitstatus_to_exitcode', 'geteuid', 'fork'):
    if hasattr(os, name):
        delattr(os, name)
for name in ('fcntl', 'grp', 'pwd', 'pyroute2', 'iptc', 'rich', 'z3', 'bcc', 'yaml'):
    sys.modules[name] = None
sys.platform = {platform!r}
"""
#: Runs a command in process, and prints what it loaded.
LOADED = f"""
import sys
try:
    {{call}}
except SystemExit as e:
    assert not e.code, e.code
print('loaded:', *sorted(set({HEAVY!r}) & {{{{k for k, v in sys.modules.items() if v}}}}))
"""
CALLS = {
    "import meshnet": "import meshnet",
    "meshnet --help": ("from meshnet.cli.main import main; main(['--help'], prog_name='meshnet')"),
    "meshnet-init --help": "from meshnet.cli.init import main; main(['--help'])",
    "meshnet init --help": (
        "from meshnet.cli.main import main; main(['init', '--help'], prog_name='meshnet')"
    ),
    "meshnet-init --version": "from meshnet.cli.init import main; main(['--version'])",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_start_loads_nothing_heavy(name: str) -> None:
    done = run_child(LOADED.format(call=CALLS[name]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"
    assert done.stderr == ""


@pytest.mark.parametrize("platform", ["darwin", "freebsd14"])
@pytest.mark.parametrize("name", CALLS)
def test_help_works_on_a_machine_that_is_not_linux(name: str, platform: str) -> None:
    code = ELSEWHERE.format(platform=platform) + LOADED.format(call=CALLS[name])
    done = run_child(code)
    assert done.returncode == 0, done.stderr
    if "--help" in name:
        assert "usage" in done.stdout.lower()
    assert done.stderr == ""


PURE = [p for p in FILES if room_of(p) in ("errors", "model", "compile", "dialects", "render")]


def test_the_pure_rooms_load_on_any_machine() -> None:
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in PURE]
    names = [m.removesuffix(".__init__") for m in modules]
    # rich is pure Python and a dependency; render/ is what it is there for.
    elsewhere = ELSEWHERE.format(platform="darwin").replace("'rich', ", "")
    done = run_child(f"{elsewhere}import {', '.join(names)}")
    assert done.returncode == 0, done.stderr
