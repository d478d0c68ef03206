"""A gateway without processes: a real metadata image, and whoever the test puts behind the lanes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from logeion.actors import messages as m
from logeion.actors.config import Config, NodeSection
from logeion.actors.gateway.answers import Answers
from logeion.actors.gateway.groups import Groups
from logeion.actors.gateway.producer_ids import ProducerIds
from logeion.actors.lanes import RefusedError
from logeion.actors.metadata import (
    BrokerChanged,
    BrokerRegistered,
    ClusterCreated,
    ConfigChanged,
    MetadataImage,
    MetadataRecord,
    PartitionChanged,
    TopicCreated,
)
from logeion.wire.apis import Struct
from tests.actors.wire_oracle import answered, received

ORDERS, INTERNAL = "a" * 32, "b" * 32


def partition(topic_id: str, index: int, leader: int = 1, epoch: int = 3) -> PartitionChanged:
    """One partition of two replicas."""
    return PartitionChanged(
        topic_id=topic_id,
        partition=index,
        replicas=[1, 2],
        isr=[1],
        leader=leader,
        leader_epoch=epoch,
        partition_epoch=1,
    )


RECORDS: list[MetadataRecord] = [
    ClusterCreated(cluster_id="the-cluster"),
    BrokerRegistered(
        node=1,
        incarnation="i",
        directory_id="d",
        host="registered",
        port=1,
        broker_epoch=1,
        rack="r1",
        admin="127.0.0.1:9644",
    ),
    BrokerRegistered(node=2, incarnation="i", directory_id="d", host="other", port=9093, broker_epoch=2),
    BrokerChanged(node=1, broker_epoch=1, fenced=False),
    BrokerChanged(node=2, broker_epoch=2, fenced=False),
    TopicCreated(topic_id=ORDERS, name="orders"),
    partition(ORDERS, 0),
    partition(ORDERS, 1, leader=2),
    partition(ORDERS, 2, leader=-1),
    TopicCreated(topic_id=INTERNAL, name="__consumer_offsets", internal=True),
    partition(INTERNAL, 0),
    ConfigChanged(resource="topic", name="orders", key="retention.ms", value="1000"),
]


class Client:
    """What handlers may know of who asks."""

    local = ("127.0.0.1", 9092)
    peer = ("127.0.0.1", 50000)
    client_id = "a client"
    software = ""


class Certain:
    """A gateway that knows who leads."""

    confirmed = True

    async def confirm(self, timeout_s: float) -> bool:
        return self.confirmed


class World:
    """The part of a Gateway that the administrative handlers use."""

    def __init__(self, data_dir: Path = Path("/"), config: Config | None = None) -> None:
        self.node = self.controller_id = 1
        self.applied = 77
        self.config = config or Config(node=NodeSection(rack="r1"))
        self.data_dir = data_dir
        self.image = MetadataImage(self.config.topic_defaults())
        self.image.apply_all(RECORDS)
        self.producer_ids = ProducerIds()
        self.answers = Answers()
        self.confirming = Certain()
        self.groups = Groups(self, data_dir)  # type: ignore[arg-type]
        self.given_up: set[tuple[str, int]] = set()
        self.controller: Callable[[m.Message], m.Message] = self.unexpected
        self.partition: Callable[[str, int, m.Message], m.Message] = self.unexpected
        self.replica: Callable[[str, int, m.Message], m.Message] = self.unexpected
        self.applied_waits: list[int] = []

    @property
    def changes(self) -> tuple[int, int]:
        """What a Gateway counts."""
        return self.image.version, len(self.given_up)

    def unexpected(self, *message: Any) -> m.Message:
        """Nobody should be asked."""
        raise AssertionError(f"not expected: {message}")

    async def wait_applied(self, committed: int, timeout_s: float) -> bool:
        self.applied_waits.append(committed)
        return True

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        return condition()

    async def ask_controller(self, message: m.Message, timeout_s: float) -> m.Message:
        assert timeout_s > 0
        reply = m.decode(m.encode(self.controller(message)))
        if isinstance(reply, m.Refused):
            raise RefusedError(reply.code, reply.reason)
        return reply

    async def ask_partition(
        self, topic_id: str, partition: int, make: Callable[[int], m.Message], timeout_s: float
    ) -> m.Message:
        assert timeout_s > 0
        return self.partition(topic_id, partition, make(self.image.topics[topic_id].partitions[partition].leader_epoch))

    async def ask_replica(self, topic_id: str, partition: int, message: m.Message, timeout_s: float) -> m.Message:
        assert timeout_s > 0
        return self.replica(topic_id, partition, message)

    def running(self, topic_id: str, partition: int) -> bool:
        return True

    def offline(self, topic_id: str, partition: int) -> bool:
        return (topic_id, partition) in self.given_up

    def leader_code(self, topic_id: str, partition: int) -> int:
        state = self.image.partition(topic_id, partition)
        if state is None:
            return 3
        return 0 if state.leader == self.node else 5 if state.leader < 0 else 6

    def advertised(self, local: tuple[str, int]) -> tuple[str, int]:
        return local

    async def ask(self, handler: Any, key: int, version: int, request: Struct) -> tuple[Any, Any]:
        """A client's request through codec and handler: our decoder's answer and kio's."""
        header, decoded = received(key, version, request)
        return answered(header, await handler(self, Client(), header, decoded))
