"""What a partition's leader does all day: its log, its lanes, its timers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from logeion.log.config import LogConfig
from logeion.log.log import Log
from logeion.wire.errors import (
    ConfigError,
    InvalidRequestError,
    KafkaError,
    StorageError,
    UnknownServerError,
)

from ..lanes import Lane, LaneListener
from ..messages import (
    Append,
    Configure,
    DescribeLog,
    Done,
    EpochEndFound,
    FindEpochEnd,
    FindOffset,
    Hello,
    LogDescribed,
    LogTrimmed,
    Message,
    OffsetFound,
    OpenWriter,
    TrimLog,
    Watch,
)
from ..stream import Frame
from .compacting import Compaction
from .machine import Machine, Mail, Ticket, refusal
from .syncing import LogSyncer
from .writing import Batch, Writer, as_kafka, passes

log = logging.getLogger(__name__)

# Kafka's log.retention.check.interval.ms, in seconds.
RETENTION_CHECK_S = 300.0

# How often appends that wait for other replicas are checked for their clients' timeouts.
EXPIRE_S = 0.1

LATEST, EARLIEST, NEWEST, EARLIEST_LOCAL, LATEST_TIERED, PENDING_UPLOAD = -1, -2, -3, -4, -5, -6


class Leadership:
    """Opens the log, leads it in the epoch granted to this start, and serves the lanes of its host's gateways.

    ``fatal`` is told the ``StorageError`` after which this replica must end. Raises what ``Log.open`` raises.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        hello: Hello,
        path: Path,
        directory: Path,
        configs: Mapping[str, str],
        fatal: Callable[[StorageError], None],
    ) -> None:
        assert hello.topic_id is not None and hello.epoch is not None
        config = LogConfig.from_topic(configs)
        self.loop = loop
        self.name = hello.actor
        self._fatal = fatal
        self._mail: list[Mail] = []
        self._expiring = self._syncing_late = False
        self.log = Log.open(directory, config, now_ms=now_ms(), topic_id=hello.topic_id)
        self.log.become_leader(hello.epoch)
        for warning in self.log.warnings:
            log.warning("%s: %s", self.name, warning)
        self.machine = Machine(
            node=hello.node,
            epoch=hello.epoch,
            end=self.log.end_offset,
            synced_end=self.log.synced_end,
            high_watermark=self.log.high_watermark,
            log_start=self.log.start_offset,
            durable=config.flush == "ack",
        )
        self.writer = Writer(self.machine, self.log, answer=self._answer, fatal=fatal, now_ms=now_ms)
        self.syncer = LogSyncer(self.log, loop, done=self.writer.synced, fatal=fatal)
        self.writer.syncer = self.syncer
        self.writer.run(self.machine.start())
        self._listener = LaneListener(loop, path, self._on_lane)
        loop.call_later(RETENTION_CHECK_S, self._retention)
        self.compaction = Compaction(self.log, loop, name=self.name, now_ms=now_ms, fatal=fatal)
        self.compaction.arm()

    def close(self) -> None:
        """Finish what is under way, and mark the log as cleanly closed. Raises ``StorageError``."""
        self._listener.close()
        self.compaction.close()
        self.syncer.close()
        self.log.close(clean=True)

    # Lanes ----------------------------------------------------------------------------------------------------------

    def _on_lane(self, lane: Lane) -> None:
        lane.on_message = self._on_message
        lane.on_closed = self._on_closed

    def _on_closed(self, lane: Lane, _reason: str) -> None:
        self.machine.forget(lane)

    def _on_message(self, lane: Lane, request: int, message: Message, frame: Frame) -> None:
        ticket = (lane, request)
        if type(message) is Append:
            frame.retain()
            if not self._mail:
                self.loop.call_soon(self._drain)
            deadline_ms = now_ms() + message.timeout_ms
            self._mail.append(
                Mail(
                    ticket,
                    message.epoch,
                    message.acks,
                    deadline_ms,
                    Batch(frame),
                    message.writer,
                    message.incarnation,
                )
            )
        elif type(message) is Watch:
            # What was sent before it on this lane is written before it is answered.
            self._drain()
            self.writer.run(self.machine.watch(lane, ticket, message.epoch, message.offset))
        elif type(message) is OpenWriter:
            self._drain()
            self.writer.run(self.machine.open_writer(ticket, message.epoch, message.writer, message.incarnation))
        else:
            self._drain()
            try:
                lane.reply(request, self._rare(message))
            except KafkaError as error:
                lane.reply(request, refusal(error, self.machine.epoch))
            except StorageError as error:
                lane.reply(request, refusal(as_kafka(error), self.machine.epoch))
                if not passes(error):
                    self._fatal(error)

    def _drain(self) -> None:
        mail, self._mail = self._mail, []
        if not mail:
            return
        self.writer.run(self.machine.take(mail))
        if self.machine.waiting and not self._expiring:
            self._expiring = True
            self.loop.call_later(EXPIRE_S, self._expire)
        if not self._syncing_late and not self.machine.durable:
            self._sync_late()

    def _answer(self, ticket: Ticket, message: Message) -> None:
        assert isinstance(ticket, tuple)
        lane: Lane = ticket[0]
        lane.reply(ticket[1], message)

    def _rare(self, message: Message) -> Message:
        """Everything but appends and watches; raises KafkaError."""
        machine = self.machine
        match message:
            case FindOffset():
                self._check(message.epoch)
                return self._find(message.timestamp)
            case FindEpochEnd():
                self._check(message.epoch)
                epoch, end = self.log.epoch_end(message.asked_epoch)
                return EpochEndFound(leader_epoch=epoch, end_offset=end)
            case TrimLog():
                self._check(message.epoch)
                self._trimmed(self.log.delete_before(machine.trim_target(message.offset)))
                return LogTrimmed(low_watermark=machine.log_start)
            case DescribeLog():
                return LogDescribed(
                    size=self.log.size,
                    segments=len(self.log.segments),
                    log_start=self.log.start_offset,
                    high_watermark=self.log.high_watermark,
                    end=self.log.end_offset,
                    synced_end=self.log.synced_end,
                    producers=len(self.log.producers),
                )
            case Configure():
                self.configure(message.configs)
                return Done()
        raise InvalidRequestError(f"a partition does not answer {type(message).__name__}")

    def _check(self, epoch: int) -> None:
        error = self.machine.check_epoch(epoch)
        if error is not None:
            raise error

    def _find(self, timestamp: int) -> OffsetFound:
        machine, found = self.machine, None
        if timestamp == LATEST:
            offset = machine.latest()
            return OffsetFound(offset=offset, leader_epoch=self._epoch_at(offset))
        if timestamp in (EARLIEST, EARLIEST_LOCAL):
            return OffsetFound(offset=machine.log_start, leader_epoch=self._epoch_at(machine.log_start))
        if timestamp not in (LATEST_TIERED, PENDING_UPLOAD):
            found = self.log.find_offset(timestamp)
        if found is None:
            return OffsetFound(offset=-1)
        return OffsetFound(offset=found[0], timestamp=found[1], leader_epoch=found[2])

    def _epoch_at(self, offset: int) -> int:
        """The leader epoch of the record at this offset; at the log's end the epoch it would get."""
        return self.log.epochs.epoch_at(offset)

    # Upkeep ---------------------------------------------------------------------------------------------------------

    def configure(self, configs: Mapping[str, str]) -> None:
        """The topic's effective configuration from now on."""
        try:
            config = LogConfig.from_topic(configs)
        except ConfigError as error:
            raise UnknownServerError(str(error)) from error
        self.log.configure(config)
        self.writer.run(self.machine.set_durable(config.flush == "ack"))
        self.writer.run(self.machine.set_isr(self.machine.isr, min(config.min_insync_replicas, self.machine.replicas)))
        self.compaction.arm()
        self._retain()

    def _trimmed(self, start: int) -> None:
        """The log begins later now: gateways that read its files must know."""
        if start <= self.machine.log_start:
            return
        self.machine.log_start = start
        segment, position = self.log.watermark_position()
        state = self.machine.state(segment, position)
        for lane in self._listener.lanes:
            lane.tell(state)

    def _retention(self) -> None:
        self.loop.call_later(RETENTION_CHECK_S, self._retention)
        self._retain()

    def _retain(self) -> None:
        try:
            self.log.apply_retention(now_ms())
        except StorageError as error:
            log.warning("retention of %s: %s", self.name, error)
        self._trimmed(self.log.start_offset)

    def _expire(self) -> None:
        self._expiring = False
        self.writer.run(self.machine.expire(now_ms()))
        if self.machine.waiting:
            self._expiring = True
            self.loop.call_later(EXPIRE_S, self._expire)

    def _sync_late(self) -> None:
        """flush=interval: sync what was written since; flush=os: sync closed segments, for a quick start."""
        config = self.log.config
        if self.log.sync_due(now_ms()):
            self.syncer.background()
        if config.flush == "interval" and self.log.synced_end < self.log.end_offset:
            self._syncing_late = True
            self.loop.call_later(config.flush_ms / 1000, self._sync_again)

    def _sync_again(self) -> None:
        self._syncing_late = False
        self._sync_late()


def now_ms() -> int:
    """The time of day in milliseconds, as records carry it."""
    return time.time_ns() // 1_000_000
