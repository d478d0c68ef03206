"""What is said about replication, elections and the nodes of a cluster.

A part of ``messages``, from where everybody imports it. Offsets are ends: ``end`` 10 means that records 0 to 9 are
there. Whatever could arrive stale carries the epoch that makes it harmless: leader epoch, partition epoch, broker epoch
or the incarnation of a start.
"""

from __future__ import annotations

import msgspec

from .message import Message

# What a partition's actors are told of it


class Peer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The node of another replica: where its cluster port is, and whether it may be in the ISR.

    ``eligible``: registered with ``broker_epoch``, not fenced, not shutting down.
    """

    host: str
    port: int
    broker_epoch: int
    eligible: bool


class Slice(Message, frozen=True, kw_only=True):
    """Node to a Partition or Replica: all that the metadata log says of its partition, at metadata offset ``applied``.

    An equal ``leader_epoch`` with a newer ``partition_epoch`` changes the ISR and the assignment only (KAFKA-13790).
    ``peers`` holds the nodes of the other replicas; ``broker_epoch`` is this node's own. ``throttle`` is in bytes a
    second for a replica outside the ISR, 0 for none. ``recovering``: the leader was elected uncleanly, and has not said
    yet that it serves.
    """

    topic_id: str
    partition: int
    leader: int
    leader_epoch: int
    partition_epoch: int
    replicas: list[int]
    isr: list[int]
    broker_epoch: int
    peers: dict[int, Peer] = {}
    applied: int = 0
    throttle: int = 0
    recovering: bool = False


# Replica and Partition (by a lane of their own; Fetch of KIP-101, 279, 320, 595 in our words)


class FetchLog(Message, frozen=True, kw_only=True):
    """Replica to Partition: send what follows ``offset``, my log's end, whose last record has ``last_epoch``.

    ``durable_end`` is what a power cut would leave (with flush=os: what is written), and is what counts. One is
    outstanding; the leader parks it for at most ``wait_ms`` while it has nothing newer. ``partition_epoch`` is that of
    my slice: a replica that has left the ISR may join again only after it has heard of that, for one that died of a
    lost log never does.
    """

    epoch: int
    node: int
    broker_epoch: int
    incarnation: int
    directory_id: str
    offset: int
    last_epoch: int
    durable_end: int
    log_start: int
    high_watermark: int
    max_bytes: int
    wait_ms: int
    partition_epoch: int = -1


class LogFetched(Message, frozen=True, kw_only=True):
    """Partition to Replica: whole batches from the asked offset on as the payload, or why there are none.

    ``diverging_epoch`` >= 0: your log and mine part at or before (``diverging_epoch``, ``diverging_end``); cut, and
    heed nothing else of this answer. ``code`` 1 (OFFSET_OUT_OF_RANGE): your end is not in ``log_start``..``end``.
    """

    epoch: int
    log_start: int
    high_watermark: int
    end: int
    diverging_epoch: int = -1
    diverging_end: int = -1
    code: int = 0


class Persisted(Message, frozen=True, kw_only=True):
    """Replica to Partition, unanswered: in this epoch and incarnation I hold everything below ``durable_end``, and
    have heard of ``partition_epoch``."""

    epoch: int
    incarnation: int
    durable_end: int
    partition_epoch: int = -1


class Watermark(Message, frozen=True, kw_only=True):
    """Partition to a Replica whose fetch is parked, unanswered: the watermark and log start have moved meanwhile."""

    epoch: int
    high_watermark: int
    log_start: int


class FollowerState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One follower as its leader knows it: what it holds durably (-1: unknown yet), and for how long it has not been
    caught up (0: it is; -1: it never was)."""

    node: int
    end: int
    lag_ms: int
    connected: bool


# Partition, Node and Controller


class AlterPartition(Message, frozen=True, kw_only=True):
    """Partition to Node to Controller: the ISR I propose (KIP-497), with the broker epoch each follower's fetches
    carried (KIP-903; -1 where none is known). Node fills in ``node`` and ``broker_epoch``. Whoever proposes serves, so
    it has recovered if it was elected uncleanly (KIP-704)."""

    topic_id: str
    partition: int
    leader_epoch: int
    partition_epoch: int
    isr: list[int]
    isr_epochs: list[int]
    node: int = -1
    broker_epoch: int = -1


