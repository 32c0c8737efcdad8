"""What thieves, liars and a broken disk may try against a follower, and what it says to them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from p2phub.core.trust.freshness import Freshness
from p2phub.digest import sha256
from p2phub.errors import (
    BrokenRootChain,
    ClockSetBack,
    EquivocationFound,
    FloorLost,
    MetadataExpired,
    RollbackRefused,
    TamperedMetadata,
    TrustError,
    UnknownPublisher,
    WrongSigner,
)
from p2phub.proto.names import publisher_id_text
from p2phub.trust.documents import read_root
from p2phub.trust.follower import Follower
from tests.trust.builders import (
    DAY,
    NOW,
    Client,
    Publisher,
    Swarm,
    content_of,
    meta_file,
    signed_file,
    signer,
)


def followed(publisher: Publisher, client: Client) -> tuple[Follower, Swarm]:
    """A follower that has seen the publisher's one release."""
    swarm = Swarm(publisher.files())
    follower = client.follower(publisher.id, swarm)
    follower.refresh(NOW)
    follower.resolve("tiny-llm", None, NOW)
    return follower, swarm


def still_usable(follower: Follower) -> bool:
    return follower.resolve("tiny-llm", "1.0", NOW).version == "1.0"


# ---- signers
# --------------------------------------------------------------------------------------


def test_another_publishers_root_is_not_taken_for_the_id(
    publisher: Publisher, client: Client, tmp_path: Path
) -> None:
    impostor = Publisher(tmp_path / "impostor")
    impostor.publish()
    with pytest.raises(WrongSigner):
        client.follower(publisher.id, Swarm(impostor.files())).refresh(NOW)


def test_a_root_that_was_reformatted_is_the_same_publisher(
    publisher: Publisher, client: Client
) -> None:
    files = publisher.files()
    loose = json.loads(files["1.root.json"]) | {"unsigned": "field"}
    files["1.root.json"] = json.dumps(loose, indent=7).encode()
    assert client.follower(publisher.id, Swarm(files)).refresh(NOW).root_version == 1


def test_a_release_signed_by_another_key_is_refused(
    publisher: Publisher, client: Client, tmp_path: Path
) -> None:
    # The thief of the online key alone can make new snapshots, and so name a file of his own.
    follower, swarm = followed(publisher, client)
    files = publisher.files()
    forged = content_of(files["1.tiny-llm.json"]) | {"version": 2}
    forged["targets"]["tiny-llm/6.6.6/manifest"] = forged["targets"]["tiny-llm/1.0/manifest"]
    files |= online_thief(publisher, files, {"2.tiny-llm.json": signed_file(forged, [signer()])})
    swarm.peers[:] = [files]
    follower.refresh(NOW)
    with pytest.raises(WrongSigner):
        follower.resolve("tiny-llm", "6.6.6", NOW)


def online_thief(
    publisher: Publisher, files: dict[str, bytes], added: dict[str, bytes], **changes: Any
) -> dict[str, bytes]:
    """`added` files under a new snapshot and timestamp, which the online key alone can sign."""
    snapshot_name = max(name for name in files if name.endswith(".snapshot.json"))
    snapshot = content_of(files[snapshot_name])
    snapshot["version"] += 1
    for file_name, data in added.items():
        version, _, role_file = file_name.partition(".")
        snapshot["meta"][role_file] = meta_file(int(version), data)
    snapshot |= changes
    data = signed_file(snapshot, [publisher.online])
    timestamp = content_of(files["timestamp.json"])
    timestamp["version"] += 1
    timestamp["meta"]["snapshot.json"] = meta_file(snapshot["version"], data)
    return added | {
        f"{snapshot['version']}.snapshot.json": data,
        "timestamp.json": signed_file(timestamp, [publisher.online]),
    }


def test_the_online_key_cannot_sign_targets(publisher: Publisher, client: Client) -> None:
    follower, swarm = followed(publisher, client)
    files = publisher.files()
    forged = content_of(files["2.targets.json"]) | {"version": 3}
    files |= online_thief(
        publisher, files, {"3.targets.json": signed_file(forged, [publisher.online])}
    )
    swarm.peers[:] = [files]
    with pytest.raises(WrongSigner):
        follower.refresh(NOW)
    assert still_usable(follower)


