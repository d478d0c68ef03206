"""CreateTopics (19), DeleteTopics (20) and CreatePartitions (37).

The controller decides; the gateway waits until the change is visible here (read your writes) and, for new
partitions, a little until their leaders run, so that the first produce just works. If the controller dies over a
request, the gateway asks the next one: what that finds done already, though it was not before, our request did.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from logeion.wire.apis import (
    ZERO_UUID,
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
    DeletableTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
)
from logeion.wire.errors import (
    InvalidConfigError,
    InvalidRequestError,
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)

from .. import messages as m
from .asking import Deadline, ask_through, check_count, told, until_applied, until_running
from .config_rows import VALUE_MAX, topic_rows

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .connection import Connection
    from .state import Gateway


_GONE = (UnknownTopicOrPartitionError.code, UnknownTopicIdError.code)


def _creation(topic: CreatableTopic) -> m.TopicToCreate:
    """The controller's form of one topic; raises InvalidRequestError for a contradiction within it."""
    assignments: dict[int, list[int]] = {}
    for entry in topic.assignments:
        if entry.partition_index in assignments:
            raise InvalidRequestError(f"partition {entry.partition_index} is assigned twice")
        assignments[entry.partition_index] = list(entry.broker_ids)
    if assignments and (topic.num_partitions != -1 or topic.replication_factor != -1):
        raise InvalidRequestError("with a manual assignment the partition count and replication factor must be -1")
    for config in topic.configs:
        if config.value is not None and len(config.value) > VALUE_MAX:
            raise InvalidConfigError(f"{config.name}: a value of {len(config.value)} characters")
    return m.TopicToCreate(
        name=topic.name,
        partitions=topic.num_partitions,
        replication_factor=topic.replication_factor,
        assignments=assignments,
        configs={config.name: config.value for config in topic.configs},
    )


def _created(gateway: Gateway, topic: m.TopicToCreate, result: m.TopicResult) -> CreatableTopicResult:
    """Kafka's form of the controller's result; from version 5 it tells counts and the whole configuration."""
    if result.code:
        return CreatableTopicResult(
            name=topic.name, error_code=result.code, error_message=told(result.reason), configs=None
        )
    return CreatableTopicResult(
        name=topic.name,
        topic_id=result.topic_id or ZERO_UUID,
        error_message=None,
        num_partitions=result.partitions,
        replication_factor=result.replication_factor,
        configs=[
            CreatableTopicConfigs(name=row.name, value=row.layers[0].value, config_source=row.layers[0].source)
            for row in topic_rows(topic.configs, gateway.image.defaults)
        ],
    )


async def create_topics(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: CreateTopicsRequest
) -> CreateTopicsResponse:
    """Handler of CreateTopics: one result a name; a name that is listed twice is refused (as Kafka does)."""
    deadline = Deadline.of_request(request.timeout_ms)
    results: dict[str, CreatableTopicResult] = {}
    wanted: list[m.TopicToCreate] = []
    count = Counter(topic.name for topic in request.topics)
    for topic in request.topics:
        try:
            if count[topic.name] > 1:
                raise InvalidRequestError(f"topic {topic.name!r} is listed more than once in this request")
            wanted.append(_creation(topic))
        except KafkaError as error:
            results[topic.name] = _refused_creation(topic.name, error)
        else:
            results[topic.name] = CreatableTopicResult(name=topic.name)  # keeps the order of the request
    if wanted:
        message = m.CreateTopics(topics=wanted, validate_only=request.validate_only)
        absent = {topic.name for topic in wanted if gateway.image.topic(topic.name) is None}
        try:
            check_count(gateway, len(wanted))
            reply, again = await ask_through(gateway, message, m.TopicsChanged, deadline)
            await until_applied(gateway, reply.committed, deadline)
        except KafkaError as error:
            results.update({topic.name: _refused_creation(topic.name, error) for topic in wanted})
        else:
            for created, result in zip(wanted, reply.results, strict=True):
                if again and result.code == TopicAlreadyExistsError.code and created.name in absent:
                    result = _as_it_is(gateway, result)
                results[created.name] = _created(gateway, created, result)
            if not request.validate_only:
                ids = [result.topic_id for result in reply.results if not result.code]
                await until_running(gateway, ids, deadline)
    return CreateTopicsResponse(topics=list(results.values()))


def _as_it_is(gateway: Gateway, result: m.TopicResult) -> m.TopicResult:
    """Our own creation of a moment ago, whose answer was lost with the controller: what came of it."""
    topic = gateway.image.topic(result.name)
    if topic is None:
        return result
    return m.TopicResult(
        name=topic.name,
        topic_id=topic.topic_id,
        partitions=len(topic.partitions),
        replication_factor=len(topic.partitions[0].replicas),
    )


