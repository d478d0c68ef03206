"""Parked fetches: woken by the watermark that they wait for, or by their deadline, and never twice."""

from __future__ import annotations

from logeion.actors.gateway.parking import Parking


def test_a_call_wakes_when_the_watermark_is_above_its_offset() -> None:
    parking: Parking[str] = Parking()
    parking.park("a", 500, [("t-0", 10)])
    parking.park("b", 500, [("t-0", 20)])
    assert parking.lowest("t-0") == 10
    assert parking.passed("t-0", 10) == []
    assert parking.passed("t-0", 11) == ["a"]
    assert parking.lowest("t-0") == 20
    assert parking.passed("t-1", 100) == []


def test_a_call_that_waits_at_many_partitions_is_woken_once_and_leaves_them_all() -> None:
    parking: Parking[str] = Parking()
    parking.park("a", 500, [("t-0", 10), ("t-1", 5), ("t-0", 10)])
    assert parking.passed("t-1", 6) == ["a"]
    assert parking.lowest("t-0") is None
    assert parking.due(1_000) == []
    assert len(parking) == 0


def test_deadlines_come_in_order_and_only_when_they_are_due() -> None:
    parking: Parking[str] = Parking()
    parking.park("late", 900, [("t-0", 1)])
    parking.park("soon", 300, [("t-0", 1)])
    parking.park("middle", 600, [])
    assert parking.next_deadline == 300
    assert parking.due(299) == []
    assert parking.due(600) == ["soon", "middle"]
    assert parking.next_deadline == 900
    assert parking.lowest("t-0") == 1


def test_a_call_whose_client_is_gone_leaves_nothing_behind() -> None:
    parking: Parking[str] = Parking()
    parking.park("a", 500, [("t-0", 1), ("t-1", 1)])
    assert "a" in parking
    assert parking.leave("a")
    assert not parking.leave("a")
    assert parking.lowest("t-0") is None and parking.next_deadline is None


def test_all_who_wait_at_a_partition_can_be_sent_away() -> None:
    parking: Parking[str] = Parking()
    parking.park("a", 500, [("t-0", 1)])
    parking.park("b", 500, [("t-0", 2), ("t-1", 2)])
    parking.park("c", 500, [("t-1", 2)])
    assert parking.all_at("t-0") == ["a", "b"]
    assert parking.passed("t-1", 3) == ["c"]


def test_a_call_that_names_a_partition_twice_is_woken_once() -> None:
    parking: Parking[str] = Parking()
    parking.park("a", 500, [("t-0", 10), ("t-0", 11)])
    assert parking.passed("t-0", 20) == ["a"]
    parking.park("a", 500, [("t-0", 20), ("t-0", 20)])
    assert parking.all_at("t-0") == ["a"]


def test_a_call_that_parks_again_leaves_its_first_place_and_no_deadline_stays_behind() -> None:
    parking: Parking[str] = Parking()
    parking.park("a", 500, [("t-0", 10)])
    parking.park("a", 700, [("t-0", 20)])
    assert parking.lowest("t-0") == 20 and parking.next_deadline == 700 and len(parking) == 1
    assert parking.due(800) == ["a"]
    assert parking.next_deadline is None
