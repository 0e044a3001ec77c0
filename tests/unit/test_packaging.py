"""A wheel holds all that meshnet needs: no git, no checkout, no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "meshnet", "scripts")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of the sources that is no git repository."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, source / name, ignore=ignore)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-index"]
    pip += ["--no-deps", "--no-build-isolation", "--wheel-dir", str(place), str(source)]
    subprocess.run(pip, check=True, capture_output=True, cwd=place)
    (built,) = place.glob("meshnet-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the wheel is installed into; console scripts are in its bin."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-index"]
    pip += ["--no-deps", "--no-compile", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, cwd=target)
    return target


def run_installed(installed: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run ``argv`` from outside the checkout, with the installed meshnet before all others."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), "HOME": "/nonexistent"}
    return subprocess.run(
        argv, capture_output=True, text=True, env=env, cwd=installed, check=False, timeout=60
    )


def test_the_wheel_holds_every_module_and_the_license(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "meshnet").rglob("*.py")
        if (path.parent / "__init__.py").exists()
    }
    assert modules
    assert modules <= held
    assert any(name.endswith("LICENSE") for name in held)
    assert not any(name.startswith("tests/") for name in held)


def test_it_is_this_meshnet_that_is_imported(installed: Path) -> None:
    code = "import meshnet; print(meshnet.__file__, meshnet.__version__)"
    done = run_installed(installed, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    place, version = done.stdout.split()
    assert Path(place) == installed / "meshnet" / "__init__.py"
    assert version == "0.1.0"


def test_importing_it_loads_nothing_heavy(installed: Path) -> None:
    code = (
        "import sys, meshnet; print(*sorted({'rich', 'pyroute2', 'iptc', 'click', 'yaml', 'z3'}"
        " & sys.modules.keys()))"
    )
    done = run_installed(installed, sys.executable, "-c", code)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


@pytest.mark.parametrize("command", ["meshnet", "meshnet-init"])
def test_its_commands_tell_their_use(installed: Path, command: str) -> None:
    script = installed / "bin" / command
    done = run_installed(installed, sys.executable, str(script), "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout or "usage" in done.stdout
    assert done.stderr == ""
