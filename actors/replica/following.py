"""What a follower does all day: its lane to the leader, its log, its timers. Its machine decides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from logeion.log.config import LogConfig
from logeion.log.log import Log
from logeion.wire.errors import CorruptMessageError, InvalidRequestError, StorageError, WireError

from ..config import ReplicaSection
from ..lanes import Lane, LaneError, LaneListener, OnClosed, OnMessage
from ..messages import (
    AnyMessage,
    DescribeLog,
    Hello,
    LogDescribed,
    LogFetched,
    Message,
    Ping,
    Pong,
    Refused,
    Slice,
    Watermark,
)
from ..partition.syncing import LogSyncer
from ..partition.upkeep import Alarm, Upkeep, now_ms
from ..partition.writing import passes
from ..stream import Frame
from .machine import (
    Append,
    Commit,
    Dial,
    Effect,
    Fetch,
    Hangup,
    ReplicaMachine,
    Report,
    Reset,
    Sync,
    Trim,
    Truncate,
)

log: logging.Logger = logging.getLogger(__name__)

# A payload of at most this size is synced by the loop itself: there is nothing else it could do but receive the next.
INLINE_BYTES = 1_048_576


class DialLeader(Protocol):
    """How the leader's Partition is reached (``hosts.dial_host`` with the cluster's secret)."""

    def __call__(
        self, host: str, port: int, *, on_message: OnMessage, on_closed: OnClosed
    ) -> Coroutine[Any, Any, Lane]:
        """The lane. Raises ``OSError``, ``LaneError``."""


class Following:
    """Opens the log, follows whoever leads the partition, and answers who asks how far it is.

    ``fatal`` is told the ``StorageError`` after which this replica must end. Raises what ``Log.open`` raises.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        hello: Hello,
        path: Path,
        directory: Path,
        directory_id: str,
        configs: Mapping[str, str],
        slice: Slice,
        settings: ReplicaSection,
        dial: DialLeader,
        fatal: Callable[[StorageError], None],
    ) -> None:
        config = LogConfig.from_topic(configs)
        self.loop = loop
        self.name: str = hello.actor
        self._fatal = fatal
        self._dial = dial
        self._lane: Lane | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._dialled = 0
        self._alarm: Alarm = Alarm(loop, self._tick)
        self._closed = False
        self._payload = memoryview(b"")
        self._appends = self._bytes = 0
        self.log: Log = Log.open(directory, config, now_ms=now_ms(), topic_id=hello.topic_id)
        for warning in self.log.warnings:
            log.warning("%s: %s", self.name, warning)
        self.machine: ReplicaMachine = ReplicaMachine(
            node=hello.node,
            incarnation=hello.incarnation,
            directory_id=directory_id,
            slice=slice,
            epochs=self.log.epochs,
            end=self.log.end_offset,
            synced_end=self.log.synced_end,
            high_watermark=self.log.high_watermark,
            log_start=self.log.start_offset,
            durable=config.flush == "ack",
            wait_ms=settings.fetch_wait_ms,
            max_bytes=settings.fetch_max_bytes,
        )
        self.syncer: LogSyncer = LogSyncer(self.log, loop, done=self._synced, fatal=fatal, inline_bytes=INLINE_BYTES)
        self.upkeep: Upkeep = Upkeep(
            self.log, loop, name=self.name, syncer=self.syncer, moved=self.machine.trimmed, fatal=fatal
        )
        self._listener = LaneListener(loop, path, self._on_lane)
        self._run(self.machine.start(loop.time()))

    @property
    def lost(self) -> bool:
        """Whether the log is fenced for good."""
        return self.log.failed is not None

    def close(self, *, clean: bool = True) -> None:
        """Finish what is under way, and mark the log as cleanly closed. Raises ``StorageError``."""
        self._closed = True
        self._listener.close()
        self._hang_up()
        self._alarm.cancel()
        self.upkeep.close()
        self.syncer.close()
        self.log.close(clean=clean)

    # From Node ------------------------------------------------------------------------------------------------------

    def configure(self, configs: Mapping[str, str]) -> None:
        """The topic's effective configuration from now on."""
        config = LogConfig.from_topic(configs)
        self.log.configure(config)
        self._run(self.machine.set_durable(config.flush == "ack", self.loop.time()))
        self.upkeep.configured()

    def slice_changed(self, slice: Slice) -> None:
        """What the metadata log says of this partition now."""
        self._run(self.machine.slice_changed(slice, self.loop.time()))

    # From others of this host ---------------------------------------------------------------------------------------

    def _on_lane(self, lane: Lane) -> None:
        lane.on_message = self._asked

    def _asked(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        answer: Message
        match message:
            case DescribeLog():
                answer = LogDescribed(
                    size=self.log.size,
                    segments=len(self.log.segments),
                    log_start=self.log.start_offset,
                    high_watermark=self.log.high_watermark,
                    end=self.log.end_offset,
                    synced_end=self.log.synced_end,
                    producers=len(self.log.producers),
                )
            case Ping():
                answer = Pong()
            case _:
                answer = Refused(
                    code=InvalidRequestError.code, reason=f"a follower does not answer {type(message).__name__}"
                )
        lane.reply(request, answer)

    # From the leader ------------------------------------------------------------------------------------------------

    async def _connect(self, effect: Dial) -> None:
        dial = effect.dial

        def on_message(lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
            now = self.loop.time()
            if isinstance(message, LogFetched):
                self._payload = frame.view
                self._run(self.machine.answered(dial, message, len(frame.view), now))
                self._payload = memoryview(b"")
            elif isinstance(message, Watermark):
                self._run(self.machine.watermark(dial, message, now))
            else:
                lane.close(f"a leader does not say {type(message).__name__}")

        def on_closed(lane: Lane, reason: str) -> None:
            if self._lane is lane:
                self._lane = None
                log.info("%s has lost its leader on node %d: %s", self.name, effect.node, reason)
            self._run(self.machine.disconnected(dial, self.loop.time()))

        try:
            lane = await self._dial(effect.host, effect.port, on_message=on_message, on_closed=on_closed)
        except (OSError, LaneError) as error:
            log.debug("%s cannot reach its leader on node %d: %s", self.name, effect.node, error)
            host_gone = isinstance(error, OSError)
            self._run(self.machine.disconnected(dial, self.loop.time(), host_gone=host_gone))
            return
        self._lane = lane
        self._run(self.machine.connected(dial, self.loop.time()))

    def _hang_up(self) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        lane, self._lane = self._lane, None
        if lane is not None:
            lane.close()

    # Effects --------------------------------------------------------------------------------------------------------

    def _run(self, effects: Sequence[Effect]) -> None:
        if self._closed:
            return
        for effect in effects:
            self._do(effect)
        self._alarm.set(self.machine.deadline)

    def _tick(self) -> None:
        self._run(self.machine.tick(self.loop.time()))

    def _synced(self, end: int) -> None:
        self._run(self.machine.synced(end, self.loop.time()))

    def _do(self, effect: Effect) -> None:
        match effect:
            case Fetch(message=message) | Report(message=message):
                if self._lane is not None:
                    self._lane.tell(message)
            case Append():
                self._append()
            case Sync():
                appends, size = self._appends, self._bytes
                self._appends = self._bytes = 0
                self.syncer.sync(appends, size)
            case Commit(high_watermark=high_watermark):
                self.log.advance_high_watermark(high_watermark)
            case Trim(offset=offset):
                self._trim(offset)
            case Truncate(offset=offset, below_watermark=below_watermark):
                self._cut(offset, below_watermark)
            case Reset(offset=offset):
                self._reset(offset)
            case Dial(dial=dial):
                self._dialled = dial
                self._dialling = self.loop.create_task(self._connect(effect))
                self._dialling.add_done_callback(_finished)
            case Hangup(dial=dial):
                if dial == self._dialled:
                    self._hang_up()

    def _append(self) -> None:
        now = self.loop.time()
        before = self.log.end_offset
        try:
            end = self.log.append_fetched(self._payload, now_ms=now_ms())
        except (CorruptMessageError, WireError) as error:
            log.error("%s was sent what it cannot append: %s", self.name, error)
            self._run(self.machine.append_failed(now))
            return
        except StorageError as error:
            if self.lost or not passes(error):
                self._fatal(error)
                return
            log.error("%s cannot append: %s", self.name, error)
            self._run(self.machine.append_failed(now))
            return
        self._appends += end > before
        self._bytes += len(self._payload)
        self._run(self.machine.written(end, now))
        self.upkeep.written()

    def _cut(self, offset: int, below_watermark: bool) -> None:
        words = "%s cuts its log from %d to %d, where it parts from its leader's"
        log.info(words, self.name, self.log.end_offset, offset)
        if below_watermark:
            log.error("%s loses committed records: its watermark was %d", self.name, self.log.high_watermark)
        try:
            self.log.truncate(offset)
        except StorageError as error:
            self._fatal(error)
            return
        self._was_cut()

    def _reset(self, offset: int) -> None:
        log.warning(
            "%s begins anew at %d: its leader has nothing of its end %d", self.name, offset, self.log.end_offset
        )
        try:
            self.log.reset(offset)
        except StorageError as error:
            self._fatal(error)
            return
        self._was_cut()

    def _was_cut(self) -> None:
        of = self.log
        self._run(self.machine.cut(of.end_offset, of.high_watermark, of.start_offset, self.loop.time()))

    def _trim(self, offset: int) -> None:
        try:
            self.machine.trimmed(self.log.delete_before(offset))
        except StorageError as error:
            if self.lost or not passes(error):
                self._fatal(error)
                return
            log.warning("%s cannot move its start: %s", self.name, error)


def _finished(task: asyncio.Task[None]) -> None:
    """What a dial raised is raised here, where the loop ends the process for it."""
    if not task.cancelled():
        task.result()
