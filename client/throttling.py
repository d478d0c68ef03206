"""How fast a reassignment copies (KIP-73): the settings that Kafka's own tool makes, and their removal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from logeion.wire.apis import (
    IncrementalAlterableConfig,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource,
    IncrementalAlterConfigsResponse,
)
from logeion.wire.errors import for_code

from .cluster import Cluster
from .operations import PartitionState
from .positions import TopicPartition

INCREMENTAL_ALTER_CONFIGS = 44
TOPIC_RESOURCE, BROKER_RESOURCE = 2, 4
SET, DELETE, APPEND, SUBTRACT = 0, 1, 2, 3
LEADERS, FOLLOWERS = "leader.replication.throttled.replicas", "follower.replication.throttled.replicas"
RATES = "leader.replication.throttled.rate", "follower.replication.throttled.rate"

Change = tuple[str, int, str | None]
Moves = Mapping[TopicPartition, tuple[Sequence[int], Sequence[int]]]


def moves_of(partitions: Iterable[PartitionState], target: Sequence[int]) -> Moves:
    """From which nodes to which these partitions are going to move."""
    return {TopicPartition(one.topic, one.partition): (one.replicas, target) for one in partitions}


def named(moves: Moves, operation: int) -> dict[str, list[Change]]:
    """The topics' changes: who has the data is throttled as a leader, who is to get it as a follower."""
    lists: dict[str, tuple[list[str], list[str]]] = {}
    for where, (before, after) in sorted(moves.items()):
        leaders, followers = lists.setdefault(where.topic, ([], []))
        leaders += (f"{where.partition}:{node}" for node in before)
        followers += (f"{where.partition}:{node}" for node in after if node not in before)
    return {
        topic: [
            (key, operation, ",".join(found)) for key, found in ((LEADERS, leaders), (FOLLOWERS, followers)) if found
        ]
        for topic, (leaders, followers) in lists.items()
    }


class Throttling:
    """Sets and lifts throttles. What others have set for their own moves stays, but for a broker's one rate."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def limit(self, moves: Moves, rate: int) -> None:
        """Before these moves begin: no broker sends or takes more than ``rate`` bytes a second for them."""
        nodes = sorted({node for both in moves.values() for side in both for node in side})
        await self._brokers(nodes, [(key, SET, str(rate)) for key in RATES])
        await self._topics(named(moves, APPEND))

    async def lift(self, moves: Moves, *, rates: bool) -> None:
        """These moves are over; with ``rates`` no other is under way that needs the brokers' rates."""
        await self._topics(named(moves, SUBTRACT))
        if rates:
            await self._brokers(
                sorted({node for both in moves.values() for side in both for node in side}),
                [(key, DELETE, None) for key in RATES],
            )

    async def lift_all(self, topics: Iterable[str], nodes: Iterable[int]) -> None:
        """Whoever set them: no replica of these topics is throttled any more, and these brokers have no rate."""
        await self._topics({topic: [(key, DELETE, None) for key in (LEADERS, FOLLOWERS)] for topic in sorted(topics)})
        await self._brokers(sorted(nodes), [(key, DELETE, None) for key in RATES])

    async def _topics(self, changes: Mapping[str, list[Change]]) -> None:
        if changes:
            known = self._cluster.metadata
            node = known.controller_id if known.controller_id in known.brokers else None
            await self._alter([_resource(TOPIC_RESOURCE, *one) for one in changes.items()], node)

    async def _brokers(self, nodes: Iterable[int], changes: list[Change]) -> None:
        """A Kafka broker takes its own settings only from who asks it; one that is away cannot be asked, nor copies."""
        for node in nodes:
            if node in self._cluster.metadata.brokers:
                await self._alter([_resource(BROKER_RESOURCE, str(node), changes)], node)

    async def _alter(self, resources: list[IncrementalAlterConfigsResource], node: int | None) -> None:
        request = IncrementalAlterConfigsRequest(resources=resources)

        async def ask() -> None:
            answer = cast(
                IncrementalAlterConfigsResponse,
                await self._cluster.call(INCREMENTAL_ALTER_CONFIGS, request, node=node),
            )
            for one in answer.responses:
                if one.error_code:
                    raise for_code(one.error_code)(one.error_message or f"the throttle of {one.resource_name!r}")

        await self._cluster.retrying(ask, what="a change of throttles")


def _resource(kind: int, name: str, changes: list[Change]) -> IncrementalAlterConfigsResource:
    configs = [IncrementalAlterableConfig(name=key, config_operation=how, value=value) for key, how, value in changes]
    return IncrementalAlterConfigsResource(resource_type=kind, resource_name=name, configs=configs)
