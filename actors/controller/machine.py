"""What the controller decides: a state machine without I/O, clock or randomness.

``handle(request)`` returns records and an answer; the records are applied to ``image`` at once, so that the next
request sees them, and the answer may go out only once they are committed. ``replay`` applies what is committed
already: at a start, or at a voter that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple, assert_never, get_args

import msgspec

from logeion.wire.errors import (
    BrokerNotAvailableError,
    CoordinatorNotAvailableError,
    DuplicateBrokerRegistrationError,
    InvalidRequestError,
    KafkaError,
    StaleBrokerEpochError,
)

from ..messages import (
    AllocateProducerIds,
    AlterConfigs,
    AlterPartition,
    ConfigsAltered,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
    ElectLeaders,
    EpochsGranted,
    GrantEpochs,
    Heartbeat,
    HeartbeatAnswered,
    Message,
    NodeRegistered,
    PartitionAltered,
    PartitionResult,
    PartitionsDecided,
    PartitionToElect,
    ProducerIdsAllocated,
    ReassignPartitions,
    Recorded,
    Refused,
    RegisterNode,
    ReplicasDown,
    TopicResult,
    TopicsChanged,
    UnregisterNode,
    UpdateFeatures,
)
from ..metadata import (
    METADATA_VERSION,
    BrokerRegistered,
    ClusterCreated,
    ConfigChanged,
    MetadataImage,
    MetadataRecord,
    PartitionChanged,
    ProducerIdsReserved,
    TopicCreated,
)
from . import brokers, elections, features, isr, reassigning, topics, voters
from .sessions import Sessions

Request = (
    RegisterNode
    | GrantEpochs
    | Heartbeat
    | AlterPartition
    | ReplicasDown
    | CreateTopics
    | DeleteTopics
    | CreatePartitions
    | AlterConfigs
    | AllocateProducerIds
    | ElectLeaders
    | ReassignPartitions
    | UpdateFeatures
    | UnregisterNode
)
REQUESTS: tuple[type[Message], ...] = get_args(Request)

# Producer ids a gateway gets at a time, as in Kafka.
PRODUCER_IDS = 1_000
# Leaders that are moved back at a time: each move interrupts its partition for some milliseconds.
REBALANCED_AT_ONCE, REBALANCE_AGAIN_S = 20, 1.0
# How long a cluster's first topic waits for nodes that have never been there.
NODES_AWAITED_S = 5.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``session_s``: a node without a heartbeat for so long is fenced; ``rebalance_s``: how often leaders are moved
    back to preferred replicas (0: never)."""

    session_s: float = 1.0
    rebalance_s: float = 30.0


class Decision(NamedTuple):
    """Records to commit together, and the answer that is true once they are."""

    records: list[MetadataRecord]
    reply: Message


