"""Topics and their configuration: what is allowed, and the records that make it so. Pure.

Each function looks at the image and returns records, or raises the ``KafkaError`` to answer with; none changes the
image. Names, counts and codes are Kafka's (KIP-4, KIP-195, KIP-339, KIP-516).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from logeion.log.config import BROKER_CONFIGS, TOPIC_CONFIGS, TopicConfig, validate
from logeion.wire.errors import (
    ConfigError,
    InvalidConfigError,
    InvalidPartitionsError,
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    InvalidTopicError,
    TopicAlreadyExistsError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)

from ..messages import AlterConfigs, ConfigChange, GrowTopic, TopicToCreate
from ..metadata import (
    THROTTLED,
    ConfigChanged,
    MetadataImage,
    MetadataRecord,
    PartitionChanged,
    Topic,
    TopicCreated,
    TopicDeleted,
)
from . import elections
from .placement import place

# Topics that only the cluster itself makes; a client that asks for one is told so.
INTERNAL_TOPICS = frozenset(("__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"))

# The replication factor where nobody says another one and there are as many nodes.
REPLICAS = 3
UNCLEAN = "unclean.leader.election.enable"

NAME_MAX = 249
_NAME = re.compile(r"[a-zA-Z0-9._-]+", re.ASCII)


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What a creation gets that does not say, and how many partitions the cluster may have. ``voters`` nodes are known
    from the start, whether or not they have registered yet."""

    partitions: int = 1
    replication_factor: int = 1
    partitions_max: int = 2_000
    voters: int = 1


def check_name(name: str) -> None:
    """Kafka's rule for a topic's name; raises ``InvalidTopicError`` with the rule that is broken."""
    if not name:
        raise InvalidTopicError("a topic's name is empty")
    if name in (".", ".."):
        raise InvalidTopicError(f"a topic cannot be named {name!r}")
    if len(name) > NAME_MAX:
        raise InvalidTopicError(f"the topic name {name[:40]!r}… has {len(name)} characters, {NAME_MAX} are allowed")
    if not _NAME.fullmatch(name):
        raise InvalidTopicError(f"the topic name {name!r} may only have ASCII letters, digits, '.', '_' and '-'")


def _check_free(image: MetadataImage, name: str, internal: bool) -> None:
    if name in INTERNAL_TOPICS and not internal:
        raise InvalidTopicError(f"{name} is internal: the cluster creates it when it is needed")
    if image.topic(name) is not None:
        raise TopicAlreadyExistsError(f"topic {name!r} already exists")
    # Names differing only in '.' and '_' would be one name in metrics (as in Kafka).
    same = name.replace(".", "_")
    for topic in image.topics.values():
        if topic.name.replace(".", "_") == same:
            raise InvalidTopicError(f"topic {name!r} collides with the existing topic {topic.name!r}")


def create(
    image: MetadataImage, defaults: Defaults, wanted: TopicToCreate, internal: bool, new_id: Callable[[], str]
) -> list[MetadataRecord]:
    """The records of a new topic: itself, its configuration, its partitions (all in leader epoch 0).

    A replication factor of 0, which only we ourselves may ask for, is three, or as many as there are nodes: those too
    that are away now, or it would be that small for ever.
    """
    check_name(wanted.name)
    _check_free(image, wanted.name, internal)
    configs = _checked_configs(wanted.configs)
    if wanted.assignments:
        replicas = _checked_assignments(image, wanted.assignments)
        _check_room(image, defaults, len(replicas))
    else:
        partitions = defaults.partitions if wanted.partitions == -1 else wanted.partitions
        if partitions < 1:
            raise InvalidPartitionsError(f"a topic needs at least one partition, {partitions} were asked for")
        _check_room(image, defaults, partitions)
        factor = _factor(defaults, wanted, internal)
        replicas = _place(image, partitions, min(REPLICAS, len(image.brokers)) if factor is None else factor)
    topic_id = new_id()
    records: list[MetadataRecord] = [TopicCreated(topic_id=topic_id, name=wanted.name, internal=internal)]
    records += (
        ConfigChanged(resource="topic", name=wanted.name, key=key, value=value) for key, value in configs.items()
    )
    return records + _new_partitions(image, topic_id, 0, replicas)


