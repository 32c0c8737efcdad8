"""The net that catches logged faults holds: it fails what it must fail and nothing else."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, LoggedFaults


def test_a_logged_traceback_is_a_fault_until_the_test_takes_it(
    logged_faults: LoggedFaults,
) -> None:
    try:
        raise RuntimeError("a task died")
    except RuntimeError:
        logging.getLogger("p2phub.node.sessions").exception("the session ended")
    assert "a task died" in logged_faults.report()
    (record,) = logged_faults.take()
    assert record.name == "p2phub.node.sessions"
    assert not logged_faults.records


def test_a_plain_warning_is_no_fault(logged_faults: LoggedFaults) -> None:
    logging.getLogger("p2phub.node").warning("a peer went away")
    assert not logged_faults.records


def test_an_untaken_fault_fails_the_test_that_logged_it(tmp_path: Path) -> None:
    (tmp_path / "test_planted.py").write_text(
        "import logging\n"
        "def test_passes_but_logs():\n"
        "    logging.getLogger('p2phub.net').error('gone', exc_info=ValueError('why'))\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider",
         "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 1, run.stdout
    assert "ValueError: why" in run.stdout
