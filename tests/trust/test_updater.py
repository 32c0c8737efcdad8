"""What is borrowed from tuf's inside, pinned: a tuf in which it moved must fail here first."""

from __future__ import annotations

import inspect
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api import exceptions
from tuf.ngclient import Updater
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from p2phub.errors import (
    MetadataExpired,
    MetadataIncomplete,
    NoProvider,
    RollbackRefused,
    TamperedMetadata,
    WrongSigner,
)
from p2phub.trust.updater import DurableUpdater, tuf_errors
from tests.trust.builders import DAY, NOW, Publisher, content_of


def test_tuf_still_has_what_is_borrowed() -> None:
    assert list(inspect.signature(Updater._persist_file).parameters) == ["self", "filename", "data"]
    assert list(inspect.signature(Updater._load_targets).parameters) == [
        "self", "role", "parent_role",
    ]  # fmt: skip
    for method in (Updater._persist_metadata, Updater._persist_root):
        assert "_persist_file" in method.__code__.co_names
    source = inspect.getsource(TrustedMetadataSet)
    assert "self.reference_time = " in source
    # The only times tuf looks at the clock.
    assert source.count("datetime.now") == 1


def updater(publisher: Publisher, folder: Path) -> DurableUpdater:
    files = publisher.files()
    return DurableUpdater(folder, files.get, files["1.root.json"], NOW)


def test_every_file_is_written_by_our_durable_writer(publisher: Publisher, tmp_path: Path) -> None:
    class Watched(DurableUpdater):
        def _persist_file(self, filename: str, data: bytes) -> None:
            written.append(Path(filename).name)
            super()._persist_file(filename, data)

    written: list[str] = []
    files = publisher.files()
    Watched(tmp_path / "view", files.get, files["1.root.json"], NOW).refresh()
    assert written == ["1.root.json", "timestamp.json", "snapshot.json", "targets.json"]
    on_disk = {path.name for path in (tmp_path / "view").rglob("*.json") if not path.is_symlink()}
    assert on_disk == set(written)


def test_a_file_that_is_already_there_is_not_written_again(
    publisher: Publisher, tmp_path: Path
) -> None:
    updater(publisher, tmp_path / "view").refresh()
    before = {path: path.stat().st_ino for path in (tmp_path / "view").rglob("*.json")}
    updater(publisher, tmp_path / "view").refresh()
    after = {path: path.stat().st_ino for path in (tmp_path / "view").rglob("*.json")}
    assert after == before


def test_expiry_is_judged_by_the_time_that_is_given(publisher: Publisher, tmp_path: Path) -> None:
    files = publisher.files()
    late = DurableUpdater(tmp_path / "view", files.get, files["1.root.json"], NOW + 91 * DAY)
    with pytest.raises(exceptions.ExpiredMetadataError):
        late.refresh()


def test_every_error_of_tuf_leaves_as_one_of_ours() -> None:
    cases: list[tuple[Exception, type[Exception]]] = [
        (exceptions.UnsignedMetadataError("x"), WrongSigner),
        (exceptions.ExpiredMetadataError("x"), MetadataExpired),
        (exceptions.BadVersionNumberError("x"), RollbackRefused),
        (exceptions.EqualVersionNumberError("x"), RollbackRefused),
        (exceptions.LengthOrHashMismatchError("x"), TamperedMetadata),
        (exceptions.RepositoryError("x"), TamperedMetadata),
        (exceptions.DownloadHTTPError("x", 404), MetadataIncomplete),
        (exceptions.DownloadLengthMismatchError("x"), MetadataIncomplete),
    ]
    for foreign, ours in cases:
        with pytest.raises(ours), tuf_errors():
            raise foreign
    with pytest.raises(NoProvider), tuf_errors():
        raise exceptions.DownloadError("x") from NoProvider()


def test_signed_times_have_whole_seconds(publisher: Publisher) -> None:
    publisher.publish(version="2.0", now=NOW + timedelta(microseconds=999_999))
    assert content_of(publisher.files()["timestamp.json"])["expires"] == "2026-10-30T12:00:00Z"
