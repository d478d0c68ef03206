"""What may not go on behind a batch that a gateway has refused."""

from __future__ import annotations

from logeion.actors.gateway.refusals import AGES, PRODUCERS_MAX, SEQUENCES, SEQUENCES_MAX, Producer, Refusals

ADA: Producer = (("orders", 0), 7, 0)
BOB: Producer = (("orders", 0), 8, 0)


def test_who_was_refused_nothing_goes_on() -> None:
    refusals = Refusals()
    assert not any(refusals.behind(ADA, number) for number in range(5))


def test_what_was_sent_behind_a_refused_batch_is_refused_until_that_comes_again() -> None:
    refusals = Refusals()
    refusals.note(ADA, 10)
    for number in (11, 12):
        assert refusals.behind(ADA, number)
        refusals.note(ADA, number)
    assert not refusals.behind(BOB, 0), "another producer"
    assert not refusals.behind((("orders", 1), 7, 0), 11), "another partition"
    assert not refusals.behind((("orders", 0), 7, 1), 0), "the producer's next epoch"
    assert [refusals.behind(ADA, number) for number in (10, 11, 12, 13)] == [False] * 4


def test_a_client_that_was_elsewhere_meanwhile_is_refused_once_more() -> None:
    refusals = Refusals()
    refusals.note(ADA, 10)
    assert refusals.behind(ADA, 90)
    refusals.note(ADA, 90)
    assert refusals.behind(ADA, 91)
    refusals.note(ADA, 91)
    assert [refusals.behind(ADA, number) for number in (90, 91, 92)] == [False] * 3


def test_a_batch_before_all_that_were_refused_goes_on_and_so_does_what_follows_it() -> None:
    """Its client has hung up and begins anew; batches of the old connection are refused after it came again."""
    refusals = Refusals()
    for number in (10, 11, 12):
        refusals.note(ADA, number)
    assert [refusals.behind(ADA, number) for number in (9, 10, 11, 12, 13)] == [False] * 5


def test_what_follows_a_batch_that_is_refused_now_is_no_sign_that_its_client_knows() -> None:
    refusals = Refusals()
    refusals.note(ADA, 10)
    refusals.note(ADA, 12)
    for number in (11, 12, 13):
        assert refusals.behind(ADA, number)
        refusals.note(ADA, number)
    assert [refusals.behind(ADA, number) for number in (11, 12, 13)] == [False] * 3


def test_a_batch_that_is_refused_again_blocks_again() -> None:
    refusals = Refusals()
    refusals.note(ADA, 10)
    assert not refusals.behind(ADA, 10)
    refusals.note(ADA, 10)
    assert refusals.behind(ADA, 11)


def test_it_is_forgotten_after_a_while_and_a_new_refusal_begins_that_anew() -> None:
    refusals = Refusals()
    refusals.note(ADA, 10)
    for _ in range(AGES - 1):
        refusals.grow_older()
    refusals.note(ADA, 11)
    refusals.grow_older()
    assert refusals.behind(ADA, 12)
    for _ in range(AGES):
        refusals.grow_older()
    assert not len(refusals) and not refusals.behind(ADA, 12)


def test_neither_many_producers_nor_one_that_never_repeats_anything_fill_the_memory() -> None:
    refusals = Refusals()
    for number in range(SEQUENCES_MAX):
        refusals.note(ADA, number)
    assert not refusals.behind(ADA, 10_000), "whoever it is, it does not send anything again"
    for number in range(PRODUCERS_MAX + 10):
        refusals.note((("orders", 0), number, 0), 0)
    assert len(refusals) == PRODUCERS_MAX


def test_what_was_taken_already_is_behind_an_earlier_batch_only() -> None:
    refusals = Refusals()
    assert not refusals.before(ADA, 10)
    refusals.note(ADA, 10)
    assert refusals.before(ADA, 11) and not refusals.before(ADA, 10) and not refusals.before(ADA, 9)
    refusals.note(ADA, SEQUENCES - 1)
    assert refusals.before(ADA, 0), "0 comes after the highest"
