"""What the controller decides: a state machine without I/O, clock or randomness.

``handle(request)`` returns records and an answer; the records are applied to ``image`` at once, so that the next
request sees them, and the answer may go out only once they are committed. ``replay`` applies what is committed
already: at a start, or at a voter that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, assert_never

from logeion.wire.errors import InvalidRequestError, KafkaError, StaleBrokerEpochError

from ..messages import (
    AllocateProducerIds,
    AlterConfigs,
    ConfigsAltered,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
    EpochsGranted,
    GrantEpochs,
    Message,
    NodeRegistered,
    ProducerIdsAllocated,
    Refused,
    RegisterNode,
    TopicResult,
    TopicsChanged,
)
from ..metadata import (
    BrokerRegistered,
    ClusterCreated,
    ConfigChanged,
    MetadataImage,
    MetadataRecord,
    PartitionChanged,
    ProducerIdsReserved,
    TopicCreated,
)
from . import topics

Request = (
    RegisterNode | GrantEpochs | CreateTopics | DeleteTopics | CreatePartitions | AlterConfigs | AllocateProducerIds
)

# Producer ids a gateway gets at a time, as in Kafka.
PRODUCER_IDS = 1_000


class Decision(NamedTuple):
    """Records to commit together, and the answer that is true once they are."""

    records: list[MetadataRecord]
    reply: Message


class ControllerMachine:
    """``new_id`` yields a topic id that nobody has: 32 hex digits."""

    def __init__(self, defaults: topics.Defaults, new_id: Callable[[], str], image: MetadataImage) -> None:
        self.defaults = defaults
        self.new_id = new_id
        self.image = image
        # The offset that the next record gets.
        self.next_offset = 0

    def replay(self, offset: int, record: MetadataRecord) -> None:
        """A committed record, in order."""
        self.image.apply(record)
        self.next_offset = offset + 1

    def found(self, cluster_id: str) -> list[MetadataRecord]:
        """The first records of a new cluster; none if there is one."""
        if self.image.cluster_id:
            return []
        records: list[MetadataRecord] = [ClusterCreated(cluster_id=cluster_id)]
        self._apply(records)
        return records

    def handle(self, request: Request) -> Decision:
        """Never raises a ``KafkaError``: it becomes a ``Refused``, with nothing to commit."""
        try:
            match request:
                case RegisterNode():
                    return self._register(request)
                case GrantEpochs():
                    return self._grant(request)
                case CreateTopics():
                    return self._create(request)
                case DeleteTopics():
                    return self._delete(request)
                case CreatePartitions():
                    return self._grow(request)
                case AlterConfigs():
                    return self._alter(request)
                case AllocateProducerIds():
                    return self._allocate(request)
                case _:
                    assert_never(request)
        except KafkaError as error:
            return Decision([], Refused(code=error.code, reason=str(error)))

    def _apply(self, records: list[MetadataRecord]) -> None:
        self.image.apply_all(records)
        self.next_offset += len(records)

    def _register(self, request: RegisterNode) -> Decision:
        """A node's incarnation that is known keeps its broker epoch: only its Node process has restarted.

        What it says of itself may have changed all the same (its listeners are known only once they are bound).
        """
        known = self.image.brokers.get(request.node)
        same = (
            known is not None
            and known.incarnation == request.incarnation
            and known.directory_id == request.directory_id
        )
        epoch = known.broker_epoch if same and known is not None else self.next_offset
        record = BrokerRegistered(
            node=request.node,
            incarnation=request.incarnation,
            directory_id=request.directory_id,
            host=request.host,
            port=request.port,
            broker_epoch=epoch,
            rack=request.rack,
            admin=request.admin,
        )
        records: list[MetadataRecord] = [] if record == known else [record]
        self._apply(records)
        return Decision(records, NodeRegistered(broker_epoch=epoch, committed=self.next_offset))

    def _grant(self, request: GrantEpochs) -> Decision:
        """A new leader epoch for each partition that this broker leads, in one commit.

        A partition whose epoch is newer than the one the node has seen gets none: that one is its to use. One that
        it no longer leads gets none either, and the log tells it so.
        """
        broker = self.image.brokers.get(request.node)
        if broker is None or broker.broker_epoch != request.broker_epoch:
            raise StaleBrokerEpochError(f"node {request.node} is not registered with epoch {request.broker_epoch}")
        records: list[MetadataRecord] = []
        granted: set[tuple[str, int]] = set()
        for asked in request.partitions:
            state = self.image.partition(asked.topic_id, asked.partition)
            where = (asked.topic_id, asked.partition)
            if (
                state is None
                or state.leader != request.node
                or state.leader_epoch > asked.seen_epoch
                or where in granted
            ):
                continue
            granted.add(where)
            records.append(
                PartitionChanged(
                    topic_id=state.topic_id,
                    partition=state.partition,
                    replicas=state.replicas,
                    isr=state.isr,
                    leader=state.leader,
                    leader_epoch=state.leader_epoch + 1,
                    partition_epoch=state.partition_epoch + 1,
                    elr=state.elr,
                )
            )
        self._apply(records)
        return Decision(records, EpochsGranted(committed=self.next_offset))

    def _create(self, request: CreateTopics) -> Decision:
        """Each topic by itself: one that is refused does not keep the others from being created."""

        def create(at: int) -> list[MetadataRecord]:
            return topics.create(self.image, self.defaults, request.topics[at], request.internal, self.new_id)

        names = [topic.name for topic in request.topics]
        return self._each(names, [""] * len(names), create, request.validate_only)

    def _delete(self, request: DeleteTopics) -> Decision:
        names = [*request.names, *("" for _ in request.topic_ids)]
        ids = [*("" for _ in request.names), *request.topic_ids]
        return self._each(names, ids, lambda at: topics.delete(self.image, names[at], ids[at]), False)

    def _grow(self, request: CreatePartitions) -> Decision:
        names = [topic.name for topic in request.topics]
        return self._each(
            names,
            [""] * len(names),
            lambda at: topics.grow(self.image, self.defaults, request.topics[at]),
            request.validate_only,
        )

    def _each(
        self, names: list[str], ids: list[str], decide: Callable[[int], list[MetadataRecord]], validate_only: bool
    ) -> Decision:
        """One result a topic, in the order asked."""
        records: list[MetadataRecord] = []
        results = []
        for at, name in enumerate(names):
            try:
                decided = decide(at)
            except KafkaError as error:
                results.append(TopicResult(name=name, topic_id=ids[at], code=error.code, reason=str(error)))
                continue
            results.append(self._result(name, ids[at], decided))
            if not validate_only:
                self._apply(decided)
                records += decided
        return Decision(records, TopicsChanged(results=results, committed=self.next_offset))

    def _result(self, name: str, topic_id: str, decided: list[MetadataRecord]) -> TopicResult:
        """What a client is told of a topic that these records create, grow or delete."""
        partitions = [record for record in decided if isinstance(record, PartitionChanged)]
        created = [record for record in decided if isinstance(record, TopicCreated)]
        known = self.image.topic(name) if name else self.image.topic_by_id(topic_id)
        if known is not None:
            name, topic_id = known.name, known.topic_id
        if not created:
            return TopicResult(
                name=name,
                topic_id=topic_id,
                partitions=partitions[-1].partition + 1 if partitions else -1,
                replication_factor=len(partitions[-1].replicas) if partitions else -1,
            )
        configs = {record.key: record.value for record in decided if isinstance(record, ConfigChanged)}
        return TopicResult(
            name=name,
            topic_id=created[0].topic_id,
            partitions=len(partitions),
            replication_factor=len(partitions[0].replicas),
            configs=topics.effective(self.image, configs),
        )

    def _alter(self, request: AlterConfigs) -> Decision:
        records = topics.alter_configs(self.image, request)
        if request.validate_only:
            records = []
        self._apply(records)
        return Decision(records, ConfigsAltered(committed=self.next_offset))

    def _allocate(self, request: AllocateProducerIds) -> Decision:
        first = self.image.next_producer_id
        if first + PRODUCER_IDS > 2**63 - 1:
            raise InvalidRequestError("there are no producer ids left")
        records: list[MetadataRecord] = [ProducerIdsReserved(next_id=first + PRODUCER_IDS)]
        self._apply(records)
        return Decision(records, ProducerIdsAllocated(first=first, count=PRODUCER_IDS))