def test_one_of_two_needed_signatures_is_too_few(tmp_path: Path, client: Client) -> None:
    keys = [signer(), signer(), signer()]
    publisher = Publisher(tmp_path / "org", targets=keys, targets_threshold=2)
    with pytest.raises(WrongSigner):
        publisher.publish(signers=[keys[0], publisher.online])
    publisher.publish(signers=[keys[0], keys[2], publisher.online])
    files = publisher.files()
    alone = content_of(files["1.tiny-llm.json"]) | {"version": 2}
    files |= online_thief(publisher, files, {"2.tiny-llm.json": signed_file(alone, keys[:1])})
    follower = client.follower(publisher.id, Swarm(files))
    follower.refresh(NOW)
    with pytest.raises(WrongSigner):
        follower.resolve("tiny-llm", None, NOW)


def test_the_same_signature_twice_does_not_count_twice(tmp_path: Path, client: Client) -> None:
    keys = [signer(), signer()]
    publisher = Publisher(tmp_path / "org", targets=keys, targets_threshold=2)
    publisher.publish()
    files = publisher.files()
    alone = content_of(files["1.tiny-llm.json"]) | {"version": 2}
    doubled = signed_file(alone, [keys[0], keys[0]])
    files |= online_thief(publisher, files, {"2.tiny-llm.json": doubled})
    follower = client.follower(publisher.id, Swarm(files))
    follower.refresh(NOW)
    with pytest.raises(TrustError):
        follower.resolve("tiny-llm", None, NOW)


# ---- roots
# ----------------------------------------------------------------------------------------


def test_a_thief_with_all_current_root_keys_cannot_rotate(
    publisher: Publisher, client: Client
) -> None:
    follower, swarm = followed(publisher, client)
    thief = signer()
    stolen = content_of(publisher.files()["1.root.json"])
    stolen["version"] = 2
    own = thief.public_key.to_dict()
    stolen["keys"][thief.public_key.keyid] = own
    stolen["roles"]["root"] = {"keyids": [thief.public_key.keyid], "threshold": 1}
    stolen["x-p2phub"]["next_root"]["keyids"] = [signer().public_key.keyid]
    files = publisher.files()
    files["2.root.json"] = signed_file(stolen, [*publisher.root, thief])
    swarm.peers[:] = [files]
    view = follower.refresh(NOW)
    assert view.root_version == 1
    assert isinstance(view.refused[0], BrokenRootChain)
    # Nor does it help to sign on under keys of the thief's own.
    for role in ("timestamp", "snapshot"):
        stolen["roles"][role] = {"keyids": [thief.public_key.keyid], "threshold": 1}
    stolen["roles"]["root"] = {
        "keyids": [publisher.root[0].public_key.keyid],
        "threshold": 1,
    }
    files["2.root.json"] = signed_file(stolen, publisher.root)
    timestamp = content_of(files["timestamp.json"]) | {"version": 9}
    files["timestamp.json"] = signed_file(timestamp, [thief])
    with pytest.raises(BrokenRootChain):
        follower.refresh(NOW)
    assert still_usable(follower)


def test_listing_the_committed_keys_with_junk_signatures_does_not_help(
    publisher: Publisher, client: Client
) -> None:
    follower, swarm = followed(publisher, client)
    stolen = content_of(publisher.files()["1.root.json"])
    committed = publisher.next_root[0].public_key
    stolen["version"] = 2
    stolen["keys"][committed.keyid] = committed.to_dict()
    stolen["roles"]["root"]["keyids"].append(committed.keyid)
    stolen["x-p2phub"]["next_root"]["keyids"] = [signer().public_key.keyid]
    forged = json.loads(signed_file(stolen, publisher.root))
    forged["signatures"].append({"keyid": committed.keyid, "sig": "00" * 64})
    files = publisher.files()
    files["2.root.json"] = json.dumps(forged).encode()
    swarm.peers[:] = [files]
    view = follower.refresh(NOW)
    assert view.root_version == 1
    assert isinstance(view.refused[0], BrokenRootChain)


