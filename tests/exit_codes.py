"""The list of exit codes, made of the errors themselves: `make docs` writes it, a test compares."""

from __future__ import annotations

from p2phub.errors import P2phubError, all_errors, explanation
from tests.sources import ROOT

PAGE = ROOT / "cli" / "EXIT_CODES.md"

HEAD = """# Exit codes

What `p2phub` ends with, so that scripts need not read text. With `--json` the same name stands in
`error.kind`. Written by `make docs` from `p2phub/errors/`.

0 is success; 130 is Ctrl-C.

| code | kind | what happened, what it means, what to do |
|---|---|---|
"""


def errors_by_code() -> list[type[P2phubError]]:
    """Every error of the package, families and members, in the order of their codes."""
    known = [error for error in all_errors() if error.__module__.startswith("p2phub.errors.")]
    return sorted(set(known), key=lambda error: (error.exit_code, error.__name__))


def page() -> str:
    rows = []
    for error in errors_by_code():
        text = explanation(error).replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| {error.exit_code} | {error.__name__} | {text} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page())