def too_early(image: MetadataImage, defaults: Defaults, wanted: TopicToCreate, internal: bool) -> bool:
    """Whether this topic would have fewer replicas than once all voters have registered."""
    few = len(image.brokers) < min(REPLICAS, defaults.voters)
    automatic = not wanted.assignments and _factor(defaults, wanted, internal) is None
    return few and automatic and image.topic(wanted.name) is None


def _factor(defaults: Defaults, wanted: TopicToCreate, internal: bool) -> int | None:
    """The replication factor, None if it depends on how many nodes there are."""
    factor = defaults.replication_factor if wanted.replication_factor == -1 else wanted.replication_factor
    return None if factor == 0 and (internal or wanted.replication_factor == -1) else factor


def delete(image: MetadataImage, name: str, topic_id: str) -> list[MetadataRecord]:
    """By name, or by id where the name is empty."""
    topic = image.topic(name) if name else image.topic_by_id(topic_id)
    if topic is None:
        if name:
            raise UnknownTopicOrPartitionError(f"there is no topic {name!r}")
        raise UnknownTopicIdError(f"there is no topic with id {topic_id}")
    if topic.internal:
        raise InvalidTopicError(f"{topic.name} is internal: its records are the cluster's own, it cannot be deleted")
    return [TopicDeleted(topic_id=topic.topic_id)]


def grow(image: MetadataImage, defaults: Defaults, wanted: GrowTopic) -> list[MetadataRecord]:
    """The records of the partitions above those that exist; the replication factor is that of partition 0."""
    topic = image.topic(wanted.name)
    if topic is None:
        raise UnknownTopicOrPartitionError(f"there is no topic {wanted.name!r}")
    if topic.internal:
        raise InvalidTopicError(f"{topic.name} is internal: its number of partitions is fixed")
    present = len(topic.partitions)
    if wanted.count == present:
        raise InvalidPartitionsError(f"topic {topic.name!r} already has {present} partitions")
    if wanted.count < present:
        raise InvalidPartitionsError(
            f"topic {topic.name!r} has {present} partitions; it cannot shrink to {wanted.count}"
        )
    added = wanted.count - present
    _check_room(image, defaults, added)
    if wanted.assignments is not None:
        if len(wanted.assignments) != added:
            raise InvalidReplicaAssignmentError(
                f"{len(wanted.assignments)} assignments for {added} new partitions of {topic.name!r}"
            )
        replicas = _checked_assignments(image, dict(enumerate(wanted.assignments)))
    else:
        first = topic.partitions[0]
        replicas = _place(image, added, len(first.replicas) - len(first.removing))
    return _new_partitions(image, topic.topic_id, present, replicas)


def alter_configs(image: MetadataImage, request: AlterConfigs) -> list[MetadataRecord]:
    """The records of the keys whose value really changes, and of the partitions that this concerns."""
    if request.resource != "topic":
        return _alter_broker(image, request)
    topic = image.topic(request.name)
    if topic is None:
        raise UnknownTopicOrPartitionError(f"there is no topic {request.name!r}")
    # How fast a reassignment copies it may be set on an internal topic, too.
    throttles = not request.replace and all(change.key in THROTTLED for change in request.changes)
    if topic.internal and not throttles:
        raise InvalidTopicError(f"{topic.name} is internal: its configuration is the cluster's own")
    lookup = dict(image.topic_configs(topic.name))
    records = _altered("topic", topic.name, image.configs_of("topic", topic.name), request, TOPIC_CONFIGS, lookup)
    after = lookup | {record.key: record.value for record in records}
    return [*records, *_reconsidered(image, topic, after)]


