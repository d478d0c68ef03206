"""FindCoordinator (10): who coordinates a consumer group.

librdkafka, in every version, compresses with lz4 only for a broker that serves this (it takes FindCoordinator as the
mark of a broker that knows lz4 frames).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.wire.apis import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse
from logeion.wire.errors import InvalidRequestError, KafkaError, UnsupportedVersionError

from .asking import Deadline, told, until_running
from .brokers import endpoints

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .connection import Connection
    from .state import Gateway

GROUP, TRANSACTION = 0, 1

# The first version that asks for several keys at once (KIP-699).
SEVERAL_SINCE = 4

# Clients wait 30 s; the first question of all has the topic made.
TIMEOUT_S = 10.0


async def find_coordinator(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: FindCoordinatorRequest
) -> FindCoordinatorResponse:
    """Handler of FindCoordinator."""
    deadline = Deadline(TIMEOUT_S)
    several = header.api_version >= SEVERAL_SINCE
    keys = request.coordinator_keys if several else [request.key]
    found = [await _find(gateway, connection, request.key_type, key, deadline) for key in keys]
    if several:
        return FindCoordinatorResponse(coordinators=found)
    one = found[0]
    return FindCoordinatorResponse(
        error_code=one.error_code,
        error_message=one.error_message,
        node_id=one.node_id,
        host=one.host,
        port=one.port,
    )


async def _find(gateway: Gateway, connection: Connection, key_type: int, key: str, deadline: Deadline) -> Coordinator:
    try:
        if key_type == TRANSACTION:
            # Final for every client.
            raise UnsupportedVersionError("transactions are not served by this broker")
        if key_type != GROUP:
            raise InvalidRequestError(f"{key_type} is no type of coordinator key")
        topic = await gateway.groups.topic(deadline)
        # A client that comes at once finds a leader; one that has none yet is told so by the next request.
        await until_running(gateway, [topic.topic_id], deadline)
        node = gateway.groups.node_of(topic, key)
    except KafkaError as error:
        return Coordinator(key=key, node_id=-1, port=-1, error_code=error.code, error_message=told(error))
    one = next(end for end in endpoints(gateway, connection.local) if end.node == node)
    return Coordinator(key=key, node_id=node, host=one.host, port=one.port, error_message=None)
