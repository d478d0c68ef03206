"""One client's connection: requests in, responses out in the same order, bounded on both sides.

Produce and Fetch (``Direct`` handlers) run as soon as they arrive, several at a time; any other request waits until all
before it are answered, and what follows it waits until it is, so that a client that pipelines sees its own changes.
Reading stops while too many requests or bytes are under way, or while the client does not take its responses.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from logeion.wire.apis import APIS
from logeion.wire.buffers import Buffer
from logeion.wire.codec import (
    API_VERSIONS,
    RequestHeader,
    decode_request,
    encode_response,
    parse_header,
    unsupported_api_versions,
)
from logeion.wire.errors import EncodeError, KafkaError, WireError

from ..stream import Frame, FrameError, FrameStream
from .dispatch import HANDLERS, Direct

if TYPE_CHECKING:
    from .state import Gateway

log: logging.Logger = logging.getLogger(__name__)

_LENGTH = struct.Struct(">i").unpack_from
PREFIX = 4

# A request header is at least key, version, correlation id and the length of the client id (absent in the shortest).
SHORTEST = 8


class Exchange:
    """One request and the place of its response in the connection's order."""

    __slots__ = ("_body", "_frame", "_on_sent", "connection", "done", "header", "on_closed", "request")

    def __init__(self, connection: Connection, header: RequestHeader, frame: Frame) -> None:
        self.connection: Connection = connection
        self.header: RequestHeader = header
        self.request: Any = None
        # Called when the connection closes before the answer.
        self.on_closed: Callable[[], None] | None = None
        self._frame: Frame | None = frame
        self.done: bool = False
        self._body: Any = None
        self._on_sent: Callable[[], None] | None = None

    @property
    def closed(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.done or self.connection.closed

    @property
    def view(self) -> memoryview:
        """The request's frame without its length; valid until the exchange is answered."""
        assert self._frame is not None
        return self._frame.view[PREFIX:]

    @property
    def size(self) -> int:
        """Bytes of the request's frame."""
        return len(self._frame.view) if self._frame is not None else 0

    def keep(self) -> Callable[[], None]:
        """Keep the request's bytes for another reader; the result, called once, lets them go."""
        assert self._frame is not None
        self._frame.retain()
        return self._frame.release

    def answer(self, body: Any, on_sent: Callable[[], None] | None = None) -> None:
        """Send this response once all earlier ones are out; nothing happens if the connection is closed.

        ``on_sent`` is called in any case, once nobody needs the file ranges in ``body`` any more.
        """
        if self.closed:
            if on_sent is not None:
                on_sent()
            return
        self._body, self._on_sent = body, on_sent
        self.done = True
        self.connection.answered(self)

    def drop(self) -> None:
        """There is no response to this request (Produce with acks=0)."""
        self.answer(None)

    def take(self) -> tuple[list[Buffer], Callable[[], None] | None]:
        """The response's frame (empty if there is none), and what to call when it was sent.

        A body that is a list is an encoded frame already. Raises EncodeError, and then stays as it was.
        """
        body, on_sent = self._body, self._on_sent
        frame = body or [] if body is None or isinstance(body, list) else encode_response(self.header, body)
        self._body = self._on_sent = None
        return frame, on_sent

    def abandon(self) -> None:
        """The connection is closed."""
        if self._on_sent is not None:
            self._on_sent()
        elif not self.done and self.on_closed is not None:
            self.on_closed()
        self.release()

    def release(self) -> None:
        """The request's bytes are not needed any more."""
        frame, self._frame = self._frame, None
        self.request = None
        if frame is not None:
            frame.release()


class Connection:
    """One client."""

    def __init__(
        self,
        gateway: Gateway,
        sock: socket.socket,
        peer: tuple[str, int],
        on_closed: Callable[[Connection], None],
    ) -> None:
        limits = gateway.config.limits
        self.gateway = gateway
        # The address the client connected to and the client's own, as (host, port).
        self.local: tuple[str, int] = sock.getsockname()[:2]
        self.peer = peer
        self.client_id: str | None = None
        self.closed: bool = False
        self._opened = gateway.loop.time()
        self._on_closed = on_closed
        # In the order of their requests: unanswered, and of these the ones whose turn has not come.
        self._exchanges: deque[Exchange] = deque()
        self._unstarted: deque[Exchange] = deque()
        self._in_flight = 0
        self._frame_max = limits.frame_bytes
        self._bytes_max = limits.in_flight_bytes
        self._requests_max = limits.in_flight_requests
        self._task: asyncio.Task[None] | None = None
        self._pumping = False
        self._stream = FrameStream(
            gateway.loop,
            sock,
            header_size=PREFIX,
            measure=self._measure,
            on_frame=self._on_frame,
            on_closed=self._lost,
            on_drained=self._pump,
            trusted=False,
        )

    @property
    def idle_since(self) -> float:
        """Loop time of the last bytes from the client; now while it waits for a response.

        Until its first frame is whole, nothing counts but that: a byte now and then keeps no stranger's connection.
        """
        if not self._stream.frames:
            return self._opened
        return self.gateway.loop.time() if self._exchanges else self._stream.last_read

    def close(self, reason: str) -> None:
        """End the connection now; ``reason`` is logged."""
        if not self.closed:
            self._stream.close(reason)

    def _lost(self, reason: str) -> None:
        self.closed = True
        self.gateway.load.forget(self._regulate)
        log.debug("connection %s of %s closed: %s", self.peer, self.client_id, reason)
        exchanges = list(self._exchanges)
        self._exchanges.clear()
        self._unstarted.clear()
        for exchange in exchanges:
            exchange.abandon()
        if self._task is not None:
            self._task.cancel()
        self._on_closed(self)

    # In -------------------------------------------------------------------------------------------------------------

    def _measure(self, head: memoryview) -> int:
        size: int = _LENGTH(head)[0]
        if not SHORTEST <= size <= self._frame_max:
            raise FrameError(f"a request of {size} bytes; {SHORTEST} to {self._frame_max} are allowed")
        return PREFIX + size

    def _on_frame(self, frame: Frame) -> None:
        # The views that are decoded from it must last until the answer, so it is retained (a small one: copied) first.
        frame.retain()
        size = len(frame.view)
        self.gateway.load.add(size)
        frame.on_end = partial(self.gateway.load.less, size)
        try:
            header = parse_header(frame.view[PREFIX:])
        except WireError as error:
            frame.release()
            self.close(f"bad request: {error}")
            return
        self.client_id = header.client_id
        exchange = Exchange(self, header, frame)
        self._exchanges.append(exchange)
        self._unstarted.append(exchange)
        self._in_flight += exchange.size
        self._pump()

    def _regulate(self) -> None:
        """Stop reading while too much is under way, and go on when it is not."""
        if self._in_flight > self._bytes_max or len(self._exchanges) >= self._requests_max or self._stream.congested:
            self._stream.pause_reading()
        elif self.gateway.load.full:
            self._stream.pause_reading()
            self.gateway.load.wait(self._regulate)
        else:
            self._stream.resume_reading()

    def _pump(self) -> None:
        """Start every request whose turn it is, and send every response whose turn it is."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while not self.closed and (self._start_next() or self._send_next()):
                pass
        finally:
            self._pumping = False
        if not self.closed:
            self._regulate()

    def _start_next(self) -> bool:
        if not self._unstarted or self._task is not None:
            return False
        exchange = self._unstarted[0]
        handler = HANDLERS.get(exchange.header.api_key)
        if type(handler) is not Direct and exchange is not self._exchanges[0]:
            return False
        self._unstarted.popleft()
        self._start(exchange, handler)
        return True

    def _start(self, exchange: Exchange, handler: Any) -> None:
        header = exchange.header
        if handler is None:
            self.close(f"API {header.api_key} is not served")
            return
        if header.api_key == API_VERSIONS and not _known(header):
            self._stream.write(unsupported_api_versions(header.correlation_id))
            self._finish(exchange)
            return
        try:
            exchange.request = decode_request(header, exchange.view)
        except WireError as error:
            self.close(f"bad request of API {header.api_key} version {header.api_version}: {error}")
            return
        if type(handler) is Direct:
            handler.call(self.gateway, exchange, exchange.request)
            return
        self._task = self.gateway.loop.create_task(self._run(exchange, handler))

    async def _run(self, exchange: Exchange, handler: Any) -> None:
        try:
            body = await handler(self.gateway, self, exchange.header, exchange.request)
        except KafkaError as error:
            self.close(f"API {exchange.header.api_key} failed: {error}")
            return
        self._task = None
        if body is None:
            self.close(f"API {exchange.header.api_key} has no answer")
        else:
            exchange.answer(body)

    # Out ------------------------------------------------------------------------------------------------------------

    def answered(self, exchange: Exchange) -> None:
        """An exchange has its answer: send it if it is its turn, and all that waited behind it."""
        if self._exchanges and self._exchanges[0] is exchange:
            self._pump()

    def _send_next(self) -> bool:
        if not self._exchanges or not self._exchanges[0].done:
            return False
        exchange = self._exchanges[0]
        try:
            buffers, on_sent = exchange.take()
        except EncodeError as error:
            # One answer that does not fit its version must not cost all other clients their gateway.
            log.error("no answer to API %d version %d: %s", exchange.header.api_key, exchange.header.api_version, error)
            self.close("the answer cannot be encoded")
            return False
        self._stream.write(buffers, on_sent)
        if not self.closed:
            self._finish(exchange)
        return True

    def _finish(self, exchange: Exchange) -> None:
        self._exchanges.popleft()
        self._in_flight -= exchange.size
        exchange.release()


def _known(header: RequestHeader) -> bool:
    api = APIS[header.api_key]
    return api.min_version <= header.api_version <= api.max_version
