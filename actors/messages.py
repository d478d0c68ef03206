"""Everything one actor says to another, grouped by conversation.

Messages are frozen and keyword-only; requests are imperatives, facts past participles; a docstring reads
"sender to receiver: meaning". Fields are only ever added, with defaults, and a removed name is never used again:
the next release must be able to talk to this one. Whatever could arrive stale carries the epoch that makes it
harmless. Record batches never are fields: they travel as a frame's payload (see ``lanes``).
"""

from __future__ import annotations

import msgspec

from .cluster_messages import (
    AlterPartition as AlterPartition,
    ChangeVoters as ChangeVoters,
    DescribeQuorum as DescribeQuorum,
    DownReplica as DownReplica,
    Drain as Drain,
    ElectLeaders as ElectLeaders,
    FeatureChange as FeatureChange,
    FetchLog as FetchLog,
    FollowerState as FollowerState,
    Heartbeat as Heartbeat,
    HeartbeatAnswered as HeartbeatAnswered,
    LogFetched as LogFetched,
    PartitionAltered as PartitionAltered,
    PartitionResult as PartitionResult,
    PartitionsDecided as PartitionsDecided,
    PartitionToElect as PartitionToElect,
    PartitionToReassign as PartitionToReassign,
    Peer as Peer,
    Persisted as Persisted,
    QuorumDescribed as QuorumDescribed,
    ReassignPartitions as ReassignPartitions,
    Recorded as Recorded,
    ReplicasDown as ReplicasDown,
    Slice as Slice,
    Suspect as Suspect,
    UnregisterNode as UnregisterNode,
    UpdateFeatures as UpdateFeatures,
    VoterState as VoterState,
    Watermark as Watermark,
)
from .controller.raft.messages import Told as Told
from .group_messages import (
    CommitOffsets as CommitOffsets,
    ConsumerHeartbeat as ConsumerHeartbeat,
    ConsumerHeartbeatAnswered as ConsumerHeartbeatAnswered,
    CoordinatorRunning as CoordinatorRunning,
    CoordinatorStopped as CoordinatorStopped,
    DeleteGroup as DeleteGroup,
    DeleteOffsets as DeleteOffsets,
    DescribedMember as DescribedMember,
    DescribeGroup as DescribeGroup,
    EnsureCoordinator as EnsureCoordinator,
    FetchOffsets as FetchOffsets,
    GroupAnswered as GroupAnswered,
    GroupDescribed as GroupDescribed,
    GroupEntry as GroupEntry,
    GroupJoined as GroupJoined,
    GroupLeft as GroupLeft,
    GroupProtocol as GroupProtocol,
    GroupRead as GroupRead,
    GroupsListed as GroupsListed,
    GroupSynced as GroupSynced,
    HeartbeatGroup as HeartbeatGroup,
    IndexRunning as IndexRunning,
    IndexStopped as IndexStopped,
    JoinedMember as JoinedMember,
    JoinGroup as JoinGroup,
    LeaveGroup as LeaveGroup,
    LeavingMember as LeavingMember,
    ListGroups as ListGroups,
    OffsetsCommitted as OffsetsCommitted,
    OffsetsDeleted as OffsetsDeleted,
    OffsetsFetched as OffsetsFetched,
    OffsetToCommit as OffsetToCommit,
    OpenWriter as OpenWriter,
    ReadGroup as ReadGroup,
    SyncGroup as SyncGroup,
    TopicPartitions as TopicPartitions,
    TopicsGone as TopicsGone,
    WriterOpened as WriterOpened,
)
from .message import Message as Message
from .metadata import MetadataRecord

# Every lane -----------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, kw_only=True):
    """Dialler to listener, and back: the first frame of a lane, who speaks and which protocol it knows."""

    actor: str
    kind: str
    node: int
    pid: int
    incarnation: int = 0
    protocol: int = 1
    features: list[str] = []
    topic_id: str | None = None
    partition: int | None = None
    epoch: int | None = None


class Refused(Message, frozen=True, kw_only=True):
    """Anyone to the sender of a request: no, with Kafka's error code and a sentence for a person."""

    code: int
    reason: str
    leader_epoch: int = -1


class Ping(Message, frozen=True, kw_only=True):
    """Node to an actor: answer from the loop in which your state lives."""


class Pong(Message, frozen=True, kw_only=True):
    """An actor to Node: the loop turns."""


class Done(Message, frozen=True, kw_only=True):
    """The answer to a request that has nothing to tell."""


