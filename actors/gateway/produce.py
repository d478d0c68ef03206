"""Produce (0): every partition's batch goes to its leader as it came; one answer when all have answered.

Batches stay views of the received frame all the way to the lane's ``sendmsg``; nothing here looks into one but for its
producer and sequence, which decide whether it may be sent twice (see ``holding``) and what must not overtake it (see
``refusals``).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from logeion.wire.apis import (
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from logeion.wire.errors import (
    InvalidRecordError,
    InvalidRequiredAcksError,
    InvalidTopicError,
    KafkaError,
    NotLeaderOrFollowerError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
    for_code,
)

from ..lanes import LaneError
from ..messages import Appended, Message
from .asking import told
from .brokers import tell_leader
from .holding import Held
from .links import Link, as_kafka_error

if TYPE_CHECKING:
    from ..metadata import Topic
    from .connection import Exchange
    from .refusals import Producer
    from .state import Gateway

# The first version that names topics by id.
IDS_SINCE = 13

# Producer id, producer epoch and base sequence of a batch.
_PRODUCER = struct.Struct(">qhi").unpack_from
_PRODUCER_AT, _PRODUCER_END = 43, 57


class Sender(NamedTuple):
    """Who sent a batch, and what stands first in it."""

    producer: Producer
    sequence: int


def _sender(topic: str, index: int, records: bytes | memoryview) -> Sender | None:
    """None for a batch without a producer id, and for what is too short to be a batch at all."""
    if len(records) < _PRODUCER_END:
        return None
    producer, epoch, sequence = _PRODUCER(records, _PRODUCER_AT)
    return Sender(((topic, index), producer, epoch), sequence) if producer >= 0 else None


class Part:
    """One partition's batch and the place of its result."""

    __slots__ = ("call", "link", "records", "response", "sender", "timeout_ms")

    def __init__(
        self,
        call: ProduceCall,
        link: Link,
        records: bytes | memoryview,
        response: PartitionProduceResponse,
        timeout_ms: int,
        sender: Sender | None,
    ) -> None:
        self.call: ProduceCall = call
        self.link: Link = link
        self.records: bytes | memoryview[int] = records
        self.response: PartitionProduceResponse = response
        self.timeout_ms: int = timeout_ms
        self.sender: Sender | None = sender

    def replied(self, reply: Message | LaneError) -> None:
        """The leader has answered, or never will."""
        if not isinstance(reply, Appended):
            self.failed(as_kafka_error(reply))
            return
        response = self.response
        response.base_offset = reply.base_offset
        response.log_append_time_ms = reply.append_time_ms
        response.log_start_offset = reply.log_start
        self.call.part_done()

    def failed(self, error: KafkaError) -> None:
        """This batch is not (or not known to be) in the log."""
        self.call.refused(self.call.gateway.image.topic_by_id(self.link.key[0]), self.response, error, self.sender)
        self.call.part_done()


class ProduceCall:
    """One request: answered when every part is done. ``remaining`` starts at 1, for the handler itself."""

    __slots__ = ("acks", "exchange", "failure", "gateway", "remaining", "response")

    def __init__(self, gateway: Gateway, exchange: Exchange, acks: int) -> None:
        self.gateway: Gateway = gateway
        self.exchange: Exchange = exchange
        self.acks: int = acks
        self.remaining: int = 1
        self.response: ProduceResponse = ProduceResponse(responses=[])

    def part_done(self) -> None:
        self.remaining -= 1
        if self.remaining:
            return
        if self.acks != 0:
            self.exchange.answer(self.response)
            return
        codes = {one.error_code for topic in self.response.responses for one in topic.partition_responses} - {0}
        self.exchange.drop()
        if codes:
            # Nobody reads an error code here, so the end of the connection has to tell, as in Kafka.
            names = ", ".join(for_code(code).name for code in sorted(codes))
            self.exchange.connection.close(f"a produce with acks=0 failed: {names}")

    def refused(
        self, topic: Topic | None, response: PartitionProduceResponse, error: KafkaError, sender: Sender | None
    ) -> None:
        """Make this partition's result an error, also of what the sender has sent behind it."""
        if sender is not None and error.retriable and self.acks != 0:
            self.gateway.note_refusal(sender.producer, sender.sequence)
        response.error_code = error.code
        response.error_message = told(error)
        response.base_offset = -1
        if topic is not None and error.code == NotLeaderOrFollowerError.code:
            partition = topic.partitions.get(response.index)
            tell_leader(self.gateway, self.exchange.connection.local, partition, response, self.response)


def _objection(gateway: Gateway, topic: Topic | None, by_id: bool, index: int, acks: int) -> KafkaError | None:
    """Why nothing can be appended to this partition through this gateway; None if it can."""
    if acks not in (-1, 0, 1):
        return InvalidRequiredAcksError(f"acks must be -1 (all), 0 or 1, not {acks}")
    if topic is None:
        return (
            UnknownTopicIdError("no topic has this id")
            if by_id
            else UnknownTopicOrPartitionError("there is no such topic")
        )
    if topic.internal:
        return InvalidTopicError(f"{topic.name} is internal: clients may not write to it")
    code = gateway.leader_code(topic.topic_id, index)
    return for_code(code)(f"partition {topic.name}-{index}") if code else None


def produce(gateway: Gateway, exchange: Exchange, request: ProduceRequest) -> None:
    """Handler of Produce."""
    acks, timeout_ms = request.acks, max(request.timeout_ms, 0)
    hold_ms = min(timeout_ms // 3, gateway.failover_wait_ms)
    call = ProduceCall(gateway, exchange, acks)
    by_id = exchange.header.api_version >= IDS_SINCE
    image = gateway.image
    for asked in request.topic_data:
        topic = image.topic_by_id(asked.topic_id) if by_id else image.topic(asked.name)
        responses: list[PartitionProduceResponse] = []
        call.response.responses.append(
            TopicProduceResponse(name=asked.name, topic_id=asked.topic_id, partition_responses=responses)
        )
        for data in asked.partition_data:
            response = PartitionProduceResponse(index=data.index)
            responses.append(response)
            records = data.records
            error = _objection(gateway, topic, by_id, data.index, acks)
            if error is None and not records:
                error = InvalidRecordError("no record batch: a Produce carries exactly one for each partition")
            sender = _sender(asked.topic_id if by_id else asked.name, data.index, records) if records else None
            if error is None and sender is not None and gateway.refusals.behind(sender.producer, sender.sequence):
                error = NotLeaderOrFollowerError("a batch before this one was refused: send that one first")
            if error is not None or topic is None or not records:
                assert error is not None
                call.refused(topic, response, error, sender)
                continue
            link = gateway.link(topic, data.index)
            part = Part(call, link, records, response, timeout_ms, sender)
            call.remaining += 1
            link.submit(Held(part, sender is not None, acks, hold_ms, sender.producer[1] if sender else -1))
    call.part_done()
