"""Fetch (1): segment files are read here and leave by ``sendfile``; at the tail a fetch is parked.

A fetch below the watermark that is known here asks nobody. One that finds too little waits, with one notice a
partition armed at its leader, until ``min_bytes`` are there or ``max_wait_ms`` is over. Offsets at or beyond what is
known are never refused before the leader has said how far its log reaches.

Fetch sessions (KIP-227) are answered with session id 0, "there is none", which every client accepts. There are no
transactions yet, so the last stable offset is the watermark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from logeion.log.view import Slice
from logeion.wire.apis import (
    FetchableTopicResponse,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    PartitionData,
)
from logeion.wire.buffers import FileRange
from logeion.wire.errors import (
    FetchSessionIdNotFoundError,
    KafkaError,
    KafkaStorageError,
    NotLeaderOrFollowerError,
    OffsetOutOfRangeError,
    StorageError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
    for_code,
)

from ..messages import Advanced
from ..partition.machine import check_client_epoch
from .brokers import tell_leader
from .links import Key, Link

if TYPE_CHECKING:
    from ..metadata import Topic
    from .connection import Exchange
    from .state import Gateway

# The first version that names topics by id.
IDS_SINCE = 13

# What one response carries at most, whatever the client asks for (Kafka's fetch.max.bytes of the broker).
RESPONSE_MAX = 57_671_680

# How long a fetch may take beyond what its client waits, to find out who leads.
SHORTEST_CONFIRM_S = 1.0

# The longest that a fetch is parked, whatever the client asks for.
LONGEST_MS = 300_000


class FetchCall:
    """One fetch request, tried again each time that something it waits for has happened."""

    __slots__ = (
        "_asked",
        "_certain",
        "_cold_done",
        "_confirming",
        "_topics",
        "deadline_ms",
        "exchange",
        "fresh",
        "gateway",
        "heard",
        "request",
    )

    def __init__(self, gateway: Gateway, exchange: Exchange, request: FetchRequest) -> None:
        self.gateway: Gateway = gateway
        self.exchange: Exchange = exchange
        self.request: FetchRequest = request
        self.deadline_ms: int = gateway.now_ms() + min(max(request.max_wait_ms, 0), LONGEST_MS)
        by_id = exchange.header.api_version >= IDS_SINCE
        image = gateway.image
        self._topics: list[tuple[str, str, Topic | None, list[FetchPartition]]] = [
            (
                asked.topic,
                asked.topic_id,
                image.topic_by_id(asked.topic_id) if by_id else image.topic(asked.topic),
                asked.partitions,
            )
            for asked in request.topics
        ]
        # Partitions whose leader has told its state since this call began, and those that were asked in vain too.
        self.fresh: set[Key] = set()
        self.heard: set[Key] = set()
        self._asked = 0
        # Whether this node leads what it seems to lead; None while nobody has wanted to know.
        self._certain: bool | None = None
        self._cold_done = False

    # One attempt ----------------------------------------------------------------------------------------------------

    def attempt(self, *, final: bool = False) -> None:
        """Answer if there is enough, an error, or no time left; else wait for more."""
        if self.exchange.closed or self._asked:
            return
        reading = _Reading(self)
        now = self.gateway.now_ms()
        enough = reading.failed or reading.size >= self.request.min_bytes
        if not enough and not final and now < self.deadline_ms:
            reading.release()
            if not self._find_out(reading):
                self._park(reading.waits)
            return
        if not reading.size and not reading.failed and not final and self._find_out(reading):
            # Nobody has said yet that there is nothing: a fetch that does not wait still sees all that is committed.
            return
        if reading.slices and not self._cold_done:
            self._cold_done = True
            if not self.gateway.cold.warm(reading.slices, lambda: self._send(reading)):
                return
        self._send(reading)

    def _send(self, reading: _Reading) -> None:
        if self.exchange.closed:
            reading.release()
            return
        self.exchange.answer(reading.response, reading.release)

    def _ask(self, links: list[Link]) -> None:
        """Have these leaders tell their state, then try again."""
        self._asked = len(links)
        for link in links:
            link.refresh(self._told(link.key))

    async def _confirm(self) -> None:
        """What lies beyond a log's end is out of range only if it is certain whose end that is; then try again."""
        left_s = (self.deadline_ms - self.gateway.now_ms()) / 1000
        self._certain = await self.gateway.confirming.confirm(max(left_s, SHORTEST_CONFIRM_S))
        self._asked = 0
        self.attempt()

    def _find_out(self, reading: _Reading) -> bool:
        """Whether something is asked first, before this attempt counts."""
        if reading.unsure:
            self._ask(reading.unsure)
        elif reading.beyond and self._certain is None:
            self._asked = 1
            self._confirming = self.gateway.loop.create_task(self._confirm())
        else:
            return False
        return True

    def _told(self, key: Key) -> Callable[[bool], None]:
        def told(answered: bool) -> None:
            self.heard.add(key)
            if answered:
                self.fresh.add(key)
            self._asked -= 1
            if not self._asked:
                self.attempt()

        return told

    def _park(self, waits: list[tuple[Link, int]]) -> None:
        gateway = self.gateway
        gateway.parking.park(self, self.deadline_ms, [(link.key, offset) for link, offset in waits])
        self.exchange.on_closed = self._left
        for link, _offset in waits:
            link.arm()
        gateway.timers.arm(self.deadline_ms)

    def _left(self) -> None:
        self.gateway.parking.leave(self)


