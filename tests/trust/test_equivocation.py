"""Two statements under one version, both signed: the publisher is halted, with evidence."""

from __future__ import annotations

import json
import shutil

import pytest

from p2phub.core.trust.freshness import Freshness
from p2phub.errors import (
    EquivocationFound,
)
from tests.trust.builders import (
    NOW,
    Client,
    Publisher,
    Swarm,
    content_of,
    followed,
    meta_file,
    online_thief,
    signed_file,
    signer,
    still_usable,
)


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
