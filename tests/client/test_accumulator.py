"""The producer's order and exactly-once rules, without a socket or a clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logeion.client.accumulator import EPOCH_MAX, Accumulator, Batch
from logeion.client.deliveries import Delivery
from logeion.client.errors import BufferFullError, ClosedError, ConnectionLostError, DeadlineError
from logeion.errors import (
    DuplicateSequenceNumberError,
    InvalidProducerEpochError,
    LogeionError,
    MessageTooLargeError,
    NotLeaderOrFollowerError,
    OutOfOrderSequenceNumberError,
    ProducerFencedError,
    UnknownProducerIdError,
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


def zero() -> float:
    """The clock."""
    return 0.0


def put(acc: Accumulator, *values: bytes) -> list[Batch]:
    """Each value in a batch of its own."""
    batches = []
    for value in values:
        batches.append(acc.append(*SLOT, None, value, (), 1000, zero)[0])
        acc.close_batches(0.0, flush=True)
    return batches


def numbers(acc: Accumulator, batch: Batch) -> tuple[int, int, int]:
    header = read_header(acc.bytes_of(batch))
    return header.producer_id, header.producer_epoch, header.base_sequence


def test_a_batch_closes_when_the_next_record_does_not_fit() -> None:
    acc = accumulator(linger_s=10.0, batch_bytes=130)
    for _ in range(3):
        acc.append(*SLOT, None, b"x" * 10, (), 1000, zero)
    assert acc.take(SLOT, 0.0) is not None
    assert acc.take(SLOT, 0.0) is None, "the open one lingers"
    acc.close_batches(10.0)
    assert acc.take(SLOT, 10.0) is not None


def test_a_full_buffer_takes_nothing_until_something_is_settled() -> None:
    acc = accumulator(buffer_bytes=60, batch_bytes=1000)
    put(acc, b"x" * 20)
    with pytest.raises(BufferFullError):
        acc.append(*SLOT, None, b"x" * 20, (), 1000, zero)
    batch = acc.take(SLOT, 0.0)
    assert batch is not None
    acc.succeeded(batch, 5)
    assert acc.used == 0
    acc.append(*SLOT, None, b"x" * 20, (), 1000, zero)


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


def test_after_a_batch_failed_for_good_the_rest_goes_on_in_the_next_epoch() -> None:
    acc = accumulator()
    put(acc, b"a", b"b", b"c")
    first, second = acc.take(SLOT, 0.0), acc.take(SLOT, 0.0)
    assert first and second
    assert not acc.failed(first, MessageTooLargeError("large"), 0.0, 0.0)
    acc.close_batches(0.0, flush=True)
    assert acc.take(SLOT, 0.0) is None, "the second still has a sequence of the old epoch"
    assert acc.failed(second, OutOfOrderSequenceNumberError("gap"), 0.0, 0.0)
    assert acc.take(SLOT, 0.0) is second
    assert numbers(acc, second) == (7, 1, 0) and not acc.needs_producer_id


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


# Leaders that move, brokers that forget


def test_the_next_batch_waits_for_those_in_flight_to_the_leader_before() -> None:
    acc = accumulator()
    first, second = put(acc, b"a", b"b")
    assert acc.take(SLOT, 0.0, 1) is first
    acc.close_batches(0.0, flush=True)
    assert acc.ready(0.0) == [SLOT] and not acc.may_go_to(SLOT, 2)
    assert acc.take(SLOT, 0.0, 2) is None, "broker 2 would find it out of order, or broker 1 write the first later"
    acc.failed(first, ConnectionLostError("lost"), 0.0, 0.0)
    assert acc.may_go_to(SLOT, 2)
    for expected in (first, second):
        assert acc.take(SLOT, 0.0, 2) is expected
        acc.succeeded(expected, 0)


def test_out_of_order_behind_a_batch_in_flight_is_no_failure() -> None:
    acc = accumulator()
    put(acc, b"a", b"b")
    first = acc.take(SLOT, 0.0)
    acc.close_batches(0.0, flush=True)
    second = acc.take(SLOT, 0.0)
    assert first and second
    assert acc.failed(second, OutOfOrderSequenceNumberError("gap"), 0.0, 1.0)
    assert acc.failed(first, ConnectionLostError("lost"), 0.0, 0.0)
    assert acc.take(SLOT, 0.0) is first and numbers(acc, first) == (7, 0, 0)
    acc.succeeded(first, 0)
    assert acc.take(SLOT, 0.0) is second and numbers(acc, second) == (7, 0, 1)


@pytest.mark.parametrize(
    "error", [OutOfOrderSequenceNumberError("gap"), UnknownProducerIdError("who"), InvalidProducerEpochError("old")]
)
def test_a_broker_that_forgot_the_producer_costs_an_epoch_and_no_record(error: LogeionError) -> None:
    acc = accumulator()
    written, *rest = put(acc, b"a", b"b", b"c")
    assert acc.take(SLOT, 0.0) is written
    acc.succeeded(written, 0)
    first = acc.take(SLOT, 0.0)
    acc.close_batches(0.0, flush=True)
    second = acc.take(SLOT, 0.0)
    assert [first, second] == rest and first and second
    assert acc.failed(first, error, 0.0, 0.0) and acc.failed(second, error, 0.0, 0.0)
    if isinstance(error, InvalidProducerEpochError):
        assert acc.needs_producer_id and acc.take(SLOT, 0.0) is None, "the next epoch may be known there as well"
        acc.set_producer_id(8, 0)
    expected = (8, 0) if isinstance(error, InvalidProducerEpochError) else (7, 1)
    assert acc.take(SLOT, 0.0) is first and numbers(acc, first) == (*expected, 0)
    acc.succeeded(first, 0)
    assert acc.take(SLOT, 0.0) is second and numbers(acc, second) == (*expected, 1)
    acc.succeeded(second, 0)
    assert acc.empty and acc.used == 0 and not acc.needs_producer_id


def test_a_broker_that_takes_no_next_epoch_is_given_another_id() -> None:
    acc = accumulator()
    put(acc, b"a")
    batch = acc.take(SLOT, 0.0)
    assert batch and acc.failed(batch, OutOfOrderSequenceNumberError("gap"), 0.0, 0.5)
    assert acc.needs_producer_id, "there is no reason to refuse sequence 0"
    assert acc.take(SLOT, 1.0) is None
    acc.set_producer_id(8, 3)
    assert acc.take(SLOT, 0.0) is None, "it waits, so that a broker that goes on refusing is not flooded"
    assert acc.take(SLOT, 1.0) is batch and numbers(acc, batch) == (8, 3, 0)


def test_a_broker_that_gives_out_epochs_itself_is_asked_for_an_id_when_it_fences_the_next() -> None:
    acc = accumulator()
    put(acc, b"a", b"b")
    batch = acc.take(SLOT, 0.0)
    assert batch and not acc.failed(batch, MessageTooLargeError("large"), 0.0, 0.0)
    acc.close_batches(0.0, flush=True)
    batch = acc.take(SLOT, 0.0)
    assert batch and numbers(acc, batch) == (7, 1, 0)
    assert acc.failed(batch, ProducerFencedError("newer"), 0.0, 0.0)
    assert acc.needs_producer_id and acc.take(SLOT, 0.0) is None
    acc.set_producer_id(8, 0)
    assert acc.take(SLOT, 0.0) is batch and numbers(acc, batch) == (8, 0, 0)


def test_the_last_epoch_is_followed_by_another_id() -> None:
    acc = accumulator()
    acc.set_producer_id(7, EPOCH_MAX)
    put(acc, b"a", b"b")
    batch = acc.take(SLOT, 0.0)
    assert batch and not acc.failed(batch, MessageTooLargeError("large"), 0.0, 0.0)
    assert acc.needs_producer_id and acc.take(SLOT, 0.0) is None
    acc.set_producer_id(8, 0)
    acc.close_batches(0.0, flush=True)
    assert (batch := acc.take(SLOT, 0.0)) and numbers(acc, batch) == (8, 0, 0)


def test_a_batch_that_may_have_been_written_is_not_sent_under_another_epoch() -> None:
    acc = accumulator()
    put(acc, b"a", b"b")
    batch = acc.take(SLOT, 0.0)
    assert batch and acc.failed(batch, ConnectionLostError("lost"), 0.0, 0.0)
    assert acc.take(SLOT, 0.0) is batch
    assert not acc.failed(batch, InvalidProducerEpochError("old"), 0.0, 0.0)
    assert isinstance(batch.error, InvalidProducerEpochError)
    acc.set_producer_id(8, 0)
    acc.close_batches(0.0, flush=True)
    assert (batch := acc.take(SLOT, 0.0)) and numbers(acc, batch) == (8, 0, 0)


def test_a_gap_in_one_partition_holds_up_no_other() -> None:
    acc = accumulator()
    other = ("orders", 1)
    for slot in (SLOT, other):
        acc.append(*slot, None, b"a", (), 1000, zero)
        acc.close_batches(0.0, flush=True)
    stuck, large = acc.take(SLOT, 0.0), acc.take(other, 0.0)
    assert stuck and large
    assert acc.failed(stuck, NotLeaderOrFollowerError("nobody leads it"), 0.0, 60.0)
    assert not acc.failed(large, MessageTooLargeError("large"), 0.0, 0.0)
    acc.append(*other, None, b"b", (), 1000, zero)
    acc.close_batches(0.0, flush=True)
    batch = acc.take(other, 0.0)
    assert batch is not None, "what the first partition has numbered is no reason to wait"
    assert numbers(acc, batch) == (7, 1, 0) and not acc.needs_producer_id
    assert acc.take(SLOT, 60.0) is stuck and numbers(acc, stuck) == (7, 0, 0)


# Deadlines, and what a program does in a callback


@pytest.mark.parametrize("written", [True, False])
def test_what_is_in_flight_past_its_deadline_fails_then_and_its_sequence_is_settled_later(written: bool) -> None:
    acc = accumulator(delivery_timeout_s=5.0)
    (first,) = put(acc, b"a")
    assert acc.take(SLOT, 0.0) is first and acc.next_wake(1.0) == 5.0
    assert acc.expire(4.9) == [] and acc.expire(5.0) == [first] and isinstance(first.error, DeadlineError)
    assert "may have been written" in str(first.error)
    assert acc.records == 0 and acc.used > 0, "its bytes are still on their way"
    assert acc.expire(6.0) == [] and acc.next_wake(6.0) is None
    if written:
        acc.succeeded(first, 0)
    else:
        assert not acc.failed(first, ConnectionLostError("lost"), 6.0, 0.0)
    assert acc.empty and acc.used == 0
    put(acc, b"c")
    batch = acc.take(SLOT, 0.0)
    assert batch and numbers(acc, batch) == ((7, 0, 1) if written else (7, 1, 0))


def test_a_callback_that_raises_is_logged_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    acc = accumulator(batch_bytes=1000)
    told: list[Delivery] = []
    batch, place, _ = acc.append(*SLOT, None, b"a", (), 1000, zero)
    delivery = Delivery(batch, place, 1000)
    delivery.add_done_callback(lambda _: 1 / 0)
    delivery.add_done_callback(told.append)
    acc.close_batches(0.0, flush=True)
    assert acc.take(SLOT, 0.0) is batch
    acc.succeeded(batch, 3)
    delivery.add_done_callback(lambda _: 1 / 0)
    assert told == [delivery] and delivery.result().offset == 3
    assert [record.message for record in caplog.records] == ["a callback of a record of orders[0] raised"] * 2


def test_a_callback_may_send_to_a_new_partition_while_all_are_failed() -> None:
    acc = accumulator()
    for number in range(3):
        batch, _, _ = acc.append("orders", number, None, b"a", (), 1000, zero)
        batch.callbacks.append(lambda _: acc.append("orders", 9, None, b"b", (), 1000, zero))
    acc.fail_all(ClosedError("closed"))
    assert acc.records == 3


def test_a_record_that_may_go_elsewhere_closes_the_batch_it_does_not_fit_into() -> None:
    acc = accumulator(batch_bytes=200)
    while (found := acc.append(*SLOT, None, b"x" * 50, (), 1000, zero, True))[1] >= 0:
        pass
    batch, place, closed = found
    assert (place, closed, len(batch.entries), acc.records) == (-1, True, 1, 1)
    assert acc.append("orders", 1, None, b"x" * 50, (), 1000, zero, True)[1:] == (0, False)


class Partition:
    """A broker's partition with Kafka's rule for sequences, and a network that loses requests and answers."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.producers: dict[int, tuple[int, int]] = {}  # id: epoch, next sequence
        self.seen: set[tuple[int, int, int]] = set()

    def has(self, data: bytes) -> bool:
        header = read_header(data)
        return (header.producer_id, header.producer_epoch, header.base_sequence) in self.seen

    def append(self, data: bytes) -> LogeionError | int:
        header = read_header(data)
        epoch, expected = self.producers.get(header.producer_id, (header.producer_epoch, 0))
        if header.producer_epoch < epoch:
            return InvalidProducerEpochError("old")
        if header.producer_epoch > epoch:
            expected = 0
        if self.has(data):
            return DuplicateSequenceNumberError("twice")
        if header.base_sequence != expected:
            return OutOfOrderSequenceNumberError("gap")
        self.seen.add((header.producer_id, header.producer_epoch, header.base_sequence))
        self.producers[header.producer_id] = header.producer_epoch, expected + header.count
        self.values += [record.value for record in read_records(data, max_bytes=1 << 20)]
        return len(self.values) - header.count


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from("ssslrfnqde"), max_size=60), st.integers(1, 12))
def test_whatever_the_network_loses_each_record_is_there_once_and_in_order(fates: list[str], count: int) -> None:
    """Fates: s sent and answered, l request lost, r answer lost, f refused for good, n not leader, q answered later,
    d answered after its deadline, e out of order at a broker that forgot."""
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
                case "d":
                    answer = broker.append(data)
                    batch.born = -100.0
                    assert batch in acc.expire(0.0)
                case "e":
                    answer = broker.append(data) if broker.has(data) else OutOfOrderSequenceNumberError("forgotten")
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
        acc.append(*SLOT, None, b"%d" % number, (), 1000, zero)
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
    assert acc.expire(99.0) == [] and stuck in acc.expire(100.0)
    assert isinstance(stuck.error, DeadlineError)
