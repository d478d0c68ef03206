"""A leader's process: mailbox, one write, one sync, answers; and its followers' lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from logeion.actors import messages as m
from logeion.actors.partition.effects import Drop, Effect, Mail, ProposeIsr, Resigned, SendLog, Tell, refusal
from logeion.actors.partition.feeding import Feeder
from logeion.actors.partition.leading import EARLIEST, EARLIEST_LOCAL
from logeion.actors.partition.machine import Machine
from logeion.actors.partition.writing import Batch, Writer, as_kafka
from logeion.log.config import LogConfig
from logeion.log.log import Log
from logeion.wire.errors import KafkaError, StorageError
from tests.sim.network import Port
from tests.sim.replicas import Actor

if TYPE_CHECKING:
    from tests.sim.cluster_judge import Truth

ALTER_S = 5.0


class _Frame:
    """A received frame, of which only the batch is left."""

    __slots__ = ("view",)

    def __init__(self, payload: bytes) -> None:
        self.view = memoryview(payload)

    def release(self) -> None:
        pass


class _Loop:
    """What a leader's feeder asks of an event loop."""

    def __init__(self, process: Actor) -> None:
        self._process = process

    def call_later(self, delay: float, what: Callable[..., None], *arguments: Any) -> None:
        self._process.later(delay, what, *arguments)