# Supervisor and Node (by Thespian, as bytes) ---------------------------------------------------------------------


class StartActor(Message, frozen=True, kw_only=True):
    """Node to Supervisor: start this temporary actor once; its exit is reported, never repaired."""

    actor: str
    kind: str
    incarnation: int
    spec: bytes


class StopActor(Message, frozen=True, kw_only=True):
    """Node to Supervisor: end this incarnation; ``force`` is SIGKILL."""

    actor: str
    incarnation: int
    force: bool = False


class ListActors(Message, frozen=True, kw_only=True):
    """Node to Supervisor: whom do you have? The answer carries the ``number``."""

    number: int = 0


class ActorEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One child as its Supervisor knows it."""

    actor: str
    kind: str
    incarnation: int
    pid: int
    restarts: int = 0


class ActorsListed(Message, frozen=True, kw_only=True):
    """Supervisor to Node: all children that live, the fixed ones too, with the Supervisor itself first.

    A list that was asked for (``number`` above 0) was made after all that Node had asked before. ``highest`` is the
    highest incarnation it was ever asked to start.
    """

    actors: list[ActorEntry]
    number: int = 0
    highest: int = 0


class ActorStarted(Message, frozen=True, kw_only=True):
    """Supervisor to Node: the process exists (its Hello tells when it serves)."""

    actor: str
    incarnation: int
    pid: int
    restarts: int = 0


class ActorExited(Message, frozen=True, kw_only=True):
    """Supervisor to Node: this incarnation's process is gone; ``status`` is its exit code, or minus the signal."""

    actor: str
    incarnation: int
    restarts: int = 0
    status: int = 0


# Node and the actors of its host (by lane) -----------------------------------------------------------------------


class StateChanged(Message, frozen=True, kw_only=True):
    """An actor to Node: what it does now (``starting running stopping failed``), with the cause of a failure.

    A ``code`` (Kafka's) beside ``failed`` says that starting again is of no use until a person has acted.
    """

    state: str
    cause: str = ""
    epoch: int | None = None
    code: int = 0


class ListenersBound(Message, frozen=True, kw_only=True):
    """A Gateway to Node: clients can connect to these addresses, ``host:port`` each (IPv6 hosts in brackets)."""

    addresses: list[str]


class PartitionRunning(Message, frozen=True, kw_only=True):
    """Node to a Gateway: this partition's leader of this epoch serves on its socket; dial it."""

    topic_id: str
    partition: int
    epoch: int


class PartitionStopped(Message, frozen=True, kw_only=True):
    """Node to a Gateway: no process leads this partition here; ``cause`` is set when it is offline for good."""

    topic_id: str
    partition: int
    epoch: int
    cause: str = ""
    code: int = 0


class Configure(Message, frozen=True, kw_only=True):
    """Node to a Partition: the topic's effective configuration from now on."""

    configs: dict[str, str]


class AwaitReady(Message, frozen=True, kw_only=True):
    """The command to Node: answer with Ready once clients can be served, and so many nodes are there, unfenced."""

    nodes: int = 1


class Ready(Message, frozen=True, kw_only=True):
    """Node to the command: what listens where, who runs, which nodes are unfenced, and how many leaders are here."""

    node: int
    cluster_id: str
    listeners: list[str]
    admin: list[str]
    actors: list[ActorEntry]
    nodes: list[int] = []
    leads: int = 0


# Controller (by lane) --------------------------------------------------------------------------------------------


class Subscribe(Message, frozen=True, kw_only=True):
    """Node or Gateway to Controller: send the metadata log from this offset, then everything that commits."""

    from_offset: int


class Committed(Message, frozen=True, kw_only=True):
    """Controller to a subscriber: committed records, the first at ``offset``; a snapshot replaces all before it.

    ``leader`` is the node that leads the quorum as far as the sender knows, -1 for nobody; a change of it alone is
    told with no records. The answer to ``Subscribe`` may be the first of several: what was known when it was given
    ends at ``known_end``.
    """

    offset: int
    next_offset: int
    records: list[MetadataRecord]
    snapshot: bool = False
    leader: int = -1
    known_end: int = -1


class RegisterNode(Message, frozen=True, kw_only=True):
    """Node to Controller: this host's broker is here; the same incarnation keeps its broker epoch."""

    node: int
    incarnation: str
    directory_id: str
    host: str
    port: int
    rack: str | None = None
    admin: str = ""
    clean: bool = False
    cluster_host: str = ""
    cluster_port: int = 0
    boot_id: str = ""
    features: dict[str, list[int]] = {}


