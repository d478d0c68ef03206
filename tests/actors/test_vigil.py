"""Who owes a sign of life: stopped and sleeping ones hang, busy ones get time, and our own sleep does not count."""

from __future__ import annotations

from collections.abc import Callable

from logeion.actors.vigil import LOOK_S, PATIENCE, PING_S, Look, Vigil

HUNG_S = 2.0


def watched(look: Callable[[float], Look], seconds: float = 60.0) -> tuple[float, str] | None:
    """A process that was asked at 0 and never answers: when it is killed, and why."""
    vigil = Vigil(HUNG_S, 0.0)
    vigil.asked(0.0)
    while vigil.due < seconds:
        now = vigil.due
        cause = vigil.looked(now, look(now))
        if cause:
            return now, cause
    return None


def test_a_stopped_process_hangs_when_its_time_is_over() -> None:
    found = watched(lambda now: Look("TT", 100))
    assert found is not None and "stopped" in found[1]
    assert HUNG_S <= found[0] <= HUNG_S + LOOK_S


def test_one_that_sleeps_though_it_was_asked_hangs() -> None:
    found = watched(lambda now: Look("SS", 100))
    assert found is not None and "sleeps" in found[1]
    assert HUNG_S <= found[0] <= HUNG_S + 2 * LOOK_S


def test_one_that_computes_or_waits_for_a_cpu_or_a_disk_gets_ten_times_as_long() -> None:
    for look in (
        lambda now: Look("SS", int(100 * now)),
        lambda now: Look("SR", 100),
        lambda now: Look("DS", 100),
        lambda now: Look("TR", 100),
    ):
        found = watched(look)
        assert found is not None and "though it runs" in found[1]
        assert PATIENCE * HUNG_S <= found[0] <= PATIENCE * HUNG_S + LOOK_S


def test_a_little_cpu_now_and_then_is_a_sign_that_it_comes_to_its_turn() -> None:
    found = watched(lambda now: Look("SS", int(now)))
    assert found is not None and found[0] >= PATIENCE * HUNG_S
    stuck = watched(lambda now: Look("SS", min(4, int(now))))
    assert stuck is not None and "sleeps" in stuck[1]
    assert 4 + HUNG_S <= stuck[0] <= 4 + HUNG_S + 2 * LOOK_S


def test_who_answers_is_asked_again_after_a_while() -> None:
    vigil = Vigil(HUNG_S, 7.0)
    assert vigil.due == 7.0 and not vigil.owed
    vigil.asked(7.0)
    assert vigil.owed
    vigil.answered(7.1)
    assert not vigil.owed
    assert vigil.due == 7.1 + PING_S


def test_time_in_which_we_did_not_run_ourselves_does_not_count() -> None:
    vigil = Vigil(HUNG_S, 0.0)
    vigil.asked(0.0)
    assert not vigil.looked(600.0, Look("TT", 1))
    assert not vigil.looked(vigil.due, Look("TT", 1))
    while vigil.due < 600.0 + HUNG_S:
        assert not vigil.looked(vigil.due, Look("TT", 1))
    assert vigil.looked(vigil.due, Look("TT", 1))
