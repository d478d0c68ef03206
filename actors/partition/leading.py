"""What a partition's leader does all day: its log, its lanes, its followers, its timers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
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
    AlterPartition,
    Append,
    Configure,
    DescribeLog,
    Done,
    EpochEndFound,
    FetchLog,
    FindEpochEnd,
    FindOffset,
    Hello,
    LogDescribed,
    LogTrimmed,
    Message,
    OffsetFound,
    OpenWriter,
    PartitionAltered,
    Persisted,
    Slice,
    TrimLog,
    Watch,
)
from ..stream import Frame
from .effects import Drop, Effect, Mail, ProposeIsr, SendLog, Tell, Ticket, refusal
from .feeding import Feeder
from .machine import Machine
from .syncing import LogSyncer
from .upkeep import Alarm, Upkeep, now_ms
from .writing import Batch, Writer, as_kafka, passes

log: logging.Logger = logging.getLogger(__name__)

LATEST, EARLIEST, NEWEST, EARLIEST_LOCAL, LATEST_TIERED, PENDING_UPLOAD = -1, -2, -3, -4, -5, -6

OnAltered = Callable[[PartitionAltered | int], None]
"""What the controller said to a proposal, or the code of its refusal (0: no answer)."""


def _nobody(message: AlterPartition, on_altered: OnAltered) -> None:
    """A leader without a Node: nobody can be asked."""


class Leadership:
    """Opens the log, leads it in the epoch granted to this start, and serves the lanes of gateways and followers.

    ``slice`` None is a partition with one replica. ``propose`` asks the controller for another ISR. ``fatal`` is told
    the ``StorageError`` after which this replica must end. Raises what ``Log.open`` raises.
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
        slice: Slice | None = None,
        lag_time_max_s: float = 1.5,
        propose: Callable[[AlterPartition, OnAltered], None] = _nobody,
    ) -> None:
        assert hello.topic_id is not None and hello.epoch is not None
        config = LogConfig.from_topic(configs)
        self.loop = loop
        self.name: str = hello.actor
        self._fatal = fatal
        self._propose = propose
        self._mail: list[Mail] = []
        self._alarm: Alarm = Alarm(loop, self._tick)
        self._closed = False
        self.log: Log = Log.open(directory, config, now_ms=now_ms(), topic_id=hello.topic_id)
        self.log.become_leader(hello.epoch)
        for warning in self.log.warnings:
            log.warning("%s: %s", self.name, warning)
        self.machine: Machine = Machine(
            node=hello.node,
            epoch=hello.epoch,
            epochs=self.log.epochs,
            end=self.log.end_offset,
            synced_end=self.log.synced_end,
            high_watermark=self.log.high_watermark,
            log_start=self.log.start_offset,
            durable=config.flush == "ack",
            slice=slice,
            min_insync=config.min_insync_replicas,
            lag_time_max_s=lag_time_max_s,
            now=loop.time(),
        )
        self.feeder: Feeder = Feeder(self.log, loop)
        self.writer: Writer = Writer(
            self.machine,
            self.log,
            answer=self._answer,
            other=self._replicate,
            fatal=fatal,
            now=loop.time,
            now_ms=now_ms,
        )
        self.syncer: LogSyncer = LogSyncer(self.log, loop, done=self._synced, fatal=fatal)
        self.writer.syncer = self.syncer
        self._run(self.machine.start(loop.time()))
        self._listener = LaneListener(loop, path, self._on_lane)
        self.upkeep: Upkeep = Upkeep(
            self.log, loop, name=self.name, syncer=self.syncer, moved=self._trimmed, fatal=fatal
        )

    @property
    def lost(self) -> bool:
        """Whether the log is fenced for good."""
        return self.log.failed is not None

    def close(self, *, clean: bool = True) -> None:
        """Finish what is under way, and mark the log as cleanly closed. Raises ``StorageError``."""
        self._closed = True
        self._listener.close()
        self._alarm.cancel()
        self.feeder.close()
        self.upkeep.close()
        self.syncer.close()
        self.log.close(clean=clean)

    # Lanes ----------------------------------------------------------------------------------------------------------

    def _on_lane(self, lane: Lane) -> None:
        lane.on_message = self._on_message
        lane.on_closed = self._on_closed

    def _on_closed(self, lane: Lane, _reason: str) -> None:
        self.feeder.forget(lane)
        self._run(self.machine.lane_closed(lane, self.loop.time()))

    def _on_message(self, lane: Lane, request: int, message: Message, frame: Frame) -> None:
        ticket = (lane, request)
        if type(message) is Append:
            frame.retain()
            if not self._mail:
                self.loop.call_soon(self._drain)
            self._mail.append(
                Mail(
                    ticket,
                    message.epoch,
                    message.acks,
                    self.loop.time() + message.timeout_ms / 1000,
                    Batch(frame),
                    message.writer,
                    message.incarnation,
                )
            )
        elif type(message) is Persisted:
            self._run(self.machine.persisted(lane, message, self.loop.time()))
        elif type(message) is FetchLog:
            # What waits to be written goes out with the answer.
            self._drain()
            if lane.peer is None or lane.peer.node != message.node:
                lane.close(f"a fetch in the name of node {message.node}")
            else:
                self._run(self.machine.fetched(lane, message, self.loop.time()))
        elif type(message) is Watch:
            # What was sent before it on this lane is written before it is answered.
            self._drain()
            self._run(self.machine.watch(lane, ticket, message.epoch, message.offset))
        elif type(message) is OpenWriter:
            self._drain()
            self._run(self.machine.open_writer(ticket, message.epoch, message.writer, message.incarnation))
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
        self._run(self.machine.take(mail))
        self.upkeep.written()

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
                    isr=sorted(machine.isr),
                    followers=machine.described(self.loop.time()),
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

    # Replicas -------------------------------------------------------------------------------------------------------

    def slice_changed(self, slice: Slice) -> None:
        """What the metadata log says of this partition now."""
        self._run(self.machine.slice_changed(slice, self.loop.time()))

    def _replicate(self, effect: Effect) -> None:
        kind = type(effect)
        if kind is SendLog:
            self._send_log(effect)  # type: ignore[arg-type]
        elif kind is Tell:
            effect.lane.tell(effect.message)  # type: ignore[union-attr]
        elif kind is Drop:
            effect.lane.close(effect.reason)  # type: ignore[union-attr]
        elif kind is ProposeIsr:
            self._propose_isr(effect)  # type: ignore[arg-type]
        else:
            log.info("%s resigns: epoch %d is over", self.name, self.machine.epoch)

    def _send_log(self, effect: SendLog) -> None:
        lane = effect.lane
        assert isinstance(lane, Lane)
        try:
            self.feeder.send(lane, effect.offset, effect.max_bytes, effect.message)
        except StorageError as error:
            # Others may be able to read it, and the follower asks again.
            log.error("%s cannot feed node %d: %s", self.name, lane.peer.node if lane.peer else -1, error)
            lane.close(str(error))

    def _propose_isr(self, effect: ProposeIsr) -> None:
        message = effect.message
        log.info("%s asks for the ISR %s instead of %s", self.name, message.isr, sorted(self.machine.isr))

        def on_altered(result: PartitionAltered | int) -> None:
            if not isinstance(result, PartitionAltered):
                log.warning("%s: the ISR %s was not granted: code %d", self.name, message.isr, result)
            self._run(self.machine.altered(effect.number, result, self.loop.time()))

        self._propose(message, on_altered)

    # Time -----------------------------------------------------------------------------------------------------------

    def _run(self, effects: Sequence[Effect]) -> None:
        if self._closed:
            return
        self.writer.run(effects)
        self._alarm.set(self.machine.deadline)

    def _tick(self) -> None:
        self._run(self.machine.tick(self.loop.time()))

    def _synced(self, end: int) -> None:
        self._run(self.machine.synced(end, self.loop.time()))

    # Upkeep ---------------------------------------------------------------------------------------------------------

    def configure(self, configs: Mapping[str, str]) -> None:
        """The topic's effective configuration from now on."""
        try:
            config = LogConfig.from_topic(configs)
        except ConfigError as error:
            raise UnknownServerError(str(error)) from error
        self.log.configure(config)
        now = self.loop.time()
        self._run(self.machine.set_durable(config.flush == "ack", now))
        self._run(self.machine.set_min_insync(config.min_insync_replicas, now))
        self.upkeep.configured()

    def _trimmed(self, start: int) -> None:
        """The log begins later now: gateways that read its files must know."""
        if start <= self.machine.log_start:
            return
        self.machine.trimmed(start, self.loop.time())
        self._run(())
        segment, position = self.log.watermark_position()
        state = self.machine.state(segment, position)
        for lane in self._listener.lanes:
            if lane.peer is not None and lane.peer.kind != "replica":
                lane.tell(state)