class NodeRegistered(Message, frozen=True, kw_only=True):
    """Controller to Node: the epoch that every later request of this registration carries."""

    broker_epoch: int
    committed: int


class GrantRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One partition for which a start of a leader needs a new epoch; ``seen_epoch`` is the newest Node knows."""

    topic_id: str
    partition: int
    seen_epoch: int


class GrantEpochs(Message, frozen=True, kw_only=True):
    """Node to Controller: I am about to start these leaders; each start appends only in an epoch of its own."""

    node: int
    broker_epoch: int
    partitions: list[GrantRequest]


class EpochsGranted(Message, frozen=True, kw_only=True):
    """Controller to Node: committed up to here; the epochs are in the metadata log (absent: no longer yours)."""

    committed: int


class TopicToCreate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One topic of a CreateTopics: counts of -1 mean the default; ``assignments`` maps partition to replicas."""

    name: str
    partitions: int = -1
    replication_factor: int = -1
    assignments: dict[int, list[int]] = {}
    configs: dict[str, str | None] = {}


class TopicResult(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of one topic; ``code`` 0 is success."""

    name: str
    topic_id: str = ""
    code: int = 0
    reason: str = ""
    partitions: int = -1
    replication_factor: int = -1
    configs: dict[str, str] = {}


class CreateTopics(Message, frozen=True, kw_only=True):
    """Gateway to Controller: CreateTopics (KIP-4), also for auto-creation (``internal`` topics only by us)."""

    topics: list[TopicToCreate]
    validate_only: bool = False
    internal: bool = False


class DeleteTopics(Message, frozen=True, kw_only=True):
    """Gateway to Controller: by name, or by id where the name is empty."""

    names: list[str] = []
    topic_ids: list[str] = []


class GrowTopic(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One topic of a CreatePartitions: the new total, never fewer than before (KIP-195)."""

    name: str
    count: int
    assignments: list[list[int]] | None = None


class CreatePartitions(Message, frozen=True, kw_only=True):
    """Gateway to Controller: grow these topics."""

    topics: list[GrowTopic]
    validate_only: bool = False


class TopicsChanged(Message, frozen=True, kw_only=True):
    """Controller to Gateway: one result a topic, in the order asked; visible once ``committed`` is applied."""

    results: list[TopicResult]
    committed: int


class ConfigChange(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One key: ``operation`` is ``set``, ``delete``, ``append`` or ``subtract`` (KIP-339)."""

    key: str
    operation: str
    value: str | None = None


class AlterConfigs(Message, frozen=True, kw_only=True):
    """Gateway to Controller: change one resource's configuration, all changes or none.

    ``resource`` is ``topic`` or ``broker``; ``replace`` drops every key that is not named (the old AlterConfigs).
    """

    resource: str
    name: str
    changes: list[ConfigChange]
    validate_only: bool = False
    replace: bool = False


class ConfigsAltered(Message, frozen=True, kw_only=True):
    """Controller to Gateway: visible once ``committed`` is applied."""

    committed: int


class AllocateProducerIds(Message, frozen=True, kw_only=True):
    """Gateway to Controller: a block of producer ids that no one else will ever be given."""

    node: int


class ProducerIdsAllocated(Message, frozen=True, kw_only=True):
    """Controller to Gateway: ``count`` ids from ``first``."""

    first: int
    count: int


# Gateway and Partition (by lane) ---------------------------------------------------------------------------------


class Append(Message, frozen=True, kw_only=True):
    """Gateway to Partition: append the payload, one record batch, in this epoch; ``acks`` is -1, 0 or 1.

    ``verified`` says the gateway has already checked the batch's header, length and CRC. A ``writer`` is refused
    unless its ``incarnation`` is the one that last sent ``OpenWriter``.
    """

    epoch: int
    acks: int
    timeout_ms: int
    verified: bool = False
    writer: str = ""
    incarnation: int = 0


class Appended(Message, frozen=True, kw_only=True):
    """Partition to Gateway: the batch is where it was asked to be, as durable as asked."""

    base_offset: int
    log_start: int
    append_time_ms: int = -1


class Watch(Message, frozen=True, kw_only=True):
    """Gateway to Partition: answer when the high watermark is above ``offset``, at once if it is already.

    One is outstanding a lane; a new one replaces the old. ``offset`` -1 asks for the state as it is.
    """

    epoch: int
    offset: int


class Advanced(Message, frozen=True, kw_only=True):
    """Partition to Gateway: its state. The high watermark lies in segment ``segment`` at byte ``position``.

    ``epoch_start`` is the first offset of this leader epoch: until the watermark has reached it "latest" is unknown.
    """

    epoch: int
    epoch_start: int
    log_start: int
    high_watermark: int
    end: int
    segment: int
    position: int


class FindOffset(Message, frozen=True, kw_only=True):
    """Gateway to Partition: ListOffsets; ``timestamp`` is milliseconds or a special value (-1 … -6)."""

    epoch: int
    timestamp: int


class OffsetFound(Message, frozen=True, kw_only=True):
    """Partition to Gateway: offset -1 when there is none."""

    offset: int
    timestamp: int = -1
    leader_epoch: int = -1


class FindEpochEnd(Message, frozen=True, kw_only=True):
    """Gateway or Replica to Partition: where does this leader epoch end in your log (KIP-101, KIP-279)?"""

    epoch: int
    asked_epoch: int


class EpochEndFound(Message, frozen=True, kw_only=True):
    """Partition: the largest epoch not above the one asked, and the offset after its last record; -1: unknown."""

    leader_epoch: int
    end_offset: int


class TrimLog(Message, frozen=True, kw_only=True):
    """Gateway to Partition: DeleteRecords (KIP-107); -1 means up to the high watermark."""

    epoch: int
    offset: int


class LogTrimmed(Message, frozen=True, kw_only=True):
    """Partition to Gateway: the new log start, once it is on disk."""

    low_watermark: int


class DescribeLog(Message, frozen=True, kw_only=True):
    """Gateway or Node to Partition: its figures."""


class LogDescribed(Message, frozen=True, kw_only=True):
    """Partition or Replica: sizes in bytes, offsets, segments; ``synced_end`` is the end of what a power cut would
    leave. A leader also tells its committed ISR and how far each follower is."""

    size: int
    segments: int
    log_start: int
    high_watermark: int
    end: int
    synced_end: int
    producers: int
    isr: list[int] = []
    followers: list[FollowerState] = []


AnyMessage = (
    Hello
    | Refused
    | Ping
    | Pong
    | Done
    | StartActor
    | StopActor
    | ListActors
    | ActorsListed
    | ActorStarted
    | ActorExited
    | StateChanged
    | ListenersBound
    | PartitionRunning
    | PartitionStopped
    | Configure
    | AwaitReady
    | Ready
    | Subscribe
    | Committed
    | RegisterNode
    | NodeRegistered
    | GrantEpochs
    | EpochsGranted
    | CreateTopics
    | DeleteTopics
    | CreatePartitions
    | TopicsChanged
    | AlterConfigs
    | ConfigsAltered
    | AllocateProducerIds
    | ProducerIdsAllocated
    | Append
    | Appended
    | Watch
    | Advanced
    | FindOffset
    | OffsetFound
    | FindEpochEnd
    | EpochEndFound
    | TrimLog
    | LogTrimmed
    | DescribeLog
    | LogDescribed
    | JoinGroup
    | GroupJoined
    | SyncGroup
    | GroupSynced
    | HeartbeatGroup
    | GroupAnswered
    | LeaveGroup
    | GroupLeft
    | CommitOffsets
    | OffsetsCommitted
    | FetchOffsets
    | OffsetsFetched
    | DescribeGroup
    | GroupDescribed
    | ConsumerHeartbeat
    | ConsumerHeartbeatAnswered
    | DeleteGroup
    | DeleteOffsets
    | OffsetsDeleted
    | ListGroups
    | GroupsListed
    | OpenWriter
    | WriterOpened
    | ReadGroup
    | GroupRead
    | TopicsGone
    | EnsureCoordinator
    | CoordinatorRunning
    | CoordinatorStopped
    | IndexRunning
    | IndexStopped
    | AlterPartition
    | ChangeVoters
    | DescribeQuorum
    | Drain
    | ElectLeaders
    | FetchLog
    | Heartbeat
    | HeartbeatAnswered
    | LogFetched
    | PartitionAltered
    | PartitionsDecided
    | Persisted
    | QuorumDescribed
    | ReassignPartitions
    | Recorded
    | ReplicasDown
    | Slice
    | Suspect
    | UpdateFeatures
    | UnregisterNode
    | Watermark
    | Told
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message) -> bytes:
    """The message as msgpack, with its tag."""
    return _encoder.encode(message)


def decode(data: bytes | bytearray | memoryview) -> AnyMessage:
    """The message back; raises ``msgspec.DecodeError`` on anything else."""
    return _decoder.decode(data)
