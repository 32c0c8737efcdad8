"""The package is typed, strictly, as it installs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from tests.sources import PACKAGE_FOLDERS, ROOT, package_modules


def lay_out_as_installed(folder: Path) -> None:
    """A tree of links in which p2phub.cli and p2phub.proto lie inside p2phub.

    Type checkers do not follow the import hook of an editable install: in the tree as it is kept
    they see a part of the package only, and report success for that part.
    """
    package = folder / "p2phub"
    package.mkdir()
    for entry in (ROOT / "p2phub").iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for top, name in PACKAGE_FOLDERS.items():
        if top != "p2phub":
            (package / name.removeprefix("p2phub.")).symlink_to(ROOT / top)


def prefer_own_types(folder: Path, library: str) -> None:
    """Puts a library first on the checker's way, before stubs that another package brings for it.

    libp2p asks for trio-typing, whose stubs are those of a trio of 2023.
    """
    found = importlib.util.find_spec(library)
    assert found is not None and found.origin is not None
    (folder / library).symlink_to(Path(found.origin).parent)


def data_folders() -> list[Path]:
    """Folders without code inside packages: the checker counts each as a package that is empty."""
    return [
        path
        for top in PACKAGE_FOLDERS
        for path in (ROOT / top).rglob("*")
        if path.is_dir() and path.name != "__pycache__" and not (path / "__init__.py").is_file()
    ]


def mypy(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"),
         "--cache-dir", str(ROOT / ".mypy_cache"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip


def test_the_whole_package_is_strictly_typed(tmp_path: Path) -> None:
    lay_out_as_installed(tmp_path)
    prefer_own_types(tmp_path, "trio")
    run = mypy(tmp_path, "-p", "p2phub")
    assert run.returncode == 0, f"\n{run.stdout}{run.stderr}"
    # A checker that sees only some of the files would be content with them.
    count = len(package_modules()) + len(data_folders())
    assert f"no issues found in {count} source files" in run.stdout


def test_a_planted_fault_is_found_in_each_folder(tmp_path: Path) -> None:
    package = tmp_path / "p2phub"
    for folder in ("core", "cli", "proto"):
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").touch()
        (package / folder / "fault.py").write_text("def f(x) -> int:\n    return 'text'\n")
    (package / "__init__.py").touch()
    run = mypy(tmp_path, "--cache-dir", str(tmp_path / "cache"), "-p", "p2phub")
    for folder in ("core", "cli", "proto"):
        assert f"p2phub/{folder}/fault.py:2: error" in run.stdout
