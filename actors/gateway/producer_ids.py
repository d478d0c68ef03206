"""InitProducerId (22): ids for idempotent producers, from blocks that the controller gives to this gateway alone.

Transactions are not served yet. A request with a transactional id is answered UNSUPPORTED_VERSION, which every client
takes as final and shows as "the broker does not support this"; the authorization errors would send people looking
for an ACL, and a retriable code would have the client ask for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from logeion.wire.apis import InitProducerIdRequest, InitProducerIdResponse
from logeion.wire.errors import (
    CoordinatorLoadInProgressError,
    InvalidRequestError,
    KafkaError,
    NotControllerError,
    RequestTimedOutError,
    UnsupportedVersionError,
)

from .. import messages as m
from .asking import Deadline, ask_through

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .connection import Connection
    from .state import Gateway

# A client waits for this answer with its default request timeout (30 s or more); the request carries no timeout.
TIMEOUT_S = 10.0


class ProducerIds:
    """The rest of the newest block; one request for a new block at a time, everybody else waits for it."""

    def __init__(self) -> None:
        self._next = 0
        self._end = 0
        self._asking = asyncio.Lock()

    async def take(self, allocate: Callable[[], Awaitable[tuple[int, int]]]) -> int:
        """An id that nobody else has; ``allocate`` gets the next block as (first, count)."""
        while self._next >= self._end:
            async with self._asking:
                if self._next >= self._end:
                    first, count = await allocate()
                    self._next, self._end = first, first + count
        self._next += 1
        return self._next - 1


async def init_producer_id(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: InitProducerIdRequest
) -> InitProducerIdResponse:
    """Handler of InitProducerId: a new id in its epoch 0, also for a producer that brings its old one (only a
    transactional id would keep it, KIP-360)."""
    try:
        producer_id, epoch = await _assign(gateway, request)
    except KafkaError as error:
        return InitProducerIdResponse(error_code=error.code, producer_id=-1, producer_epoch=-1)
    return InitProducerIdResponse(producer_id=producer_id, producer_epoch=epoch)


async def _assign(gateway: Gateway, request: InitProducerIdRequest) -> tuple[int, int]:
    if request.transactional_id is not None:
        if not request.transactional_id:
            raise InvalidRequestError("an empty transactional id")
        raise UnsupportedVersionError("transactions are not served")
    if (request.producer_id < 0) != (request.producer_epoch < 0):
        raise InvalidRequestError("a producer id and its epoch come together")
    deadline = Deadline(TIMEOUT_S)

    async def allocate() -> tuple[int, int]:
        # A block that the controller gave and we did not get is lost, which harms nobody.
        message = m.AllocateProducerIds(node=gateway.node)
        reply, _ = await ask_through(gateway, message, m.ProducerIdsAllocated, deadline)
        return reply.first, reply.count

    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await gateway.producer_ids.take(allocate), 0
    except (TimeoutError, RequestTimedOutError, NotControllerError) as late:
        # As Kafka when it waits for a block: the one code after which every client asks again.
        raise CoordinatorLoadInProgressError("no block of producer ids came in time") from late
