"""Thieves of keys and liars: what is signed by others than it must be is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2phub.digest import sha256
from p2phub.errors import (
    BrokenRootChain,
    MetadataExpired,
    TamperedMetadata,
    TrustError,
    WrongSigner,
)
from p2phub.proto.names import publisher_id_text
from p2phub.trust.documents import read_root
from tests.trust.builders import (
    DAY,
    NOW,
    Client,
    Publisher,
    Swarm,
    content_of,
    followed,
    online_thief,
    signed_file,
    signer,
    still_usable,
)

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
