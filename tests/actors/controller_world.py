"""A controller's machine, its log, and nodes that are names: what a test says of them is all that they do.

After each decision the records are applied one by one to a second image, and what must hold of every partition is
checked: who leads is in sync, who is in sync may lead, and epochs tell each change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

from logeion.actors import messages as m
from logeion.actors.controller.features import SUPPORTED
from logeion.actors.controller.machine import ControllerMachine, Request, Settings
from logeion.actors.controller.topics import Defaults
from logeion.actors.metadata import BrokerChanged, MetadataImage, MetadataRecord, PartitionChanged

BEAT_S = 0.1


class World:
    """``nodes`` 1 to n are registered and have sent a heartbeat."""

    def __init__(
        self, nodes: int = 3, *, settings: Settings | None = None, racks: dict[int, str] | None = None
    ) -> None:
        ids = (f"{number:032x}" for number in count(1))
        self.now = 1000.0
        self.machine = ControllerMachine(
            Defaults(), lambda: next(ids), MetadataImage(), settings or Settings(rebalance_s=0)
        )
        self.racks = racks or {}
        self.follower = MetadataImage()
        self.log: list[MetadataRecord] = []
        self.watchers: list[Callable[[PartitionChanged | None, PartitionChanged], None]] = []
        self.machine.lead(self.now)
        self.record(self.machine.found("test"))
        self.epochs: dict[int, int] = {}
        self.fresh = count(1)
        for node in range(1, nodes + 1):
            self.up(node)

    @property
    def image(self) -> MetadataImage:
        return self.machine.image

    def record(self, records: list[MetadataRecord], *, granting: bool = False) -> list[MetadataRecord]:
        for one in records:
            if isinstance(one, PartitionChanged):
                before = self.follower.partition(one.topic_id, one.partition)
                check_step(before, one, granting=granting)
                self.follower.apply(one)
                for watch in self.watchers:
                    watch(before, one)
            else:
                self.follower.apply(one)
        self.log += records
        assert self.machine.next_offset == len(self.log)
        assert self.follower.records() == self.image.records()
        check_image(self.image)
        return records

    def ask(self, request: Request) -> m.Message:
        decision = self.machine.handle(request, self.now)
        self.record(decision.records, granting=isinstance(request, m.GrantEpochs))
        return decision.reply

    # Nodes

    def register(
        self,
        node: int,
        *,
        incarnation: str = "",
        directory: str = "",
        boot: str = "boot",
        clean: bool = False,
        features: dict[str, list[int]] = SUPPORTED,
    ) -> m.Message:
        known = self.image.brokers.get(node)
        reply = self.ask(
            m.RegisterNode(
                node=node,
                incarnation=incarnation or f"start-{next(self.fresh)}",
                directory_id=directory or (known.directory_id if known is not None else f"directory-{node}"),
                host="h",
                port=9092,
                rack=self.racks.get(node),
                clean=clean,
                boot_id=boot,
                features=features,
            )
        )
        if isinstance(reply, m.NodeRegistered):
            self.epochs[node] = reply.broker_epoch
        return reply

    def beat(self, node: int, *, stopping: bool = False, applied: int | None = None) -> m.HeartbeatAnswered:
        seen = len(self.log) if applied is None else applied
        reply = self.ask(m.Heartbeat(node=node, broker_epoch=self.epochs[node], applied=seen, stopping=stopping))
        assert isinstance(reply, m.HeartbeatAnswered)
        return reply

    def up(self, node: int) -> None:
        assert isinstance(self.register(node), m.NodeRegistered)
        assert not self.beat(node).fenced

    def tick(self) -> list[MetadataRecord]:
        return self.record(self.machine.tick(self.now))

    def elapse(self, seconds: float, *, beating: Iterable[int] = ()) -> None:
        """Time passes; these nodes send their heartbeats, and the controller looks whenever it wants to."""
        nodes, end = list(beating), self.now + seconds
        beat_at = self.now + BEAT_S
        while True:
            due = self.machine.deadline(self.now)
            assert due > self.now - 1e-9
            if min(due, beat_at) > end:
                break
            if due <= beat_at:
                self.now = max(self.now, due)
                self.tick()
            else:
                self.now = beat_at
                beat_at += BEAT_S
                for node in nodes:
                    self.beat(node)
        self.now = end

    def kill(self, *nodes: int) -> None:
        """These fall silent until they are fenced; all others go on."""
        others = [node for node in self.image.brokers if node not in nodes and node not in self.image.fenced]
        self.elapse(2.5, beating=others)
        assert self.image.fenced.issuperset(nodes)

    # Topics

    def topic(self, name: str = "t", *assignments: list[int], **configs: object) -> str:
        wanted = m.TopicToCreate(
            name=name,
            assignments=dict(enumerate(assignments or ([1, 2, 3],))),
            configs={key.replace("_", "."): str(value).lower() for key, value in configs.items()},
        )
        reply = self.ask(m.CreateTopics(topics=[wanted]))
        assert isinstance(reply, m.TopicsChanged) and reply.results[0].code == 0, reply
        return reply.results[0].topic_id

    def configure(self, name: str, key: str, value: str | None) -> None:
        change = m.ConfigChange(key=key, operation="delete" if value is None else "set", value=value)
        reply = self.ask(m.AlterConfigs(resource="topic", name=name, changes=[change]))
        assert isinstance(reply, m.ConfigsAltered)

    def state(self, partition: int = 0, topic: str = "t") -> PartitionChanged:
        known = self.image.topic(topic)
        assert known is not None
        return known.partitions[partition]

    def proposal(self, isr: list[int], partition: int = 0, topic: str = "t", **other: object) -> m.AlterPartition:
        """What the leader proposes that knows all there is to know, unless said otherwise."""
        state = self.state(partition, topic)
        fields: dict[str, object] = {
            "topic_id": state.topic_id,
            "partition": partition,
            "leader_epoch": state.leader_epoch,
            "partition_epoch": state.partition_epoch,
            "isr": isr,
            "isr_epochs": [self.epochs.get(node, -1) for node in isr],
            "node": state.leader,
            "broker_epoch": self.epochs.get(state.leader, -1),
        }
        return m.AlterPartition(**(fields | other))  # type: ignore[arg-type]

    def propose(self, isr: list[int], partition: int = 0, topic: str = "t", **other: object) -> m.PartitionAltered:
        reply = self.ask(self.proposal(isr, partition, topic, **other))
        assert isinstance(reply, m.PartitionAltered), reply
        return reply

    def shown(self, partition: int = 0, topic: str = "t") -> tuple[int, list[int], list[int]]:
        """Leader, ISR, ELR."""
        state = self.state(partition, topic)
        return state.leader, state.isr, state.elr

    def down(self, node: int, *, lost: bool = False, leader_epoch: int | None = None, topic: str = "t") -> m.Message:
        state = self.state(0, topic)
        epoch = state.leader_epoch if leader_epoch is None else leader_epoch
        one = m.DownReplica(topic_id=state.topic_id, partition=0, leader_epoch=epoch, lost=lost)
        return self.ask(m.ReplicasDown(node=node, broker_epoch=self.epochs[node], replicas=[one]))


def refused(reply: m.Message) -> int:
    """The code; a refusal always says why."""
    assert isinstance(reply, m.Refused) and reply.reason, reply
    return reply.code


def check_step(before: PartitionChanged | None, after: PartitionChanged, *, granting: bool = False) -> None:
    """One change of a partition, as every follower of the log sees it."""
    if before is None:
        assert (after.leader_epoch, after.partition_epoch) == (0, 0)
        return
    assert after.partition_epoch == before.partition_epoch + 1
    shorter = any(node not in after.replicas for node in before.replicas)
    elected = after.leader != before.leader or shorter or granting
    assert after.leader_epoch == before.leader_epoch + elected, (before, after)


def check_image(image: MetadataImage) -> None:
    """What must hold of every partition at any time."""
    for state in image.partitions():
        members = [*state.isr, *state.elr]
        assert len(set(members)) == len(members), state
        assert {*members, *state.adding, *state.removing, *state.last_known} <= set(state.replicas), state
        assert state.leader in state.isr if state.leader != -1 else not state.isr, state
        if not all(map(image.eligible, state.isr)):
            assert state.isr == [state.leader], state
            assert state.leader not in image.fenced and state.leader in image.shutting_down, state
        if len(state.isr) >= min(image.min_isr(image.topics[state.topic_id].name), len(state.replicas)):
            assert not state.elr and not state.last_known, state
        assert not state.recovering or len(state.isr) <= 1, state
        targets = [node for node in state.replicas if node not in state.removing]
        assert not (state.adding or state.removing) or not set(targets) <= set(state.isr), state
    for node in image.brokers:
        expected = [state for state in image.partitions() if node in state.replicas]
        assert sorted(image.partitions_of(node), key=where) == sorted(expected, key=where)


def where(state: PartitionChanged) -> tuple[str, int]:
    """Its key."""
    return state.topic_id, state.partition


def statuses(records: Iterable[MetadataRecord]) -> list[tuple[int, bool, bool]]:
    """(node, fenced, shutting down) of each such record."""
    return [(one.node, one.fenced, one.shutting_down) for one in records if isinstance(one, BrokerChanged)]
