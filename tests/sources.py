"""The project's own sources as data, for the tests on architecture, tidiness and packaging."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Folders at the top and the package each installs as; the same map as pyproject.toml's package-dir.
PACKAGE_FOLDERS = {"p2phub": "p2phub", "cli": "p2phub.cli", "proto": "p2phub.proto"}


@dataclass(frozen=True)
class Module:
    """One Python source: its full name, where it lies from the root, its text."""

    name: str
    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    def nodes(self) -> Iterator[ast.AST]:
        return ast.walk(self.tree)

    def at(self, node: ast.AST) -> str:
        """Where a node stands, as editors want it."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}"


def planted(name: str, text: str) -> Module:
    """A module that exists only as text: a fault for a rule to find."""
    return Module(name, f"planted/{name}", text)


def module_name(path: Path) -> str:
    """The full name of the module in a file, given from the root."""
    parts = list(path.with_suffix("").parts)
    package = PACKAGE_FOLDERS.get(parts[0], parts[0])
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join([package, *parts[1:]])


def modules_in(folder: str) -> tuple[Module, ...]:
    return tuple(
        Module(module_name(path.relative_to(ROOT)), str(path.relative_to(ROOT)), path.read_text())
        for path in sorted((ROOT / folder).rglob("*.py"))
    )


@cache
def package_modules() -> tuple[Module, ...]:
    """Everything that an install brings, under the names it installs as."""
    return tuple(module for folder in PACKAGE_FOLDERS for module in modules_in(folder))


@cache
def kept_files() -> tuple[Path, ...]:
    """Files that git tracks or would track, from the root, less those that were deleted."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = sorted({name for name in listing.stdout.decode().split("\0") if name})
    return tuple(Path(name) for name in names if (ROOT / name).is_file())


def imported_names(module: Module) -> Iterator[tuple[ast.AST, str]]:
    """Every name a module imports anywhere in it, in functions and for type checkers too.

    `from a.b import c` gives a.b.c, whether c is a module or not: rules compare prefixes.
    """
    for node in module.nodes():
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            for alias in node.names:
                yield node, f"{node.module}.{alias.name}"


def is_within(name: str, package: str) -> bool:
    """Whether a dotted name is a package or something in it."""
    return name == package or name.startswith(package + ".")