class PartitionProcess(Actor):
    """The shell of ``Machine``, with its real hands."""

    kind = "partition"

    machine: Machine

    def begin(self, log: Log) -> None:
        on, start = self.on, self.start
        assert on is not None and start.epoch is not None
        self._mail: list[Mail] = []
        self.bodies: dict[Any, tuple[bytes, int]] = {}
        self.world.judge.begins(on.number, self.key, start.epoch, log.start_offset, log.high_watermark)
        log.become_leader(start.epoch)
        settings = self.world.settings
        self.machine = Machine(
            node=on.number,
            epoch=start.epoch,
            epochs=log.epochs,
            end=log.end_offset,
            synced_end=log.synced_end,
            high_watermark=log.high_watermark,
            log_start=log.start_offset,
            durable=log.config.flush == "ack",
            slice=start.slice,
            min_insync=log.config.min_insync_replicas,
            lag_time_max_s=settings.lag_time_max_s,
            now=self.now,
        )
        self.world.note(f"{self.name} leads epoch {start.epoch} from {log.end_offset}, hw {log.high_watermark}")
        self.writer = Writer(
            self.machine,
            log,
            answer=self._reply,
            other=self._other,
            fatal=self.fatal,
            now=lambda: self.now,
            now_ms=on.now_ms,
        )
        self.writer.syncer = self
        self._feeder = Feeder(log, _Loop(self))  # type: ignore[arg-type]
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
        self._do(self.machine.set_min_insync(config.min_insync_replicas, self.now))

    def synced(self, end: int) -> None:
        self._do(self.machine.synced(end, self.now))

    # Lanes

    def on_closed(self, port: Port) -> None:
        if self.log is not None:
            self._feeder.forget(port)  # type: ignore[arg-type]
            self._do(self.machine.lane_closed(port, self.now))

    def on_message(self, port: Port, request: int, message: m.AnyMessage, payload: bytes) -> None:
        log = self.log
        if log is None or self.state == "starting":
            # Nobody listens yet; who dials so early is told to come again.
            port.close()
            return
        machine = self.machine
        ticket = (port, request)
        if isinstance(message, m.Append):
            if not self._mail:
                self.soon(self._drain)
            self.bodies[ticket] = (payload, message.acks)
            self._mail.append(
                Mail(
                    ticket,
                    message.epoch,
                    message.acks,
                    self.now + message.timeout_ms / 1000,
                    Batch(_Frame(payload)),  # type: ignore[arg-type]
                    message.writer,
                    message.incarnation,
                )
            )
            return
        self._drain()
        if not self.alive:
            return
        match message:
            case m.FetchLog():
                self._do(machine.fetched(port, message, self.now))
            case m.Persisted():
                self._do(machine.persisted(port, message, self.now))
            case m.Watch():
                self._do(machine.watch(port, ticket, message.epoch, message.offset))
            case m.OpenWriter():
                self._do(machine.open_writer(ticket, message.epoch, message.writer, message.incarnation))
            case m.TrimLog():
                self._trim(ticket, message, log)
            case m.FindOffset():
                self._find(ticket, message)
            case m.FindEpochEnd():
                self._find_end(ticket, message, log)

    def _trim(self, ticket: Any, message: m.TrimLog, log: Log) -> None:
        error = self.machine.check_epoch(message.epoch)
        try:
            if error is not None:
                raise error
            target = self.machine.trim_target(message.offset)
            truth = self.world.judge.truth_of(self.key, self.machine.epoch)
            # This very step may have appended, and committed, what came before.
            self.look_again()
            if truth is not None:
                self.world.judge.trimming(self.host, truth, target, log.high_watermark)
            start = log.delete_before(target)
            self.machine.trimmed(start, self.now)
            state = self.machine.state(*log.watermark_position())
        except KafkaError as refused:
            self._reply(ticket, refusal(refused, self.machine.epoch))
        except StorageError as refused:
            self._reply(ticket, refusal(as_kafka(refused), self.machine.epoch))
        else:
            self._reply(ticket, m.LogTrimmed(low_watermark=start))
            for port in self.ports:
                if port.other.hello is not None and port.other.hello.kind == "gateway":
                    port.tell(state)

    def _find(self, ticket: Any, message: m.FindOffset) -> None:
        error = self.machine.check_epoch(message.epoch)
        try:
            if error is not None:
                raise error
            oldest = message.timestamp in (EARLIEST, EARLIEST_LOCAL)
            found = m.OffsetFound(offset=self.machine.log_start if oldest else self.machine.latest())
        except KafkaError as refused:
            self._reply(ticket, refusal(refused, self.machine.epoch))
        else:
            self._reply(ticket, found)

    def _find_end(self, ticket: Any, message: m.FindEpochEnd, log: Log) -> None:
        error = self.machine.check_epoch(message.epoch)
        if error is not None:
            self._reply(ticket, refusal(error, self.machine.epoch))
        else:
            epoch, end = log.epoch_end(message.asked_epoch)
            self._reply(ticket, m.EpochEndFound(leader_epoch=epoch, end_offset=end))

    def _drain(self) -> None:
        mail, self._mail = self._mail, []
        if mail and self.alive:
            self._do(self.machine.take(mail))

    # Effects

    def _do(self, effects: Sequence[Effect]) -> None:
        try:
            self.writer.run(effects)
        except StorageError as error:
            self.fatal(error)

    def _other(self, effect: Effect) -> None:
        if not self.alive:
            return
        match effect:
            case Tell(lane=Port() as lane, message=message):
                if isinstance(message, m.LogFetched) and message.diverging_epoch >= 0:
                    self.world.diverged(self, lane)
                lane.tell(message)
            case SendLog(lane=Port() as lane):
                self._feeder.send(lane, effect.offset, effect.max_bytes, effect.message)  # type: ignore[arg-type]
            case Drop(lane=Port() as lane):
                lane.on_closed = None
                lane.close()
                self.on_closed(lane)
            case ProposeIsr():
                self._propose(effect)
            case Resigned():
                self.world.note(f"{self.name} resigns from epoch {self.machine.epoch}")

    def _propose(self, effect: ProposeIsr) -> None:
        number = effect.number
        self.world.note(f"{self.name} proposes isr {effect.message.isr} on {effect.message.partition_epoch}")

        def answered(reply: m.Message | None) -> None:
            if isinstance(reply, m.PartitionAltered):
                self._do(self.machine.altered(number, reply, self.now))
            else:
                code = reply.code if isinstance(reply, m.Refused) else 0
                self._do(self.machine.altered(number, code, self.now))

        if self.node is None:
            self.soon(answered, None)
        else:
            self.node.call(effect.message, answered, ALTER_S)

    def _reply(self, ticket: Any, message: m.Message) -> None:
        port, request = ticket
        body = self.bodies.pop(ticket, None)
        if body is not None:
            self.world.gateway_judge.answered(self, self.machine.epoch, body[0], message)
        if body is not None and isinstance(message, m.Appended) and body[1] == -1:
            truth = self.world.judge.truth_of(self.key, self.machine.epoch)
            self.look_again()
            if truth is not None:
                self.world.judge.acknowledged(truth, message, body[0], self.machine.epoch)
        port.reply(request, message)

    def judge_watermark(self, truth: Truth, log: Log) -> None:
        self.world.judge.watermark(
            self.host, truth, log.high_watermark, leading=True, partition_epoch=self.machine.partition_epoch
        )
