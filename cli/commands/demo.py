"""`p2phub demo`."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click

from p2phub.cli.options import Invocation, common, invocation
from p2phub.cli.render import note, out, out_json, table
from p2phub.errors import UsageError


@click.command()
@click.option("--keep", metavar="DIR", help="Work here, in a new folder, and leave everything.")
@common
@invocation
def demo(run: Invocation, keep: str | None) -> int:
    """See all of it work on this machine: real daemons, a real model, a real dataset.

    Publishes, signs, finds, fetches from two peers while one is killed, updates, and reads the
    result with the Hugging Face libraries. Ends with a table, and with exit code 1 if anything was
    not as it must be.
    """
    try:
        from p2phub.cli.demo import run_demo, seconds_text
    except ModuleNotFoundError as missing:
        raise UsageError(
            f"the demonstration needs {missing.name}: install p2phub[demo], or use `make demo`"
        ) from None
    if keep is not None:
        folder = Path(keep).expanduser().absolute()
        folder.mkdir(parents=True)
        rows, wrong = run_demo(folder)
    else:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="p2phub-demo-", ignore_cleanup_errors=True) as name:
            rows, wrong = run_demo(Path(name))
        note(f"\n{time.monotonic() - started:.0f} s in all; everything was removed again")
    if run.json:
        shown = [{"step": row.step, "seen": list(row.seen), "seconds": row.seconds} for row in rows]
        out_json({"steps": shown, "failed": wrong})
    else:
        lines = []
        for row in rows:
            first, *others = row.seen or ("",)
            lines += [(row.step, first, seconds_text(row)), *(("", line, "") for line in others)]
        out("\n" + table(lines, ("step", "seen", "time"), (2,)))
    if wrong is not None:
        note(f"\np2phub: the demonstration failed: {wrong}")
        return 1
    return 0
