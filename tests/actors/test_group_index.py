"""What a group index answers from the records alone."""

from __future__ import annotations

import time
from typing import Any

from logeion.actors.coordinator.index import GroupIndex
from logeion.actors.coordinator.machine import GroupMachine
from logeion.actors.coordinator.records import GroupKey, GroupRecord, OffsetKey, OffsetValue, encode, pack, unpack
from logeion.actors.coordinator.step import Now, Settings
from tests.actors.test_group_machine import TOPIC_ID, Driver

NOW = Now(0.0, 10_000_000_000)


def indexed(*logs: list[GroupRecord]) -> GroupIndex:
    index = GroupIndex(Settings())
    for log in logs:
        for record in log:
            index.apply(*encode(record))
    return index


def position(group: str, offset: int, **value: Any) -> GroupRecord:
    settings = {"commit_time_ms": NOW.wall_ms, "topic_id": TOPIC_ID} | value
    return GroupRecord(OffsetKey(group, "t", 0), OffsetValue(offset=offset, **settings))


def test_an_index_answers_what_the_groups_own_coordinator_would() -> None:
    group = Driver()
    group.stable("a", "b")
    index = indexed(group.log, [position("other", 7)])
    assert index.machine("g").describe() == group.machine.describe()
    assert index.machine("other").offsets.fetch(None)[0].offset == 7
    assert {e.group: (e.group_type, e.state, e.protocol_type) for e in index.entries()} == {
        "g": ("classic", "Stable", "consumer"),
        "other": ("classic", "Empty", ""),
    }


def test_a_coordinator_that_is_handed_its_group_stands_where_the_last_one_stood() -> None:
    group = Driver()
    members = group.stable("a", "b")
    index = indexed(group.log)
    heir = GroupMachine("g", Settings())
    for record in unpack(pack(index.read("g"))):
        heir.replay(record)
    assert heir.describe() == group.machine.describe()
    assert sorted(heir.membership.members) == sorted(members)  # type: ignore[union-attr]


def test_a_group_without_records_is_gone_from_the_index() -> None:
    index = indexed([position("g", 1), GroupRecord(OffsetKey("g", "t", 0), None)])
    assert index.read("g") == [] and index.entries() == [] and index.groups == {}
    index.apply(*encode(GroupRecord(GroupKey("never there"), None)))
    assert index.groups == {}


def test_upkeep_is_due_for_what_is_past_retention_or_of_a_deleted_topic_or_has_members() -> None:
    week = Settings().offsets_retention_ms
    members = Driver()
    members.stable("a")
    index = indexed(
        members.log,
        [position("fresh", 1), position("stale", 1, commit_time_ms=NOW.wall_ms - week - 1)],
        [position("orphan", 1, topic_id="f" * 32)],
    )
    assert [group for group in index.groups if index.due(group, {TOPIC_ID}, NOW)] == ["g", "stale", "orphan"]
    assert index.gone("orphan", {TOPIC_ID}) == ["f" * 32]
    assert index.gone("fresh", {TOPIC_ID}) == []


def test_ten_thousand_groups_are_indexed_and_listed_in_good_time() -> None:
    records = [encode(position(f"group-{number}", number)) for number in range(10_000)]
    index = GroupIndex(Settings())
    began = time.perf_counter()
    for key, value in records:
        index.apply(key, value)
    assert len(index.entries()) == 10_000
    assert not any(index.due(group, {TOPIC_ID}, NOW) for group in index.groups)
    assert time.perf_counter() - began < 2.0
