"""One connection to one broker: the only I/O of the client.

Requests are pipelined and answered in order, each with a deadline; one that passes it ends the connection, because
nothing behind it could be answered sooner. Versions are negotiated when it opens (ApiVersions, KIP-35, KIP-511).
After an answer that names a throttle nothing is written until that time is over (KIP-219): requests wait here, and
their deadlines begin when they leave.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, cast

from logeion.wire.apis import APIS, ApiVersionsRequest, ApiVersionsResponse
from logeion.wire.codec import decode_response, encode_request
from logeion.wire.errors import UnsupportedVersionError, WireError, for_code
from logeion.wire.fields import Struct

from .addresses import Address
from .errors import ClientError, ConnectError, ConnectionLostError, DeadlineError, said

API_VERSIONS = 18
UNSUPPORTED_VERSION = 35
FRAME_MAX = 256 * 1024 * 1024
SCRATCH = 256 * 1024

# From these versions on topics are named by id alone; the client names them by name, which every broker takes.
NEWEST_USED = {0: 12, 1: 12, 8: 9, 9: 9}

# From these versions on a broker answers at once and leaves the waiting to the client (KIP-219); before, it has waited
# itself. What is not named here was born later.
THROTTLED_SINCE = {
    0: 6, 1: 8, 2: 3, 3: 6, 8: 4, 9: 4, 10: 2, 11: 3, 12: 2, 13: 2, 14: 2, 15: 2, 16: 2, 18: 2, 19: 3, 20: 2, 21: 1,
    22: 1, 24: 1, 25: 1, 26: 1, 28: 1, 29: 1, 30: 1, 31: 1, 32: 2, 33: 1, 34: 1, 35: 1, 37: 1, 42: 1,
}  # fmt: skip
# A broker names at most its quota window, ten seconds by default; what is longer must not silence us for days.
THROTTLE_MAX_S = 60.0


def throttle_s(api_key: int, version: int, body: Struct) -> float:
    """For how many seconds this answer asks us to send nothing.

    >>> from logeion.wire.apis import MetadataResponse
    >>> answer = MetadataResponse(throttle_time_ms=1500)
    >>> throttle_s(3, 6, answer), throttle_s(3, 5, answer)
    (1.5, 0.0)
    """
    asked_ms: int = getattr(body, "throttle_time_ms", 0)
    if asked_ms <= 0 or version < THROTTLED_SINCE.get(api_key, 0):
        return 0.0
    return min(asked_ms / 1000, THROTTLE_MAX_S)


class _Waiting(NamedTuple):
    correlation_id: int
    api_key: int
    version: int
    answer: asyncio.Future[Struct]
    timer: asyncio.TimerHandle
    since: float  # when it left, or leaves
    timeout_s: float


class Connection(asyncio.BufferedProtocol):
    """Made by ``Connection.open``; ``request`` asks one thing and awaits its answer."""

    def __init__(self, address: Address, client_id: str, learned_from: str = "") -> None:
        self.address = address
        self._peer = f"{address} (known from {learned_from})" if learned_from else str(address)
        self.client_id = client_id
        self.closed: bool = False
        self.versions: dict[int, int] = {}
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[_Waiting] = deque()
        self._next_id = 0
        self._throttled_until = 0.0
        self._held: list[bytes] = []
        self._release_timer: asyncio.TimerHandle | None = None
        self._scratch = bytearray(SCRATCH)
        self._scratch_view = memoryview(self._scratch)
        self._used = 0
        self._frame: bytearray | None = None
        self._frame_view = memoryview(b"")
        self._filled = 0
        self._paused = False
        self._writers: set[Callable[[], object]] = set()
        self._ended = self._loop.create_future()

    @classmethod
    async def open(cls, address: Address, *, client_id: str, timeout_s: float, learned_from: str) -> Connection:
        """Connects and negotiates versions.

        Raises ConnectError (refused, not resolved, no answer in time, or not a Kafka broker).
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(
                    lambda: cls(address, client_id, learned_from), address.host, address.port
                )
        except TimeoutError:
            hint = "check the address and any firewall between here and there"
            raise ConnectError(str(address), learned_from, f"no connection within {timeout_s:g} s", hint) from None
        except OSError as cause:
            raise ConnectError(str(address), learned_from, _said(cause), _hint(cause, address, learned_from)) from cause
        try:
            await connection._negotiate(timeout_s)
        except (ConnectionLostError, DeadlineError, WireError) as cause:
            connection.close()
            hint = "check that a Kafka listener without TLS is at this port"
            raise ConnectError(str(address), learned_from, f"no broker answers there: {said(cause)}", hint) from cause
        except BaseException:
            connection.close()
            raise
        return connection

    async def request(self, api_key: int, body: Struct, *, timeout_s: float) -> Struct:
        """The answer to this request, in the newest version both sides speak.

        Raises UnsupportedVersionError, ConnectionLostError, DeadlineError, WireError. Error codes inside the answer
        are the caller's business.
        """
        return await self.send(api_key, body, timeout_s=timeout_s)

    def send(self, api_key: int, body: Struct, *, timeout_s: float) -> asyncio.Future[Struct]:
        """Like ``request``, but the bytes are on their way when this returns, or wait for the end of a throttle."""
        return self._send(api_key, self.version_of(api_key), body, timeout_s)

    def send_unanswered(self, api_key: int, body: Struct) -> None:
        """A request that gets no answer: a Produce with acks=0."""
        self._write(api_key, self.version_of(api_key), body)

    def version_of(self, api_key: int) -> int:
        """The version in which this API is spoken here. Raises UnsupportedVersionError."""
        version = self.versions.get(api_key)
        if version is None:
            raise UnsupportedVersionError(f"{self.address} speaks no version of {APIS[api_key].name} that we speak")
        return version

    @property
    def in_flight(self) -> int:
        """Requests without an answer yet."""
        return len(self._waiting)

    @property
    def silent_s(self) -> float:
        """Seconds since the oldest request without an answer was sent; 0 if all are answered, or none has left."""
        return max(self._loop.time() - self._waiting[0].since, 0.0) if self._waiting else 0.0

    @property
    def throttled_s(self) -> float:
        """Seconds until the broker wants to hear from us again; 0 if it does now."""
        return max(self._throttled_until - self._loop.time(), 0.0) if self._release_timer is not None else 0.0

    @property
    def writable(self) -> bool:
        """Whether everything so far is with the system, and more may follow."""
        return not self._paused and self._release_timer is None

    def when_writable(self, tell: Callable[[], object]) -> None:
        """Calls it once when that is so, or when the connection ends; asked for twice, it is called once."""
        if self.closed or self.writable:
            self._loop.call_soon(tell)
        else:
            self._writers.add(tell)

    async def drained(self) -> None:
        """Until nothing waits here to be written; returns as well when the connection ends."""
        while not (self.closed or self.writable):
            now = asyncio.Event()
            self._writers.add(now.set)
            await now.wait()

    def close(self, why: str = "") -> None:
        """Ends it now; unanswered requests raise ConnectionLostError."""
        self._end(ConnectionLostError(why or f"the connection to {self._peer} was closed here"))

    async def wait_closed(self) -> None:
        """Until the socket is gone."""
        if self._transport is not None:
            await self._ended

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # Told as soon as anything is left here: what it is for, is to know when nothing is.
        self._transport.set_write_buffer_limits(high=0)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, 1 << 20)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._frame is not None:
            return self._frame_view[self._filled :]
        return self._scratch_view[self._used :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._frame is not None:
            self._filled += nbytes
            if self._filled == len(self._frame):
                frame, self._frame = self._frame_view, None
                self._answered(frame)
            return
        self._used += nbytes
        self._parse()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._tell_writers()

    def eof_received(self) -> None:
        self._end(ConnectionLostError(f"{self._peer} closed the connection", "look into the broker's log"))

    def connection_lost(self, exc: Exception | None) -> None:
        said = f": {_said(exc)}" if isinstance(exc, OSError) else ""
        self._end(ConnectionLostError(f"the connection to {self._peer} was lost{said}", "look into the broker's log"))
        if not self._ended.done():
            self._ended.set_result(None)

    # The rest

    def _parse(self) -> None:
        at = 0
        view = self._scratch_view
        while self._used - at >= 4 and not self.closed:
            (size,) = _LENGTH.unpack_from(view, at)
            if not 4 <= size <= FRAME_MAX:
                self._end(ConnectionLostError(f"{self._peer} sent a frame of {size} bytes", "is it a Kafka broker?"))
                return
            at += 4
            here = self._used - at
            if here >= size:
                # Copied, because records stay views of their frame and the scratch is used again.
                self._answered(memoryview(bytes(view[at : at + size])))
                at += size
                continue
            if size > SCRATCH // 4:
                self._frame = bytearray(size)
                self._frame_view = memoryview(self._frame)
                self._frame_view[:here] = view[at : self._used]
                self._filled = here
                self._used = 0
                return
            at -= 4
            break
        if at:
            rest = bytes(view[at : self._used])
            self._used = len(rest)
            view[: self._used] = rest

    def _answered(self, frame: memoryview) -> None:
        if not self._waiting:
            self._end(ConnectionLostError(f"{self._peer} answered what nobody asked", "is it a Kafka broker?"))
            return
        waiting = self._waiting.popleft()
        waiting.timer.cancel()
        version = waiting.version
        if waiting.api_key == API_VERSIONS and len(frame) >= 6 and bytes(frame[4:6]) == b"\x00\x23":
            version = 0  # KIP-511: a version the broker does not know is refused in the form of version 0
        try:
            correlation_id, body = decode_response(waiting.api_key, version, frame)
        except WireError as cause:
            if not waiting.answer.done():
                waiting.answer.set_exception(cause)
            self._end(ConnectionLostError(f"an answer of {self._peer} cannot be read: {cause}"))
            return
        if correlation_id != waiting.correlation_id:
            lost = ConnectionLostError(
                f"{self._peer} answered request {correlation_id} where {waiting.correlation_id} was next"
            )
            if not waiting.answer.done():
                waiting.answer.set_exception(lost)
            self._end(lost)
            return
        if wait_s := throttle_s(waiting.api_key, version, body):
            self._throttle(wait_s)
        if not waiting.answer.done():
            waiting.answer.set_result(body)

    def _throttle(self, wait_s: float) -> None:
        until = self._loop.time() + wait_s
        if self.closed or until <= self._throttled_until:
            return
        if self._release_timer is not None:
            self._release_timer.cancel()
            # What is held already leaves later than its deadline and its silence were reckoned from.
            held_from = self._throttled_until
            self._waiting = deque(
                self._postponed(entry, until) if entry.since >= held_from else entry for entry in self._waiting
            )
        self._throttled_until = until
        self._release_timer = self._loop.call_at(until, self._release)

    def _postponed(self, entry: _Waiting, until: float) -> _Waiting:
        entry.timer.cancel()
        timer = self._loop.call_at(until + entry.timeout_s, self._late, entry.api_key, entry.timeout_s)
        return entry._replace(timer=timer, since=until)

    def _release(self) -> None:
        self._release_timer = None
        held, self._held = self._held, []
        if held and not self.closed and self._transport is not None:
            self._transport.writelines(held)
        if not self._paused:
            self._tell_writers()

    def _tell_writers(self) -> None:
        if self.writable or self.closed:
            writers, self._writers = self._writers, set()
            for tell in writers:
                tell()

    def _send(self, api_key: int, version: int, body: Struct, timeout_s: float) -> asyncio.Future[Struct]:
        correlation_id = self._write(api_key, version, body)
        answer: asyncio.Future[Struct] = self._loop.create_future()
        timeout_s = max(timeout_s, 0.001)
        leaves = self._loop.time() if self._release_timer is None else self._throttled_until
        timer = self._loop.call_at(leaves + timeout_s, self._late, api_key, timeout_s)
        self._waiting.append(_Waiting(correlation_id, api_key, version, answer, timer, leaves, timeout_s))
        return answer

    def _write(self, api_key: int, version: int, body: Struct) -> int:
        transport = self._transport
        if self.closed or transport is None:
            raise ConnectionLostError(f"the connection to {self._peer} is closed")
        correlation_id = self._next_id
        self._next_id = (correlation_id + 1) & 0x7FFFFFFF
        frame = encode_request(api_key, version, correlation_id, self.client_id, body)
        if self._release_timer is None:
            transport.writelines(cast("list[bytes]", frame))
        else:
            self._held += cast("list[bytes]", frame)
        return correlation_id

    def _late(self, api_key: int, timeout_s: float) -> None:
        name = APIS[api_key].name
        self._end(
            DeadlineError(
                f"{self._peer} did not answer {name} within {timeout_s:g} s",
                "look at the broker's load, or allow more time (--timeout, request_timeout_ms)",
            )
        )

    def _end(self, cause: ClientError) -> None:
        if self.closed:
            return
        self.closed = True
        self._held.clear()
        if self._release_timer is not None:
            self._release_timer.cancel()
            self._release_timer = None
        self._tell_writers()
        waiting, self._waiting = self._waiting, deque()
        for entry in waiting:
            entry.timer.cancel()
            if not entry.answer.done():
                entry.answer.set_exception(cause)
                entry.answer.exception()  # looked at: nobody may be waiting for a request that was given up
        if self._transport is not None:
            self._transport.abort()

    async def _negotiate(self, timeout_s: float) -> None:
        request = ApiVersionsRequest(client_software_name="logeion", client_software_version="0.1.0")
        answer = await self._send(API_VERSIONS, APIS[API_VERSIONS].max_version, request, timeout_s)
        if cast(ApiVersionsResponse, answer).error_code == UNSUPPORTED_VERSION:
            answer = await self._send(API_VERSIONS, 0, request, timeout_s)
        spoken = cast(ApiVersionsResponse, answer)
        if spoken.error_code:
            raise for_code(spoken.error_code)(f"{self.address} refused ApiVersions")
        for theirs in spoken.api_keys:
            ours = APIS.get(theirs.api_key)
            if ours is None:
                continue
            newest = min(ours.max_version, theirs.max_version, NEWEST_USED.get(ours.key, ours.max_version))
            if newest >= max(ours.min_version, theirs.min_version):
                self.versions[ours.key] = newest


def _said(cause: OSError) -> str:
    if isinstance(cause, socket.gaierror) or not cause.errno:
        return cause.strerror or str(cause) or type(cause).__name__
    return os.strerror(cause.errno)  # asyncio's own words repeat the address


def _hint(cause: OSError, address: Address, learned_from: str) -> str:
    if learned_from != "bootstrap":
        return (
            f"the bootstrap broker answered but advertises {address}, which cannot be reached from here; "
            "start the broker with --advertise HOST:PORT that clients can reach"
        )
    if isinstance(cause, socket.gaierror):
        return f"check the spelling of {address.host!r}, or name it in the hosts file"
    return "start a broker with `logeion up`, or name one with -b HOST:PORT"


_LENGTH = struct.Struct(">i")
