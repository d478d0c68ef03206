"""The producer's order and exactly-once rules, without a socket or a clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logeion.client.accumulator import Accumulator, Batch
from logeion.client.errors import BufferFullError, ConnectionLostError, DeadlineError
from logeion.errors import (
    DuplicateSequenceNumberError,
    LogeionError,
    MessageTooLargeError,
    NotLeaderOrFollowerError,
    OutOfOrderSequenceNumberError,
)
from logeion.wire.batch import read_header
from logeion.wire.records import read_records

SLOT = ("orders", 0)


def accumulator(**changes: Any) -> Accumulator:
    chosen: dict[str, Any] = {
        "batch_bytes": 1,
        "linger_s": 0.0,
        "buffer_bytes": 10_000,
        "delivery_timeout_s": 100.0,
        "codec": 0,
        "idempotent": True,
        "in_flight_max": 5,
        "request_bytes_max": 1000,
    }
    made = Accumulator(**(chosen | changes))
    if made.idempotent:
        made.set_producer_id(7, 0)
    return made


def put(acc: Accumulator, *values: bytes) -> list[Batch]:
    """Each value in a batch of its own."""
    batches = []
    for value in values:
        batches.append(acc.append(*SLOT, None, value, (), 1000, 0.0)[0])
        acc.close_batches(0.0, flush=True)
    return batches


def test_a_batch_closes_when_the_next_record_does_not_fit() -> None:
    acc = accumulator(linger_s=10.0, batch_bytes=130)
    for _ in range(3):
        acc.append(*SLOT, None, b"x" * 10, (), 1000, 0.0)
    assert acc.take(SLOT, 0.0) is not None
    assert acc.take(SLOT, 0.0) is None, "the open one lingers"
    acc.close_batches(10.0)
    assert acc.take(SLOT, 10.0) is not None


def test_a_full_buffer_takes_nothing_until_something_is_settled() -> None:
    acc = accumulator(buffer_bytes=60, batch_bytes=1000)
    put(acc, b"x" * 20)
    with pytest.raises(BufferFullError):
        acc.append(*SLOT, None, b"x" * 20, (), 1000, 0.0)
    batch = acc.take(SLOT, 0.0)
    assert batch is not None
    acc.succeeded(batch, 5)
    assert acc.used == 0
    acc.append(*SLOT, None, b"x" * 20, (), 1000, 0.0)


def test_sequences_follow_each_other_and_are_written_into_the_batch() -> None:
    acc = accumulator()
    put(acc, b"a", b"b")
    headers = []
    for _ in range(2):
        acc.close_batches(0.0, flush=True)
        batch = acc.take(SLOT, 0.0)
        assert batch is not None
        headers.append(read_header(acc.bytes_of(batch)))
    assert [(header.producer_id, header.base_sequence) for header in headers] == [(7, 0), (7, 1)]


def test_after_a_failure_all_in_flight_land_first_and_then_leave_in_order() -> None:
    acc = accumulator()
    put(acc, b"a", b"b", b"c", b"d")
    first, second, third = (acc.take(SLOT, 0.0) for _ in range(3))
    assert first and second and third
    assert acc.failed(first, NotLeaderOrFollowerError("moved"), 0.0, 0.0)
    assert acc.take(SLOT, 0.0) is None, "two are still in flight"
    assert acc.failed(second, OutOfOrderSequenceNumberError("gap"), 0.0, 0.0)
    assert acc.failed(third, OutOfOrderSequenceNumberError("gap"), 0.0, 0.0)
    for expected in (first, second, third):
        taken = acc.take(SLOT, 0.0)
        assert taken is expected
        acc.succeeded(taken, 0)


def test_a_duplicate_is_a_success_whose_offset_nobody_knows() -> None:
    acc = accumulator()
    (batch,) = put(acc, b"a")
    taken = acc.take(SLOT, 0.0)
    assert taken is batch
    acc.failed(batch, DuplicateSequenceNumberError("twice"), 0.0, 0.0)
    assert batch.done and batch.error is None and batch.base_offset == -1


def test_after_a_batch_failed_for_good_the_rest_goes_on_under_a_new_id() -> None:
    acc = accumulator()
    put(acc, b"a", b"b", b"c")
    first, second = acc.take(SLOT, 0.0), acc.take(SLOT, 0.0)
    assert first and second
    assert not acc.failed(first, MessageTooLargeError("large"), 0.0, 0.0)
    assert acc.failed(second, OutOfOrderSequenceNumberError("gap"), 0.0, 0.0)
    assert acc.take(SLOT, 0.0) is None
    assert acc.needs_producer_id
    acc.set_producer_id(8, 0)
    assert acc.take(SLOT, 0.0) is second
    assert read_header(acc.bytes_of(second)).base_sequence == 0


def test_what_waits_too_long_fails_and_says_so() -> None:
    acc = accumulator(delivery_timeout_s=5.0)
    (batch,) = put(acc, b"a")
    assert acc.next_wake(0.0) == 5.0
    assert acc.expire(5.0) == [batch]
    assert isinstance(batch.error, DeadlineError)
    assert acc.empty


def test_without_an_id_one_batch_is_in_flight_so_that_order_holds() -> None:
    acc = accumulator(idempotent=False)
    put(acc, b"a", b"b")
    assert acc.take(SLOT, 0.0) is not None
    assert acc.take(SLOT, 0.0) is None


class Partition:
    """A broker's partition with Kafka's rule for sequences, and a network that loses requests and answers."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.next: dict[int, int] = {}
        self.seen: set[tuple[int, int]] = set()

    def append(self, data: bytes) -> LogeionError | int:
        header = read_header(data)
        expected = self.next.get(header.producer_id, 0)
        if (header.producer_id, header.base_sequence) in self.seen:
            return DuplicateSequenceNumberError("twice")
        if header.base_sequence != expected:
            return OutOfOrderSequenceNumberError("gap")
        self.seen.add((header.producer_id, header.base_sequence))
        self.next[header.producer_id] = expected + header.count
        self.values += [record.value for record in read_records(data, max_bytes=1 << 20)]
        return len(self.values) - header.count


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from("ssslrfnq"), max_size=60), st.integers(1, 12))
def test_whatever_the_network_loses_each_record_is_there_once_and_in_order(fates: list[str], count: int) -> None:
    """Fates: s sent and answered, l request lost, r answer lost, f refused for good, n not leader, q answered later."""
    acc = accumulator()
    batches = put(acc, *(b"%d" % number for number in range(count)))
    broker, fate, ids = Partition(), iter(fates), 8
    flying: list[tuple[Batch, LogeionError | int]] = []
    for _ in range(400):
        if acc.needs_producer_id:
            acc.set_producer_id(ids, 0)
            ids += 1
        acc.close_batches(0.0, flush=True)
        batch = acc.take(SLOT, 0.0)
        chosen = next(fate, "s")
        if batch is not None:
            data = acc.bytes_of(batch)
            answer: LogeionError | int
            match chosen:
                case "l":
                    answer = ConnectionLostError("lost")
                case "r":
                    broker.append(data)
                    answer = ConnectionLostError("lost")
                case "f":
                    answer = MessageTooLargeError("large")
                case "n":
                    answer = NotLeaderOrFollowerError("moved")
                case _:
                    answer = broker.append(data)
            flying.append((batch, answer))
        if flying and (chosen != "q" or batch is None):
            landed, result = flying.pop(0)
            if isinstance(result, LogeionError):
                acc.failed(landed, result, 0.0, 0.0)
            else:
                acc.succeeded(landed, result)
        if acc.empty:
            break
    assert acc.empty and acc.used == 0
    delivered = [b"%d" % number for number, batch in enumerate(batches) if batch.error is None]
    assert [value for value in broker.values if value in delivered] == delivered
    assert len(set(broker.values)) == len(broker.values)


def test_what_cannot_leave_yet_grows_instead_of_lingering_alone() -> None:
    acc = accumulator(batch_bytes=10_000, in_flight_max=1)
    for number in range(100):
        acc.append(*SLOT, None, b"%d" % number, (), 1000, 0.0)
        acc.close_batches(0.0)
        if number == 0:
            first = acc.take(SLOT, 0.0)
    assert first is not None and len(first.entries) == 1
    assert acc.next_wake(0.0) == 100.0, "nothing but the first batch's answer wakes it"
    acc.succeeded(first, 0)
    acc.close_batches(0.0)
    rest = acc.take(SLOT, 0.0)
    assert rest is not None and len(rest.entries) == 99


def test_an_open_batch_that_never_could_leave_fails_in_time() -> None:
    acc = accumulator(batch_bytes=10_000, in_flight_max=1)
    put(acc, b"0")
    assert acc.take(SLOT, 0.0) is not None
    (stuck,) = put(acc, b"1")
    assert acc.expire(99.0) == [] and acc.expire(100.0) == [stuck]
    assert isinstance(stuck.error, DeadlineError)
