"""Topics, their configuration and records, and the cluster: one call each, retried as ``retries.advise`` allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar, cast

import msgspec

from logeion.wire.apis import (
    CreatableTopic,
    CreatableTopicConfig,
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
    CreateTopicsRequest,
    CreateTopicsResponse,
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopic,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    DeleteTopicState,
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResponse,
    IncrementalAlterableConfig,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource,
    IncrementalAlterConfigsResponse,
)
from logeion.wire.errors import (
    KafkaError,
    NotControllerError,
    ThrottlingQuotaExceededError,
    UnknownServerError,
    for_code,
)
from logeion.wire.fields import Struct

from .addresses import Address
from .cluster import Cluster
from .metadata import TopicInfo

CREATE_TOPICS, DELETE_TOPICS, DELETE_RECORDS = 19, 20, 21
DESCRIBE_CONFIGS, CREATE_PARTITIONS, INCREMENTAL_ALTER_CONFIGS = 32, 37, 44
TOPIC_RESOURCE, BROKER_RESOURCE = 2, 4
SET, DELETE = 0, 1
# Where a value comes from (Kafka's ConfigSource).
SOURCES = {1: "topic", 2: "broker (dynamic)", 3: "brokers (dynamic)", 4: "broker", 5: "default"}

R = TypeVar("R")


class ConfigValue(msgspec.Struct, frozen=True):
    """One setting; ``value`` is None where the broker hides it. ``source`` is a value of ``SOURCES``."""

    name: str
    value: str | None
    source: str
    read_only: bool = False
    sensitive: bool = False


class ClusterInfo(msgspec.Struct, frozen=True):
    """The brokers by node id, and which of them takes administrative requests."""

    cluster_id: str | None
    controller_id: int
    brokers: dict[int, Address]


class _Answer(Protocol):
    error_code: int
    error_message: str | None


class Admin:
    """Administrative calls. Each raises KafkaError as the broker answers it, or a ClientError."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int = -1,
        replication_factor: int = -1,
        configs: Mapping[str, str] | None = None,
        validate_only: bool = False,
    ) -> None:
        """-1 is the broker's default (KIP-464). Returns once the topic has leaders. Raises TopicAlreadyExistsError."""
        topic = CreatableTopic(
            name=name,
            num_partitions=partitions,
            replication_factor=replication_factor,
            configs=[CreatableTopicConfig(name=key, value=value) for key, value in (configs or {}).items()],
        )
        request = CreateTopicsRequest(topics=[topic], timeout_ms=self._timeout_ms, validate_only=validate_only)
        await self._change(
            CREATE_TOPICS, request, lambda answer: cast(CreateTopicsResponse, answer).topics, f"topic {name!r}"
        )
        if not validate_only:
            await self._cluster.retrying(lambda: self._led(name), what=f"leaders of {name!r}")

    async def delete_topic(self, name: str) -> None:
        """Raises UnknownTopicOrPartitionError."""
        request = DeleteTopicsRequest(
            topics=[DeleteTopicState(name=name)], topic_names=[name], timeout_ms=self._timeout_ms
        )
        await self._change(
            DELETE_TOPICS, request, lambda answer: cast(DeleteTopicsResponse, answer).responses, f"topic {name!r}"
        )
        self._cluster.metadata.topics.pop(name, None)

    async def grow_topic(self, name: str, partitions: int) -> None:
        """To this many partitions in all. Keys move to other partitions. Raises InvalidPartitionsError."""
        topic = CreatePartitionsTopic(name=name, count=partitions, assignments=None)
        request = CreatePartitionsRequest(topics=[topic], timeout_ms=self._timeout_ms)
        await self._change(
            CREATE_PARTITIONS, request, lambda answer: cast(CreatePartitionsResponse, answer).results, f"topic {name!r}"
        )

    async def topics(self) -> list[TopicInfo]:
        """All topics by name, internal ones too."""
        await self._cluster.retrying(self._cluster.refresh, what="the list of topics")
        return [info for _, info in sorted(self._cluster.metadata.topics.items())]

    async def topic(self, name: str) -> TopicInfo:
        """Raises UnknownTopicOrPartitionError at once: a person asks, and may have misspelled it."""
        return await self._cluster.topic(name, fresh=True)

    async def topic_configs(self, name: str) -> list[ConfigValue]:
        """The topic's settings by name."""
        return await self._configs(TOPIC_RESOURCE, name, None)

    async def broker_configs(self, node: int, keys: Iterable[str] | None = None) -> list[ConfigValue]:
        """A broker's settings (these, or all), asked of that broker."""
        return await self._configs(BROKER_RESOURCE, str(node), keys, node)

    async def alter_topic(
        self, name: str, *, set_values: Mapping[str, str] | None = None, unset: Iterable[str] = ()
    ) -> None:
        """Sets and unsets single settings of a topic (KIP-339). Raises InvalidConfigError."""
        changes = [
            IncrementalAlterableConfig(name=key, config_operation=SET, value=value)
            for key, value in (set_values or {}).items()
        ]
        changes += [IncrementalAlterableConfig(name=key, config_operation=DELETE, value=None) for key in unset]
        resource = IncrementalAlterConfigsResource(resource_type=TOPIC_RESOURCE, resource_name=name, configs=changes)
        request = IncrementalAlterConfigsRequest(resources=[resource])
        await self._change(
            INCREMENTAL_ALTER_CONFIGS,
            request,
            lambda answer: cast(IncrementalAlterConfigsResponse, answer).responses,
            f"topic {name!r}",
        )

    async def delete_records(self, topic: str, partition: int, before: int) -> int:
        """Deletes what lies below offset ``before`` (-1: everything acknowledged); returns the log's new start."""
        wanted = DeleteRecordsTopic(
            name=topic, partitions=[DeleteRecordsPartition(partition_index=partition, offset=before)]
        )
        request = DeleteRecordsRequest(topics=[wanted], timeout_ms=self._timeout_ms)

        async def ask() -> int:
            await self._cluster.topic(topic)
            node = self._cluster.metadata.leader(topic, partition)
            answer = cast(DeleteRecordsResponse, await self._cluster.call(DELETE_RECORDS, request, node=node))
            entry = _only(_only(answer.topics).partitions)
            if entry.error_code:
                raise for_code(entry.error_code)(f"{topic}[{partition}]: records before {before} cannot be deleted")
            return entry.low_watermark

        return await self._cluster.retrying(ask, what=f"deleting records of {topic}[{partition}]")

    async def cluster(self) -> ClusterInfo:
        """The brokers there are now."""
        await self._cluster.retrying(lambda: self._cluster.refresh(()), what="the list of brokers")
        known = self._cluster.metadata
        return ClusterInfo(known.cluster_id, known.controller_id, dict(known.brokers))

    @property
    def _timeout_ms(self) -> int:
        return int(self._cluster.request_timeout_s * 1000)

    async def _led(self, name: str) -> None:
        info = await self._cluster.topic(name, fresh=True)
        for partition in info.partitions:
            self._cluster.metadata.leader(name, partition.index)

    async def _configs(
        self, kind: int, name: str, keys: Iterable[str] | None, node: int | None = None
    ) -> list[ConfigValue]:
        wanted = None if keys is None else list(keys)
        resource = DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=wanted)

        async def ask() -> list[ConfigValue]:
            request = DescribeConfigsRequest(resources=[resource])
            answer = cast(DescribeConfigsResponse, await self._cluster.call(DESCRIBE_CONFIGS, request, node=node))
            result = _only(answer.results)
            _raise_for(result, f"configuration of {name!r}")
            return [
                ConfigValue(c.name, c.value, SOURCES.get(c.config_source, "unknown"), c.read_only, c.is_sensitive)
                for c in sorted(result.configs, key=lambda c: c.name)
            ]

        # A topic that is not there is an answer here, not a reason to wait for it.
        return await ask()

    async def _change(
        self, api_key: int, request: Struct, entries: Callable[[Struct], Sequence[object]], about: str
    ) -> None:
        """Raises what the answer's only entry says, once it is not that the controller moved or is busy."""

        async def ask() -> KafkaError | None:
            try:
                _raise_for(_only(list(entries(await self._ask(api_key, request)))), about)
            except (NotControllerError, ThrottlingQuotaExceededError):
                raise
            except KafkaError as error:
                return error  # retriable or not: the answer to what was asked
            return None

        refused = await self._cluster.retrying(ask, what="an administrative request")
        if refused is not None:
            raise refused

    async def call(self, api_key: int, request: Struct) -> Struct:
        """One request to the controller, or to any broker where none is known; retried as ``retries.advise`` says."""

        return await self._cluster.retrying(lambda: self._ask(api_key, request), what="an administrative request")

    async def _ask(self, api_key: int, request: Struct) -> Struct:
        controller = self._cluster.metadata.controller_id
        node = controller if controller in self._cluster.metadata.brokers else None
        return await self._cluster.call(api_key, request, node=node, timeout_s=self._cluster.request_timeout_s + 1.0)


def _only(entries: list[R]) -> R:
    if len(entries) != 1:
        raise UnknownServerError(f"the broker answered about {len(entries)} things where 1 was asked")
    return entries[0]


def _raise_for(answer: object, about: str) -> None:
    entry = cast(_Answer, answer)
    if entry.error_code:
        kind: type[KafkaError] = for_code(entry.error_code)
        told = entry.error_message or (kind.__doc__ or "").strip()
        raise kind(told if about.partition(" ")[2] in told else f"{about}: {told}")
