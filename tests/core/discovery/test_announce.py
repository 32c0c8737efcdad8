"""The announce queue keeps its pace, takes each key's result, tries again and survives restarts."""

from __future__ import annotations

import json
import random
from itertools import pairwise

from p2phub.core.discovery.announce import (
    ANNOUNCES_MAX,
    CHUNK_NAMES_MAX,
    OBJECT_BYTES_MIN,
    RECORDS_PER_SENDER_MAX,
    RECORDS_WINDOW_S,
    REPUBLISH_S,
    Announce,
    AnnounceQueue,
)
from p2phub.core.discovery.keys import KEYS_PER_NAME, KeyKind, multihash, provider_keys


def name(number: int) -> bytes:
    return number.to_bytes(32, "big")


def run(
    queue: AnnounceQueue, until: float, stored: int, now: float = 0.0
) -> list[tuple[float, Announce]]:
    """Carry out all announcements until a time; each takes half a second."""
    log: list[tuple[float, Announce]] = []
    while True:
        actions = queue.next_actions(now)
        assert len(actions) <= ANNOUNCES_MAX
        for action in actions:
            log.append((now, action))
            queue.on_result(action, stored, now)
        deadline = queue.next_deadline()
        if deadline is None or deadline > until:
            return log
        assert deadline > now or actions
        now = max(now, deadline)


def test_every_name_has_four_keys_and_what_content_ids_name_shares_them() -> None:
    keys = {kind: provider_keys(kind, name(1)) for kind in KeyKind}
    assert keys[KeyKind.MANIFEST] == keys[KeyKind.OBJECT] == keys[KeyKind.CHUNK]
    spaces = {keys[kind] for kind in (KeyKind.MANIFEST, KeyKind.SHA256, KeyKind.PUBLISHER)}
    assert len({key for space in spaces for key in space}) == 3 * KEYS_PER_NAME
    assert all(len(key) == 32 and len(multihash(key)) == 34 for key in keys[KeyKind.OBJECT])
    assert provider_keys(KeyKind.MANIFEST, name(1)) != provider_keys(KeyKind.MANIFEST, name(2))


def test_all_keys_of_a_name_are_announced_at_once_then_again_in_22_hours() -> None:
    queue = AnnounceQueue(random.Random(1))
    queue.add(KeyKind.MANIFEST, name(1), 0.0)
    log = run(queue, REPUBLISH_S * 1.01, 20)
    assert {action.key for _, action in log} == set(provider_keys(KeyKind.MANIFEST, name(1)))
    assert [at for at, _ in log[:KEYS_PER_NAME]] == [0.0] * KEYS_PER_NAME
    assert all(0.95 * REPUBLISH_S <= at <= REPUBLISH_S for at, _ in log[KEYS_PER_NAME:])
    assert len(log) == 2 * KEYS_PER_NAME


def test_when_keys_are_not_stored_the_pace_falls_to_what_every_receiver_allows() -> None:
    queue = AnnounceQueue(random.Random(1))
    for number in range(200):
        queue.add(KeyKind.MANIFEST, name(number), 0.0)
    times = [at for at, _ in run(queue, 300.0, 0)]
    steady = [at for at in times if at > 30.0]
    for start in steady:
        count = sum(start <= at < start + RECORDS_WINDOW_S for at in steady)
        assert count < RECORDS_PER_SENDER_MAX


def test_a_failed_key_is_tried_again_with_back_off_until_it_is_held() -> None:
    queue = AnnounceQueue(random.Random(1))
    queue.add(KeyKind.MANIFEST, name(1), 0.0)
    log = run(queue, 3600.0, 0)
    first = [at for at, action in log if action.number == 0]
    waits = [later - earlier for earlier, later in pairwise(first)]
    assert len(waits) >= 5 and waits[0] < 20 < waits[-1]
    queue.on_network(3600.0)
    log = run(queue, 3700.0, 20, 3600.0)
    assert {action.number for _, action in log} == set(range(KEYS_PER_NAME))
    assert queue.statistics(3700.0).stored_keys_count == KEYS_PER_NAME