def test_the_thiefs_key_under_a_committed_key_id_is_refused(
    publisher: Publisher, client: Client
) -> None:
    follower, swarm = followed(publisher, client)
    thief = signer()
    stolen = content_of(publisher.files()["1.root.json"])
    committed = publisher.next_root[0].public_key.keyid
    stolen["version"] = 2
    stolen["keys"][committed] = thief.public_key.to_dict()
    stolen["roles"]["root"]["keyids"].append(committed)
    stolen["x-p2phub"]["next_root"]["keyids"] = [signer().public_key.keyid]
    forged = json.loads(signed_file(stolen, [*publisher.root, thief]))
    forged["signatures"][-1]["keyid"] = committed
    files = publisher.files()
    files["2.root.json"] = json.dumps(forged).encode()
    swarm.peers[:] = [files]
    view = follower.refresh(NOW)
    assert view.root_version == 1
    assert isinstance(view.refused[0], TamperedMetadata)


def test_one_key_under_two_ids_cannot_meet_a_threshold_of_two(client: Client) -> None:
    key, online, targets = signer(), signer(), signer()
    public = key.public_key.to_dict()
    root = {
        "_type": "root",
        "version": 1,
        "spec_version": "1.0.31",
        "expires": "2028-01-01T00:00:00Z",
        "consistent_snapshot": True,
        "keys": {
            key.public_key.keyid: public,
            "ab" * 32: public,
            online.public_key.keyid: online.public_key.to_dict(),
            targets.public_key.keyid: targets.public_key.to_dict(),
        },
        "roles": {
            "root": {"keyids": [key.public_key.keyid, "ab" * 32], "threshold": 2},
            "targets": {"keyids": [targets.public_key.keyid], "threshold": 1},
            "snapshot": {"keyids": [online.public_key.keyid], "threshold": 1},
            "timestamp": {"keyids": [online.public_key.keyid], "threshold": 1},
        },
        "x-p2phub": {
            "v": 1,
            "equivocation": "halt",
            "next_root": {"threshold": 1, "keyids": ["cd" * 32]},
        },
    }
    forged = json.loads(signed_file(root, [key]))
    forged["signatures"].append({**forged["signatures"][0], "keyid": "ab" * 32})
    with pytest.raises(TamperedMetadata, match="another id"):
        read_root(json.dumps(forged).encode())
    publisher_id = publisher_id_text(sha256(b"whatever"))
    with pytest.raises(TamperedMetadata):
        client.follower(publisher_id, Swarm({"1.root.json": json.dumps(forged).encode()})).refresh(
            NOW
        )


def test_a_skipped_root_is_refused(publisher: Publisher, client: Client) -> None:
    follower, swarm = followed(publisher, client)
    publisher.rotate()
    publisher.rotate()
    files = publisher.files()
    files["2.root.json"] = files.pop("3.root.json")
    swarm.peers[:] = [files]
    with pytest.raises(BrokenRootChain):
        follower.refresh(NOW)
    assert still_usable(follower)


def test_a_root_signed_by_the_new_keys_alone_is_refused(
    publisher: Publisher, client: Client
) -> None:
    follower, swarm = followed(publisher, client)
    publisher.rotate()
    files = publisher.files()
    files["2.root.json"] = signed_file(content_of(files["2.root.json"]), publisher.root)
    swarm.peers[:] = [files]
    with pytest.raises(WrongSigner):
        follower.refresh(NOW)


def test_peers_that_withhold_the_newest_root_are_noticed(
    publisher: Publisher, client: Client
) -> None:
    publisher.rotate()
    files = publisher.files()
    del files["2.root.json"]
    with pytest.raises(BrokenRootChain, match="nobody could show"):
        client.follower(publisher.id, Swarm(files)).refresh(NOW)


def test_an_expired_root_is_refused(tmp_path: Path, client: Client) -> None:
    publisher = Publisher(tmp_path / "old", created=NOW - 729 * DAY)
    publisher.publish(now=NOW)
    publisher.repository.renew(publisher.signers(), NOW, [])
    follower = client.follower(publisher.id, Swarm(publisher.files()))
    follower.refresh(NOW)
    with pytest.raises(MetadataExpired):
        follower.refresh(NOW + 2 * DAY)


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


def max_snapshot(files: dict[str, bytes]) -> bytes:
    return files[max(name for name in files if name.endswith(".snapshot.json"))]


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


def equivocating_timestamp(publisher: Publisher, files: dict[str, bytes]) -> bytes:
    timestamp = content_of(files["timestamp.json"])
    timestamp["x-p2phub"]["peers"] = []
    return signed_file(timestamp, [publisher.online])


