"""The one task that empties a producer's accumulator, and the requests it has on the way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, cast
from weakref import WeakSet

from logeion.wire.apis import (
    InitProducerIdRequest,
    InitProducerIdResponse,
    PartitionProduceData,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from logeion.wire.errors import KafkaError, LogeionError, for_code

from .accumulator import Accumulator, Batch, Slot
from .cluster import Cluster
from .connection import Connection
from .errors import ClientError, ClosedError, ConnectionLostError
from .placement import Placement
from .retries import advise, backoff_s

log: logging.Logger = logging.getLogger("logeion.client")

PRODUCE, INIT_PRODUCER_ID = 0, 22
REQUESTS_IN_FLIGHT = 5
# Metadata may change with nothing going wrong: new partitions. What is sent after so long asks for it again.
METADATA_MAX_AGE_S = 300.0
# So long it is waited for fresh metadata before what it might move is sent again to where it was.
FRESH_S = 0.1


class Sender:
    """Runs in its event loop from ``start`` to ``end``; ``ended`` says why it takes nothing any more."""

    def __init__(
        self,
        cluster: Cluster,
        accumulator: Accumulator,
        placement: Placement,
        *,
        acks: int,
        request_timeout_s: float,
    ) -> None:
        self.ended: str = ""
        self.wake: asyncio.Event = asyncio.Event()
        self._cluster = cluster
        self._accumulator = accumulator
        self._placement = placement
        self._acks = acks
        self._request_timeout_s = request_timeout_s
        self._loop = asyncio.get_running_loop()
        self._room: list[asyncio.Future[None]] = []
        self._flushing = 0
        self._unanswered: WeakSet[Connection] = WeakSet()  # with acks=0: those that may not have sent everything
        self._task: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[None]] = set()
        self._busy: dict[int, int] = {}
        self._connecting: set[int] = set()
        self._trouble: dict[int, LogeionError] = {}
        self._asking_id = False
        self._id_trouble: LogeionError | None = None
        self._dropped = 0
        self._refreshing: asyncio.Task[None] | None = None
        self._metadata_quick = True
        self._refresh_wanted = False
        self._refresh_timer: asyncio.TimerHandle | None = None
        self._refreshed_at = self._loop.time()

    @property
    def started(self) -> bool:
        """Whether it sends, or has sent."""
        return self._task is not None

    def start(self) -> None:
        """Begins to send."""
        self._task = asyncio.create_task(self._run())

    async def room(self, size: int = 0) -> None:
        """Until some of what fills the buffer is settled, and ``size`` bytes fit."""
        used, limit = self._accumulator.used, self._accumulator.buffer_bytes
        if not used or (used < limit // 2 and used + size <= limit):
            return
        waiter = self._loop.create_future()
        self._room.append(waiter)
        self.wake.set()
        await waiter

    async def flush(self) -> None:
        """Sends everything now, and waits until all that was there when it was called is settled."""
        left = self._accumulator.unsettled()
        if left:
            arrived = self._loop.create_future()
            count = len(left)

            def settled(_: Batch) -> None:
                nonlocal count
                count -= 1
                if not count and not arrived.done():
                    arrived.set_result(None)

            for batch in left:
                batch.callbacks.append(settled)
            self._flushing += 1
            self.wake.set()
            try:
                await arrived
            finally:
                self._flushing -= 1
        # Without answers what is settled may still wait here for its socket, and would be lost with it.
        try:
            async with asyncio.timeout(self._request_timeout_s):
                for connection in list(self._unanswered):
                    await connection.drained()
                    self._unanswered.discard(connection)
        except TimeoutError:
            log.warning("a broker took nothing for %g s: records of acks=0 may be lost", self._request_timeout_s)

    async def end(self, *, told: bool) -> None:
        """What is not acknowledged fails with ClosedError; the log says so unless somebody was ``told``."""
        self.ended = self.ended or "the producer was closed"
        if self._refresh_timer is not None:
            self._refresh_timer.cancel()
        if self._accumulator.records and not told:
            log.warning("a producer was closed with %s", unsent(self._accumulator.records))
        tasks = [*self._requests, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._accumulator.fail_all(ClosedError("the producer was closed before this record was acknowledged"))
        self._release()

    def _stop(self, cause: BaseException) -> None:
        """A mistake of ours, or the end of the loop: whoever waits must hear of it, and nothing more is taken."""
        if not self.ended:
            self.ended = f"the producer stopped: {cause!r}"
            if left := self._accumulator.records + self._dropped:
                why = "event loop ended" if isinstance(cause, asyncio.CancelledError) else f"sender failed ({cause!r})"
                told = None if isinstance(cause, asyncio.CancelledError) else cause
                log.warning("a producer's %s with %s", why, unsent(left), exc_info=told)
        for task in self._requests:
            task.cancel()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._accumulator.fail_all(ClosedError(self.ended))
        self._release()

    def _beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs it beside the sending, which it must not hold up."""
        task = asyncio.create_task(work)
        self._requests.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._requests.discard(task)
        if not task.cancelled() and (cause := task.exception()) is not None:
            self._stop(cause)

    async def _run(self) -> None:
        try:
            await self._send_for_ever()
        except BaseException as cause:
            self._stop(cause)
            raise

    async def _send_for_ever(self) -> None:
        accumulator = self._accumulator
        while True:
            now = self._loop.time()
            # Nobody lingers while somebody waits for room, or for all of it.
            for slot in accumulator.close_batches(now, flush=bool(self._room or self._flushing)):
                self._placement.batch_closed(slot)
            if accumulator.expire(now, self._why):
                self._release()
            if accumulator.needs_producer_id and not self._asking_id and not accumulator.empty:
                self._asking_id = True
                self._beside(self._new_producer_id())
            self._placement.recount()
            await self._see_to_metadata(now)
            await self._send_ready()
            wake_at = accumulator.next_wake(self._loop.time())
            try:
                async with asyncio.timeout_at(None if wake_at is None else max(wake_at, self._loop.time() + 0.001)):
                    await self.wake.wait()
            except TimeoutError:
                pass
            self.wake.clear()

    async def _new_producer_id(self) -> None:
        async def ask() -> InitProducerIdResponse:
            request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=2**31 - 1)
            try:
                answer = cast(InitProducerIdResponse, await self._cluster.call(INIT_PRODUCER_ID, request))
                if answer.error_code:
                    raise for_code(answer.error_code)("no producer id")
            except LogeionError as error:
                self._id_trouble = error
                raise
            return answer

        try:
            answer = await self._cluster.retrying(
                ask, what="a producer id", deadline_s=self._accumulator.delivery_timeout_s
            )
        except LogeionError as error:
            self._accumulator.fail_all(error)
            self._release()
        else:
            self._id_trouble = None
            self._accumulator.set_producer_id(answer.producer_id, answer.producer_epoch)
        finally:
            self._asking_id = False
            self.wake.set()

    async def _see_to_metadata(self, now: float) -> None:
        if now - self._refreshed_at >= METADATA_MAX_AGE_S:
            self._refresh_wanted = True
        if self._refresh_wanted and self._refreshing is None:
            self._refresh_wanted = False
            self._refreshed_at = now
            self._refreshing = self._beside(self._refresh())
            # Not time after time, when brokers are slow to say it: the other partitions have nothing to wait for.
            done, _ = await asyncio.wait([self._refreshing], timeout=FRESH_S if self._metadata_quick else 0.001)
            self._metadata_quick = bool(done)

    async def _refresh(self) -> None:
        try:
            await self._cluster.refresh(tuple(self._placement.counts))
        except LogeionError:
            self.refresh_soon()
        else:
            self._metadata_quick = True
        finally:
            self._refreshing = None
            self.wake.set()

    def refresh_soon(self) -> None:
        """Asks for metadata in a moment, once for all that want it."""
        if self._refresh_timer is None:
            self._refresh_timer = self._loop.call_later(0.05, self._ask_refresh)

    def _ask_refresh(self) -> None:
        self._refresh_timer = None
        self._refresh_wanted = True
        self.wake.set()

    async def _send_ready(self) -> None:
        accumulator = self._accumulator
        while True:
            now = self._loop.time()
            by_node: dict[int, list[Slot]] = {}
            for slot in accumulator.ready(now):
                try:
                    node = self._cluster.metadata.leader(*slot)
                except KafkaError:
                    self.refresh_soon()
                    self._placement.batch_closed(slot)  # without a key, records need not wait for a leader
                    continue
                if self._busy.get(node, 0) < REQUESTS_IN_FLIGHT and accumulator.may_go_to(slot, node):
                    by_node.setdefault(node, []).append(slot)
            sent = False
            for node, slots in by_node.items():
                connection = self._cluster.open_connection(node)
                if connection is None:
                    self._connect(node)
                    continue
                if self._acks == 0 and not connection.writable:
                    # What is settled at once must not pile up behind a socket: here it counts as buffer_memory.
                    connection.when_writable(self.wake.set)
                    continue
                sent |= self._send_to(connection, node, slots)
                await asyncio.sleep(0)
            if not sent:
                return

    def _why(self, slot: Slot) -> LogeionError | None:
        """What keeps this partition's batches from being sent."""
        if self._asking_id and self._id_trouble is not None:
            return self._id_trouble
        try:
            return self._trouble.get(self._cluster.metadata.leader(*slot))
        except KafkaError as error:
            return error

    def _connect(self, node: int) -> None:
        """Beside the sending to others, which a broker that cannot be reached must not hold up."""
        if node in self._connecting:
            return

        async def connect() -> None:
            try:
                await self._cluster.connection(node)
                self._trouble.pop(node, None)
                self.wake.set()
            except LogeionError as error:
                self._trouble[node] = error
                self.refresh_soon()
            finally:
                self._connecting.discard(node)

        self._connecting.add(node)
        self._beside(connect())

    def _send_to(self, connection: Connection, node: int, slots: list[Slot]) -> bool:
        now = self._loop.time()
        batches: list[Batch] = []
        size = 0
        # Another partition goes first each time, so that a small limit starves none.
        turn = self._busy.get(node, 0) % len(slots)
        for slot in slots[turn:] + slots[:turn]:
            try:
                batch = self._accumulator.take(slot, now, node)
            except Exception as cause:
                # What was given to send was checked, so this is a mistake of ours, or no memory: for this batch only.
                self._accumulator.refuse(slot, now, _unexpected(f"a batch of {slot[0]}[{slot[1]}]", cause))
                self._release()
                continue
            if batch is None:
                continue
            batches.append(batch)
            size += batch.size
            if size >= self._accumulator.request_bytes_max:
                break
        if not batches:
            return False
        timeout_s = self._request_timeout_s
        try:
            request = self._request(batches)
            if self._acks == 0:
                connection.send_unanswered(PRODUCE, request)
                self._unanswered.add(connection)
                for batch in batches:
                    self._accumulator.succeeded(batch, -1)
                self._release()
                return True
            answer = connection.send(PRODUCE, request, timeout_s=timeout_s)
        except Exception as cause:
            error = cause if isinstance(cause, LogeionError) else _unexpected(f"a Produce to broker {node}", cause)
            for batch in batches:
                self._settle_failure(batch, error)
            self._release()
            return True
        self._busy[node] = self._busy.get(node, 0) + 1
        self._beside(self._answered(node, batches, cast("asyncio.Future[Any]", answer)))
        return True

    def _request(self, batches: list[Batch]) -> ProduceRequest:
        topics: dict[str, list[PartitionProduceData]] = {}
        for batch in batches:
            data = PartitionProduceData(index=batch.partition, records=self._accumulator.bytes_of(batch))
            topics.setdefault(batch.topic, []).append(data)
        return ProduceRequest(
            acks=self._acks,
            timeout_ms=int(self._request_timeout_s * 1000),
            topic_data=[TopicProduceData(name=name, partition_data=data) for name, data in topics.items()],
        )

    async def _answered(self, node: int, batches: list[Batch], answer: asyncio.Future[Any]) -> None:
        try:
            self._settle_answer(batches, cast(ProduceResponse, await answer))
        except LogeionError as error:
            for batch in batches:
                self._settle_failure(batch, error)
        except asyncio.CancelledError:
            closed = ClosedError(f"{self.ended} before this record was acknowledged")
            self._dropped += sum(len(batch.entries) for batch in batches)
            for batch in batches:
                self._settle_failure(batch, closed)
            raise
        except Exception as cause:
            defect = _unexpected(f"the answer of broker {node}", cause)
            for batch in batches:
                if batch.in_flight:
                    self._settle_failure(batch, defect)
        finally:
            self._busy[node] -= 1
            self._release()
            self.wake.set()

    def _settle_answer(self, batches: list[Batch], response: ProduceResponse) -> None:
        answers = {
            (topic.name, partition.index): partition
            for topic in response.responses
            for partition in topic.partition_responses
        }
        for batch in batches:
            entry = answers.get((batch.topic, batch.partition))
            if entry is None:
                self._settle_failure(batch, ConnectionLostError(f"no answer about {batch.topic}[{batch.partition}]"))
            elif entry.error_code:
                kind = for_code(entry.error_code)
                told = entry.error_message or (kind.__doc__ or "").strip()
                self._settle_failure(batch, kind(f"{batch.topic}[{batch.partition}]: {told}"))
            else:
                self._accumulator.succeeded(batch, entry.base_offset, entry.log_append_time_ms)

    def _settle_failure(self, batch: Batch, error: LogeionError) -> None:
        self._accumulator.failed(batch, error, self._loop.time(), backoff_s(batch.tries))
        if advise(error).refresh:
            self._refresh_wanted = True

    def _release(self) -> None:
        if self._room and self._accumulator.used < self._accumulator.buffer_bytes // 2:
            waiting, self._room = self._room, []
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)


def _unexpected(what: str, cause: Exception) -> ClientError:
    """Of what nobody foresaw: the log has where it came from."""
    log.error("%s: %r", what, cause, exc_info=cause)
    error = ClientError(f"{what}: {cause!r}", "this is a defect of the client: the log has the traceback")
    error.__cause__ = cause
    return error


def unsent(records: int) -> str:
    """What a log line says of so many."""
    return f"{records} records that were not acknowledged: they may be lost"