def test_a_key_that_few_nodes_hold_is_announced_again_soon() -> None:
    queue = AnnounceQueue(random.Random(1))
    queue.add(KeyKind.MANIFEST, name(1), 0.0)
    assert len(run(queue, 1000.0, 1)) == 2 * KEYS_PER_NAME


def test_releases_come_before_objects_and_rare_before_common_and_new_before_old() -> None:
    queue = AnnounceQueue(random.Random(1))
    queue.add(KeyKind.OBJECT, name(1), 0.0, size_bytes=OBJECT_BYTES_MIN)
    for number in (2, 3, 4):
        queue.add(KeyKind.MANIFEST, name(number), 0.0)
    queue.on_providers(KeyKind.MANIFEST, name(4), 12)
    order = [action.name for _, action in run(queue, 20.0, 20) if action.number == 0]
    assert order == [name(3), name(2), name(4), name(1)]


def test_policies_leave_out_what_they_do_not_name() -> None:
    releases = AnnounceQueue(random.Random(1), "releases")
    assert not releases.add(KeyKind.OBJECT, name(1), 0.0, size_bytes=1 << 40)
    objects = AnnounceQueue(random.Random(1))
    assert not objects.add(KeyKind.OBJECT, name(1), 0.0, size_bytes=OBJECT_BYTES_MIN - 1)
    assert objects.add(KeyKind.SHA256, name(1), 0.0, size_bytes=OBJECT_BYTES_MIN)
    assert not objects.add(KeyKind.CHUNK, name(1), 0.0)
    chunks = AnnounceQueue(random.Random(1), "chunks")
    added = [chunks.add(KeyKind.CHUNK, name(number), 0.0) for number in range(CHUNK_NAMES_MAX + 1)]
    assert all(added[:-1]) and not added[-1]


def test_a_removed_name_is_announced_no_more() -> None:
    queue = AnnounceQueue(random.Random(1))
    queue.add(KeyKind.MANIFEST, name(1), 0.0)
    actions = queue.next_actions(0.0)
    queue.remove(KeyKind.MANIFEST, name(1))
    queue.on_result(actions[0], 20, 1.0)
    assert run(queue, 1e6, 20, 1.0) == []
    assert (KeyKind.MANIFEST, name(1)) not in queue


def test_a_restart_keeps_due_times_and_counts_the_time_between() -> None:
    queue = AnnounceQueue(random.Random(1))
    queue.add(KeyKind.MANIFEST, name(1), 0.0)
    run(queue, 10.0, 20)
    kept = json.loads(json.dumps(queue.to_dict(10.0, 1e9)))
    again = AnnounceQueue.from_dict(kept, random.Random(2), 0.0, 1e9 + 3600)
    assert again.next_actions(0.0) == []
    deadline = again.next_deadline()
    assert deadline is not None and 0.9 * REPUBLISH_S - 3600 <= deadline <= REPUBLISH_S - 3590
    late = AnnounceQueue.from_dict(kept, random.Random(2), 0.0, 1e9 + 2 * REPUBLISH_S)
    assert len(late.next_actions(0.0)) == KEYS_PER_NAME
    set_back = AnnounceQueue.from_dict(kept, random.Random(2), 0.0, 0.0)
    deadline = set_back.next_deadline()
    assert set_back.next_actions(0.0) == [] and deadline is not None


def test_a_damaged_state_gives_a_queue_of_what_makes_sense() -> None:
    row = [1, name(1).hex(), 0, [[1e9, 3, 0]] * KEYS_PER_NAME]
    rows = [
        row,
        [],
        None,
        [99, "zz", 0, []],
        [1, "00", 0, row[3]],
        [1, name(2).hex(), 0, [[float("inf"), 0, 0]] * 4],
    ]
    queue = AnnounceQueue.from_dict({"version": 1, "names": rows}, random.Random(1), 0.0, 1e9)
    assert queue.statistics(0.0).names_count == 1
    assert (
        AnnounceQueue.from_dict(
            {"version": 2, "names": rows}, random.Random(1), 0.0, 0.0
        ).next_deadline()
        is None
    )
