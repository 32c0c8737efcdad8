"""One line on a terminal that says how far an operation is. Elsewhere it says only that the
operation pauses, for what, and that it goes on.
"""

from __future__ import annotations

import json
import shutil
import sys
from types import TracebackType
from typing import Final, Self

from p2phub.cli.render import duration, plural
from p2phub.control.protocol import Json
from p2phub.display import size_text, visible

STAGES: Final = {
    "resolve": "looking up the name",
    "find": "looking for peers",
    "documents": "reading the list of files",
    "scan": "reading",
    "transfer": "fetching",
    "paused": "paused",
    "complete": "checking",
    "verify": "verifying",
}
_BAR_MAX: Final = 30
_CLEAR: Final = "\r\x1b[K"


class ProgressLine:
    """Shows progress objects of the control socket; counts verified bytes only, as those do.

    as_json: a pause and its end are lines of JSON, and nothing else is shown.
    """

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._shown = not as_json and sys.stderr.isatty()
        self._pause = ""  # the kind of error that is waited for, as it was said last

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._shown:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()

    def update(self, progress: Json) -> None:
        self._tell_pause(progress)
        if not self._shown:
            return
        width = shutil.get_terminal_size().columns
        sys.stderr.write(_CLEAR + line(progress, width - 1))
        sys.stderr.flush()

    def _tell_pause(self, progress: Json) -> None:
        """Say a pause and its end once, where no line shows it or the line will be gone."""
        stage = progress.get("stage")
        pause = progress.get("pause") or {}
        kind = str(pause.get("kind")) if stage == "paused" else ""
        # Looking again begins like any fetch; only bytes say that it goes on.
        if kind == self._pause or (not kind and stage not in ("transfer", "complete")):
            return
        self._pause = kind
        if self._as_json:
            text = json.dumps({"progress": progress})
        elif kind:
            left, note = duration(float(pause.get("left_s") or 0)), visible(progress.get("note"))
            text = f"paused: {note}. It waits for {left} (see --wait-for-room); Ctrl-C ends it"
        else:
            text = "it goes on"
        sys.stderr.write(f"{_CLEAR if self._shown else ''}{text}\n")
        sys.stderr.flush()


def line(progress: Json, width: int) -> str:
    """The line for one progress object, at most `width` characters."""
    stage = STAGES.get(str(progress.get("stage")), visible(progress.get("stage")))
    done, total = int(progress.get("done_bytes") or 0), progress.get("total_bytes")
    rate, peers = float(progress.get("rate_bytes_per_s") or 0), int(progress.get("peers") or 0)
    parts = [stage]
    if isinstance(total, int) and total > 0:
        parts.append(f"{size_text(done)} of {size_text(total)}")
        parts.append(f"{min(done * 100 // total, 100)} %")
    elif done:
        parts.append(size_text(done))
    if rate >= 1:
        parts.append(f"{size_text(rate)}/s")
    if peers:
        parts.append(plural(peers, "peer"))
    if isinstance(total, int) and rate >= 1 and total > done:
        parts.append(f"{duration((total - done) / rate)} left")
    if progress.get("note"):
        parts.append(visible(progress["note"]))
    text = "  ".join(parts)
    room = min(width - len(text) - 4, _BAR_MAX)
    if isinstance(total, int) and total > 0 and room >= 10:
        filled = min(done * room // total, room)
        text = f"[{'#' * filled}{'-' * (room - filled)}]  {text}"
    return text[: max(width, 0)]
