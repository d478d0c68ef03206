"""KafkaAdminClient: topics, configurations, groups. Answers are dictionaries with the protocol's own names."""

from __future__ import annotations

import enum
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from logeion.client.admin import (
    CREATE_PARTITIONS,
    CREATE_TOPICS,
    DELETE_TOPICS,
    DESCRIBE_CONFIGS,
    INCREMENTAL_ALTER_CONFIGS,
    Admin,
)
from logeion.client.background import own_cluster
from logeion.client.cluster import METADATA
from logeion.client.groups import Groups
from logeion.client.settings import ClientSettings, checked
from logeion.wire.apis import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    DeleteTopicState,
    DescribeConfigsRequest,
    DescribeConfigsResource,
    IncrementalAlterableConfig,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource,
    MetadataRequest,
    MetadataRequestTopic,
)
from logeion.wire.errors import KafkaError, for_code
from logeion.wire.fields import Struct

from .configs import taken
from .errors import KafkaTimeoutError, translated
from .structs import OffsetAndMetadata, TopicPartition

T = TypeVar("T")
SET, DELETE = 0, 1
ZEROS = "0" * 32


class ConfigResourceType(enum.IntEnum):
    """What a configuration belongs to."""

    TOPIC = 2
    BROKER = 4


class ConfigResource:
    """A topic's or broker's configuration: a list of keys to describe, a mapping to alter."""

    def __init__(
        self,
        resource_type: ConfigResourceType | str | int,
        name: str,
        configs: Sequence[str] | Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(resource_type, str):
            resource_type = ConfigResourceType[resource_type.upper()]
        self.resource_type: ConfigResourceType = ConfigResourceType(resource_type)
        self.name = name
        self.configs = configs


class NewTopic:
    """A topic to create."""

    def __init__(
        self,
        name: str,
        num_partitions: int = -1,
        replication_factor: int = -1,
        replica_assignments: Mapping[int, Sequence[int]] | None = None,
        topic_configs: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.num_partitions = num_partitions
        self.replication_factor = replication_factor
        self.replica_assignments: dict[int, Sequence[int]] = dict(replica_assignments or {})
        self.topic_configs: dict[str, str] = dict(topic_configs or {})


class NewPartitions:
    """How many partitions a topic shall have, and where the new ones go."""

    def __init__(self, total_count: int, new_assignments: Sequence[Sequence[int]] | None = None) -> None:
        self.total_count = total_count
        self.new_assignments = new_assignments


class KafkaAdminClient:
    """The calls that most programs make of kafka-python's; the others are named in docs/migrating.md."""

    def __init__(self, **configs: Any) -> None:
        settings = taken("KafkaAdminClient", set(), configs)
        settings.setdefault("bootstrap_servers", "localhost:9092")
        with translated():
            self._background, self._cluster = own_cluster(checked(ClientSettings, settings))
        self._admin = Admin(self._cluster)
        self._groups = Groups(self._cluster)
        self._closed = False

    def __enter__(self) -> KafkaAdminClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnects."""
        if not self._closed:
            self._closed = True
            self._background.run(self._cluster.close())

    def _run(self, work: Any) -> Any:
        with translated():
            return self._background.run(work)

    def _ask(self, api_key: int, request: Struct) -> dict[str, Any]:
        answer = self._run(self._admin.call(api_key, request))
        found: dict[str, Any] = _plain(msgspec.to_builtins(answer))
        found.pop("throttle_time_ms", None)
        return found

    # Topics

    def create_topics(
        self,
        new_topics: Mapping[str, Mapping[str, Any]] | Iterable[str | NewTopic],
        timeout_ms: int | None = None,
        validate_only: bool = False,
        raise_errors: bool = True,
        wait_for_metadata: bool = False,
    ) -> dict[str, Any]:
        """Raises the first error of any topic, unless told not to."""
        if isinstance(new_topics, Mapping):
            wanted = [
                NewTopic(
                    name,
                    one.get("num_partitions", -1),
                    one.get("replication_factor", -1),
                    one.get("assignments"),
                    one.get("configs"),
                )
                for name, one in new_topics.items()
            ]
        else:
            wanted = [one if isinstance(one, NewTopic) else NewTopic(one) for one in new_topics]
        request = CreateTopicsRequest(
            topics=[
                CreatableTopic(
                    name=one.name,
                    num_partitions=one.num_partitions,
                    replication_factor=one.replication_factor,
                    assignments=[
                        CreatableReplicaAssignment(partition_index=index, broker_ids=list(brokers))
                        for index, brokers in one.replica_assignments.items()
                    ],
                    configs=[CreatableTopicConfig(name=key, value=value) for key, value in one.topic_configs.items()],
                )
                for one in wanted
            ],
            timeout_ms=timeout_ms or 30_000,
            validate_only=validate_only,
        )
        answer = self._ask(CREATE_TOPICS, request)
        _raise_first(answer["topics"], raise_errors)
        for topic in answer["topics"]:
            configs = topic.pop("configs", None)
            if configs:
                topic["configs"] = {one.pop("name"): one for one in configs}
        if wait_for_metadata:
            self.wait_for_topics([one.name for one in wanted])
        return answer

    def wait_for_topics(self, topic_names: Iterable[str], timeout_ms: float = 10_000) -> None:
        """Until all partitions of these have leaders. Raises KafkaTimeoutError."""
        names, until = list(topic_names), time.monotonic() + timeout_ms / 1000
        while True:
            found = self.describe_topics(names)
            if all(not one["error_code"] and all(row["leader_id"] >= 0 for row in one["partitions"]) for one in found):
                return
            if time.monotonic() >= until:
                raise KafkaTimeoutError(f"topics {names} are not ready within {timeout_ms:g} ms")
            time.sleep(0.02)

    def delete_topics(
        self, topics: Iterable[str], timeout_ms: int | None = None, raise_errors: bool = True
    ) -> dict[str, Any]:
        """Raises the first error of any topic, unless told not to."""
        names = list(topics)
        request = DeleteTopicsRequest(
            topics=[DeleteTopicState(name=name) for name in names], topic_names=names, timeout_ms=timeout_ms or 30_000
        )
        answer = self._ask(DELETE_TOPICS, request)
        answer["topics"] = answer.pop("responses")
        _raise_first(answer["topics"], raise_errors)
        return answer

    def list_topics(self) -> list[str]:
        """The names of all topics."""
        return [one["name"] for one in self.describe_topics()]

    def describe_topics(self, topics: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Each with its partitions; one that does not exist with its error code."""
        wanted = None if topics is None else [MetadataRequestTopic(name=name) for name in topics]
        answer = self._ask(METADATA, MetadataRequest(topics=wanted, allow_auto_topic_creation=False))
        found: list[dict[str, Any]] = answer["topics"]
        for topic in found:
            topic.pop("topic_authorized_operations", None)
        return found

    def describe_cluster(self) -> dict[str, Any]:
        """Its id, its brokers, and the one that takes administrative requests."""
        answer = self._ask(METADATA, MetadataRequest(topics=[]))
        brokers = [
            {"broker_id": one["node_id"], "host": one["host"], "port": one["port"], "rack": one["rack"]}
            for one in answer["brokers"]
        ]
        return {"cluster_id": answer["cluster_id"], "controller_id": answer["controller_id"], "brokers": brokers}

    def create_partitions(
        self,
        topic_partitions: Mapping[str, int | NewPartitions],
        timeout_ms: int | None = None,
        validate_only: bool = False,
        raise_errors: bool = True,
    ) -> dict[str, Any]:
        """Raises the first error of any topic, unless told not to."""
        topics = []
        for name, one in topic_partitions.items():
            new = one if isinstance(one, NewPartitions) else NewPartitions(one)
            given = new.new_assignments
            rows = None if given is None else [CreatePartitionsAssignment(broker_ids=list(ids)) for ids in given]
            topics.append(CreatePartitionsTopic(name=name, count=new.total_count, assignments=rows))
        request = CreatePartitionsRequest(topics=topics, timeout_ms=timeout_ms or 30_000, validate_only=validate_only)
        answer = self._ask(CREATE_PARTITIONS, request)
        _raise_first(answer["results"], raise_errors)
        return answer

    def delete_records(
        self,
        records_to_delete: Mapping[TopicPartition, int],
        timeout_ms: int | None = None,
        partition_leader_id: int | None = None,
    ) -> dict[TopicPartition, dict[str, int]]:
        """Everything below these offsets (-1: all that is committed)."""
        found = {}
        for (topic, partition), before in records_to_delete.items():
            low = self._run(self._admin.delete_records(topic, partition, before))
            found[TopicPartition(topic, partition)] = {
                "partition_index": partition,
                "low_watermark": low,
                "error_code": 0,
            }
        return found

    # Configurations

    def describe_configs(
        self,
        config_resources: Iterable[ConfigResource],
        include_synonyms: bool = False,
        config_filter: str = "modified",
    ) -> dict[str, dict[str, dict[str, Any]]]:
        """{"topic": {name: {key: {"value": …}}}}; ``config_filter`` "all" shows defaults too."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for one in config_resources:
            keys = list(one.configs) if one.configs else None
            resource = DescribeConfigsResource(
                resource_type=one.resource_type, resource_name=one.name, configuration_keys=keys
            )
            answer = self._ask(DESCRIBE_CONFIGS, DescribeConfigsRequest(resources=[resource]))
            _raise_first(answer["results"], True)
            rows = {row.pop("name"): row for row in answer["results"][0]["configs"]}
            if config_filter != "all" and keys is None:
                # 5 is a default that nobody has set (KIP-226).
                rows = {key: row for key, row in rows.items() if row["config_source"] != 5}
            found.setdefault(one.resource_type.name.lower(), {})[one.name] = rows
        return found

    def alter_configs(
        self,
        config_resources: Iterable[ConfigResource],
        validate_only: bool = False,
        raise_on_unknown: bool = True,
        incremental: bool | None = None,
    ) -> dict[str, dict[str, str]]:
        """Sets these keys; a value of None goes back to the default."""
        found: dict[str, dict[str, str]] = {}
        for one in config_resources:
            values = one.configs if isinstance(one.configs, Mapping) else {}
            changes = [
                IncrementalAlterableConfig(
                    name=key,
                    config_operation=DELETE if value is None else SET,
                    value=None if value is None else str(value),
                )
                for key, value in values.items()
            ]
            resource = IncrementalAlterConfigsResource(
                resource_type=one.resource_type, resource_name=one.name, configs=changes
            )
            request = IncrementalAlterConfigsRequest(resources=[resource], validate_only=validate_only)
            answer = self._ask(INCREMENTAL_ALTER_CONFIGS, request)
            _raise_first(answer["responses"], True)
            found.setdefault(one.resource_type.name.lower(), {})[one.name] = "OK"
        return found

    # Groups

    def list_groups(self) -> list[dict[str, str]]:
        """All groups of all brokers."""
        return [
            {
                "group_id": one.group,
                "protocol_type": one.protocol_type,
                "group_state": one.state,
                "group_type": one.kind,
            }
            for one in self._run(self._groups.ls())
        ]

    def list_group_offsets(
        self, group_specs: Mapping[str, Iterable[TopicPartition] | None] | Iterable[str]
    ) -> dict[str, dict[TopicPartition, OffsetAndMetadata]]:
        """What each group has committed, everywhere or in these partitions."""
        wanted = dict(group_specs) if isinstance(group_specs, Mapping) else dict.fromkeys(group_specs)
        found = {}
        for group, only in wanted.items():
            rows = self._run(self._groups.committed(group))
            kept = rows if only is None else {tp: rows[tp] for tp in map(_as_tp, only) if tp in rows}
            found[group] = {
                tp: OffsetAndMetadata(one.offset, one.metadata, one.leader_epoch) for tp, one in kept.items()
            }
        return found

    def alter_group_offsets(
        self, group_id: str, offsets: Mapping[TopicPartition, Any], group_coordinator_id: int | None = None
    ) -> dict[TopicPartition, None]:
        """Sets a group's positions while it has no members; no error in any row."""
        wanted = {_as_tp(tp): int(getattr(one, "offset", one)) for tp, one in offsets.items()}
        notes = {_as_tp(tp): getattr(one, "metadata", "") or "" for tp, one in offsets.items()}
        self._run(self._groups.commit(group_id, wanted, notes))
        return dict.fromkeys(wanted)

    def delete_groups(self, group_ids: Iterable[str], group_coordinator_id: int | None = None) -> dict[str, str]:
        """ "OK" for each, or the name of its error."""
        found = {}
        for group in group_ids:
            try:
                self._run(self._groups.delete(group))
                found[group] = "OK"
            except KafkaError as error:
                found[group] = type(error).__name__
        return found


def _as_tp(tp: Iterable[Any]) -> TopicPartition:
    return TopicPartition(*tp)


def _raise_first(rows: Iterable[Mapping[str, Any]], really: bool) -> None:
    for row in rows:
        if really and row["error_code"]:
            raise for_code(row["error_code"])(row.get("error_message") or f"{row}")


def _plain(value: Any) -> Any:
    """Ids as kafka-python writes them, None for none."""
    if isinstance(value, dict):
        return {key: _id(one) if key == "topic_id" else _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


def _id(text: str) -> str | None:
    return None if text == ZEROS else str(uuid.UUID(text))
