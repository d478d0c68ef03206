"""Which handler answers which API.

``HANDLERS`` is the whole of what this gateway serves; ApiVersions advertises exactly its keys. Most handlers are
coroutines: they run one at a time a connection, in the order of their requests, and return the response's body (the
class that ``APIS`` names). Produce and Fetch are ``Direct``: called in the frame's callback, they answer through the
``Exchange`` whenever they can, and several of them may be under way on a connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .connection import Connection, Exchange
    from .state import Gateway

# async def handle(gateway, connection, header, request) -> response body; None closes the connection. A KafkaError
# that escapes a handler closes the connection too: handlers put error codes where their response has a place for them.
AsyncHandler = Callable[["Gateway", "Connection", "RequestHeader", Any], Awaitable[Any]]


class Direct(NamedTuple):
    """A handler without a task: ``call(gateway, exchange, request)`` ends in ``answer(body)`` or ``drop()``."""

    call: Callable[[Gateway, Exchange, Any], None]


HANDLERS: dict[int, AsyncHandler | Direct] = {}
