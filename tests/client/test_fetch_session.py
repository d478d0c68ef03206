"""The machine of a fetch session: no sockets."""

from __future__ import annotations

import random

from logeion.client.fetch_session import LAST_EPOCH, Asked, FetchSession
from logeion.client.positions import TopicPartition

A, B, C = TopicPartition("t", 0), TopicPartition("t", 1), TopicPartition("u", 0)


def named(ask: Asked) -> dict[TopicPartition, int]:
    return {TopicPartition(t.topic, p.partition): p.fetch_offset for t in ask.topics for p in t.partitions}


def forgotten(ask: Asked) -> set[TopicPartition]:
    return {TopicPartition(t.topic, index) for t in ask.forgotten for index in t.partitions}


def test_the_first_fetch_says_everything_and_the_next_only_what_changed() -> None:
    session = FetchSession()
    ask = session.ask({A: (5, 100), B: (0, 100)})
    assert (ask.session_id, ask.session_epoch) == (0, 0) and named(ask) == {A: 5, B: 0}
    assert session.answered(0, 77)
    ask = session.ask({A: (9, 100), B: (0, 100), C: (1, 100)})
    assert (ask.session_id, ask.session_epoch) == (77, 1)
    assert named(ask) == {A: 9, C: 1} and forgotten(ask) == set()
    assert session.answered(0, 77)
    ask = session.ask({A: (9, 100)})
    assert ask.session_epoch == 2 and named(ask) == {} and forgotten(ask) == {B, C}


def test_without_sessions_every_fetch_says_everything() -> None:
    session = FetchSession()
    for _ in range(3):
        ask = session.ask({A: (5, 100)})
        assert (ask.session_id, ask.session_epoch) == (0, 0) and named(ask) == {A: 5}
        assert session.answered(0, 0)


def test_a_session_that_is_lost_begins_again_at_once() -> None:
    for code in (70, 71):
        session = FetchSession()
        session.ask({A: (5, 100)})
        session.answered(0, 77)
        session.ask({A: (6, 100)})
        assert not session.answered(code, 0)
        ask = session.ask({A: (6, 100)})
        assert (ask.session_id, ask.session_epoch) == (0, 0) and named(ask) == {A: 6}


def test_no_answer_and_an_error_begin_again() -> None:
    session = FetchSession()
    session.ask({A: (5, 100)})
    session.answered(0, 77)
    session.broken()
    assert session.ask({A: (5, 100)}).session_epoch == 0
    session.answered(0, 78)
    session.ask({A: (5, 100)})
    assert session.answered(3, 0)
    assert session.ask({A: (5, 100)}).session_epoch == 0


def test_the_epoch_goes_round_without_beginning_again() -> None:
    session = FetchSession()
    session.ask({A: (5, 100)})
    session.answered(0, 77)
    session.epoch = LAST_EPOCH
    session.ask({A: (5, 100)})
    session.answered(0, 77)
    assert session.epoch == 1 and session.session_id == 77


def test_a_broker_that_only_hears_changes_knows_what_is_wanted() -> None:
    for seed in range(200):
        dice = random.Random(seed)
        session, broker, epoch = FetchSession(), dict[TopicPartition, int](), 0
        for _ in range(60):
            wanted = {tp: (dice.randrange(4), 100) for tp in (A, B, C) if dice.random() < 0.7}
            ask = session.ask(wanted)
            if dice.random() < 0.1:
                session.broken()
                continue
            if ask.session_epoch == 0:
                broker, epoch = named(ask), 1
            else:
                assert ask.session_epoch == epoch
                epoch += 1
                broker.update(named(ask))
                for tp in forgotten(ask):
                    del broker[tp]
            assert broker == {tp: offset for tp, (offset, _) in wanted.items()}, seed
            session.answered(0, 5)
