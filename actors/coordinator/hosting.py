"""What a Coordinator does all day: it asks its machine, commits what that decided, and then answers.

Records made in one turn of the loop are one batch and one append; the next one need not wait for it, because the
partition keeps their order. An answer waits for every record made before it (``Step``).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
import uuid
from collections import deque
from collections.abc import Callable

from logeion.wire.errors import InvalidRequestError, NotCoordinatorError
from logeion.wire.records import Record, build_batch

from ..lanes import Lane, LaneError
from ..messages import (
    AnyMessage,
    Append,
    Appended,
    CommitOffsets,
    ConsumerHeartbeat,
    DeleteGroup,
    DeleteOffsets,
    DescribeGroup,
    FetchOffsets,
    GroupsListed,
    HeartbeatGroup,
    JoinGroup,
    LeaveGroup,
    ListGroups,
    Message,
    Refused,
    SyncGroup,
    Watch,
)
from ..stream import Frame
from ..suspicion import Suspicion
from .machine import GroupMachine, Request
from .records import encode
from .step import Now, Step, Token

REQUESTS = (
    HeartbeatGroup,
    CommitOffsets,
    FetchOffsets,
    JoinGroup,
    SyncGroup,
    LeaveGroup,
    ConsumerHeartbeat,
    DescribeGroup,
    DeleteGroup,
    DeleteOffsets,
)

# Appends under way at once; what is decided meanwhile is the next batch.
APPENDS = 4
APPEND_S = 10.0
# A batch takes up what is decided while it waits, up to so many bytes; one decision is never split.
BATCH_BYTES = 4 * 1024 * 1024


class _Batch:
    """Stored records of one or more whole decisions."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.records: list[tuple[bytes, bytes | None]] = []
        self.size = 0