class PartitionAltered(Message, frozen=True, kw_only=True):
    """Controller to Node to Partition: committed; this is the partition now. ``min_insync`` is the topic's
    ``min.insync.replicas`` by which it was decided who is still eligible to lead."""

    leader: int
    leader_epoch: int
    partition_epoch: int
    isr: list[int]
    min_insync: int = 1


class DownReplica(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One replica that does not run; ``lost`` says that its log cannot be used any more (the disk failed)."""

    topic_id: str
    partition: int
    leader_epoch: int
    lost: bool = False


class ReplicasDown(Message, frozen=True, kw_only=True):
    """Node to Controller: these do not run here and will not soon; elect others. Those ``lost`` leave ISR and ELR."""

    node: int
    broker_epoch: int
    replicas: list[DownReplica]


class Recorded(Message, frozen=True, kw_only=True):
    """Controller: done, visible once ``committed`` is applied."""

    committed: int


class Heartbeat(Message, frozen=True, kw_only=True):
    """Node to Controller (KIP-631): I live, and have applied the metadata log below ``applied``.

    ``stopping`` asks for a controlled shutdown: my leaders are moved, and then the answer says ``may_stop``.
    """

    node: int
    broker_epoch: int
    applied: int
    stopping: bool = False


class HeartbeatAnswered(Message, frozen=True, kw_only=True):
    """Controller to Node: how it stands with this registration."""

    fenced: bool
    may_stop: bool = False


class Drain(Message, frozen=True, kw_only=True):
    """The command to Node: the host is about to be stopped; answer Done once this node leads nothing any more, or
    nobody else could lead it, at the latest after ``timeout_ms``."""

    timeout_ms: int


class Suspect(Message, frozen=True, kw_only=True):
    """An actor to Node: this actor of our host has not answered a request for 500 ms; does it hang?"""

    actor: str
    incarnation: int


# Gateway and Controller


class PartitionToElect(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One partition of an ElectLeaders."""

    topic: str
    partition: int


class PartitionResult(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of one partition; ``code`` 0 is success."""

    topic: str
    partition: int
    code: int = 0
    reason: str = ""


class ElectLeaders(Message, frozen=True, kw_only=True):
    """Gateway to Controller: ElectLeaders (KIP-183, KIP-460); no partitions means all of them."""

    partitions: list[PartitionToElect] | None = None
    unclean: bool = False


class PartitionToReassign(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One partition of an AlterPartitionReassignments; ``replicas`` None cancels what is under way."""

    topic: str
    partition: int
    replicas: list[int] | None = None


class ReassignPartitions(Message, frozen=True, kw_only=True):
    """Gateway to Controller: AlterPartitionReassignments (KIP-455, KIP-860)."""

    partitions: list[PartitionToReassign]
    allow_factor_change: bool = True


class PartitionsDecided(Message, frozen=True, kw_only=True):
    """Controller to Gateway: one result a partition; visible once ``committed`` is applied."""

    results: list[PartitionResult]
    committed: int


class FeatureChange(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One feature's new level; 0 removes it. ``upgrade`` is Kafka's type: 1 upgrade, 2 safe and 3 unsafe downgrade."""

    name: str
    level: int
    upgrade: int = 1


class UpdateFeatures(Message, frozen=True, kw_only=True):
    """Gateway to Controller: finalise feature levels (KIP-584), all or none."""

    changes: list[FeatureChange]
    validate_only: bool = False


class UnregisterNode(Message, frozen=True, kw_only=True):
    """Gateway to Controller: forget this node; one that runs all the same registers again."""

    node: int


class ChangeVoters(Message, frozen=True, kw_only=True):
    """Gateway to Controller: one voter more, or one less (KIP-853); one change at a time."""

    add: int | None = None
    remove: int | None = None


class DescribeQuorum(Message, frozen=True, kw_only=True):
    """Gateway to Controller: who leads the metadata quorum, and how far each voter is (KIP-595)."""


class VoterState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One voter or observer as the leader knows it; ``contact_ms`` is how long ago it was heard of, -1 if never."""

    voter: int
    end: int
    contact_ms: int = -1


class QuorumDescribed(Message, frozen=True, kw_only=True):
    """Controller to Gateway: the quorum as its leader sees it."""

    leader: int
    term: int
    committed: int
    voters: list[VoterState]
    observers: list[VoterState] = []
