"""Super-seeding: a span is offered once, by one seed, until it has a holder that is no seed."""

from __future__ import annotations

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.offers import (
    OFFER_DEADLINE_S,
    OFFER_DEADLINE_S_MIN,
    OFFERS_AHEAD,
    REQUESTED_AHEAD,
    WITHHELD_S_MAX,
    Offers,
)
from p2phub.proto.limits import MIB
from p2phub.proto.messages import Run

PAGE, OTHER_PAGE = b"p" * 32, b"q" * 32
COUNT = 64
SERVED_MAX = 8
FULL = bitsets.to_wire(bitsets.interval(0, COUNT), COUNT)
NONE = bytes(COUNT // 8)


def seed(name: str = "seed", takers: int = 3, others: tuple[str, ...] = ()) -> Offers:
    offers = Offers(name, COUNT * MIB)
    offers.on_page(PAGE, [MIB] * COUNT)
    offers.on_pages_complete()
    for other in others:
        offers.on_peer(other, 0.0)
        offers.on_have(other, PAGE, FULL, 0.0)
    for number in range(takers):
        offers.on_peer(f"p{number}", 0.0)
        offers.on_ask(f"p{number}", [PAGE])
        offers.on_have(f"p{number}", PAGE, NONE, 0.0)
    return offers


def test_no_span_is_offered_twice_and_each_peer_gets_some() -> None:
    actions = seed().next_actions(0.0, SERVED_MAX)
    entries = [action.run.start for action in actions]
    assert len(entries) == len(set(entries)) == 3 * OFFERS_AHEAD
    assert {action.peer for action in actions} == {"p0", "p1", "p2"}


def test_a_single_peer_is_offered_nothing() -> None:
    assert seed(takers=1).next_actions(0.0, SERVED_MAX) == []


def test_no_more_peers_have_offers_than_are_served_and_the_others_have_no_slot() -> None:
    offers = seed(takers=5)
    offered = {action.peer for action in offers.next_actions(0.0, 2)}
    assert len(offered) == 2
    assert offers.withheld == {f"p{number}" for number in range(5)} - offered


def test_slots_are_for_all_when_nothing_is_left_to_offer() -> None:
    offers, now = seed(takers=5), 0.0
    left = COUNT
    while left:
        now += 0.1
        for action in offers.next_actions(now, 2):
            left -= 1
            if left:  # the last one is under way for long
                offers.on_have_delta(action.peer, PAGE, [action.run.start], now)
                for number in range(5):
                    offers.on_have_delta(f"p{number}", PAGE, [action.run.start], now)
    assert offers.next_actions(now, 2) == [] and not offers.is_over
    assert not offers.withheld


def test_what_a_peer_requested_before_its_offers_came_is_offered_to_nobody_else() -> None:
    offers = seed()
    offers.on_request("p0", [Run(PAGE, 0, 2)], 0.0)
    taken_at: dict[int, float] = {}
    for step in range(60):
        now = step / 10
        for action in offers.next_actions(now, SERVED_MAX):
            if action.peer != "p0":  # which announces nothing
                offers.on_have_delta(action.peer, PAGE, [action.run.start], now)
                taken_at[action.run.start] = now
    assert set(taken_at) == set(range(COUNT))
    assert min(taken_at[0], taken_at[1]) >= OFFER_DEADLINE_S_MIN > taken_at[2]


def test_requests_keep_a_few_spans_from_others_at_most() -> None:
    offers = seed()
    offers.on_request("p0", [Run(PAGE, 0, COUNT), Run(OTHER_PAGE, 0, COUNT)], 0.0)
    offers.on_request("unknown", [Run(PAGE, 0, COUNT)], 0.0)
    offered = {action.run.start for action in offers.next_actions(0.0, SERVED_MAX)}
    assert offered == set(range(REQUESTED_AHEAD, REQUESTED_AHEAD + 2 * OFFERS_AHEAD))


def test_what_a_peer_requests_later_is_still_offered() -> None:
    offers = seed()
    offers.on_request("p0", [Run(PAGE, 0, REQUESTED_AHEAD)], 0.0)
    offers.on_have_delta("p0", PAGE, list(range(REQUESTED_AHEAD)), 0.0)
    later = {REQUESTED_AHEAD, REQUESTED_AHEAD + 1}
    offers.on_request("p0", [Run(PAGE, min(later), max(later) + 1)], 0.0)
    assert later <= {action.run.start for action in offers.next_actions(0.0, SERVED_MAX)}


def test_what_a_peer_requested_of_what_others_have_is_no_offer() -> None:
    offers = seed()
    offers.on_have_delta("p1", PAGE, [0], 0.0)
    offers.on_request("p0", [Run(PAGE, 0, 1)], 0.0)
    assert sum(action.peer == "p0" for action in offers.next_actions(0.0, 8)) == OFFERS_AHEAD


def test_an_announced_span_makes_room_for_the_next_offer() -> None:
    offers = seed()
    first = [
        action.run.start for action in offers.next_actions(0.0, SERVED_MAX) if action.peer == "p0"
    ]
    assert offers.next_actions(0.1, SERVED_MAX) == []
    offers.on_have_delta("p0", PAGE, first[:1], 0.2)
    assert [action.peer for action in offers.next_actions(0.2, SERVED_MAX)] == ["p0"]


def test_an_offer_nobody_announced_is_repeated_after_the_deadline_only() -> None:
    offers = seed(takers=2)
    first = {action.run.start for action in offers.next_actions(0.0, SERVED_MAX)}
    assert offers.next_deadline() == OFFER_DEADLINE_S
    assert (
        not {action.run.start for action in offers.next_actions(OFFER_DEADLINE_S - 1, SERVED_MAX)}
        & first
    )
    again = {action.run.start for action in offers.next_actions(OFFER_DEADLINE_S, SERVED_MAX)}
    assert again and again <= first | set(range(COUNT))


def test_seeds_share_the_spans_without_a_word() -> None:
    one = seed("a", others=("b",))
    two = seed("b", others=("a",))
    first = {action.run.start for action in one.next_actions(0.0, SERVED_MAX)}
    second = {action.run.start for action in two.next_actions(0.0, SERVED_MAX)}
    assert first and second and not first & second


def test_seeds_share_the_spans_by_what_their_peers_say() -> None:
    one, two = seed("a"), seed("b")
    one.on_seeds("p0", ["b", "a"])
    two.on_seeds("p2", ["a"])
    first = {action.run.start for action in one.next_actions(0.0, SERVED_MAX)}
    second = {action.run.start for action in two.next_actions(0.0, SERVED_MAX)}
    assert first and second and not first & second


def test_seeds_that_are_invented_hold_up_nothing() -> None:
    offers = seed()
    offers.on_seeds("p0", [f"invented {number}" for number in range(1000)])
    now, held = 0.0, set[int]()
    while not offers.is_over:
        now += 0.1
        for action in offers.next_actions(now, SERVED_MAX):
            held.add(action.run.start)
            offers.on_have_delta(action.peer, PAGE, [action.run.start], now)
        assert now < 100.0
    assert held == set(range(COUNT))


def test_who_passes_nothing_on_is_offered_no_more() -> None:
    offers = seed()
    now, given = 0.0, dict.fromkeys(("p0", "p1", "p2"), 0)
    while now < 30.0:
        now += 0.5
        for action in offers.next_actions(now, SERVED_MAX):
            given[action.peer] += 1
            offers.on_have_delta(action.peer, PAGE, [action.run.start], now)
            if action.peer != "p0":
                for other in {"p0", "p1", "p2"} - {action.peer}:
                    offers.on_have_delta(other, PAGE, [action.run.start], now + 0.2)
        assert offers.withheld <= {"p0"}
    assert given["p0"] < min(given["p1"], given["p2"]) / 2
    assert offers.is_over and not offers.withheld


def test_who_passes_nothing_on_is_known_after_a_second() -> None:
    offers = seed()
    for action in offers.next_actions(0.0, SERVED_MAX):
        offers.on_have_delta(action.peer, PAGE, [action.run.start], 0.1)
        if action.peer != "p0":
            for other in {"p1", "p2"} - {action.peer}:
                offers.on_have_delta(other, PAGE, [action.run.start], 0.2)
    offers.on_have_delta("p1", PAGE, [COUNT - 1], 0.9)
    offers.on_have_delta("p2", PAGE, [COUNT - 1], 1.0)  # they still do
    offers.next_actions(1.2, SERVED_MAX)
    assert offers.withheld == {"p0"}


def test_what_only_a_peer_without_uploads_has_is_offered_anew() -> None:
    offers = seed()
    kept = [
        action.run.start for action in offers.next_actions(0.0, SERVED_MAX) if action.peer == "p0"
    ]
    offers.on_have_delta("p0", PAGE, kept, 0.1)
    now, others = 0.1, set[int]()
    while now < 30.0 and not set(kept) <= others:
        now += 0.5
        for action in offers.next_actions(now, SERVED_MAX):
            offers.on_have_delta(action.peer, PAGE, [action.run.start], now)
            if action.peer != "p0":
                others.add(action.run.start)
                for other in {"p1", "p2"} - {action.peer}:
                    offers.on_have_delta(other, PAGE, [action.run.start], now + 0.2)
    assert set(kept) <= others


def test_a_slot_is_withheld_for_a_while_only_and_where_others_pass_on() -> None:
    offers = seed()
    for action in offers.next_actions(0.0, SERVED_MAX):
        offers.on_have_delta(action.peer, PAGE, [action.run.start], 0.1)
    offers.next_actions(6.0, SERVED_MAX)
    assert not offers.withheld  # nobody passed anything on: all may be slow
    first, second = list(offers._peers["p1"].carried)[:2]
    offers.on_have_delta("p2", PAGE, [first], 0.2)
    offers.on_have_delta("p2", PAGE, [second], 6.0)
    offers.next_actions(7.0, SERVED_MAX)
    assert offers.withheld == {"p0", "p2"}
    offers.next_actions(7.0 + WITHHELD_S_MAX, SERVED_MAX)
    assert not offers.withheld & {"p0", "p2"}


def test_the_next_span_goes_to_who_has_least_left_to_pass_on() -> None:
    offers = seed(takers=2)
    for action in offers.next_actions(0.0, SERVED_MAX):
        offers.on_have_delta(action.peer, PAGE, [action.run.start], 0.1)
    slow = offers.next_actions(0.1, SERVED_MAX)
    for action in slow:
        if action.peer == "p0":
            offers.on_have_delta("p0", PAGE, [action.run.start], 0.2)
            offers.on_have_delta("p1", PAGE, [action.run.start], 0.3)
    assert {action.peer for action in offers.next_actions(0.3, SERVED_MAX)} == {"p0"}


def test_offering_is_over_when_every_span_has_a_holder_who_is_no_seed() -> None:
    offers = seed(others=("other seed",))
    assert not offers.is_over
    offers.on_have_delta("p0", PAGE, range(40), 1.0)
    offers.on_have_delta("p1", PAGE, range(40, COUNT), 1.0)
    assert offers.is_over and offers.spread_count == COUNT
    assert offers.next_actions(1.0, SERVED_MAX) == []
    offers.on_peer_gone("p1", 2.0)
    assert not offers.is_over


def test_what_a_stranger_says_of_unknown_pages_is_ignored() -> None:
    offers = seed()
    offers.on_have("p0", b"x" * 32, FULL, 0.0)
    offers.on_have("stranger", PAGE, FULL, 0.0)
    offers.on_have_delta("p0", PAGE, [COUNT, 70_000], 0.0)
    assert offers.spread_count == 0


def two_pages() -> Offers:
    offers = Offers("seed", 2 * COUNT * MIB)
    offers.on_page(PAGE, [MIB] * COUNT)
    offers.on_page(OTHER_PAGE, [MIB] * COUNT)
    offers.on_pages_complete()
    return offers


def join(offers: Offers, peer: str, *pages: bytes) -> None:
    """A peer that wants these pages."""
    offers.on_peer(peer, 0.0)
    offers.on_ask(peer, pages)
    for page in (PAGE, OTHER_PAGE):
        offers.on_have(peer, page, NONE, 0.0)


def test_peers_that_want_different_parts_are_offered_nothing_and_keep_their_slots() -> None:
    offers = two_pages()
    join(offers, "first", PAGE)
    join(offers, "second", OTHER_PAGE)
    assert offers.next_actions(0.0, SERVED_MAX) == []
    assert not offers.withheld


def test_only_what_two_peers_want_is_offered_and_to_them() -> None:
    offers = two_pages()
    join(offers, "all", PAGE, OTHER_PAGE)
    join(offers, "part", OTHER_PAGE)
    join(offers, "other part", PAGE)
    join(offers, "also part", PAGE)
    now, offered = 0.0, dict[str, set[bytes]]()
    while actions := offers.next_actions(now, SERVED_MAX):
        now += 0.1
        for action in actions:
            offered.setdefault(action.peer, set()).add(action.run.page)
            for peer in ("all", "part") if action.run.page == OTHER_PAGE else offers._peers:
                if peer != "part" or action.run.page == OTHER_PAGE:
                    offers.on_have_delta(peer, action.run.page, [action.run.start], now)
    assert offered == {
        "all": {PAGE, OTHER_PAGE}, "part": {OTHER_PAGE}, "other part": {PAGE}, "also part": {PAGE},
    }  # fmt: skip
    assert offers.is_over


def test_a_peer_that_takes_nothing_holds_up_nobody_for_long() -> None:
    offers, now, waited_s = seed(takers=2), 0.0, 0.0
    held = set[int]()
    while len(held) < COUNT and waited_s < 2 * OFFER_DEADLINE_S_MIN:
        now += 0.1
        given = [
            action.run.start
            for action in offers.next_actions(now, SERVED_MAX)
            if action.peer == "p0"
        ]
        waited_s = 0.0 if given else waited_s + 0.1
        if not given and "p0" not in offers.withheld:
            given = sorted(set(range(COUNT)) - held)[:1]  # it requests what it lacks
            waited_s = 0.0
        held.update(given)
        offers.on_have_delta("p0", PAGE, given, now)
    assert len(held) == COUNT, f"after {now:.1f} s {len(held)} spans, nothing for {waited_s:.1f} s"


def test_what_a_peer_does_not_want_by_entry_is_offered_to_it_once() -> None:
    offers, now = seed(takers=2), 0.0
    offered: list[tuple[str, int]] = []
    while now < COUNT * OFFER_DEADLINE_S:  # both ask for the page, and want nothing of it
        offered += [
            (action.peer, action.run.start) for action in offers.next_actions(now, SERVED_MAX)
        ]
        now += 1.0
    assert len(offered) == len(set(offered))
    assert not offers.withheld
