"""Errors as people and scripts read them: on stderr, as text or as one line of JSON."""

from __future__ import annotations

import json
import sys
import textwrap
import traceback
from typing import Final

from p2phub.control.protocol import RemoteError, error_object
from p2phub.display import visible
from p2phub.errors import P2phubError

INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
BUG_EXIT_CODE: Final = 1


def show_error(error: P2phubError, as_json: bool) -> int:
    """Say what happened, what it means and what to do; the exit code."""
    shown = error_object(error)
    if isinstance(error, RemoteError):
        shown |= {
            "kind": error.remote_kind,
            "meaning": error.meaning,
            "exit_code": error.remote_exit_code,
        }
    if as_json:
        print(json.dumps({"error": shown}), file=sys.stderr)
    else:
        print(f"p2phub: {visible(shown['message'])}", file=sys.stderr)
        if shown["meaning"] != shown["message"]:
            meaning = textwrap.fill(visible(shown["meaning"]), 96)
            print(textwrap.indent(meaning, "  "), file=sys.stderr)
    return int(shown["exit_code"])


def show_bug(bug: Exception, as_json: bool) -> int:
    """Say that the fault is ours, with all that is needed to find it; the exit code."""
    trace = "".join(traceback.format_exception(bug))
    if as_json:
        facts = {"traceback": trace}
        shown = {"kind": "Bug", "message": str(bug), "exit_code": BUG_EXIT_CODE, "facts": facts}
        print(json.dumps({"error": shown}), file=sys.stderr)
    else:
        print(trace, file=sys.stderr)
        print(
            "p2phub: this is a fault of p2phub; please report it with the lines above",
            file=sys.stderr,
        )
    return BUG_EXIT_CODE
