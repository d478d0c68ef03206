"""FindCoordinator (10): who coordinates a consumer group or a transactional id.

Nobody does here, but the question has to be served all the same: librdkafka, in every version, compresses with lz4
only for a broker that answers it (it takes FindCoordinator as the mark of a broker that knows lz4 frames).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.wire.apis import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse
from logeion.wire.errors import (
    CoordinatorNotAvailableError,
    InvalidRequestError,
    KafkaError,
    UnsupportedVersionError,
)

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .connection import Connection
    from .state import Gateway

GROUP, TRANSACTION = 0, 1

# The first version that asks for several keys at once (KIP-699).
SEVERAL_SINCE = 4


def refusal(key_type: int) -> KafkaError:
    """Why there is no coordinator for keys of this type.

    A group's is told to be unavailable: consumers that read by assignment ask for it too, and librdkafka shows them
    every other code as an error of theirs. The code for transactions is final for every client.
    """
    if key_type == GROUP:
        return CoordinatorNotAvailableError("consumer groups are not served by this broker: read by assignment")
    if key_type == TRANSACTION:
        return UnsupportedVersionError("transactions are not served by this broker")
    return InvalidRequestError(f"{key_type} is no type of coordinator key")


async def find_coordinator(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: FindCoordinatorRequest
) -> FindCoordinatorResponse:
    """Handler of FindCoordinator."""
    error = refusal(request.key_type)
    if header.api_version >= SEVERAL_SINCE:
        return FindCoordinatorResponse(
            coordinators=[
                Coordinator(key=key, node_id=-1, port=-1, error_code=error.code, error_message=str(error))
                for key in request.coordinator_keys
            ]
        )
    return FindCoordinatorResponse(error_code=error.code, error_message=str(error), node_id=-1, port=-1)
