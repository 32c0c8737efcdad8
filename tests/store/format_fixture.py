"""A small store of today's format, kept under tests/fixtures/store for the tests of all later ones.

    python -m tests.store.format_fixture

It is made once for each format and never again: what an older p2phub wrote is what must be opened.
"""

from __future__ import annotations

import shutil

from p2phub.store.base import Release
from p2phub.store.disk import DiskStore
from p2phub.store.format import STORE_VERSION
from tests.sources import ROOT
from tests.store.sample_files import fetch, manifest_of, sample

FOLDER = ROOT / "tests" / "fixtures" / "store"
WHOLE = sample(20_000, seed=1)
PART = sample(20_000, seed=2)
SMALL = sample(900, seed=3)
MANIFEST, PAGE = manifest_of({"small": SMALL, "whole": WHOLE})
PART_CHUNKS = 8  # of PART's first segment, all that is held of it


def make() -> None:
    """Write this format's fixture. Raises FileExistsError if there is one."""
    root = FOLDER / f"v{STORE_VERSION}"
    root.mkdir(parents=True)
    store = DiskStore(root)
    store.put([MANIFEST.encode(), PAGE.encode(), SMALL.data, *PART.documents])
    fetch(store, WHOLE)
    store.finish(WHOLE.object)
    store.open_part(PART.object)
    run = PART.runs()[0]
    store.span_writer([run]).write(0, PART_CHUNKS, memoryview(PART.data)[: PART_CHUNKS * 1000])
    store.add_release(Release(MANIFEST.digest, "kept", added_s=1.0))
    store.pin(MANIFEST.digest, True)
    store.close()
    for empty in ("tmp", "quarantine"):
        shutil.rmtree(root / empty, ignore_errors=True)


if __name__ == "__main__":
    make()
