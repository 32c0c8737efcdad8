"""An install brings the whole package and nothing else, from locks that need no compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.sources import PACKAGE_FOLDERS, ROOT, Module, imported_names, package_modules

LOCKS = [
    "requirements-build.lock", "requirements.lock", "requirements-run.lock",
    "requirements-samples.lock",
]  # fmt: skip
IMPORTED_AS = {"protobuf": "google"}  # distributions whose import name is not their own
COMPILERS = ["cc", "gcc", "g++", "c++", "clang", "clang++", "tcc", "c89", "c99", "cpp", "rustc"]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def setuptools_map() -> dict[str, Any]:
    found: dict[str, Any] = project()["tool"]["setuptools"]
    return found


def packages_on_disk() -> list[str]:
    """Every folder with an __init__.py under the three that install, as the package it becomes."""
    found = []
    for folder, package in PACKAGE_FOLDERS.items():
        for front in (ROOT / folder).rglob("__init__.py"):
            below = front.parent.relative_to(ROOT / folder).parts
            found.append(".".join([package, *below]))
    return sorted(found)


def kept_data() -> set[str]:
    """Files beside the modules that belong into an install, as their paths in it."""
    found = set()
    for folder, package in PACKAGE_FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                below = path.relative_to(ROOT / folder)
                found.add(str(Path(*package.split("."), below)))
    return found


def run_python(*arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-I", *arguments], capture_output=True, text=True, check=False, cwd="/"
    )


def locked(lock: str) -> dict[str, list[str]]:
    """Versions by distribution; more than one where they depend on the platform."""
    found: dict[str, list[str]] = {}
    for match in re.finditer(r"^([A-Za-z0-9._-]+)==([^\s;]+)", (ROOT / lock).read_text(), re.M):
        found.setdefault(canonicalize_name(match[1]), []).append(match[2])
    return found


def test_the_list_of_packages_is_what_lies_on_disk() -> None:
    listed = setuptools_map()["packages"]
    assert sorted(listed) == packages_on_disk()
    assert len(listed) == len(set(listed))


def test_the_map_of_folders_is_the_one_that_the_tests_read() -> None:
    assert setuptools_map()["package-dir"] == {
        package: folder for folder, package in PACKAGE_FOLDERS.items()
    }


def test_every_folder_of_sources_is_a_package() -> None:
    """A folder without __init__.py works where it lies and is missing from an install."""
    stray = {
        str(path.parent.relative_to(ROOT))
        for folder in PACKAGE_FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if not (path.parent / "__init__.py").is_file()
    }
    assert not stray


@pytest.mark.parametrize("name", ["cli", "proto"])
def test_an_install_makes_no_global_name(name: str) -> None:
    run = run_python("-c", f"import {name}")
    assert f"No module named '{name}'" in run.stderr, (
        f"{name} is importable: {run.stdout}{run.stderr}"
    )


def test_an_install_makes_the_package_with_its_two_folders_from_elsewhere() -> None:
    run = run_python("-c", "import p2phub, p2phub.cli, p2phub.proto; print(p2phub.proto.__file__)")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(ROOT / "proto" / "__init__.py")


def test_what_the_package_imports_it_also_asks_for() -> None:
    """A package that only comes with another one goes when that one drops it."""
    stray = [
        f"{module.at(node)}: {name}"
        for module in package_modules()
        for node, name in imported_names(module)
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "p2phub", *asked_by(module)}
    ]
    assert not stray, f"imported, but not in pyproject.toml: {stray}"


def asked_by(module: Module) -> set[str]:
    """What a module may import: the dependencies; in the demonstration, those of its extra too."""
    lines = list(project()["project"]["dependencies"])
    if module.name.startswith("p2phub.cli.demo"):
        lines += project()["project"]["optional-dependencies"]["demo"]
    names = [Requirement(line).name for line in lines]
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


def test_what_the_project_asks_for_it_also_imports() -> None:
    """What is not used is still downloaded, updated and trusted by everybody."""
    imported = {
        name.partition(".")[0] for module in package_modules() for _, name in imported_names(module)
    }
    extra = project()["project"]["optional-dependencies"]["demo"]
    for line in [*project()["project"]["dependencies"], *extra]:
        name = Requirement(line).name
        assert IMPORTED_AS.get(name, name.replace("-", "_")) in imported, f"{name} is not used"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_versions_and_digests_and_no_place(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-(-index-url|-extra-index-url|-find-links|i|f)\b", text, re.M)
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.M)[1:]
    assert blocks
    for block in blocks:
        assert "==" in block, block
        assert "--hash=sha256:" in block, block


def test_the_lock_holds_every_dependency_in_a_version_that_is_allowed() -> None:
    versions = locked("requirements.lock")
    lines = list(project()["project"]["dependencies"])
    for extra in project()["project"]["optional-dependencies"].values():
        lines += extra
    for line in lines:
        requirement = Requirement(line)
        if requirement.name == "p2phub":
            continue
        found = versions.get(canonicalize_name(requirement.name))
        assert found, f"{requirement.name} is not locked: make lock"
        for version in found:
            assert requirement.specifier.contains(version, prereleases=True), (
                f"{requirement.name} {version} is locked, {requirement.specifier} asked: make lock"
            )


def test_what_is_installed_is_what_was_tested_and_no_tool_of_development() -> None:
    installed, tested = locked("requirements-run.lock"), locked("requirements.lock")
    assert installed.items() <= tested.items(), "make lock"
    for line in project()["project"]["dependencies"]:
        assert canonicalize_name(Requirement(line).name) in installed, f"{line}: make lock"
    assert not installed.keys() & {"pytest", "mypy", "ruff", "pyarrow"}


def test_libp2p_is_pinned_to_the_version_whose_faults_are_cured() -> None:
    assert "libp2p==0.8.1" in project()["project"]["dependencies"]
    assert locked("requirements.lock")["libp2p"] == ["0.8.1"]


def test_the_environment_holds_what_the_lock_says_and_one_known_conflict() -> None:
    """libp2p asks for a fastecdsa without wheels and never uses what differs."""
    run = run_python("-m", "pip", "--disable-pip-version-check", "check")
    complaints = [line for line in run.stdout.splitlines() if line]
    if run.returncode == 0:
        return  # a platform on which libp2p does not ask for it
    assert len(complaints) == 1, run.stdout
    assert complaints[0].startswith("libp2p 0.8.1 has requirement fastecdsa==2.3.2")


def test_a_wheel_holds_every_module_and_data_file(tmp_path: Path) -> None:
    """Packages missing from the list work where they lie, and are missing only here."""
    source = tmp_path / "source"
    source.mkdir()
    for folder in PACKAGE_FOLDERS:
        shutil.copytree(
            ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = run_python(
        "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-deps", "--no-index",
        "--no-build-isolation", "-w", str(tmp_path / "wheel"), str(source),
    )  # fmt: skip
    assert build.returncode == 0, build.stderr
    (wheel,) = (tmp_path / "wheel").glob("p2phub-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    modules = {
        str(Path(*package.split("."), path.relative_to(ROOT / folder)))
        for folder, package in PACKAGE_FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    assert names == modules | kept_data()
    assert metadata


@pytest.fixture
def bare_environment(tmp_path: Path) -> dict[str, str]:
    """An empty home, and every program of this machine but compilers."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for folder in os.environ["PATH"].split(os.pathsep):
        for program in Path(folder).glob("*") if Path(folder).is_dir() else ():
            compiles = any(re.search(rf"(^|-){re.escape(c)}(-[\d.]+)?$", program.name)
                           for c in COMPILERS)  # fmt: skip
            link = programs / program.name
            if not compiles and not link.is_symlink():
                link.symlink_to(program)
    for compiler in COMPILERS:
        assert shutil.which(compiler, path=str(programs)) is None
    home = tmp_path / "home"
    home.mkdir()
    # What this machine needs to reach its package registry stays, whatever it is.
    kept = {key: value for key, value in os.environ.items()
            if key.startswith("PIP_") or key.lower().endswith("_proxy")}  # fmt: skip
    return {"HOME": str(home), "PATH": str(programs), **kept}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What is committed, and nothing else."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    return tmp_path / "clone"


