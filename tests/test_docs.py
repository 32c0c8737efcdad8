"""The documents are true: links lead somewhere, commands exist, exit codes are listed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from p2phub.errors import (
    ContentError,
    NetworkError,
    P2phubError,
    PeerError,
    StoreError,
    TrustError,
    UsageError,
    all_errors,
    explanation,
)
from tests.exit_codes import PAGE, errors_by_code, page
from tests.sources import ROOT, kept_files

FAMILIES = [UsageError, ContentError, TrustError, StoreError, NetworkError, PeerError]
DOCUMENTS = [path for path in kept_files() if path.suffix == ".md"]


def fenced_lines(text: str) -> list[str]:
    """Lines of code blocks, without prompts and comments; a line that goes on below is one line."""
    found: list[str] = []
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            found.append(line.strip().removeprefix("$ "))
    return found


def commands_in(text: str) -> list[str]:
    """The `p2phub ...` command lines of code blocks, also behind a variable or in a pipe."""
    found = []
    for line in fenced_lines(text):
        for part in re.split(r"\s[|&;]+\s", line.partition("  #")[0]):
            words = re.sub(r"^([A-Z_0-9]+=\S*\s+)+", "", part.strip())
            if words.startswith("p2phub ") and "://" not in words.split()[0]:
                found.append(words)
    return found


@cache
def help_of(*words: str) -> str:
    run = subprocess.run(
        [Path(sys.executable).parent / "p2phub", *words, "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert run.returncode == 0, f"p2phub {' '.join(words)}: {run.stderr}"
    return run.stdout


def check_command(line: str) -> None:
    """Asserts that a command line names a command that exists, and options that it has."""
    words = shlex.split(line)[1:]
    path: list[str] = []
    text = help_of()
    for word in words:
        # The program itself lists its commands by subject, not under one heading.
        if (path and "\nCommands:" not in text) or word.startswith("-"):
            break
        path.append(word)
        text = help_of(*path)
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    known = set(re.findall(r"--[a-z][a-z0-9-]*", text + help_of()))
    assert options <= known, f"{line}: no such option: {sorted(options - known)}"


COMMANDS = sorted({line for path in DOCUMENTS for line in commands_in((ROOT / path).read_text())})


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_in_the_documents_exists_with_its_options(line: str) -> None:
    check_command(line)


def test_a_command_that_does_not_exist_is_found() -> None:
    with pytest.raises(AssertionError):
        check_command("p2phub no-such-command")
    with pytest.raises(AssertionError):
        check_command("p2phub fetch name/thing --no-such-option")


def test_commands_are_found_in_code_blocks_alone() -> None:
    text = "p2phub a\n```sh\n$ P2PHUB_HOME=/x p2phub b \\\n  --c | p2phub d\n```\n`p2phub e`\n"
    assert commands_in(text) == ["p2phub b    --c", "p2phub d"]


def test_every_target_that_the_readme_names_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", (ROOT / "README.md").read_text()))
    assert named
    assert named <= targets


def test_the_readme_opens_with_the_two_commands_that_do_all_set_up() -> None:
    lines = fenced_lines((ROOT / "README.md").read_text())
    assert any(line.startswith("make demo") for line in lines)
    assert any(line.startswith("make test") for line in lines)


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_every_link_to_a_file_leads_to_one(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / path).read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        place = target.partition("#")[0]
        if place and "://" not in place and not place.startswith("mailto:"):
            assert (ROOT / path.parent / place).exists(), f"{path}: {target}"


def test_the_list_of_exit_codes_is_that_of_the_errors() -> None:
    assert PAGE.read_text() == page(), "make docs"


def test_no_two_errors_end_with_the_same_code() -> None:
    shared = {
        code: [error.__name__ for error in errors_by_code() if error.exit_code == code]
        for code, count in Counter(error.exit_code for error in errors_by_code()).items()
        if count > 1
    }
    assert not shared


def test_exit_codes_stay_clear_of_those_that_shells_use() -> None:
    """0 is success, 126 and above are the shell's own and signals'."""
    assert all(1 <= error.exit_code <= 125 for error in errors_by_code())


def test_codes_of_a_family_stand_together() -> None:
    """The family can be told from the code: no other family's codes lie between."""
    ranges = sorted(
        (min(codes), max(codes), family.__name__)
        for family in FAMILIES
        if (codes := [error.exit_code for error in all_errors(family)])
    )
    for (_, end, lower), (start, _, upper) in pairwise(ranges):
        assert end < start, f"{lower} and {upper} overlap"


@pytest.mark.parametrize("error", errors_by_code(), ids=lambda error: error.__name__)
def test_an_error_says_what_happened_and_what_to_do(error: type[P2phubError]) -> None:
    text = explanation(error)
    assert error.__doc__, f"{error.__name__} inherits its words"
    assert text.endswith("."), text
    if error is not P2phubError:
        assert len(re.findall(r"[.;:](\s|$)", text)) >= 2, f"only one thing said: {text}"


def test_every_error_belongs_to_a_family() -> None:
    stray = [
        error.__name__
        for error in errors_by_code()
        if error is not P2phubError and not issubclass(error, tuple(FAMILIES))
    ]
    assert not stray
