"""A publisher's repository: what may be signed, by whom, and what is on disk when it was."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Targets

from p2phub.core.trust.releases import ReleaseStatus
from p2phub.digest import sha256
from p2phub.errors import BadReleaseName, BadVersion, UsageError, VersionExists, WrongSigner
from p2phub.proto.names import publisher_id_text
from p2phub.trust.publisher import PublisherRepository
from tests.trust.builders import ADDRESS, DAY, NOW, Publisher, content_of, signer


def test_the_id_is_the_hash_of_the_first_roots_signed_bytes(publisher: Publisher) -> None:
    root = Metadata.from_bytes(publisher.files()["1.root.json"])
    assert publisher.id == publisher_id_text(sha256(root.signed_bytes))
    assert PublisherRepository.open(publisher.folder).publisher_id == publisher.id
    publisher.rotate()
    assert PublisherRepository.open(publisher.folder).publisher_id == publisher.id


def test_records_are_those_of_the_specification(publisher: Publisher) -> None:
    files = publisher.files()
    root = content_of(files["1.root.json"])
    assert root["consistent_snapshot"] is True
    assert root["x-p2phub"] == {
        "v": 1,
        "next_root": {"threshold": 1, "keyids": [publisher.next_root[0].public_key.keyid]},
        "equivocation": "halt",
    }
    assert content_of(files["timestamp.json"])["x-p2phub"] == {
        "v": 1,
        "root_version": 1,
        "fresh_until": "2026-08-08T12:00:00Z",
        "peers": [ADDRESS],
    }
    (role,) = content_of(files["2.targets.json"])["delegations"]["roles"]
    assert (role["name"], role["paths"]) == ("tiny-llm", ["tiny-llm/*/manifest"])
    assert role["terminating"] is True
    target = content_of(files["1.tiny-llm.json"])["targets"]["tiny-llm/1.0/manifest"]
    assert target["custom"]["release"].startswith("bafk")
    assert target["custom"]["status"] == "active"
    assert target["hashes"] == {"sha256": sha256(b"a manifest").hex()}
    assert len(files["timestamp.json"]) < 1024


def test_plain_tuf_reads_what_was_published(publisher: Publisher) -> None:
    targets = Metadata[Targets].from_bytes(publisher.files()["2.targets.json"]).signed
    path = "tiny-llm/1.0/manifest"
    assert targets.delegations is not None
    assert list(targets.delegations.get_roles_for_target(path)) == [("tiny-llm", True)]


def test_the_same_release_again_changes_nothing(publisher: Publisher) -> None:
    before = publisher.files()
    assert publisher.publish() == {}
    assert publisher.publish(version="1.0.0") == {}
    assert publisher.files() == before


def test_a_version_with_other_content_is_refused(publisher: Publisher) -> None:
    before = publisher.files()
    for version in ("1.0", "1.0.0", "v1"):
        with pytest.raises(VersionExists):
            publisher.publish(version=version, manifest=b"other")
    with pytest.raises(VersionExists):
        publisher.publish(license="MIT")
    assert publisher.files() == before


def test_a_release_can_be_withdrawn(publisher: Publisher) -> None:
    changed = publisher.publish(status="yanked", reason="leaked data")
    assert sorted(changed) == ["2.tiny-llm.json", "3.snapshot.json", "timestamp.json"]
    (release,) = publisher.repository.releases()
    assert (release.status, release.reason) == (ReleaseStatus.YANKED, "leaked data")


def test_versions_are_written_in_their_normal_form(publisher: Publisher) -> None:
    publisher.publish(version="v2.0-RC.1")
    assert [r.version for r in publisher.repository.releases()] == ["1.0", "2.0rc1"]


@pytest.mark.parametrize("version", ["latest", "main", "", "1.x", "1/2", "../1", "1" * 65, "1.0 "])
def test_what_is_no_version_is_refused(publisher: Publisher, version: str) -> None:
    with pytest.raises(BadVersion):
        publisher.publish(version=version)


@pytest.mark.parametrize(
    "name",
    ["", "../x", "a/b", "targets", "ROOT", "aux", "com1.x", "-x", "x.", "a--b", "a..b", "x.git",
     "m" * 97, "naïve", "a b", "meta-llаma", "a\n"],
)  # fmt: skip
def test_what_is_no_name_is_refused(publisher: Publisher, name: str) -> None:
    with pytest.raises(BadReleaseName):
        publisher.publish(name)


def test_a_name_in_other_capitals_is_refused(publisher: Publisher) -> None:
    with pytest.raises(BadReleaseName, match="use tiny-llm"):
        publisher.publish("Tiny-LLM")


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "virus"},
        {"license": "a\nb"},
        {"license": "x" * 300},
        {"manifest_length": 0},
        {"manifest_length": 1 << 20},
        {"status": "yanked", "reason": "\x1b[31m"},
    ],
    ids=str,
)
def test_a_field_that_followers_would_refuse_is_refused(
    publisher: Publisher, options: dict[str, Any]
) -> None:
    before = publisher.files()
    with pytest.raises(UsageError):
        publisher.publish(version="2.0", **options)
    assert publisher.files() == before


def test_somebody_elses_keys_are_refused(publisher: Publisher) -> None:
    before = publisher.files()
    for signers in ([], [signer(), signer()], publisher.targets, [publisher.online]):
        with pytest.raises(WrongSigner):
            publisher.publish(version="2.0", signers=signers)
    with pytest.raises(WrongSigner):
        publisher.repository.refresh_timestamp(signer(), NOW, [])
    assert publisher.files() == before


def test_a_rotation_without_the_committed_keys_is_refused(publisher: Publisher) -> None:
    before = publisher.files()
    publisher.root, publisher.next_root = [signer()], [signer()]
    with pytest.raises(WrongSigner):
        publisher.repository.rotate_root(publisher.root_keys(), publisher.signers(), NOW)
    assert publisher.files() == before


def test_the_daily_timestamp_touches_nothing_else_until_the_snapshot_ages(
    publisher: Publisher,
) -> None:
    repository = publisher.repository
    changed = repository.refresh_timestamp(publisher.online, NOW + DAY, [ADDRESS, "not an address"])
    assert list(changed) == ["timestamp.json"]
    said = content_of(changed["timestamp.json"])
    assert said["x-p2phub"]["fresh_until"] == "2026-08-09T12:00:00Z"
    assert said["x-p2phub"]["peers"] == [ADDRESS]
    changed = repository.refresh_timestamp(publisher.online, NOW + 50 * DAY, [])
    assert list(changed) == ["3.snapshot.json", "timestamp.json"]


def test_renewal_signs_what_is_half_its_life_old(publisher: Publisher) -> None:
    assert publisher.repository.renew(publisher.signers(), NOW + DAY, []) == {}
    changed = publisher.repository.renew(publisher.signers(), NOW + 200 * DAY, [])
    assert {"3.targets.json", "2.tiny-llm.json"} <= changed.keys()
    assert content_of(changed["2.tiny-llm.json"])["expires"].startswith("2028-02-17")


def test_old_files_are_removed_and_roots_are_not(publisher: Publisher) -> None:
    publisher.rotate()
    for minor in range(1, 6):
        publisher.publish(version=f"1.{minor}")
    names = {path.name for path in publisher.folder.iterdir()}
    assert {"1.root.json", "2.root.json"} <= names
    assert len([name for name in names if name.endswith(".snapshot.json")]) == 2
    assert len([name for name in names if name.endswith(".tiny-llm.json")]) == 2
    assert not [name for name in names if name.startswith(".writing")]


def test_a_second_publisher_in_one_folder_is_refused(publisher: Publisher) -> None:
    with pytest.raises(FileExistsError):
        PublisherRepository.create(
            publisher.folder, publisher.root_keys(), publisher.signers(), NOW
        )


def test_a_creation_that_was_cut_off_can_be_repeated(publisher: Publisher) -> None:
    (publisher.folder / "timestamp.json").unlink()
    again = PublisherRepository.create(
        publisher.folder, publisher.root_keys(), publisher.signers(), NOW
    )
    assert again.releases() == []


def test_a_publish_that_was_cut_off_before_its_timestamp_can_be_repeated(
    publisher: Publisher,
) -> None:
    before = (publisher.folder / "timestamp.json").read_bytes()
    publisher.publish(version="2.0", manifest=b"never announced")
    (publisher.folder / "timestamp.json").write_bytes(before)
    assert [r.version for r in publisher.repository.releases()] == ["1.0"]
    publisher.publish(version="2.0", manifest=b"announced")
    assert [r.version for r in publisher.repository.releases()] == ["1.0", "2.0"]


def test_command_and_daemon_never_sign_one_version_twice(publisher: Publisher) -> None:
    signed: list[dict[str, bytes]] = []

    def daemon() -> None:
        repository = PublisherRepository.open(publisher.folder)
        signed.extend(repository.refresh_timestamp(publisher.online, NOW, []) for _ in range(15))

    def command() -> None:
        signed.extend(publisher.publish(version=f"2.{minor}") for minor in range(15))

    threads = [threading.Thread(target=work) for work in (daemon, command)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    versions = [content_of(files["timestamp.json"])["version"] for files in signed]
    assert sorted(versions) == list(range(3, 33))


def test_thresholds_of_an_organisation(tmp_path: Path) -> None:
    publisher = Publisher(
        tmp_path / "org",
        root=[signer() for _ in range(3)],
        next_root=[signer() for _ in range(3)],
        targets=[signer() for _ in range(3)],
        root_threshold=2,
        next_root_threshold=2,
        targets_threshold=2,
    )
    publisher.publish(signers=[*publisher.targets[:2], publisher.online])
    signatures = json.loads(publisher.files()["1.root.json"])["signatures"]
    assert len(signatures) == 3
    publisher.rotate()
    assert content_of(publisher.files()["2.root.json"])["version"] == 2


def test_signing_needs_neither_trio_nor_libp2p() -> None:
    script = (
        "import sys, p2phub.trust.publisher, p2phub.trust.keys\n"
        "print(sorted({'trio', 'libp2p', 'multiaddr'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