def run_within(
    environment: dict[str, str], folder: Path, *words: str | Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


@pytest.mark.long
def test_a_fresh_clone_sets_itself_up_without_a_compiler(
    clone: Path, bare_environment: dict[str, str]
) -> None:
    words = ["make", f"PYTHON={base_python()}", "setup"]
    setup = run_within(bare_environment, clone, *words)
    assert setup.returncode == 0, setup.stdout + setup.stderr
    answer = run_within(bare_environment, clone, clone / ".venv" / "bin" / "p2phub", "--help")
    assert answer.returncode == 0, answer.stderr
    again = run_within(bare_environment, clone, *words)
    assert again.returncode == 0, again.stderr
    assert "pip" not in again.stdout, "setup does its work twice"


@pytest.mark.long
def test_the_installed_command_needs_neither_the_clone_nor_a_compiler(
    clone: Path, bare_environment: dict[str, str], tmp_path: Path
) -> None:
    make = ["make", f"PYTHON={base_python()}", f"PREFIX={tmp_path / 'prefix'}"]
    install = run_within(bare_environment, clone, *make, "install")
    assert install.returncode == 0, install.stdout + install.stderr
    clone.rename(tmp_path / "elsewhere")
    command = tmp_path / "prefix" / "bin" / "p2phub"
    answer = run_within(bare_environment, tmp_path, command, "key", "ls", "--json")
    assert answer.returncode == 0, answer.stderr
    uninstall = run_within(bare_environment, tmp_path / "elsewhere", *make, "uninstall")
    assert uninstall.returncode == 0, uninstall.stderr
    assert not list(tmp_path.glob("prefix/*/*"))


def base_python() -> str:
    """The interpreter that this environment was made from."""
    return str(Path(sys.base_prefix) / "bin" / "python3")