def _alter_broker(image: MetadataImage, request: AlterConfigs) -> list[MetadataRecord]:
    """A broker's few settings that change while it runs; the name "" is all brokers."""
    if request.resource != "broker" or any(change.key not in BROKER_CONFIGS for change in request.changes):
        raise InvalidConfigError(
            "a broker's settings come from its file, LOGEION_… environment and flags: change them there and restart it"
        )
    if request.name and not (request.name.isascii() and request.name.isdigit() and int(request.name) in image.brokers):
        raise InvalidRequestError(f"there is no broker {request.name!r}")
    before = image.configs_of("broker", request.name)
    return [*_altered("broker", request.name, before, request, BROKER_CONFIGS, before)]


def _altered(
    resource: str,
    name: str,
    before: Mapping[str, str],
    request: AlterConfigs,
    table: Mapping[str, TopicConfig],
    lookup: Mapping[str, str],
) -> list[ConfigChanged]:
    after: dict[str, str] = {} if request.replace else dict(before)
    named: set[str] = set()
    for change in request.changes:
        if change.key in named:
            raise InvalidConfigError(f"{change.key} is listed more than once")
        named.add(change.key)
        value = _changed_value(change, table, lookup)
        if value is None:
            after.pop(change.key, None)
        else:
            after[change.key] = value
    return [
        ConfigChanged(resource=resource, name=name, key=key, value=after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _reconsidered(image: MetadataImage, topic: Topic, configs: Mapping[str, str | None]) -> list[PartitionChanged]:
    """The topic's partitions under this new configuration.

    With another ``min.insync.replicas`` the ELR goes: the watermark may have moved without them (KIP-966). Where nobody
    leads it has not moved, and they are all there is. An unclean election that is now allowed is held at once.
    """

    def value(key: str) -> str:
        given = configs.get(key)
        return image.defaults.get(key, TOPIC_CONFIGS[key].default) if given is None else given

    rules = elections.Rules(int(value("min.insync.replicas")), value(UNCLEAN).strip().lower() == "true")
    before = elections.rules_of(image, topic.topic_id)
    found = []
    for state in topic.partitions.values():
        if state.leader == elections.NOBODY:
            if rules.unclean and not before.unclean:
                found.append(elections.change(image, state, rules))
        elif rules.min_isr != before.min_isr and (state.elr or state.last_known):
            found.append(elections.bumped(state, elr=[]))
    return [after for after in found if after is not None]


def effective(image: MetadataImage, configs: Mapping[str, str | None]) -> dict[str, str]:
    """Every key's value for a topic of this configuration, as CreateTopics reports it."""
    known = {key: row.default for key, row in TOPIC_CONFIGS.items()}
    return {**known, **image.defaults, **{key: value for key, value in configs.items() if value is not None}}


def _changed_value(change: ConfigChange, table: Mapping[str, TopicConfig], lookup: Mapping[str, str]) -> str | None:
    """The key's new value, None for the default."""
    row = table.get(change.key)
    if row is None:
        _validate(change.key, "")
        raise InvalidConfigError(f"unknown config {change.key!r}")
    if change.operation == "delete":
        return None
    if change.value is None:
        raise InvalidRequestError(f"{change.key}: no value to {change.operation}")
    if change.operation == "set":
        return _parsed(row, change.value)
    if row.type != "list":
        raise InvalidConfigError(f"{change.key} is no list, so nothing can be appended to or subtracted from it")
    items = _items(lookup.get(change.key, row.default))
    if change.operation == "append":
        items += [item for item in _items(change.value) if item not in items]
    elif change.operation == "subtract":
        items = [item for item in items if item not in _items(change.value)]
    else:
        raise InvalidRequestError(f"{change.operation!r} is no operation on a configuration")
    return _parsed(row, ",".join(items))


def _parsed(row: TopicConfig, value: str) -> str:
    try:
        row.parse(value)
    except ConfigError as error:
        raise InvalidConfigError(str(error)) from error
    return value


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _validate(key: str, value: str) -> str:
    try:
        validate(key, value)
    except ConfigError as error:
        raise InvalidConfigError(str(error)) from error
    return value


def _checked_configs(configs: Mapping[str, str | None]) -> dict[str, str]:
    checked = {}
    for key, value in configs.items():
        if value is None:
            raise InvalidConfigError(f"{key}: a new topic's configuration has no value; leave it out for the default")
        checked[key] = _validate(key, value)
    return checked


def _checked_assignments(image: MetadataImage, assignments: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """The replicas by partition, from 0 without a gap, all of one replication factor and on registered brokers."""
    if sorted(assignments) != list(range(len(assignments))):
        raise InvalidReplicaAssignmentError("the assigned partitions must be numbered from 0 without a gap")
    found = [list(assignments[partition]) for partition in range(len(assignments))]
    for partition, replicas in enumerate(found):
        if not replicas:
            raise InvalidReplicaAssignmentError(f"partition {partition} is assigned to no broker")
        if len(set(replicas)) < len(replicas):
            raise InvalidReplicaAssignmentError(f"partition {partition} is assigned twice to one broker")
        if len(replicas) != len(found[0]):
            raise InvalidReplicaAssignmentError("all partitions of a topic need the same number of replicas")
        unknown = [broker for broker in replicas if broker not in image.brokers]
        if unknown:
            raise InvalidReplicaAssignmentError(f"partition {partition} is assigned to unknown broker {unknown[0]}")
    return found


def _place(image: MetadataImage, partitions: int, factor: int) -> list[list[int]]:
    """Replicas on nodes that live, and on others only if the factor takes them (they follow once they are back)."""
    _check_factor(image, factor)
    live = [node for node in image.brokers if image.eligible(node)]
    racks = {node: broker.rack for node, broker in image.brokers.items()}
    placed = _placed(image)
    replicas = place(live, partitions, min(factor, len(live)), placed, racks)
    if factor > len(live):
        away = sorted(image.brokers.keys() - set(live))
        for at, nodes in enumerate(replicas, placed):
            nodes += (away[at % len(away) :] + away[: at % len(away)])[: factor - len(live)]
    return replicas


def _check_factor(image: MetadataImage, factor: int) -> None:
    if factor < 1 and any(map(image.eligible, image.brokers)):
        raise InvalidReplicationFactorError(f"the replication factor must be at least 1, not {factor}")
    if factor > len(image.brokers):
        raise InvalidReplicationFactorError(
            f"replication factor {factor} is more than the {len(image.brokers)} brokers that are registered"
        )
    if not any(map(image.eligible, image.brokers)):
        raise InvalidReplicationFactorError("no broker is there that could lead a partition")


def _check_room(image: MetadataImage, defaults: Defaults, added: int) -> None:
    placed = _placed(image)
    if placed + added > defaults.partitions_max:
        raise InvalidPartitionsError(
            f"{added} partitions on top of {placed} are more than limits.partitions = {defaults.partitions_max}; "
            "each is a process of its own: ask for fewer or raise the limit"
        )


def _placed(image: MetadataImage) -> int:
    return sum(len(topic.partitions) for topic in image.topics.values())


def _new_partitions(
    image: MetadataImage, topic_id: str, first: int, assigned: Sequence[list[int]]
) -> list[MetadataRecord]:
    records: list[MetadataRecord] = []
    for partition, replicas in enumerate(assigned, first):
        isr = [node for node in replicas if image.eligible(node)]
        if not isr:
            raise InvalidReplicaAssignmentError(f"none of the brokers {replicas} of partition {partition} is there")
        records.append(
            PartitionChanged(
                topic_id=topic_id,
                partition=partition,
                replicas=replicas,
                isr=isr,
                leader=isr[0],
                leader_epoch=0,
                partition_epoch=0,
            )
        )
    return records
