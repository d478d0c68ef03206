"""DescribeConfigs (32), AlterConfigs (33) and IncrementalAlterConfigs (44): topics and brokers.

A topic's keys are those of ``logeion.log.config``. A broker shows its settings under Logeion's names
(``logeion.storage.flush``) and, where Kafka has a setting that means the same, under Kafka's too; it also shows where
its admin listener is (``logeion.admin.listener``), which is how our command line finds it. A broker's settings come
from its file, environment and flags, so they are read-only here, but for the few of ``BROKER_CONFIGS``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from logeion.wire.apis import (
    AlterConfigsRequest,
    AlterConfigsResourceResponse,
    AlterConfigsResponse,
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from logeion.wire.errors import (
    InvalidConfigError,
    InvalidRequestError,
    KafkaError,
    UnknownTopicOrPartitionError,
)

from .. import messages as m
from ..controller.topics import check_name
from .asking import Deadline, ask_through, told, until_applied
from .broker_configs import broker_rows, dynamic_rows
from .config_rows import VALUE_MAX, Row, topic_rows

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from ..metadata import Topic
    from .connection import Connection
    from .state import Gateway

# Kafka's numbers for kinds of resources, and the two that are served.
TOPIC, BROKER = 2, 4
KINDS = {TOPIC: "topic", BROKER: "broker", 8: "broker logger", 16: "client metrics", 32: "group"}

# Kafka's numbers for the operations of IncrementalAlterConfigs, as the controller knows them.
SET, DELETE = 0, 1
OPERATIONS = {SET: "set", DELETE: "delete", 2: "append", 3: "subtract"}

# Requests for configuration carry no timeout; their clients wait 30 s or more.
TIMEOUT_S = 15.0


def _rows(gateway: Gateway, connection: Connection, resource: DescribeConfigsResource) -> list[Row]:
    if resource.resource_type == TOPIC:
        topic = _topic(gateway, resource.resource_name)
        return topic_rows(gateway.image.configs_of("topic", topic.name), gateway.image.defaults)
    if resource.resource_type == BROKER:
        if not resource.resource_name:
            return dynamic_rows(gateway.image, None)
        _check_broker(gateway, resource.resource_name)
        return broker_rows(gateway, connection.local)
    raise _unserved(resource.resource_type)


def _unserved(kind: int) -> KafkaError:
    name = KINDS.get(kind, f"number {kind}")
    return InvalidRequestError(f"resources of the kind {name} have no configuration here, only topic and broker have")


def _topic(gateway: Gateway, name: str) -> Topic:
    check_name(name)
    topic = gateway.image.topic(name)
    if topic is None:
        raise UnknownTopicOrPartitionError(f"there is no topic {name!r}")
    return topic


def _check_broker(gateway: Gateway, name: str) -> None:
    if not name.isascii() or not name.isdigit():
        raise InvalidRequestError(f"a broker is named by its number, not by {name!r}")
    if int(name) != gateway.node:
        raise InvalidRequestError(f"ask broker {name} itself: this is broker {gateway.node}")


def _result(row: Row, synonyms: bool, documentation: bool) -> DescribeConfigsResourceResult:
    return DescribeConfigsResourceResult(
        name=row.name,
        value=row.layers[0].value,
        read_only=row.read_only,
        config_source=row.layers[0].source,
        synonyms=[
            DescribeConfigsSynonym(name=layer.name, value=layer.value, source=layer.source) for layer in row.layers
        ]
        if synonyms
        else [],
        config_type=row.type,
        documentation=row.doc if documentation else None,
    )


async def describe_configs(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: DescribeConfigsRequest
) -> DescribeConfigsResponse:
    """Handler of DescribeConfigs: all keys of each resource, or those that are named (an empty list is all, too)."""
    results = []
    for resource in request.resources:
        result = DescribeConfigsResult(
            error_message=None, resource_type=resource.resource_type, resource_name=resource.resource_name
        )
        try:
            keys = resource.configuration_keys
            result.configs = [
                _result(row, request.include_synonyms, request.include_documentation)
                for row in _rows(gateway, connection, resource)
                if not keys or row.name in keys
            ]
        except KafkaError as error:
            result.error_code, result.error_message = error.code, told(error)
        results.append(result)
    return DescribeConfigsResponse(results=results)


def _change(key: str, operation: int, value: str | None) -> m.ConfigChange:
    """One change for the controller, which checks key and value."""
    if operation not in OPERATIONS:
        raise InvalidRequestError(f"{operation} is no operation on a configuration")
    if operation == DELETE:
        return m.ConfigChange(key=key, operation="delete")
    if value is None:
        raise InvalidConfigError(f"{key}: no value to {OPERATIONS[operation]}")
    if len(value) > VALUE_MAX:
        raise InvalidConfigError(f"{key}: a value of {len(value)} characters; {VALUE_MAX} are allowed")
    return m.ConfigChange(key=key, operation=OPERATIONS[operation], value=value)


async def _alter(
    gateway: Gateway,
    kind: int,
    name: str,
    changes: Iterable[tuple[str, int, str | None]],
    *,
    validate_only: bool,
    replace: bool,
    deadline: Deadline,
) -> None:
    """Alter one resource, all of its changes or none; raises KafkaError."""
    if kind not in (TOPIC, BROKER):
        raise _unserved(kind)
    message = m.AlterConfigs(
        resource=KINDS[kind],
        name=name,
        changes=[_change(*change) for change in changes],
        validate_only=validate_only,
        replace=replace,
    )
    reply, _ = await ask_through(gateway, message, m.ConfigsAltered, deadline)  # twice is the same as once
    await until_applied(gateway, reply.committed, deadline)


async def _alter_all(
    gateway: Gateway,
    resources: Iterable[tuple[int, str, Iterable[tuple[str, int, str | None]]]],
    *,
    validate_only: bool,
    replace: bool,
) -> list[AlterConfigsResourceResponse]:
    """One response a resource (kind, name and changes); one that is listed twice is refused (as Kafka does)."""
    deadline = Deadline(TIMEOUT_S)
    asked = [(kind, name, list(changes)) for kind, name, changes in resources]
    count = Counter((kind, name) for kind, name, _ in asked)
    responses = []
    for kind, name, changes in asked:
        response = AlterConfigsResourceResponse(error_message=None, resource_type=kind, resource_name=name)
        responses.append(response)
        try:
            if count[kind, name] > 1:
                raise InvalidRequestError("this resource is listed more than once in this request")
            await _alter(gateway, kind, name, changes, validate_only=validate_only, replace=replace, deadline=deadline)
        except KafkaError as error:
            response.error_code, response.error_message = error.code, told(error)
    return responses


async def alter_configs(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: AlterConfigsRequest
) -> AlterConfigsResponse:
    """Handler of AlterConfigs, the old form: what is named is set, what is not named goes back to its default."""
    resources = [
        (
            one.resource_type,
            one.resource_name,
            [(config.name, DELETE if config.value is None else SET, config.value) for config in one.configs],
        )
        for one in request.resources
    ]
    responses = await _alter_all(gateway, resources, validate_only=request.validate_only, replace=True)
    return AlterConfigsResponse(responses=responses)


async def incremental_alter_configs(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: IncrementalAlterConfigsRequest
) -> IncrementalAlterConfigsResponse:
    """Handler of IncrementalAlterConfigs (KIP-339): set, delete, append and subtract; the rest stays as it is."""
    resources = [
        (
            one.resource_type,
            one.resource_name,
            [(config.name, config.config_operation, config.value) for config in one.configs],
        )
        for one in request.resources
    ]
    responses = await _alter_all(gateway, resources, validate_only=request.validate_only, replace=False)
    return IncrementalAlterConfigsResponse(responses=responses)
