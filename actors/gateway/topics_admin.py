"""CreateTopics (19), DeleteTopics (20) and CreatePartitions (37).

The controller decides; the gateway checks what the image alone can tell, waits until the change is visible here
(read your writes) and, for new partitions, a little until their leaders run, so that the first produce just works.
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
    InvalidRequestError,
    InvalidTopicError,
    KafkaError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)

from .. import messages as m
from .asking import Deadline, ask_controller, until_applied, until_running
from .config_rows import topic_rows

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .connection import Connection
    from .state import Gateway


def _creation(topic: CreatableTopic) -> m.TopicToCreate:
    """The controller's form of one topic; raises InvalidRequestError for a contradiction within it."""
    assignments: dict[int, list[int]] = {}
    for entry in topic.assignments:
        if entry.partition_index in assignments:
            raise InvalidRequestError(f"partition {entry.partition_index} is assigned twice")
        assignments[entry.partition_index] = list(entry.broker_ids)
    if assignments and (topic.num_partitions != -1 or topic.replication_factor != -1):
        raise InvalidRequestError("with a manual assignment the partition count and replication factor must be -1")
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
            name=topic.name, error_code=result.code, error_message=result.reason or None, configs=None
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
        try:
            reply = await ask_controller(gateway, message, m.TopicsChanged, deadline)
            await until_applied(gateway, reply.committed, deadline)
        except KafkaError as error:
            results.update({topic.name: _refused_creation(topic.name, error) for topic in wanted})
        else:
            for created, result in zip(wanted, reply.results, strict=True):
                results[created.name] = _created(gateway, created, result)
            if not request.validate_only:
                ids = [result.topic_id for result in reply.results if not result.code]
                await until_running(gateway, ids, deadline)
    return CreateTopicsResponse(topics=list(results.values()))


def _refused_creation(name: str, error: KafkaError) -> CreatableTopicResult:
    return CreatableTopicResult(name=name, error_code=error.code, error_message=str(error), configs=None)


def _deletable(gateway: Gateway, name: str | None, topic_id: str) -> str:
    """The id of the topic to delete, by name or (version 6) by id; raises what keeps it from being deleted."""
    if name is not None and topic_id != ZERO_UUID:
        raise InvalidRequestError("name a topic by its name or by its id, not by both")
    if name is None and topic_id == ZERO_UUID:
        raise InvalidRequestError("neither a topic's name nor its id is given")
    image = gateway.image
    if name is not None:
        topic = image.topic(name)
        if topic is None:
            raise UnknownTopicOrPartitionError(f"there is no topic {name!r}")
    else:
        topic = image.topic_by_id(topic_id)
        if topic is None:
            raise UnknownTopicIdError(f"there is no topic with id {topic_id}")
    if topic.internal:
        raise InvalidTopicError(f"{topic.name} is internal: its records are the cluster's own, it cannot be deleted")
    return topic.topic_id


async def delete_topics(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: DeleteTopicsRequest
) -> DeleteTopicsResponse:
    """Handler of DeleteTopics: by name, from version 6 also by id; a topic that is listed twice is refused."""
    deadline = Deadline.of_request(request.timeout_ms)
    asked: list[tuple[str | None, str]] = [(name, ZERO_UUID) for name in request.topic_names]
    asked += [(state.name, state.topic_id) for state in request.topics]
    responses: list[DeletableTopicResult] = []
    going: dict[str, list[DeletableTopicResult]] = {}
    for name, topic_id in asked:
        response = DeletableTopicResult(name=name, topic_id=topic_id)
        responses.append(response)
        try:
            going.setdefault(_deletable(gateway, name, topic_id), []).append(response)
        except KafkaError as error:
            _fail(response, error)
    for twice in [topic_id for topic_id, same in going.items() if len(same) > 1]:
        for response in going.pop(twice):
            _fail(response, InvalidRequestError("this topic is listed more than once in this request"))
    if going:
        names = {topic_id: topic.name for topic_id in going if (topic := gateway.image.topic_by_id(topic_id))}
        try:
            message = m.DeleteTopics(topic_ids=list(going))
            reply = await ask_controller(gateway, message, m.TopicsChanged, deadline)
            await until_applied(gateway, reply.committed, deadline)
        except KafkaError as error:
            for [response] in going.values():
                _fail(response, error)
        else:
            for (topic_id, [response]), result in zip(going.items(), reply.results, strict=True):
                if result.code:
                    response.error_code, response.error_message = result.code, result.reason or None
                else:
                    response.name, response.topic_id = names.get(topic_id, response.name), topic_id
    if header.api_version < 6:
        for response in responses:
            response.name = response.name or ""
    return DeleteTopicsResponse(responses=responses)


def _fail(response: DeletableTopicResult | CreatePartitionsTopicResult, error: KafkaError) -> None:
    response.error_code, response.error_message = error.code, str(error)


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
        known = gateway.image.topic(topic.name)
        if count[topic.name] > 1:
            _fail(result, InvalidRequestError("this topic is listed more than once in this request"))
        elif known is None:
            _fail(result, UnknownTopicOrPartitionError(f"there is no topic {topic.name!r}"))
        elif known.internal:
            _fail(result, InvalidTopicError(f"{topic.name} is internal: its number of partitions is fixed"))
        else:
            assignments = None if topic.assignments is None else [list(one.broker_ids) for one in topic.assignments]
            growing.append(m.GrowTopic(name=topic.name, count=topic.count, assignments=assignments))
    if growing:
        try:
            message = m.CreatePartitions(topics=growing, validate_only=request.validate_only)
            reply = await ask_controller(gateway, message, m.TopicsChanged, deadline)
            await until_applied(gateway, reply.committed, deadline)
        except KafkaError as error:
            for grow in growing:
                _fail(results[grow.name], error)
        else:
            for outcome in reply.results:
                if outcome.code:
                    failed = results[outcome.name]
                    failed.error_code, failed.error_message = outcome.code, outcome.reason or None
            if not request.validate_only:
                known_ids = [gateway.image.topic(outcome.name) for outcome in reply.results if not outcome.code]
                await until_running(gateway, [topic.topic_id for topic in known_ids if topic], deadline)
    return CreatePartitionsResponse(results=list(results.values()))
