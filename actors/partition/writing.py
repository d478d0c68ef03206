"""The hands of a partition's leader: what its machine decides is done to the log and told to the lanes.

One pass takes all that waits: one write, one sync, one step of the watermark, then all answers. Nothing here decides.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from logeion.log.log import AppendInfo, Log
from logeion.wire.batch import BatchHeader, check_produced, read_header
from logeion.wire.errors import (
    CorruptMessageError,
    InvalidTxnStateError,
    KafkaError,
    KafkaStorageError,
    LogeionError,
    NotEnoughReplicasError,
    StorageError,
)

from ..messages import Message
from ..stream import Frame
from .effects import Answer, Commit, Effect, Mail, Notify, Refuse, Sync, Ticket, Write, Written
from .machine import Machine
from .refusals import Refusals

# Disk conditions that pass: the batch is refused with a retriable error, and the partition lives.
FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


class Batch(msgspec.Struct, gc=False):
    """One received batch: its frame is given back once it is written or refused."""

    frame: Frame


class Syncer(Protocol):
    """How a sync is done: now, or by a thread that reports back."""

    def sync(self, batches: int, size: int) -> None:
        """Sync all that is written, of which so many batches and bytes are new; then call the machine's ``synced``."""


class Writer:
    """Carries out a machine's effects. ``answer`` sends a message to a ticket, ``other`` does what has to do with other
    replicas; ``fatal`` ends this one. ``now`` is the machine's clock, ``now_ms`` the time of day."""

    def __init__(
        self,
        machine: Machine,
        log: Log,
        *,
        answer: Callable[[Ticket, Message], None],
        other: Callable[[Effect], None],
        fatal: Callable[[StorageError], None],
        now: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        self.machine = machine
        self.log = log
        self.syncer: Syncer
        self._other = other
        self._now = now
        self._answer = answer
        self._fatal = fatal
        self._now_ms = now_ms
        self._new_batches = self._new_bytes = 0
        self._refusals = Refusals()

    def run(self, effects: Sequence[Effect]) -> None:
        """Do these, and what follows from them, in order."""
        for effect in effects:
            kind = type(effect)
            if kind is Answer:
                self._answer(effect.ticket, effect.message)  # type: ignore[union-attr]
            elif kind is Write:
                self._write(effect.batches)  # type: ignore[union-attr]
            elif kind is Commit:
                self.log.advance_high_watermark(effect.high_watermark)  # type: ignore[union-attr]
            elif kind is Notify:
                segment, position = self.log.watermark_position()
                self._answer(effect.ticket, self.machine.state(segment, position))  # type: ignore[union-attr]
            elif kind is Refuse:
                self._refuse(effect)  # type: ignore[arg-type]
            elif kind is Sync:
                batches, size = self._new_batches, self._new_bytes
                self._new_batches = self._new_bytes = 0
                self.syncer.sync(batches, size)
            else:
                self._other(effect)

    def _refuse(self, effect: Refuse) -> None:
        batch = effect.mail.batch
        assert isinstance(batch, Batch)
        if effect.message.code == NotEnoughReplicasError.code:
            with contextlib.suppress(CorruptMessageError, KafkaError):
                header = read_header(batch.frame.view)
                # What is in the log already was sent again, by a lane that was given up perhaps: its producer may have
                # the ack by another one, and would never send it once more.
                if self.log.producers.check(header) is None:
                    self._refusals.note(header)
        batch.frame.release()
        self._answer(effect.mail.ticket, effect.message)

    def _write(self, mail: list[Mail]) -> None:
        log = self.log
        limit = log.config.max_message_bytes
        now_ms = self._now_ms()
        results: list[Written | KafkaError | None] = []
        batches: list[tuple[memoryview, BatchHeader]] = []
        for item in mail:
            batch = item.batch
            assert isinstance(batch, Batch)
            view = batch.frame.view
            try:
                header = check_produced(view, limit)
                if header.is_transactional:
                    raise InvalidTxnStateError("transactions are not served")
                if self._refusals:
                    objection = self._refusals.objection(header)
                    if objection is not None:
                        raise objection
            except KafkaError as error:
                results.append(error)
                continue
            results.append(None)
            batches.append((view, header))
            self._new_batches += 1
            self._new_bytes += len(view)
        infos = iter(log.append_many(batches, epoch=self.machine.epoch, now_ms=now_ms)) if batches else iter(())
        broken: StorageError | None = None
        settled: list[Written | KafkaError] = []
        for result in results:
            if result is None:
                info = next(infos)
                if isinstance(info, AppendInfo):
                    settled.append(Written(info.first_offset, info.last_offset, info.append_time_ms))
                    continue
                if isinstance(info, StorageError) and (log.failed is not None or not passes(info)):
                    broken = info
                result = as_kafka(info)
            settled.append(result)
        for item in mail:
            item.batch.frame.release()  # type: ignore[attr-defined]
        self.run(self.machine.written(mail, settled, log.end_offset, self._now()))
        if broken is not None:
            self._fatal(broken)


def passes(error: StorageError) -> bool:
    """Whether this is a full disk, which somebody can make room on, rather than a broken one."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in FULL


def as_kafka(error: LogeionError) -> KafkaError:
    """What a producer is told of an append that failed."""
    if isinstance(error, KafkaError):
        return error
    if isinstance(error, StorageError):
        return KafkaStorageError(str(error))
    return CorruptMessageError(str(error))
