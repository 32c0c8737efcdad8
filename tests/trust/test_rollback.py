"""Old statements, mixed states, clocks set back and disks that forget."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from p2phub.errors import (
    ClockSetBack,
    FloorLost,
    RollbackRefused,
    TamperedMetadata,
    TrustError,
    UnknownPublisher,
    WrongSigner,
)
from tests.trust.builders import (
    DAY,
    NOW,
    Client,
    Publisher,
    Swarm,
    content_of,
    followed,
    max_snapshot,
    meta_file,
    online_thief,
    signed_file,
    signer,
    still_usable,
)

# ---- order and age
# --------------------------------------------------------------------------------


def test_an_older_timestamp_is_refused(publisher: Publisher, client: Client) -> None:
    old = publisher.files()
    publisher.publish(version="2.0")
    follower, swarm = followed(publisher, client)
    swarm.peers[:] = [old]
    with pytest.raises(RollbackRefused):
        follower.refresh(NOW)
    assert follower.resolve("tiny-llm", None, NOW).version == "2.0"
    client.restart()
    with pytest.raises(RollbackRefused):
        client.follower(publisher.id, swarm).refresh(NOW)


def test_an_older_snapshot_under_a_new_timestamp_is_refused(
    publisher: Publisher, client: Client
) -> None:
    old = publisher.files()
    publisher.publish(version="2.0")
    follower, swarm = followed(publisher, client)
    files = publisher.files()
    timestamp = content_of(files["timestamp.json"])
    timestamp["version"] += 1
    timestamp["meta"]["snapshot.json"] = meta_file(2, old["2.snapshot.json"])
    swarm.peers[:] = [old | {"timestamp.json": signed_file(timestamp, [publisher.online])}]
    with pytest.raises(RollbackRefused):
        follower.refresh(NOW)
    assert follower.resolve("tiny-llm", None, NOW).version == "2.0"


def test_files_of_two_states_do_not_mix(publisher: Publisher, client: Client) -> None:
    publisher.publish("other", "1.0")
    follower, swarm = followed(publisher, client)
    files = publisher.files()
    other = content_of(files["1.other.json"]) | {"expires": "2028-02-02T00:00:00Z"}
    swarm.peers[:] = [files | {"1.other.json": signed_file(other, publisher.targets)}]
    with pytest.raises(TamperedMetadata):
        follower.resolve("other", None, NOW)


def test_a_snapshot_that_drops_or_turns_back_a_name_is_refused(
    publisher: Publisher, client: Client, new_client: type[Client]
) -> None:
    publisher.publish(version="2.0")
    files = publisher.files()
    meta = content_of(max_snapshot(files))["meta"]
    dropped = {k: v for k, v in meta.items() if k != "tiny-llm.json"}
    turned = {**meta, "tiny-llm.json": {**meta["tiny-llm.json"], "version": 1}}
    for changed in (dropped, turned):
        for cached in (True, False):
            one = new_client()
            follower, swarm = followed(publisher, one)
            if not cached:
                # Also where the files are gone and the floor alone remembers.
                shutil.rmtree(one.folder / publisher.id)
                follower = one.follower(publisher.id, swarm)
            swarm.peers[:] = [files | online_thief(publisher, files, {}, meta=changed)]
            with pytest.raises(TrustError) as caught:
                follower.refresh(NOW)
            assert isinstance(caught.value, RollbackRefused | TamperedMetadata)


@pytest.mark.parametrize("file_name", ["2.snapshot.json", "2.targets.json"])
def test_a_tampered_file_is_refused(publisher: Publisher, client: Client, file_name: str) -> None:
    files = publisher.files()
    files[file_name] = files[file_name].replace(b'"version":2', b'"version":3')
    assert files != publisher.files()
    with pytest.raises(TamperedMetadata):
        client.follower(publisher.id, Swarm(files)).refresh(NOW)


def test_a_tampered_release_file_is_refused(publisher: Publisher, client: Client) -> None:
    files = publisher.files()
    files["1.tiny-llm.json"] = files["1.tiny-llm.json"].replace(b"Apache-2.0", b"Apache-1.0")
    follower = client.follower(publisher.id, Swarm(files))
    follower.refresh(NOW)
    with pytest.raises(TamperedMetadata):
        follower.resolve("tiny-llm", None, NOW)


@pytest.mark.parametrize("change", ["truncate", "zero", "empty", "signature"])
def test_a_damaged_timestamp_is_refused(publisher: Publisher, client: Client, change: str) -> None:
    files = publisher.files()
    good = files["timestamp.json"]
    files["timestamp.json"] = {
        "truncate": good[:-20],
        "zero": bytes(len(good)),
        "empty": b"",
        "signature": good.replace(b'"sig":"', b'"sig":"00', 1).replace(b'00","sig', b'","sig'),
    }[change]
    with pytest.raises(TrustError) as caught:
        client.follower(publisher.id, Swarm(files)).refresh(NOW)
    assert isinstance(caught.value, TamperedMetadata | WrongSigner)


def test_endless_answers_are_cut_off(publisher: Publisher, client: Client) -> None:
    class Endless(Swarm):
        def fetch(self, file_name: str, bytes_max: int) -> list[bytes]:
            assert bytes_max <= 5_000_000
            return [b"%d" % n + bytes(bytes_max) for n in range(100)]

    with pytest.raises(UnknownPublisher):
        client.follower(publisher.id, Endless()).refresh(NOW)


# ---- clock, disk, equivocation
# --------------------------------------------------------------------


def test_a_clock_set_back_is_noticed(publisher: Publisher, client: Client) -> None:
    follower, _ = followed(publisher, client)
    with pytest.raises(ClockSetBack):
        follower.refresh(NOW - DAY)
    with pytest.raises(ClockSetBack):
        follower.resolve("tiny-llm", None, NOW - DAY)
    # A correction by seconds is no attack.
    assert not follower.refresh(NOW.timestamp() - 30).changed


def test_a_folder_rolled_back_while_the_floor_stands_is_refused(
    publisher: Publisher, client: Client
) -> None:
    follower, swarm = followed(publisher, client)
    old_files = publisher.files()
    folder = client.folder / publisher.id
    shutil.copytree(folder, client.folder / "copy", symlinks=True)
    publisher.publish(version="2.0")
    swarm.peers[:] = [publisher.files()]
    follower.refresh(NOW)
    # A power cut that lost the files of the refresh, or a restored backup.
    shutil.rmtree(folder)
    (client.folder / "copy").rename(folder)
    client.restart()
    follower = client.follower(publisher.id, Swarm(old_files))
    for attempt in (
        lambda: follower.known(NOW),
        lambda: follower.resolve("tiny-llm", None, NOW),
        lambda: follower.refresh(NOW),
    ):
        with pytest.raises(RollbackRefused):
            attempt()
    follower = client.follower(publisher.id, swarm)
    follower.refresh(NOW)
    assert follower.resolve("tiny-llm", None, NOW).version == "2.0"


def test_a_lost_floor_closes_names_until_it_is_reset(publisher: Publisher, client: Client) -> None:
    _, swarm = followed(publisher, client)
    client.floor.close()
    for path in client.folder.glob("floor.db*"):
        path.unlink()
    client.restart()
    follower = client.follower(publisher.id, swarm)
    for attempt in (
        lambda: follower.refresh(NOW),
        lambda: follower.known(NOW),
        lambda: follower.resolve("tiny-llm", None, NOW),
        lambda: follower.import_metadata(publisher.files(), NOW),
    ):
        with pytest.raises(FloorLost):
            attempt()
    assert follower.releases() == []
    follower.reset(NOW)
    assert still_usable(follower)
    assert follower.refresh(NOW).timestamp_version == 2


def test_a_floor_lost_with_its_witness_is_noticed_by_the_files_it_guarded(
    publisher: Publisher, client: Client
) -> None:
    _, swarm = followed(publisher, client)
    client.floor.close()
    for path in client.folder.glob("floor.*"):
        path.unlink()
    client.restart()
    with pytest.raises(FloorLost):
        client.follower(publisher.id, swarm).refresh(NOW)


def test_version_numbers_run_up_by_a_thief_are_outlived_by_a_rotation(
    publisher: Publisher, client: Client, tmp_path: Path
) -> None:
    follower, swarm = followed(publisher, client)
    files = publisher.files()
    timestamp = content_of(files["timestamp.json"]) | {"version": 9_000_000}
    swarm.peers[:] = [files | {"timestamp.json": signed_file(timestamp, [publisher.online])}]
    follower.refresh(NOW)
    old = publisher.signers()
    publisher.online = signer()
    publisher.root, publisher.next_root = publisher.next_root, [signer()]
    publisher.repository.rotate_root(publisher.root_keys(), [*old, *publisher.signers()], NOW)
    swarm.peers[:] = [publisher.files()]
    assert follower.refresh(NOW).timestamp_version == 3
    assert still_usable(follower)
