"""Every kept file is tidy: short lines and modules, clean ends, honest names, no machine's address.

Each rule takes a file's name and text and gives its faults, and is also shown a planted one.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.sources import ROOT, kept_files

Rule = Callable[[Path, str], list[str]]

COLUMNS_MAX = 100
MODULE_LINES_MAX = 500
LISTS = {"proto/limits.py"}  # read by looking up, not from top to end
CODE = {".py", ".sh", ".toml"}
CODE_NAMES = {"Makefile", "run"}
VAGUE = ["Manager", "Handler", "Helper", "Util"]
VAGUE_FILES = {"utils.py", "util.py", "common.py", "helpers.py", "helper.py", "misc.py"}

# Written in pieces, or this file would break its own rules.
DEFERRALS = ["TO" + "DO", "FIX" + "ME", "XX" + "X"]
REGISTRY_HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "npmjs" + ".org",
    "npmjs" + ".com",
    "proxy.golang" + ".org",
    "repo.maven" + ".apache.org",
    "deb." + "debian.org",
]
MACHINE_FOLDERS = ["work", "root", "tmp", "farm"]
MACHINE_PATHS = [re.compile(r"(?<![\w.~$})-])/" + top + r"/\w") for top in MACHINE_FOLDERS]
MACHINE_PATHS += [re.compile(r"(?<![\w.~$})-])/home/(?!user\b|you\b|alice\b|bob\b)\w")]
MAKING_OF = ["shared/" + "research", "DESIGN" + ".md", "/tmp/" + "brief", "PARTS" + ".md"]


def lines(text: str) -> list[tuple[int, str]]:
    return list(enumerate(text.splitlines(), 1))


def is_code(path: Path) -> bool:
    return path.suffix in CODE or path.name in CODE_NAMES


def long_lines(path: Path, text: str) -> list[str]:
    """Lines of code that do not fit the page. Documents have tables, and locks have hashes."""
    if not is_code(path):
        return []
    return [
        f"{path}:{number}: {len(line)} columns"
        for number, line in lines(text)
        if len(line) > COLUMNS_MAX
    ]


def long_modules(path: Path, text: str) -> list[str]:
    count = text.count("\n")
    is_read_whole = path.suffix == ".py" and str(path) not in LISTS
    too_long = is_read_whole and count > MODULE_LINES_MAX
    return [f"{path}: {count} lines; split it by concept"] if too_long else []


def untidy_ends(path: Path, text: str) -> list[str]:
    """Carriage returns, blanks at line ends, tabs in Python, a last line without its end."""
    faults = []
    if "\r" in text:
        faults.append(f"{path}: carriage returns")
    if text and not text.endswith("\n"):
        faults.append(f"{path}: the last line has no end")
    if text.endswith("\n\n"):
        faults.append(f"{path}: blank lines at the end")
    for number, line in lines(text):
        if line != line.rstrip():
            faults.append(f"{path}:{number}: blanks at the end of the line")
        if path.suffix == ".py" and "\t" in line:
            faults.append(f"{path}:{number}: tab")
    return faults


def deferred_work(path: Path, text: str) -> list[str]:
    """Work put off without the condition that it waits for, in brackets after the word."""
    word = re.compile(rf"\b({'|'.join(DEFERRALS)})\b(?!\([^)]+\))")
    return [
        f"{path}:{number}: put off without a condition"
        for number, line in lines(text)
        if word.search(line)
    ]


def foreign_addresses(path: Path, text: str) -> list[str]:
    """Hosts of package registries, paths of one machine, papers that are not in this tree."""
    faults = []
    for number, line in lines(text):
        faults += [f"{path}:{number}: {host}" for host in REGISTRY_HOSTS if host in line]
        faults += [f"{path}:{number}: {name}" for name in MAKING_OF if name in line]
        faults += [
            f"{path}:{number}: a path of one machine: {match.group()}"
            for pattern in MACHINE_PATHS
            if (match := pattern.search(line))
        ]
    return faults


def vague_names(path: Path, text: str) -> list[str]:
    """Classes and files whose names say that they have no job yet."""
    if path.suffix != ".py":
        return []
    faults = [f"{path}: a file is named for its concept"] if path.name in VAGUE_FILES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            vague = [word for word in VAGUE if word in node.name]
            faults += [f"{path}:{node.lineno}: {node.name} says {word}" for word in vague]
    return faults


def absent_docstrings(path: Path, text: str) -> list[str]:
    """Modules that do not say what they are."""
    if path.suffix != ".py" or not text.strip():
        return []
    return [] if ast.get_docstring(ast.parse(text)) else [f"{path}: no docstring"]


def doubles(path: Path, text: str) -> list[str]:
    """Mocks and patches in tests: real parts and shipped fakes stand in for nothing else."""
    if path.suffix != ".py":
        return []
    faults = []
    for node in ast.walk(ast.parse(text)):
        name = ""
        if isinstance(node, ast.ImportFrom):
            name = node.module or ""
        elif isinstance(node, ast.Import):
            name = node.names[0].name
        if name in ("unittest.mock", "mock", "pytest_mock"):
            faults.append(f"{path}:{node.lineno}: {name}")
    return faults


RULES: list[Rule] = [
    long_lines,
    long_modules,
    untidy_ends,
    deferred_work,
    foreign_addresses,
    vague_names,
    absent_docstrings,
    doubles,
]


@cache
def texts() -> tuple[tuple[Path, str], ...]:
    """Every kept text file. The licence is kept as it was given; binary files have no lines."""
    found = []
    for path in kept_files():
        data = (ROOT / path).read_bytes()
        if path.name != "LICENSE" and b"\0" not in data:
            found.append((path, data.decode()))
    return tuple(found)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_has_no(rule: Rule) -> None:
    faults = [fault for path, text in texts() for fault in rule(path, text)]
    assert not faults, "\n" + "\n".join(faults)


def test_the_linter_finds_nothing() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, f"\n{run.stdout}{run.stderr}"


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (long_lines, "a.py", "x" * (COLUMNS_MAX + 1)),
        (long_modules, "a.py", "\n" * (MODULE_LINES_MAX + 1)),
        (untidy_ends, "a.md", "x"),
        (untidy_ends, "a.md", "x\n\n"),
        (untidy_ends, "a.md", "x \n"),
        (untidy_ends, "a.md", "x\r\n"),
        (untidy_ends, "a.py", "\tx\n"),
        (deferred_work, "a.py", f"# {DEFERRALS[0]}: later"),
        (deferred_work, "a.py", f"# {DEFERRALS[1]}"),
        (foreign_addresses, "a.md", f"https://{REGISTRY_HOSTS[0]}/x"),
        (foreign_addresses, "a.lock", f"https://files.{REGISTRY_HOSTS[1]}/x"),
        (foreign_addresses, "a.py", "open('" + "/wo" + "rk/main')"),
        (foreign_addresses, "a.md", "see " + "/ho" + "me/someone/x"),
        (foreign_addresses, "a.md", MAKING_OF[1]),
        (vague_names, "a.py", "class PeerManager: pass"),
        (vague_names, "a.py", "class Outer:\n    class PathUtils: pass"),
        (vague_names, "store/utils.py", "x = 1"),
        (absent_docstrings, "a.py", "x = 1"),
        (doubles, "a.py", "from unittest.mock import patch"),
    ],
)
def test_a_planted_fault_is_found(rule: Rule, name: str, text: str) -> None:
    assert rule(Path(name), text)


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (long_lines, "a.py", "x" * COLUMNS_MAX),
        (long_lines, "a.md", "x" * 200),
        (untidy_ends, "a.py", ""),
        (untidy_ends, "a.py", "x\n"),
        (deferred_work, "a.py", f"# {DEFERRALS[0]}(libp2p 0.9): drop the cure"),
        *[
            (foreign_addresses, "a.md", f"`{above}/{top}/x`")
            for above in ("~", ".", "$HOME")
            for top in MACHINE_FOLDERS
        ],
        (foreign_addresses, "a.md", "/home/alice/models"),
        (vague_names, "a.py", "class Handled: pass"),
    ],
)
def test_a_sound_line_is_not_a_fault(rule: Rule, name: str, text: str) -> None:
    assert not rule(Path(name), text)