class Hosting:
    """One group. ``writer`` and ``incarnation`` name the session that ``OpenWriter`` opened on ``partition``.

    ``fatal(reason)`` ends the process: after a failed or doubtful append nobody knows what the log holds.
    ``went_idle()`` says that the group needs no process now, and is called once; from then on requests are refused, so
    that whoever asks can ask the next Coordinator.
    """

    def __init__(
        self,
        partition: Lane,
        machine: GroupMachine,
        *,
        epoch: int,
        writer: str,
        incarnation: int,
        idle_s: float,
        fatal: Callable[[str], None],
        went_idle: Callable[[], None],
        suspicion: Suspicion,
    ) -> None:
        self.machine = machine
        self.leaving: bool = False
        self._loop: asyncio.AbstractEventLoop = partition.loop
        self._partition = partition
        self._epoch, self._writer, self._incarnation = epoch, writer, incarnation
        self._fatal, self._went_idle = fatal, went_idle
        self._suspicion = suspicion
        self._probe = Watch(epoch=epoch, offset=-1)
        self._tokens = itertools.count(1)
        self._waiting: dict[Token, tuple[Lane, int]] = {}
        # Batches are numbered; ``_made`` is the newest, ``_done`` the last that is committed.
        self._unsent: deque[_Batch] = deque()
        self._made = self._done = 0
        self._flushing = False
        # Answers, each with the batch it waits for, in order.
        self._replies: deque[tuple[int, Token, Message]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._idle_s = idle_s
        self._touched = self._loop.time()

    def now(self) -> Now:
        """The loop's clock and the wall's."""
        return Now(self._loop.time(), time.time_ns() // 1_000_000)

    def start(self, *, upkeep: bool = False) -> None:
        """The group is loaded: its clocks start, and requests may come. For ``upkeep`` alone it need not wait idle."""
        self.machine.loaded(self.now())
        self._arm()
        if upkeep:
            self._touched = -math.inf
        self._loop.call_later(0.0 if upkeep else self._idle_s, self._look_idle)

    # Requests

    def on_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        """A gateway asks."""
        if self.leaving:
            reason = "this coordinator is idle and about to end; ask for the next one"
            lane.reply(request, Refused(code=NotCoordinatorError.code, reason=reason))
        elif isinstance(message, REQUESTS):
            self.handle(lane, request, message)
        elif isinstance(message, ListGroups):
            lane.reply(request, GroupsListed(groups=[self.machine.entry()] if self.machine.exists else []))
        else:
            refusal = f"a coordinator does not answer {type(message).__name__}"
            lane.reply(request, Refused(code=InvalidRequestError.code, reason=refusal))

    def handle(self, lane: Lane, request: int, message: Request) -> None:
        """Have the machine decide, and follow it."""
        token = next(self._tokens)
        self._waiting[token] = (lane, request)
        now = self.now()
        self._touched = now.mono
        self.follow(self.machine.handle(token, message, now, _fresh_id(message)))
        if isinstance(message, DeleteGroup) and not self.machine.exists:
            # Deleting many groups must not leave as many processes waiting to be idle.
            self._touched = -math.inf
            self._look_idle()

    def follow(self, step: Step) -> None:
        """Commit what was decided, and answer when that is done."""
        if step.records:
            stored = [encode(record) for record in step.records]
            size = sum(len(key) + len(value or b"") for key, value in stored)
            if not self._unsent or self._unsent[-1].size + size > BATCH_BYTES:
                self._made += 1
                self._unsent.append(_Batch(self._made))
            batch = self._unsent[-1]
            batch.records += stored
            batch.size += size
            if not self._flushing:
                self._flushing = True
                self._loop.call_soon(self._flush)
        for token, reply in step.replies:
            if self._made == self._done:
                self._answer(token, reply)
            else:
                self._replies.append((self._made, token, reply))
        self._arm()

    def _answer(self, token: Token, reply: Message) -> None:
        lane, request = self._waiting.pop(token)
        lane.reply(request, reply)

    # The log

    def _flush(self) -> None:
        self._flushing = False
        while self._unsent and self._unsent[0].number - self._done <= APPENDS:
            self._send(self._unsent.popleft())

    def _send(self, batch: _Batch) -> None:
        timestamp = time.time_ns() // 1_000_000
        data = build_batch([Record(offset, timestamp, key, value) for offset, (key, value) in enumerate(batch.records)])
        message = Append(
            epoch=self._epoch,
            acks=-1,
            timeout_ms=int(APPEND_S * 1000),
            writer=self._writer,
            incarnation=self._incarnation,
        )

        number = self._suspicion.begin(self._partition, self._probe)

        def on_reply(reply: AnyMessage | LaneError) -> None:
            self._suspicion.end(number)
            if isinstance(reply, Appended):
                self._committed(batch.number)
            else:
                self._fatal(f"an append to the offsets partition failed: {reply}")

        self._partition.call(message, (data,), on_reply=on_reply, timeout_s=APPEND_S + 1.0)

    def _committed(self, number: int) -> None:
        self._done = number
        while self._replies and self._replies[0][0] <= number:
            _, token, reply = self._replies.popleft()
            self._answer(token, reply)
        self._flush()

    # Time

    def _arm(self) -> None:
        deadline = self.machine.deadline
        if deadline == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = deadline
        if deadline < math.inf:
            self._timer = self._loop.call_at(deadline, self._elapsed)

    def _elapsed(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self.follow(self.machine.elapsed(self.now()))

    def _look_idle(self) -> None:
        """Leave when nobody has been there for a while: first drop what is past its retention, then go."""
        if self.leaving:
            return
        rest = self._touched + self._idle_s - self._loop.time()
        if rest > 0 or not self.machine.idle:
            self._loop.call_later(max(rest, self._idle_s / 4), self._look_idle)
            return
        self.leaving = True
        self.follow(self.machine.expire(self.now()))
        self._leave()

    def _leave(self) -> None:
        if self._done == self._made and not self._waiting:
            self._went_idle()
        else:
            self._loop.call_later(0.01, self._leave)


def _fresh_id(message: Request) -> str:
    """A member id nobody has, as Kafka makes it: the instance's or the client's name, and a random part."""
    if isinstance(message, JoinGroup):
        return f"{message.instance_id or message.client_id}-{uuid.uuid4()}"
    return str(uuid.uuid4()) if isinstance(message, ConsumerHeartbeat) else ""
