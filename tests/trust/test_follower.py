"""Following a publisher: what peers answer becomes verified releases, also after restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2phub.core.trust.freshness import Freshness
from p2phub.core.trust.releases import ReleaseStatus
from p2phub.digest import digest
from p2phub.errors import (
    BadReleaseName,
    MetadataExpired,
    MetadataIncomplete,
    NoProvider,
    ReleaseNotFound,
    ReleaseYanked,
    UnknownPublisher,
    UnknownReference,
)
from tests.trust.builders import ADDRESS, DAY, NOW, Client, Publisher, Swarm


def test_a_release_is_resolved_from_one_peer(publisher: Publisher, client: Client) -> None:
    follower = client.follower(publisher.id, Swarm(publisher.files()))
    view = follower.refresh(NOW)
    release = follower.resolve("tiny-llm", None, NOW)
    assert (release.version, release.manifest_digest) == ("1.0", digest(b"a manifest"))
    assert release.root_version == 1
    assert view.state is Freshness.FRESH
    assert view.peers == (ADDRESS,)
    assert view.names == ("tiny-llm",)
    assert not view.refused


def test_epoch_seconds_are_a_time_too(publisher: Publisher, client: Client) -> None:
    follower = client.follower(publisher.id, Swarm(publisher.files()))
    follower.refresh(NOW.timestamp())
    assert follower.resolve("tiny-llm", "1.0", NOW.timestamp()).version == "1.0"


def test_latest_is_the_highest_version_and_not_the_newest(
    publisher: Publisher, client: Client
) -> None:
    for version in ("1.10", "1.9", "0.9"):
        publisher.publish(version=version)
    follower = client.follower(publisher.id, Swarm(publisher.files()))
    follower.refresh(NOW)
    assert follower.resolve("tiny-llm", None, NOW).version == "1.10"
    assert follower.resolve("tiny-llm", "1.9.0", NOW).version == "1.9"


def test_a_new_release_is_seen_at_the_next_refresh(publisher: Publisher, client: Client) -> None:
    swarm = Swarm(publisher.files())
    follower = client.follower(publisher.id, swarm)
    assert follower.refresh(NOW).changed
    assert not follower.refresh(NOW).changed
    publisher.publish(version="2.0")
    swarm.peers[:] = [publisher.files()]
    assert follower.refresh(NOW).changed
    assert follower.resolve("tiny-llm", None, NOW).version == "2.0"


def test_the_newest_of_several_answers_counts(publisher: Publisher, client: Client) -> None:
    old = publisher.files()
    publisher.publish(version="2.0")
    follower = client.follower(publisher.id, Swarm(old, publisher.files(), {}))
    follower.refresh(NOW)
    assert follower.resolve("tiny-llm", None, NOW).version == "2.0"


def test_rubbish_from_one_peer_is_put_aside_and_named(publisher: Publisher, client: Client) -> None:
    files = publisher.files()
    rubbish = dict.fromkeys([*files, "2.root.json"], b"rubbish")
    view = client.follower(publisher.id, Swarm(rubbish, files)).refresh(NOW)
    assert view.timestamp_version == 2
    assert len(view.refused) == 3  # first root, next root, timestamp


def test_what_is_known_outlives_a_restart_without_a_network(
    publisher: Publisher, client: Client
) -> None:
    follower = client.follower(publisher.id, Swarm(publisher.files()))
    follower.refresh(NOW)
    follower.resolve("tiny-llm", None, NOW)
    client.restart()
    alone = client.follower(publisher.id, Swarm())
    assert alone.known(NOW).state is Freshness.FRESH
    assert alone.resolve("tiny-llm", None, NOW).version == "1.0"
    assert [release.version for release in alone.releases()] == ["1.0"]
    with pytest.raises(NoProvider):
        alone.refresh(NOW)
    assert alone.resolve("tiny-llm", None, NOW).version == "1.0"


def test_a_follower_serves_what_it_verified_to_the_next(
    publisher: Publisher, client: Client, new_client: type[Client]
) -> None:
    first = client.follower(publisher.id, Swarm(publisher.files()))
    first.refresh(NOW)
    first.resolve("tiny-llm", None, NOW)
    served = {name: first.metadata(name) for name in publisher.files()}
    assert served == publisher.files()
    second = new_client().follower(publisher.id, Swarm({k: v for k, v in served.items() if v}))
    second.refresh(NOW)
    assert second.resolve("tiny-llm", None, NOW).version == "1.0"


@pytest.mark.parametrize(
    "file_name",
    [
        "",
        "root.json",
        "2.root.json",
        "9.targets.json",
        "../floor.db",
        "1.../x.json",
        "01.root.json",
    ],
)
def test_a_file_that_is_not_held_is_not_served(
    publisher: Publisher, client: Client, file_name: str
) -> None:
    follower = client.follower(publisher.id, Swarm(publisher.files()))
    assert follower.metadata(file_name) is None
    follower.refresh(NOW)
    assert follower.metadata(file_name) is None


def test_the_state_before_is_still_served_after_a_refresh(
    publisher: Publisher, client: Client
) -> None:
    swarm = Swarm(old := publisher.files())
    follower = client.follower(publisher.id, swarm)
    follower.refresh(NOW)
    publisher.publish(version="2.0")
    swarm.peers[:] = [publisher.files()]
    follower.refresh(NOW)
    assert follower.metadata("2.snapshot.json") == old["2.snapshot.json"]
    assert follower.metadata("3.snapshot.json") == publisher.files()["3.snapshot.json"]


def test_the_publisher_hands_its_files_to_its_own_daemon(
    publisher: Publisher, client: Client
) -> None:
    follower = client.follower(publisher.id, Swarm())
    follower.import_metadata(publisher.files(), NOW)
    assert {name: follower.metadata(name) for name in publisher.files()} == publisher.files()
    changed = publisher.publish("tiny-data", "1.0", kind="dataset")
    assert "1.root.json" not in changed
    follower.import_metadata(changed, NOW)
    assert {name: follower.metadata(name) for name in publisher.files()} == publisher.files()
    assert [release.name for release in follower.releases()] == ["tiny-llm", "tiny-data"]
    changed = publisher.repository.refresh_timestamp(publisher.online, NOW + DAY, [])
    assert list(changed) == ["timestamp.json"]
    assert follower.import_metadata(changed, NOW + DAY).timestamp_version == 4


def test_only_the_wanted_name_is_fetched(publisher: Publisher, client: Client) -> None:
    publisher.publish("other")
    swarm = Swarm(publisher.files())
    follower = client.follower(publisher.id, swarm)
    follower.refresh(NOW)
    follower.resolve("other", None, NOW)
    assert "1.other.json" in swarm.asked
    assert "1.tiny-llm.json" not in swarm.asked
    assert [release.name for release in follower.releases()] == ["other"]


def test_a_yanked_release_is_taken_on_request_only(publisher: Publisher, client: Client) -> None:
    publisher.publish(version="1.1", manifest=b"b")
    publisher.publish(version="1.1", manifest=b"b", status="yanked", reason="wrong tokenizer")
    follower = client.follower(publisher.id, Swarm(publisher.files()))
    follower.refresh(NOW)
    assert follower.resolve("tiny-llm", None, NOW).version == "1.0"
    with pytest.raises(ReleaseYanked, match="wrong tokenizer"):
        follower.resolve("tiny-llm", "1.1", NOW)
    release = follower.resolve("tiny-llm", "1.1", NOW, allow_yanked=True)
    assert release.status is ReleaseStatus.YANKED


def test_stale_metadata_works_and_says_so(publisher: Publisher, client: Client) -> None:
    follower = client.follower(publisher.id, Swarm(publisher.files()))
    assert follower.refresh(NOW + 8 * DAY).state is Freshness.STALE
    assert follower.resolve("tiny-llm", None, NOW + 8 * DAY).version == "1.0"


def test_after_expiry_known_versions_work_and_latest_does_not(
    publisher: Publisher, client: Client
) -> None:
    publisher.publish("never-asked")
    follower = client.follower(publisher.id, Swarm(publisher.files()))
    follower.refresh(NOW)
    follower.resolve("tiny-llm", None, NOW)
    late = NOW + 91 * DAY
    with pytest.raises(MetadataExpired):
        follower.refresh(late)
    assert follower.known(late).state is Freshness.EXPIRED
    assert follower.resolve("tiny-llm", "1.0", late).version == "1.0"
    for name, version in (("tiny-llm", None), ("never-asked", "1.0")):
        with pytest.raises(MetadataExpired):
            follower.resolve(name, version, late)


def test_expired_metadata_is_no_start(publisher: Publisher, client: Client) -> None:
    with pytest.raises(MetadataExpired):
        client.follower(publisher.id, Swarm(publisher.files())).refresh(NOW + 91 * DAY)


def test_a_publisher_nobody_knows_is_unknown(publisher: Publisher, client: Client) -> None:
    follower = client.follower(publisher.id, Swarm({}, {}))
    with pytest.raises(UnknownPublisher):
        follower.refresh(NOW)
    with pytest.raises(UnknownPublisher):
        follower.resolve("tiny-llm", None, NOW)
    assert follower.releases() == []


def test_an_unknown_release_is_told_with_what_there_is(
    publisher: Publisher, client: Client
) -> None:
    follower = client.follower(publisher.id, Swarm(publisher.files()))
    follower.refresh(NOW)
    with pytest.raises(ReleaseNotFound, match="tiny-llm"):
        follower.resolve("tiny-lm", None, NOW)
    with pytest.raises(ReleaseNotFound, match=r"highest of 1 is 1\.0"):
        follower.resolve("tiny-llm", "3.0", NOW)


@pytest.mark.parametrize("name", ["../x", "root", "a/b", "", "x" * 97, "с" + "yrillic", "con.x"])
def test_an_odd_name_is_refused_before_anybody_is_asked(
    publisher: Publisher, client: Client, name: str
) -> None:
    swarm = Swarm(publisher.files())
    follower = client.follower(publisher.id, swarm)
    with pytest.raises(BadReleaseName):
        follower.resolve(name, None, NOW)
    assert swarm.asked == []


def test_a_shortened_publisher_id_is_refused(publisher: Publisher, client: Client) -> None:
    with pytest.raises(UnknownReference):
        client.follower(publisher.id[:-1], Swarm())


def test_peers_with_a_part_of_the_files_change_nothing(
    publisher: Publisher, client: Client
) -> None:
    swarm = Swarm(publisher.files())
    follower = client.follower(publisher.id, swarm)
    follower.refresh(NOW)
    publisher.publish(version="2.0")
    part = {k: v for k, v in publisher.files().items() if "snapshot" not in k}
    swarm.peers[:] = [part]
    with pytest.raises(MetadataIncomplete):
        follower.refresh(NOW)
    assert follower.resolve("tiny-llm", None, NOW).version == "1.0" if follower.releases() else True
    assert follower.known(NOW).timestamp_version == 2


def test_a_lawful_rotation_is_followed_over_several_steps(
    publisher: Publisher, client: Client
) -> None:
    swarm = Swarm(publisher.files())
    follower = client.follower(publisher.id, swarm)
    follower.refresh(NOW)
    for _ in range(3):
        publisher.rotate()
    publisher.publish(version="2.0")
    swarm.peers[:] = [publisher.files()]
    assert follower.refresh(NOW).root_version == 4
    assert follower.resolve("tiny-llm", None, NOW).root_version == 4


def test_new_targets_and_online_keys_sign_everything_anew(
    publisher: Publisher, client: Client, new_client: type[Client]
) -> None:
    follower = client.follower(publisher.id, swarm := Swarm(publisher.files()))
    follower.refresh(NOW)
    follower.resolve("tiny-llm", None, NOW)
    old = publisher.signers()
    fresh = Publisher(publisher.folder.parent / "only-for-its-keys")
    publisher.targets, publisher.online = fresh.targets, fresh.online
    publisher.root, publisher.next_root = publisher.next_root, fresh.next_root
    publisher.repository.rotate_root(publisher.root_keys(), [*old, *publisher.signers()], NOW)
    swarm.peers[:] = [publisher.files()]
    for one in (follower, new_client().follower(publisher.id, swarm)):
        assert one.refresh(NOW).root_version == 2
        assert one.resolve("tiny-llm", None, NOW).version == "1.0"


def test_a_failed_refresh_leaves_no_folders_behind(publisher: Publisher, client: Client) -> None:
    swarm = Swarm(publisher.files())
    follower = client.follower(publisher.id, swarm)
    follower.refresh(NOW)
    for version in range(2, 6):
        publisher.publish(version=f"{version}.0")
        files = publisher.files()
        swarm.peers[:] = [{k: v for k, v in files.items() if "snapshot" not in k}]
        with pytest.raises(MetadataIncomplete):
            follower.refresh(NOW)
        swarm.peers[:] = [files]
        follower.refresh(NOW)
    folders = [path for path in (client.folder / publisher.id).iterdir() if path.is_dir()]
    assert len([path for path in folders if not path.is_symlink()]) <= 3


def test_an_instance_reads_what_an_earlier_one_left_half_done(
    publisher: Publisher, client: Client, tmp_path: Path
) -> None:
    follower = client.follower(publisher.id, Swarm(publisher.files()))
    follower.refresh(NOW)
    # A power cut in the middle of a later refresh leaves a folder that nothing points at.
    half = client.folder / publisher.id / "view-7"
    half.mkdir()
    (half / "timestamp.json").write_bytes(b"")
    again = client.follower(publisher.id, Swarm(publisher.files()))
    assert again.known(NOW).timestamp_version == 2
    assert again.refresh(NOW).timestamp_version == 2