def test_two_timestamps_of_one_version_halt_the_publisher(
    publisher: Publisher, client: Client
) -> None:
    follower, swarm = followed(publisher, client)
    files = publisher.files()
    other = equivocating_timestamp(publisher, files)
    swarm.peers.append(files | {"timestamp.json": other})
    with pytest.raises(EquivocationFound):
        follower.refresh(NOW)
    (evidence,) = client.floor.evidence(publisher.id)
    assert {evidence.first, evidence.second} == {files["timestamp.json"], other}
    # Halted, also after a restart and with honest peers: only what is known, by version.
    client.restart()
    follower = client.follower(publisher.id, Swarm(publisher.files()))
    with pytest.raises(EquivocationFound):
        follower.refresh(NOW)
    with pytest.raises(EquivocationFound):
        follower.resolve("tiny-llm", None, NOW)
    assert follower.known(NOW).state is Freshness.HALTED
    assert still_usable(follower)
    # Until a person says otherwise.
    follower.reset(NOW)
    assert follower.refresh(NOW).state is Freshness.FRESH


def test_equivocation_is_found_against_the_floor_alone(
    publisher: Publisher, client: Client
) -> None:
    _, swarm = followed(publisher, client)
    shutil.rmtree(client.folder / publisher.id)
    files = publisher.files()
    swarm.peers[:] = [files | {"timestamp.json": equivocating_timestamp(publisher, files)}]
    with pytest.raises(EquivocationFound):
        client.follower(publisher.id, swarm).refresh(NOW)


def test_a_second_snapshot_under_one_version_halts(publisher: Publisher, client: Client) -> None:
    follower, swarm = followed(publisher, client)
    files = publisher.files()
    snapshot = content_of(files["2.snapshot.json"]) | {"expires": "2026-09-09T00:00:00Z"}
    data = signed_file(snapshot, [publisher.online])
    timestamp = content_of(files["timestamp.json"])
    timestamp["version"] += 1
    timestamp["meta"]["snapshot.json"] = meta_file(2, data)
    swarm.peers[:] = [
        files
        | {
            "2.snapshot.json": data,
            "timestamp.json": signed_file(timestamp, [publisher.online]),
        }
    ]
    with pytest.raises(EquivocationFound):
        follower.refresh(NOW)
    (evidence,) = client.floor.evidence(publisher.id)
    assert (evidence.role, evidence.first) == ("snapshot", files["2.snapshot.json"])


def test_a_second_release_file_under_one_version_halts(
    publisher: Publisher, client: Client
) -> None:
    follower, swarm = followed(publisher, client)
    files = publisher.files()
    other = content_of(files["1.tiny-llm.json"]) | {"expires": "2026-12-12T00:00:00Z"}
    data = signed_file(other, publisher.targets)
    swarm.peers[:] = [files | online_thief(publisher, files, {"1.tiny-llm.json": data})]
    with pytest.raises(EquivocationFound):
        follower.refresh(NOW)
        follower.resolve("tiny-llm", None, NOW)


def test_two_lawful_successors_of_one_root_halt(publisher: Publisher, client: Client) -> None:
    follower, swarm = followed(publisher, client)
    before = publisher.signers()
    publisher.rotate()
    files = publisher.files()
    second = content_of(files["2.root.json"])
    second["x-p2phub"]["next_root"]["keyids"] = [signer().public_key.keyid]
    swarm.peers[:] = [files, files | {"2.root.json": signed_file(second, before[:2])}]
    with pytest.raises(EquivocationFound):
        follower.refresh(NOW)
    assert client.floor.evidence(publisher.id)[0].role == "root"


def test_the_same_statement_with_other_signatures_is_no_equivocation(
    publisher: Publisher, client: Client
) -> None:
    follower, swarm = followed(publisher, client)
    files = publisher.files()
    again = json.loads(files["timestamp.json"])
    again["signatures"].append({"keyid": "ab" * 32, "sig": "00" * 64})
    swarm.peers.append(files | {"timestamp.json": json.dumps(again).encode()})
    assert follower.refresh(NOW).state is Freshness.FRESH


def test_a_forged_second_timestamp_accuses_nobody(publisher: Publisher, client: Client) -> None:
    follower, swarm = followed(publisher, client)
    files = publisher.files()
    other = content_of(equivocating_timestamp(publisher, files))
    swarm.peers.append(files | {"timestamp.json": signed_file(other, [signer()])})
    assert follower.refresh(NOW).state is Freshness.FRESH
    assert client.floor.evidence(publisher.id) == []


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
