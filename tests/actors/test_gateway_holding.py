"""Batches that wait for a leader: what is sent, sent again, held and failed."""

from __future__ import annotations

from logeion.actors.gateway.holding import Held, Holding


def batch(name: str, *, idempotent: bool = True, acks: int = -1, hold_ms: int = 1_000) -> Held[str]:
    return Held(name, idempotent, acks, hold_ms)


def serving() -> Holding[str]:
    holding: Holding[str] = Holding()
    assert holding.serving() == []
    return holding


def names(batches: list[Held[str]]) -> list[str]:
    return [held.work for held in batches]


def test_a_batch_for_a_serving_leader_is_sent() -> None:
    assert serving().submit(batch("a"), 0)


def test_batches_without_a_leader_are_held_and_sent_in_order() -> None:
    holding: Holding[str] = Holding()
    for name in "abc":
        assert not holding.submit(batch(name, idempotent=False), 0)
    assert names(holding.serving()) == ["a", "b", "c"]
    assert holding.submit(batch("d"), 0)


def test_after_a_kill_the_unanswered_are_sent_again_before_the_new_ones() -> None:
    holding = serving()
    a, b = batch("a"), batch("b")
    assert holding.submit(a, 0) and holding.submit(b, 0)
    assert holding.answered(a)
    assert holding.lost(5) == []
    assert not holding.submit(batch("c"), 6)
    assert names(holding.serving()) == ["b", "c"]


def test_a_sent_batch_without_producer_id_is_never_sent_twice() -> None:
    holding = serving()
    holding.submit(batch("plain", idempotent=False), 0)
    holding.submit(batch("known"), 0)
    assert names(holding.lost(5)) == ["plain"]
    assert names(holding.serving()) == ["known"]


def test_acks_0_is_never_sent_twice() -> None:
    holding = serving()
    holding.submit(batch("none", acks=0), 0)
    assert names(holding.lost(5)) == ["none"]


def test_what_the_partition_refused_as_not_leader_is_held_only_if_a_second_copy_would_be_recognised() -> None:
    """It may have written it before it resigned."""
    holding = serving()
    a, b, plain = batch("a"), batch("b"), batch("plain", idempotent=False)
    for held in (a, plain, b):
        holding.submit(held, 0)
    assert holding.not_leader(a, 1)
    assert not holding.not_leader(plain, 1)
    assert not holding.submit(batch("c"), 1)
    assert holding.not_leader(b, 2)
    assert names(holding.serving()) == ["a", "b", "c"]


def test_holding_ends_for_each_batch_by_its_own_deadline_which_a_second_failure_does_not_extend() -> None:
    holding: Holding[str] = Holding()
    holding.submit(batch("short", hold_ms=100), 0)
    holding.submit(batch("long", hold_ms=1_000), 0)
    assert holding.next_deadline == 100
    assert names(holding.expire(100)) == ["short"]
    holding.serving()
    holding.lost(900)
    assert names(holding.expire(1_000)) == ["long"]
    assert not holding.holding


def test_giving_up_fails_everything_in_order() -> None:
    holding = serving()
    holding.submit(batch("a"), 0)
    holding.lost(1)
    holding.submit(batch("b"), 2)
    assert names(holding.give_up()) == ["a", "b"]
    assert names(holding.serving()) == []


def test_a_late_answer_of_a_lost_leader_counts_for_nothing() -> None:
    holding = serving()
    a = batch("a")
    holding.submit(a, 0)
    holding.lost(1)
    assert not holding.answered(a)


def test_no_batch_of_a_producer_overtakes_an_earlier_one_that_was_held_too_long() -> None:
    holding: Holding[str] = Holding()
    first, second = batch("first", hold_ms=100), batch("second", hold_ms=100)
    other, third = batch("other", hold_ms=1_000), batch("third", hold_ms=1_000)
    first.producer = second.producer = third.producer = 7
    other.producer = 8
    for held, now in ((first, 0), (other, 10), (third, 20), (second, 90)):
        holding.submit(held, now)
    # The log knows nothing of a new producer yet: it would take the second batch for its first.
    assert names(holding.expire(100)) == ["first", "third", "second"]
    assert names(holding.serving()) == ["other"]
