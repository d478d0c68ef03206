"""The committed positions of one group: pure bookkeeping, all records made here."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from logeion.wire import errors

from ..messages import OffsetToCommit
from .records import GroupRecord, OffsetKey, OffsetValue
from .step import Now, Settings


class Offsets:
    """Positions by (topic, partition). ``apply`` is the only way they change: live and in replay alike."""

    def __init__(self, group: str, settings: Settings) -> None:
        self.group = group
        self.settings = settings
        self.committed: dict[tuple[str, int], OffsetValue] = {}

    def commit(self, offsets: list[OffsetToCommit], now: Now) -> tuple[list[GroupRecord], list[int]]:
        """Records for what is acceptable, and one code an offset; the records are one atomic batch."""
        records = []
        codes = []
        for wanted in offsets:
            if len(wanted.metadata.encode()) > self.settings.offset_metadata_max_bytes:
                codes.append(errors.OffsetMetadataTooLargeError.code)
                continue
            codes.append(0)
            value = OffsetValue(
                offset=wanted.offset,
                commit_time_ms=now.wall_ms,
                leader_epoch=wanted.leader_epoch,
                metadata=wanted.metadata,
                topic_id=wanted.topic_id,
            )
            records.append(GroupRecord(OffsetKey(self.group, wanted.topic, wanted.partition), value))
        for record in records:
            self.apply(record)
        return records, codes

    def apply(self, record: GroupRecord) -> None:
        """Take over one record of the log."""
        key = record.key
        assert isinstance(key, OffsetKey)
        if record.value is None:
            self.committed.pop((key.topic, key.partition), None)
        else:
            assert isinstance(record.value, OffsetValue)
            self.committed[key.topic, key.partition] = record.value

    def fetch(self, partitions: list[tuple[str, int]] | None) -> list[OffsetToCommit]:
        """What is committed; offset -1 where nothing is (all that is when ``partitions`` is None)."""
        wanted = sorted(self.committed) if partitions is None else partitions
        found = []
        for topic, partition in wanted:
            value = self.committed.get((topic, partition))
            if value is None:
                found.append(OffsetToCommit(topic=topic, partition=partition, offset=-1))
            else:
                found.append(
                    OffsetToCommit(
                        topic=topic,
                        partition=partition,
                        offset=value.offset,
                        leader_epoch=value.leader_epoch,
                        metadata=value.metadata,
                        topic_id=value.topic_id,
                    )
                )
        return found

    def drop(self, partitions: Iterable[tuple[str, int]]) -> list[GroupRecord]:
        """Tombstones for those of ``partitions`` that have a position."""
        records = [
            GroupRecord(OffsetKey(self.group, topic, partition), None)
            for topic, partition in sorted(partitions)
            if (topic, partition) in self.committed
        ]
        for record in records:
            self.apply(record)
        return records

    def of_topics(self, topic_ids: Collection[str]) -> list[tuple[str, int]]:
        """The partitions whose positions were committed for topics of these ids."""
        return [key for key, value in self.committed.items() if value.topic_id in topic_ids]

    def expired(
        self, now: Now, *, idle_since_ms: int | None, subscribed: frozenset[str] | None
    ) -> list[tuple[str, int]]:
        """Positions past their retention (KIP-211).

        With ``idle_since_ms`` the group has no members since then, and the clock starts at the later of that and the
        commit. Otherwise only topics nobody subscribes to can expire; ``subscribed`` None means unknown: none do.
        """
        horizon = now.wall_ms - self.settings.offsets_retention_ms
        gone = []
        for (topic, partition), value in self.committed.items():
            if idle_since_ms is None and (subscribed is None or topic in subscribed):
                continue
            if max(value.commit_time_ms, idle_since_ms or 0) <= horizon:
                gone.append((topic, partition))
        return gone
