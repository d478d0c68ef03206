"""What a release makes of records that a newer one has written."""

from __future__ import annotations

import msgspec
import pytest

from logeion.actors.controller.entries import UnknownRecordError, pack_records, read_records, unpack_records
from logeion.actors.metadata import FeatureLevelSet, TopicDeleted
from logeion.wire.batch import MAGIC_AT
from logeion.wire.errors import ConfigError, CorruptMessageError
from logeion.wire.records import Record, build_batch

KNOWN = TopicDeleted(topic_id="ab")


def written(*values: object) -> bytes:
    records = [Record(offset=at, timestamp=0, value=msgspec.msgpack.encode(value)) for at, value in enumerate(values)]
    return build_batch(records)


def test_what_is_written_is_read() -> None:
    records = [KNOWN, FeatureLevelSet(name="metadata.version", level=2)]
    assert unpack_records(pack_records(records, 0)) == records


def test_a_kind_of_record_that_only_a_newer_release_knows_is_named_and_ends_the_start() -> None:
    batch = written({"type": "TopicDeleted", "topic_id": "ab"}, {"type": "ShareGroupMoved", "to": 7})
    for read in (lambda: read_records(batch), lambda: unpack_records(batch[MAGIC_AT:])):
        with pytest.raises(UnknownRecordError, match=r"ShareGroupMoved record at offset 1.*newer one") as raised:
            read()
        # Which an actor ends with at once, instead of being started again and again.
        assert isinstance(raised.value, ConfigError)


def test_a_field_that_only_a_newer_release_knows_is_passed_over() -> None:
    assert read_records(written({"type": "TopicDeleted", "topic_id": "ab", "why": "because"})) == [KNOWN]


@pytest.mark.parametrize("value", [{"type": "TopicDeleted", "topic_id": 7}, {"topic_id": "ab"}, 7, "x"])
def test_what_is_no_record_is_damage(value: object) -> None:
    with pytest.raises(CorruptMessageError, match="offset 0"):
        read_records(written(value))
