"""A fresh clone can be installed: the locks, the Makefile and the files at the top agree with pyproject.toml."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
LOCKS = ("constraints.txt", "constraints-dev.txt")


@dataclass(frozen=True, slots=True)
class Pin:
    """One locked version: `name==version`, the marker under which it holds, and the digests of its files."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]


def entries(lock: str) -> list[str]:
    """The lock's entries, each with its continued lines joined."""
    joined = (ROOT / lock).read_text().replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def pins(lock: str) -> set[Pin]:
    found = set()
    for entry in entries(lock):
        requirement = Requirement(entry.partition(" --hash")[0])
        (specifier,) = requirement.specifier
        hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
        name = canonicalize_name(requirement.name)
        found.add(Pin(name, specifier.version, str(requirement.marker or ""), hashes))
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_one_version_and_its_hashes(lock: str):
    entry = re.compile(r"[a-z0-9._-]+==[\w.!+-]+(\[[\w,]+\])?( ; [^#@]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*")
    assert [line[:60] for line in entries(lock) if not entry.fullmatch(line)] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_place_to_download_from(lock: str):
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert re.findall(r"^-\S+", text, re.MULTILINE) == []


@pytest.mark.parametrize(
    ("lock", "requirement"),
    [
        *(("constraints.txt", each) for each in [*PROJECT["dependencies"], *EXTRAS["build"]]),
        *(("constraints-dev.txt", each) for each in EXTRAS["dev"] if not each.startswith("promptjobs[")),
    ],
)
def test_direct_dependency_is_locked_at_versions_it_allows(lock: str, requirement: str):
    wanted = Requirement(requirement)
    locked = [pin.version for pin in pins(lock) if pin.name == canonicalize_name(wanted.name)]
    assert locked, f"{wanted.name} is not in {lock}: run `make lock`"
    assert [version for version in locked if version not in wanted.specifier] == []


def test_build_requirements_are_locked_because_builds_are_not_isolated():
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert set(required) <= set(EXTRAS["build"])


def test_development_lock_contains_the_runtime_lock():
    assert pins("constraints.txt") - pins("constraints-dev.txt") == set()


@pytest.mark.parametrize(
    "name",
    [
        *("pyproject.toml", *LOCKS, "Makefile", "Dockerfile", "docker-compose.yml", "alembic.ini", ".ci/run"),
        *("README.md", "CONTRIBUTING.md", "LICENSE", "src", "migrations", "tests", "configs", "docs", "benchmarks"),
    ],
)
def test_repository_has(name: str):
    path = ROOT / name
    assert any(path.iterdir()) if path.is_dir() else path.stat().st_size > 0


def test_continuous_integration_script_can_be_executed():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


# The literals are cut in two so that this file does not find itself.
FOREIGN = re.compile(
    "|".join(
        [
            r"pypi\.org" + "/simple",
            r"files\." + "pythonhosted",
            r"index-url[ =]+\S+" + "://",
            r"(?<![\w.})-])/(?:work|root|Users)" + "/",
        ]
    )
)


def repository_files() -> Iterator[Path]:
    """What is or could be committed: tracked files and those that no ignore rule covers."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    yield from (path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())


def test_no_file_names_a_package_index_or_a_path_of_one_machine():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in repository_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if (match := FOREIGN.search(line))
    ]
    assert found == []


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in the repository, apart from any make that runs these tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    program = shutil.which("make")
    assert program, "the tests need make"
    return subprocess.run([program, "-C", str(ROOT), *arguments], capture_output=True, text=True, env=environment)


def targets() -> list[str]:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return phony.split()


def test_make_alone_explains_every_target():
    listed = make()
    assert listed.returncode == 0
    assert re.findall(r"^  ([a-z-]+) +\S", listed.stdout, re.MULTILINE) == targets()


def fresh(tmp_path: Path, *stamps: str) -> str:
    """A stand-in for an installed environment: an interpreter, and the stamps of finished installations."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    for name in stamps:
        (venv / name).touch()
    return f"VENV={venv}"


def stamp(kind: str, tmp_path: Path) -> str:
    """The name of the stamp that an installation of this kind would leave now."""
    planned = make("--dry-run", kind, f"VENV={tmp_path / 'nowhere'}").stdout
    (name,) = re.findall(r"^touch .*/(\S+)$", planned, re.MULTILINE)
    return name


def test_environment_is_installed_once_for_each_lock(tmp_path: Path):
    done = stamp("install", tmp_path)
    assert make("--question", "install", fresh(tmp_path / "same", done)).returncode == 0
    assert make("--question", "install", fresh(tmp_path / "older", done + "0")).returncode == 1


def test_development_environment_serves_as_the_runtime_too_but_not_the_other_way(tmp_path: Path):
    runtime, development = stamp("install", tmp_path), stamp("install-dev", tmp_path)
    assert make("--question", "install", fresh(tmp_path / "development", development)).returncode == 0
    assert make("--question", "install-dev", fresh(tmp_path / "runtime", runtime)).returncode == 1


def test_an_older_python_is_refused_with_the_version_that_is_needed(tmp_path: Path):
    older = tmp_path / "python3.9"
    older.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c 'import sys; sys.version_info = (3, 9, 1); exec(sys.argv[2])' \"$@\"\n"
    )
    older.chmod(0o755)
    refused = make("install", f"PYTHON={older}", f"VENV={tmp_path / 'venv'}")
    assert refused.returncode != 0
    assert f"promptjobs needs Python 3.11 or newer, but {older} is 3.9." in refused.stderr
    assert not (tmp_path / "venv").exists()


def test_cleaning_removes_nothing_but_a_virtual_environment(tmp_path: Path):
    planned = make("--dry-run", "clean", f"VENV={tmp_path}").stdout
    (guarded,) = [line for line in planned.splitlines() if str(tmp_path) in line]
    (tmp_path / "precious").touch()
    subprocess.run(["sh", "-c", guarded], check=True)
    assert (tmp_path / "precious").exists()
    (tmp_path / "pyvenv.cfg").touch()
    subprocess.run(["sh", "-c", guarded], check=True)
    assert not tmp_path.exists()