class ControllerMachine:
    """``new_id`` yields a topic id that nobody has: 32 hex digits. ``now`` is a monotonic clock in seconds."""

    def __init__(
        self,
        defaults: topics.Defaults,
        new_id: Callable[[], str],
        image: MetadataImage,
        settings: Settings = Settings(),  # noqa: B008 - frozen
    ) -> None:
        self.defaults = defaults
        self.new_id = new_id
        self.image: MetadataImage = image
        self.settings = settings
        # The offset that the next record gets.
        self.next_offset: int = 0
        self._sessions = Sessions(settings.session_s)
        self._rebalance_at: float | None = None
        # How far each node has read the metadata log, and when it said so.
        self.followed: dict[int, tuple[int, float]] = {}
        # Until when new topics wait for nodes that have never registered.
        self._early_until: float | None = None

    def replay(self, offset: int, record: MetadataRecord) -> None:
        """A committed record, in order."""
        self.image.apply(record)
        self.next_offset = offset + 1

    def found(self, cluster_id: str) -> list[MetadataRecord]:
        """The first records of a new cluster; none if there is one."""
        if self.image.cluster_id:
            return []
        _, level = features.SUPPORTED[METADATA_VERSION]
        return self._apply([ClusterCreated(cluster_id=cluster_id, metadata_version=level)])

    def lead(self, now: float) -> None:
        """Leadership begins here: nobody has been heard of yet, so everybody has a whole session."""
        self._sessions.begin(self.image.brokers, now)
        self.followed.clear()
        self._rebalance_at = now + self.settings.rebalance_s

    def reset(self, image: MetadataImage, next_offset: int) -> None:
        """What was decided last will not be committed: go on from this image. Sessions are kept."""
        self.image = image
        self.next_offset = next_offset

    def gone(self, node: int) -> None:
        """This node surely does not run: its session is over. A heartbeat would prove the contrary."""
        self._sessions.gone(node)

    def deadline(self, now: float) -> float:
        """When ``tick`` is due, at the latest."""
        due = self._sessions.deadline(self._watched(), now)
        return due if self._rebalance_at is None or not self.settings.rebalance_s else min(due, self._rebalance_at)

    def tick(self, now: float) -> list[MetadataRecord]:
        """Fence who has fallen silent, and move leaders back where that is due."""
        records: list[MetadataRecord] = []
        lapsed = self._sessions.lapsed(self._watched(), now)
        if lapsed:
            records += self._apply(brokers.fenced(self.image, lapsed))
        if self._rebalance_at is None:
            self._rebalance_at = now + self.settings.rebalance_s
        if self.settings.rebalance_s and now >= self._rebalance_at:
            moved = list(islice(reassigning.imbalanced(self.image), REBALANCED_AT_ONCE))
            records += self._apply(moved)
            again = len(moved) == REBALANCED_AT_ONCE
            self._rebalance_at = now + (REBALANCE_AGAIN_S if again else self.settings.rebalance_s)
        return records

    def know_voters(self, committed: Sequence[int]) -> list[MetadataRecord]:
        """Write down for all nodes who votes by now, and where."""
        return self._apply(voters.changes(self.image, committed))

    def handle(self, request: Request, now: float) -> Decision:
        """Never raises a ``KafkaError``: it becomes a ``Refused``, with nothing to commit."""
        try:
            match request:
                case Heartbeat():
                    return self._heartbeat(request, now)
                case AlterPartition():
                    return self._alter_partition(request)
                case RegisterNode():
                    return self._register(request, now)
                case GrantEpochs():
                    return self._grant(request)
                case ReplicasDown():
                    self._check_epoch(request.node, request.broker_epoch)
                    return self._recorded(brokers.down(self.image, request))
                case CreateTopics():
                    return self._create(request, now)
                case DeleteTopics():
                    return self._delete(request)
                case CreatePartitions():
                    return self._grow(request)
                case AlterConfigs():
                    return self._alter(request)
                case AllocateProducerIds():
                    return self._allocate(request)
                case ElectLeaders():
                    return self._elect(request)
                case ReassignPartitions():
                    return self._reassign(request)
                case UpdateFeatures():
                    records = features.update(self.image, request)
                    return self._recorded([] if request.validate_only else records)
                case UnregisterNode():
                    return self._recorded(brokers.unregistered(self.image, request.node))
                case _:
                    assert_never(request)
        except KafkaError as error:
            return Decision([], Refused(code=error.code, reason=str(error)))

    def _apply(self, records: Iterable[MetadataRecord]) -> list[MetadataRecord]:
        applied = list(records)
        self.image.apply_all(applied)
        self.next_offset += len(applied)
        return applied

    def _recorded(self, records: Iterable[MetadataRecord]) -> Decision:
        return Decision(self._apply(records), Recorded(committed=self.next_offset))

    # Nodes

    def _watched(self) -> list[int]:
        """The nodes whose heartbeats are waited for."""
        return [node for node in self.image.brokers if node not in self.image.fenced]

    def _check_epoch(self, node: int, broker_epoch: int) -> BrokerRegistered:
        broker = self.image.brokers.get(node)
        if broker is None or broker.broker_epoch != broker_epoch:
            raise StaleBrokerEpochError(f"node {node} is not registered with epoch {broker_epoch}")
        return broker

    def _register(self, request: RegisterNode, now: float) -> Decision:
        """A node's incarnation that is known keeps its broker epoch: only its Node process has restarted.

        What it says of itself may have changed all the same (its listeners are known only once they are bound). A new
        incarnation begins fenced, and what its predecessor had is first taken from it.
        """
        image, node = self.image, request.node
        features.check_registration(image, node, request.features)
        known = image.brokers.get(node)
        moved = known is not None and known.directory_id != request.directory_id
        if moved and node not in image.fenced and self._sessions.alive(node, now):
            raise DuplicateBrokerRegistrationError(
                f"node {node} is there already, with another data directory: two nodes must not have one id"
            )
        same = known is not None and known.incarnation == request.incarnation and not moved
        records: list[MetadataRecord] = []
        if known is not None and not same:
            records += self._apply(brokers.left(image, [node], brokers.found_by(known, request)))
        record = BrokerRegistered(
            node=node,
            incarnation=request.incarnation,
            directory_id=request.directory_id,
            host=request.host,
            port=request.port,
            broker_epoch=known.broker_epoch if same and known is not None else self.next_offset,
            rack=request.rack,
            admin=request.admin,
            cluster_host=request.cluster_host,
            cluster_port=request.cluster_port,
            boot_id=request.boot_id,
            features=request.features,
        )
        if record != known:
            records += self._apply([record])
        self._sessions.heard(node, now)
        return Decision(records, NodeRegistered(broker_epoch=record.broker_epoch, committed=self.next_offset))

    def _unfence(self, node: int) -> list[MetadataRecord]:
        back = self._apply([brokers.status(self.image, node, fenced=False, shutting_down=False)])
        return back + self._apply(brokers.returned(self.image, node))

    def _heartbeat(self, request: Heartbeat, now: float) -> Decision:
        """A sign of life, which unfences a node that has seen its own registration, and hands over one that stops."""
        node, image = request.node, self.image
        broker = self._check_epoch(node, request.broker_epoch)
        self._sessions.heard(node, now)
        self.followed[node] = (request.applied, now)
        records: list[MetadataRecord] = []
        if not request.stopping:
            if (node in image.fenced and request.applied > broker.broker_epoch) or node in image.shutting_down:
                records = self._unfence(node)
        elif node not in image.fenced and node not in image.shutting_down:
            records = self._apply([brokers.status(image, node, shutting_down=True)])
            records += self._apply(brokers.handed_over(image, node))
        stopping = request.stopping and brokers.may_stop(image, node)
        return Decision(records, HeartbeatAnswered(fenced=node in image.fenced, may_stop=stopping))

    # Partitions

    def _alter_partition(self, request: AlterPartition) -> Decision:
        self._check_epoch(request.node, request.broker_epoch)
        after = isr.alter(self.image, request)
        records = self._apply([] if after is None else [after])
        state = after or self.image.partition(request.topic_id, request.partition)
        assert state is not None, "it was just altered"
        answer = PartitionAltered(
            leader=state.leader,
            leader_epoch=state.leader_epoch,
            partition_epoch=state.partition_epoch,
            isr=state.isr,
            min_insync=elections.rules_of(self.image, request.topic_id).min_isr,
        )
        return Decision(records, answer)

    def _grant(self, request: GrantEpochs) -> Decision:
        """A new leader epoch for each partition that this broker leads, in one commit.

        A partition whose epoch is newer than the one the node has seen gets none: that one is its to use. One that
        it no longer leads gets none either, and the log tells it so; a fenced node leads nothing.
        """
        self._check_epoch(request.node, request.broker_epoch)
        granted: dict[tuple[str, int], MetadataRecord] = {}
        for asked in request.partitions if request.node not in self.image.fenced else ():
            state = self.image.partition(asked.topic_id, asked.partition)
            if state is not None and state.leader == request.node and state.leader_epoch <= asked.seen_epoch:
                granted[asked.topic_id, asked.partition] = elections.bumped(state, new_leader_epoch=True)
        records = self._apply(granted.values())
        return Decision(records, EpochsGranted(committed=self.next_offset))

    def _elect(self, request: ElectLeaders) -> Decision:
        """Asked for all partitions, only those that needed an election are answered for, as in Kafka."""
        image = self.image
        wanted = request.partitions
        if wanted is None:
            wanted = [
                PartitionToElect(topic=topic.name, partition=state.partition)
                for topic in image.topics.values()
                for state in topic.partitions.values()
                if (state.leader == elections.NOBODY if request.unclean else state.leader != state.replicas[0])
            ]

        def decide(at: int) -> PartitionChanged:
            state = reassigning.partition(image, wanted[at].topic, wanted[at].partition)
            return reassigning.elect(image, state, unclean=request.unclean)

        return self._decide([(one.topic, one.partition) for one in wanted], decide)

    def _reassign(self, request: ReassignPartitions) -> Decision:
        def decide(at: int) -> PartitionChanged | None:
            return reassigning.reassign(
                self.image, request.partitions[at], allow_factor_change=request.allow_factor_change
            )

        return self._decide([(one.topic, one.partition) for one in request.partitions], decide)

    def _decide(self, asked: list[tuple[str, int]], decide: Callable[[int], PartitionChanged | None]) -> Decision:
        """One result a partition, in the order asked; each sees what became of those before it."""
        records: list[MetadataRecord] = []
        results = []
        for at, (topic, partition) in enumerate(asked):
            try:
                after = decide(at)
            except KafkaError as error:
                results.append(PartitionResult(topic=topic, partition=partition, code=error.code, reason=str(error)))
                continue
            results.append(PartitionResult(topic=topic, partition=partition))
            records += self._apply([] if after is None else [after])
        return Decision(records, PartitionsDecided(results=results, committed=self.next_offset))

    # Topics

    def _create(self, request: CreateTopics, now: float) -> Decision:
        """Each topic by itself: one that is refused does not keep the others from being created."""
        if any(topics.too_early(self.image, self.defaults, topic, request.internal) for topic in request.topics):
            self._await_nodes(request.internal, now)

        def create(at: int) -> list[MetadataRecord]:
            return topics.create(self.image, self.defaults, request.topics[at], request.internal, self.new_id)

        names = [topic.name for topic in request.topics]
        return self._each(names, [""] * len(names), create, request.validate_only)

    def _await_nodes(self, internal: bool, now: float) -> None:
        """While a cluster starts, whoever comes first is asked to come again, or the topic would have too few replicas
        for ever; but one of the voters may be gone for good."""
        if self._early_until is None:
            self._early_until = now + NODES_AWAITED_S
        if now < self._early_until:
            reason = f"{len(self.image.brokers)} of {self.defaults.voters} voters have registered yet: try again"
            raise CoordinatorNotAvailableError(reason) if internal else BrokerNotAvailableError(reason)

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