class _Reading:
    """What one attempt found: the response, and the slices that its file ranges point into."""

    __slots__ = ("beyond", "call", "failed", "response", "size", "slices", "unsure", "waits")

    def __init__(self, call: FetchCall) -> None:
        self.call = call
        self.failed = False
        self.size = 0
        self.slices: list[Slice] = []
        # Whether an offset lies beyond its log's end, but perhaps of an old leader's log.
        self.beyond = False
        # Partitions where somebody must be asked before "nothing" or "out of range" is the truth.
        self.unsure: list[Link] = []
        # Where to wait, and for the watermark to pass what.
        self.waits: list[tuple[Link, int]] = []
        self.response = FetchResponse(responses=[])
        room = min(max(call.request.max_bytes, 0), RESPONSE_MAX)
        for name, topic_id, topic, partitions in call._topics:
            results: list[PartitionData] = []
            self.response.responses.append(FetchableTopicResponse(topic=name, topic_id=topic_id, partitions=results))
            for asked in partitions:
                result = PartitionData(partition_index=asked.partition, high_watermark=-1)
                results.append(result)
                try:
                    self._read(topic, asked, result, room - self.size)
                except KafkaError as error:
                    self._refuse(result, error, topic)

    def _refuse(self, result: PartitionData, error: KafkaError, topic: Topic | None) -> None:
        self.failed = True
        result.error_code = error.code
        if topic is not None and error.code == NotLeaderOrFollowerError.code:
            gateway, local = self.call.gateway, self.call.exchange.connection.local
            tell_leader(gateway, local, topic.partitions.get(result.partition_index), result, self.response)

    def _read(self, topic: Topic | None, asked: FetchPartition, result: PartitionData, room: int) -> None:
        gateway = self.call.gateway
        if topic is None:
            if self.call.exchange.header.api_version >= IDS_SINCE:
                raise UnknownTopicIdError("no topic has this id")
            raise UnknownTopicOrPartitionError("there is no such topic")
        code = gateway.leader_code(topic.topic_id, asked.partition)
        if code:
            raise for_code(code)(f"partition {topic.name}-{asked.partition}")
        link = gateway.link(topic, asked.partition)
        error = check_client_epoch(asked.current_leader_epoch, topic.partitions[asked.partition].leader_epoch)
        if error is not None:
            raise error
        if link.offline is not None:
            raise link.offline
        state = link.state
        if state is None:
            # Its first leader is not up yet: wait for it like for records.
            self.waits.append((link, -1))
            if gateway.now_ms() >= self.call.deadline_ms:
                raise NotLeaderOrFollowerError("the partition's leader does not serve yet")
            return
        result.high_watermark = result.last_stable_offset = state.high_watermark
        result.log_start_offset = state.log_start
        offset = asked.fetch_offset
        if offset < state.high_watermark:
            self._slice(link, state, asked, result, room)
        elif offset > state.end and link.key in self.call.fresh and link.lane is not None:
            if gateway.confirming.confirmed:
                raise OffsetOutOfRangeError(f"offset {offset} is beyond the log's end {state.end}")
            self.beyond = True
            self.waits.append((link, offset))
        else:
            if (
                link.lane is not None
                and link.key not in self.call.heard
                and (offset > state.end or self.call.request.max_wait_ms <= 0 or self.call.request.min_bytes <= 0)
            ):
                self.unsure.append(link)
            self.waits.append((link, offset))

    def _slice(self, link: Link, state: Advanced, asked: FetchPartition, result: PartitionData, room: int) -> None:
        offset = asked.fetch_offset
        if offset < state.log_start:
            raise OffsetOutOfRangeError(f"offset {offset} is before the log's start {state.log_start}")
        # The very first batch of a response is sent whatever its size, else a large one could never be read (KIP-74).
        limit = min(asked.partition_max_bytes, room)
        if limit <= 0 and self.size:
            return
        try:
            piece = link.view.slice(
                offset,
                max(limit, 0),
                end_segment=state.segment,
                end_position=state.position,
                log_start=state.log_start,
            )
        except StorageError as error:
            raise KafkaStorageError(str(error)) from error
        if piece is None:
            self.waits.append((link, max(offset, state.high_watermark)))
            return
        if self.size and piece.size > limit:
            piece.release()
            return
        self.slices.append(piece)
        self.size += piece.size
        result.records = FileRange(piece.fd, piece.position, piece.size)
        self.waits.append((link, state.high_watermark))

    def release(self) -> None:
        """The response was sent, or will not be."""
        slices, self.slices = self.slices, []
        for piece in slices:
            piece.release()


def fetch(gateway: Gateway, exchange: Exchange, request: FetchRequest) -> None:
    """Handler of Fetch."""
    if request.session_id and request.session_epoch not in (0, -1):
        # A change to a session that we never gave: the client then sends a full request (KIP-227).
        exchange.answer(FetchResponse(error_code=FetchSessionIdNotFoundError.code, responses=[]))
        return
    FetchCall(gateway, exchange, request).attempt()