def _refused_creation(name: str, error: KafkaError) -> CreatableTopicResult:
    return CreatableTopicResult(name=name, error_code=error.code, error_message=told(error), configs=None)


async def delete_topics(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: DeleteTopicsRequest
) -> DeleteTopicsResponse:
    """Handler of DeleteTopics: by name, from version 6 also by id; what is listed twice is refused (as Kafka does)."""
    deadline = Deadline.of_request(request.timeout_ms)
    asked: list[tuple[str | None, str]] = [(name, ZERO_UUID) for name in request.topic_names]
    asked += [(state.name, state.topic_id) for state in request.topics]
    count = Counter(asked)
    responses = {
        (name, topic_id): DeletableTopicResult(name=name or None, topic_id=topic_id) for name, topic_id in asked
    }
    by_name: list[DeletableTopicResult] = []
    by_id: list[DeletableTopicResult] = []
    for (name, topic_id), response in responses.items():
        if count[name, topic_id] > 1:
            _fail(response, InvalidRequestError("this topic is listed more than once in this request"))
        elif bool(name) == (topic_id != ZERO_UUID):
            _fail(response, InvalidRequestError("name a topic either by its name or by its id"))
        else:
            (by_name if name else by_id).append(response)
    going = by_name + by_id
    if going:
        message = m.DeleteTopics(
            names=[one.name for one in by_name if one.name], topic_ids=[one.topic_id for one in by_id]
        )
        present = [
            gateway.image.topic(one.name) if one.name else gateway.image.topic_by_id(one.topic_id) for one in going
        ]
        try:
            check_count(gateway, len(going))
            reply, again = await ask_through(gateway, message, m.TopicsChanged, deadline)
            await until_applied(gateway, reply.committed, deadline)
        except KafkaError as error:
            for response in going:
                _fail(response, error)
        else:
            for response, result, topic in zip(going, reply.results, present, strict=True):
                if again and topic is not None and result.code in _GONE:
                    result = m.TopicResult(name=topic.name, topic_id=topic.topic_id)
                response.error_code, response.error_message = result.code, told(result.reason)
                response.name = result.name or response.name
                response.topic_id = result.topic_id or response.topic_id
    if header.api_version < 6:
        for response in responses.values():
            response.name = response.name or ""
    return DeleteTopicsResponse(responses=list(responses.values()))


def _fail(response: DeletableTopicResult | CreatePartitionsTopicResult, error: KafkaError) -> None:
    response.error_code, response.error_message = error.code, told(error)


async def create_partitions(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: CreatePartitionsRequest
) -> CreatePartitionsResponse:
    """Handler of CreatePartitions: the new totals, one result a name."""
    deadline = Deadline.of_request(request.timeout_ms)
    count = Counter(topic.name for topic in request.topics)
    results: dict[str, CreatePartitionsTopicResult] = {}
    growing: list[m.GrowTopic] = []
    for topic in request.topics:
        if topic.name in results:
            continue
        result = results[topic.name] = CreatePartitionsTopicResult(name=topic.name)
        if count[topic.name] > 1:
            _fail(result, InvalidRequestError("this topic is listed more than once in this request"))
        else:
            assignments = None if topic.assignments is None else [list(one.broker_ids) for one in topic.assignments]
            growing.append(m.GrowTopic(name=topic.name, count=topic.count, assignments=assignments))
    if growing:
        try:
            check_count(gateway, len(growing))
            message = m.CreatePartitions(topics=growing, validate_only=request.validate_only)
            smaller = {grow.name for grow in growing if _count(gateway, grow.name) < grow.count}
            reply, again = await ask_through(gateway, message, m.TopicsChanged, deadline)
            await until_applied(gateway, reply.committed, deadline)
        except KafkaError as error:
            for grow in growing:
                _fail(results[grow.name], error)
        else:
            for grow, outcome in zip(growing, reply.results, strict=True):
                if again and grow.name in smaller and _count(gateway, grow.name) == grow.count:
                    continue  # grown by our own request, whose answer was lost with the controller
                failed = results[grow.name]
                failed.error_code, failed.error_message = outcome.code, told(outcome.reason)
            if not request.validate_only:
                await until_running(gateway, [one.topic_id for one in reply.results if not one.code], deadline)
    return CreatePartitionsResponse(results=list(results.values()))


def _count(gateway: Gateway, name: str) -> int:
    topic = gateway.image.topic(name)
    return len(topic.partitions) if topic is not None else 0
