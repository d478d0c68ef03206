"""Intensity, period and back-off."""

from __future__ import annotations

import doctest

import logeion.actors.restarts as restarts
from logeion.actors.restarts import Policy, Restarts


def test_the_doctest_holds() -> None:
    assert doctest.testmod(restarts).failed == 0


def test_the_first_exits_are_answered_at_once_and_the_next_ever_later() -> None:
    child = Restarts(Policy(intensity=100, free=2, backoff_min_s=0.1, backoff_max_s=1.0))
    assert [child.exited(0.001 * n) for n in range(8)] == [0.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_one_too_many_within_the_period_gives_up() -> None:
    child = Restarts(Policy(intensity=3, period_s=10.0))
    assert [child.exited(at) is None for at in (0.0, 3.0, 6.0, 9.0)] == [False, False, False, True]


def test_exits_older_than_the_period_are_forgotten() -> None:
    child = Restarts(Policy(intensity=1, period_s=10.0))
    assert [child.exited(at) for at in (0.0, 10.0, 20.0)] == [0.0, 0.0, 0.0]
    assert child.total == 3


def test_thousands_of_exits_neither_overflow_nor_gather() -> None:
    child = Restarts(Policy(intensity=10**9, period_s=1.0, free=0))
    for n in range(5000):
        assert child.exited(n * 1e-6) is not None
    assert child.exited(1e6) == child.policy.backoff_min_s
    assert child.cause("it") == "it ended 1 times within 1 s"
