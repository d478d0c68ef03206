"""A cluster without sockets: a log in memory for each partition, and a coordinator of one-member groups."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

from logeion.client.cluster import Cluster
from logeion.client.positions import TopicPartition
from logeion.wire.apis import (
    AbortedTransaction,
    FetchableTopicResponse,
    FetchRequest,
    FetchResponse,
    FindCoordinatorResponse,
    HeartbeatResponse,
    JoinGroupRequest,
    JoinGroupResponse,
    JoinGroupResponseMember,
    LeaveGroupResponse,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopics,
    PartitionData,
    SyncGroupRequest,
    SyncGroupResponse,
)
from logeion.wire.errors import UnknownTopicOrPartitionError
from logeion.wire.fields import Struct
from logeion.wire.records import Record, build_batch

FETCH, LIST_OFFSETS, OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR = 1, 2, 8, 9, 10
JOIN_GROUP, HEARTBEAT, LEAVE_GROUP, SYNC_GROUP = 11, 12, 13, 14
OUT_OF_RANGE = 1


class FakeCluster(Cluster):
    """Node 1 leads everything; ``coordinator`` looks after all groups. ``before`` may refuse or watch any request."""

    def __init__(self, **partitions: int) -> None:
        super().__init__("fake:9092", deadline_s=20.0)
        self.counts = dict(partitions)
        self.logs: dict[TopicPartition, list[tuple[int, bytes]]] = {}
        self.starts: dict[TopicPartition, int] = {}
        self.aborted: dict[TopicPartition, list[tuple[int, int]]] = {}
        self.refusals: dict[TopicPartition, int] = {}
        self.committed: dict[TopicPartition, int] = {}
        self.commits: list[dict[TopicPartition, int]] = []
        self.coordinator = 1
        self.generation = 0
        self.codes: dict[int, list[int]] = {}
        self.asked: list[tuple[int, int | None]] = []
        self.before: Callable[[int, int | None], Awaitable[None]] | None = None

    def count(self, api_key: int) -> int:
        """How often this was asked."""
        return sum(key == api_key for key, _ in self.asked)

    def write(self, topic: str, partition: int, values: Iterable[bytes | None], *, timestamp: int = 1) -> None:
        """One batch."""
        tp = TopicPartition(topic, partition)
        at = self.end(tp)
        records = [Record(at + n, timestamp, None, value) for n, value in enumerate(values)]
        self.put(tp, build_batch(records), len(records))

    def put(self, tp: TopicPartition, batch: bytes, count: int) -> None:
        """These bytes are a batch of so many records."""
        self.logs.setdefault(tp, []).append((self.end(tp) + count, batch))

    def end(self, tp: TopicPartition) -> int:
        """The next offset."""
        log = self.logs.get(tp)
        return log[-1][0] if log else self.starts.get(tp, 0)

    async def refresh(self, topics: Iterable[str] | None = None, *, auto_create: bool = False) -> None:
        names = self.counts if topics is None else topics
        rows = []
        for name in names:
            code = 0 if name in self.counts else UnknownTopicOrPartitionError.code
            entries = [
                MetadataResponsePartition(partition_index=index, leader_id=1, leader_epoch=1)
                for index in range(self.counts.get(name, 0))
            ]
            rows.append(MetadataResponseTopic(error_code=code, name=name, topic_id=name.ljust(32), partitions=entries))
        brokers = [MetadataResponseBroker(node_id=node, host="fake", port=node) for node in (1, 2)]
        self.metadata.apply(MetadataResponse(brokers=brokers, topics=rows), everything=topics is None)

    async def call(
        self, api_key: int, body: Struct, *, node: int | None = None, timeout_s: float | None = None, purpose: str = ""
    ) -> Struct:
        self.asked.append((api_key, node))
        await asyncio.sleep(0)
        if self.before is not None:
            await self.before(api_key, node)
        request = cast(Any, body)
        match api_key:
            case 1:
                return await self._fetch(request)
            case 2:
                return self._offsets(request)
            case 8:
                return self._commit(request)
            case 9:
                return self._committed(request.group_id)
            case 10:
                return FindCoordinatorResponse(node_id=self.coordinator, host="fake", port=self.coordinator)
            case 11:
                return self._join(request)
            case 12:
                codes = self.codes.get(HEARTBEAT)
                return HeartbeatResponse(error_code=codes.pop(0) if codes else 0)
            case 13:
                return LeaveGroupResponse()
            case 14:
                return self._sync(request)
        raise AssertionError(f"nobody expected request {api_key}")

    async def _fetch(self, request: FetchRequest) -> FetchResponse:
        answers = []
        for topic in request.topics:
            for one in topic.partitions:
                tp = TopicPartition(topic.topic, one.partition)
                code = self.refusals.get(tp, 0)
                if not self.starts.get(tp, 0) <= one.fetch_offset <= self.end(tp):
                    code = OUT_OF_RANGE
                records = b"".join(batch for end, batch in self.logs.get(tp, ()) if end > one.fetch_offset)
                if code or records:
                    aborted = self.aborted.get(tp, ())
                    gone = [AbortedTransaction(producer_id=pid, first_offset=at) for pid, at in aborted]
                    data = PartitionData(
                        partition_index=tp.partition,
                        error_code=code,
                        high_watermark=self.end(tp),
                        aborted_transactions=gone,
                        records=None if code else memoryview(records),
                    )
                    answers.append(FetchableTopicResponse(topic=tp.topic, partitions=[data]))
        if not answers:
            await asyncio.sleep(0.01)
        return FetchResponse(responses=answers)

    def _offsets(self, request: ListOffsetsRequest) -> ListOffsetsResponse:
        rows = []
        for topic in request.topics:
            entries = []
            for one in topic.partitions:
                tp = TopicPartition(topic.name, one.partition_index)
                offset = self.end(tp) if one.timestamp == -1 else self.starts.get(tp, 0)
                entries.append(ListOffsetsPartitionResponse(partition_index=tp.partition, offset=offset))
            rows.append(ListOffsetsTopicResponse(name=topic.name, partitions=entries))
        return ListOffsetsResponse(topics=rows)

    def _commit(self, request: OffsetCommitRequest) -> OffsetCommitResponse:
        codes = self.codes.get(OFFSET_COMMIT)
        code = codes.pop(0) if codes else 0
        news = {
            TopicPartition(topic.name, one.partition_index): one.committed_offset
            for topic in request.topics
            for one in topic.partitions
        }
        if not code:
            self.committed |= news
            self.commits.append(news)
        return OffsetCommitResponse(
            topics=[
                OffsetCommitResponseTopic(
                    name=topic.name,
                    partitions=[
                        OffsetCommitResponsePartition(partition_index=one.partition_index, error_code=code)
                        for one in topic.partitions
                    ],
                )
                for topic in request.topics
            ]
        )

    def _committed(self, group: str) -> OffsetFetchResponse:
        rows = [
            OffsetFetchResponseTopics(
                name=tp.topic,
                partitions=[OffsetFetchResponsePartitions(partition_index=tp.partition, committed_offset=offset)],
            )
            for tp, offset in self.committed.items()
        ]
        return OffsetFetchResponse(groups=[OffsetFetchResponseGroup(group_id=group, topics=rows)])

    def _join(self, request: JoinGroupRequest) -> JoinGroupResponse:
        self.generation += 1
        protocol = request.protocols[0]
        member = JoinGroupResponseMember(member_id="m", metadata=protocol.metadata)
        return JoinGroupResponse(
            generation_id=self.generation,
            protocol_type="consumer",
            protocol_name=protocol.name,
            leader="m",
            member_id="m",
            members=[member],
        )

    def _sync(self, request: SyncGroupRequest) -> SyncGroupResponse:
        return SyncGroupResponse(assignment=request.assignments[0].assignment)
