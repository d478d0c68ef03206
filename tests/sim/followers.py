"""A follower's process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from logeion.actors import messages as m
from logeion.actors.replica.machine import (
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
from logeion.log.config import LogConfig
from logeion.log.log import Log
from logeion.wire.errors import CorruptMessageError, StorageError
from tests.sim.network import Port
from tests.sim.replicas import Actor

if TYPE_CHECKING:
    from tests.sim.cluster_judge import Truth


class ReplicaProcess(Actor):
    """The shell of ``ReplicaMachine``."""

    kind = "replica"

    machine: ReplicaMachine

    def begin(self, log: Log) -> None:
        on, slice = self.on, self.start.slice
        assert on is not None and slice is not None
        self._lane: Port | None = None
        self._lane_dial = -1
        self._payload = b""
        self.machine = ReplicaMachine(
            node=on.number,
            incarnation=self.start.incarnation,
            directory_id=on.directory_id,
            slice=slice,
            epochs=log.epochs,
            end=log.end_offset,
            synced_end=log.synced_end,
            high_watermark=log.high_watermark,
            log_start=log.start_offset,
            durable=log.config.flush == "ack",
            wait_ms=self.world.settings.wait_ms,
            max_bytes=self.world.settings.fetch_bytes,
        )
        self._do(self.machine.start(self.now))

    def deadline(self) -> float | None:
        return self.machine.deadline if self.log is not None else None

    def elapsed(self) -> None:
        self._do(self.machine.tick(self.now))

    def slice_changed(self, message: m.Slice) -> None:
        self._do(self.machine.slice_changed(message, self.now))

    def configure(self, message: m.Configure) -> None:
        assert self.log is not None
        config = LogConfig.from_topic(message.configs)
        self.log.configure(config)
        self._do(self.machine.set_durable(config.flush == "ack", self.now))

    def synced(self, end: int) -> None:
        self._do(self.machine.synced(end, self.now))

    def _do(self, effects: Sequence[Effect]) -> None:
        log, machine, on = self.log, self.machine, self.on
        assert log is not None and on is not None
        try:
            for effect in effects:
                if not self.alive:
                    return
                match effect:
                    case Fetch():
                        if self._lane is not None and self._lane_dial == effect.dial:
                            self._lane.tell(effect.message)
                    case Report():
                        if self._lane is not None and self._lane_dial == effect.dial:
                            self._lane.tell(effect.message)
                    case Append():
                        payload, self._payload = self._payload, b""
                        try:
                            end = log.append_fetched(payload, now_ms=on.now_ms())
                        except CorruptMessageError as error:
                            self.world.note(f"{self.name} does not append: {error}")
                            self._do(machine.append_failed(self.now))
                        except StorageError as error:
                            if log.failed is not None or not self.world.passes(error):
                                raise
                            self._do(machine.append_failed(self.now))
                        else:
                            self._do(machine.written(end, self.now))
                    case Sync():
                        self.sync()
                    case Commit():
                        log.advance_high_watermark(effect.high_watermark)
                        self.look_again()
                    case Truncate():
                        self.world.note(f"{self.name} truncates from {log.end_offset} to {effect.offset}")
                        log.truncate(effect.offset)
                        self._cut(log)
                    case Reset():
                        self.world.note(f"{self.name} begins anew at {effect.offset}")
                        self.world.judge_reset(self.host, self.key)
                        log.reset(effect.offset)
                        self._cut(log)
                    case Trim():
                        try:
                            machine.trimmed(log.delete_before(effect.offset))
                        except StorageError as error:
                            if log.failed is not None or not self.world.passes(error):
                                raise
                    case Dial():
                        self._dial(effect)
                    case Hangup():
                        self._hang_up(effect.dial)
        except StorageError as error:
            self.fatal(error)

    def _cut(self, log: Log) -> None:
        self._do(self.machine.cut(log.end_offset, log.high_watermark, log.start_offset, self.now))

    def _dial(self, effect: Dial) -> None:
        host = self.world.host_at(effect.host)
        number = effect.dial

        def opened(lane: Port) -> None:
            if number != self.machine.dial:
                lane.close()
                return
            self._lane, self._lane_dial = lane, number
            lane.on_message = partial(self._from_leader, number)
            lane.on_closed = self._lane_closed
            self._do(self.machine.connected(number, self.now))

        def failed() -> None:
            self._do(self.machine.disconnected(number, self.now))

        self.world.network.dial(self, lambda: self.world.leading(host, self.key), opened, failed, host.number)

    def _hang_up(self, dial: int) -> None:
        if self._lane is not None and self._lane_dial == dial:
            lane, self._lane, self._lane_dial = self._lane, None, -1
            lane.on_closed = None
            late_s = self.world.settings.late_s
            if late_s:
                # What had come already is handed on, as may happen to any shell: the machine knows whose it is.
                self.later(late_s, lane.close)
            else:
                lane.close()

    def _lane_closed(self, lane: Port) -> None:
        if self._lane is lane:
            number, self._lane, self._lane_dial = self._lane_dial, None, -1
            self._do(self.machine.disconnected(number, self.now))

    def _from_leader(self, dial: int, lane: Port, request: int, message: m.AnyMessage, payload: bytes) -> None:
        match message:
            case m.LogFetched():
                self._payload = payload
                self._do(self.machine.answered(dial, message, len(payload), self.now))
            case m.Watermark():
                self._do(self.machine.watermark(dial, message, self.now))

    @property
    def reign(self) -> int | None:
        return self.machine.slice.leader_epoch

    def judge_watermark(self, truth: Truth, log: Log) -> None:
        self.world.judge.watermark(self.host, truth, log.high_watermark, leading=False)
