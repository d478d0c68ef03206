"""A log against a list: whatever happens to it, it holds what the list holds."""

from __future__ import annotations

import errno

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from logeion.log.log import Log
from logeion.log.view import Descriptors, LogView
from logeion.wire.errors import StorageError
from logeion.wire.records import read_records
from tests.log.disk import HOST_CRASHES, MemoryDisk
from tests.log.world import DIRECTORY, NOW, append, batches_of, open_log, records_of


class LogMachine(RuleBasedStateMachine):
    """``values`` is the model: offset to value and epoch; ``starts`` the batches' base offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.values: dict[int, tuple[bytes, int]] = {}
        self.batch_of: dict[int, int] = {}
        self.start = self.end = self.synced = self.watermark = 0
        self.epoch = 0
        self.sequences: list[tuple[int, int, int]] = []
        self.time = NOW

    @initialize()
    def begin(self) -> None:
        self.log = self._open()
        self.log.become_leader(0)
        self.view = LogView(DIRECTORY, descriptors=Descriptors(self.disk, limit=4))

    def _open(self) -> Log:
        return open_log(self.disk, producer_id_expiration_ms=10**12)

    def _appended(self, values: list[bytes]) -> None:
        for number, value in enumerate(values):
            self.values[self.end + number] = (value, self.epoch)
            self.batch_of[self.end + number] = self.end
        self.end += len(values)

    @rule(values=st.lists(st.binary(max_size=120), min_size=1, max_size=3), codec=st.sampled_from([0, 0, 0, 4]))
    def append(self, values: list[bytes], codec: int) -> None:
        self.time += 10
        assert append(self.log, *values, codec=codec, timestamp=self.time).first_offset == self.end
        self._appended(values)

    @rule(value=st.binary(max_size=60))
    def append_in_sequence(self, value: bytes) -> None:
        sequence = self.sequences[-1][0] + 1 if self.sequences else 0
        self.time += 10
        assert not append(self.log, value, producer=(7, 0, sequence), timestamp=self.time).duplicate
        self.sequences.append((sequence, self.end, self.epoch))
        self._appended([value])

    @precondition(lambda self: self.sequences)
    @rule(back=st.integers(1, 5))
    def repeat(self, back: int) -> None:
        sequence, offset, _epoch = self.sequences[max(-back, -len(self.sequences))]
        info = append(self.log, b"whatever", producer=(7, 0, sequence))
        assert info.duplicate and info.first_offset == offset

    @rule(kind=st.sampled_from(["EIO", "full", "create"]))
    def fail_an_append(self, kind: str) -> None:
        if kind == "EIO":
            self.disk.fail("write", ".log", errno.EIO)
        elif kind == "full":
            self.disk.capacity = self.disk._used() + 30
        else:
            self.log.roll()
            self.disk.fail("create", ".index", errno.EMFILE)
            append(self.log, b"z")
            self._appended([b"z"])
            try:
                self.log.roll()
            except StorageError:
                pass
            self.disk.heal()
            return
        try:
            append(self.log, b"y" * 200)
        except StorageError:
            pass
        else:
            raise AssertionError("the disk took it")
        self.disk.heal()

    @rule()
    def roll(self) -> None:
        self.log.roll()

    @rule()
    def sync(self) -> None:
        assert self.log.sync() == self.end
        self.synced = self.end

    @rule(share=st.floats(0, 1))
    def advance(self, share: float) -> None:
        # the watermark lies between batches
        target = int(self.synced * share)
        target = self.batch_of.get(target, target)
        self.log.advance_high_watermark(target)
        self.watermark = max(self.watermark, target)

    @rule()
    def lead(self) -> None:
        self.epoch += 1
        self.log.become_leader(self.epoch)

    @precondition(lambda self: self.end > self.start)
    @rule(share=st.floats(0, 1))
    def truncate(self, share: float) -> None:
        cut = self.start + 1 + int((self.end - self.start - 1) * share)
        self.log.truncate(cut)
        # the whole batch goes; of one that reaches below the log start nothing can stay
        self.end = max(self.batch_of.get(cut, cut), self.start)
        self._forget()
        self.epoch += 1
        self.log.become_leader(self.epoch)

    @rule(share=st.floats(0, 1))
    def delete_records(self, share: float) -> None:
        offset = int(self.watermark * share)
        self.log.delete_before(offset)
        self.start = max(self.start, offset)

    @rule(ahead=st.integers(0, 10**9))
    def retain(self, ahead: int) -> None:
        self.log.apply_retention(self.time + ahead)
        assert self.log.start_offset <= self.watermark or self.log.start_offset == self.start
        self.start = max(self.start, self.log.start_offset)

    def _forget(self) -> None:
        self.values = {offset: value for offset, value in self.values.items() if offset < self.end}
        self.batch_of = {offset: base for offset, base in self.batch_of.items() if offset < self.end}
        self.sequences = [entry for entry in self.sequences if entry[1] < self.end]
        self.synced = min(self.synced, self.end)
        self.watermark = min(self.watermark, self.end)

    def _reopen(self) -> None:
        self.log = self._open()
        self.view = LogView(DIRECTORY, descriptors=Descriptors(self.disk, limit=4))
        self.epoch += 1
        self.log.become_leader(self.epoch)

    @rule()
    def restart(self) -> None:
        self.log.close()
        self.synced = self.end
        self.disk.crash_process()
        self._reopen()
        assert self.log.was_clean and self.log.high_watermark == self.watermark

    @rule()
    def crash(self) -> None:
        self.disk.crash_process()
        self._reopen()
        assert (self.log.end_offset, self.log.high_watermark) == (self.end, self.watermark)

    @rule(how=st.sampled_from(HOST_CRASHES))
    def lose_power(self, how: tuple[str, str]) -> None:
        self.disk.crash_host(*how)
        self._reopen()
        assert self.synced <= self.log.end_offset <= self.end
        self.end = self.log.end_offset
        self.watermark = min(self.log.high_watermark, self.end)
        # what retention removed may be back, what DeleteRecords removed may not
        self.start = min(self.start, self.log.start_offset)
        self._forget()

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        if not hasattr(self, "log"):
            return
        log = self.log
        expected = {offset: value for offset, (value, _epoch) in self.values.items() if offset >= log.start_offset}
        assert records_of(log) == expected
        assert log.end_offset == self.end
        assert log.size == sum(segment.size for segment in log.segments.values())
        for header, _data in batches_of(log):
            offset = max(header.base_offset, log.start_offset)
            assert header.leader_epoch == self.values[offset][1] == log.epochs.epoch_at(offset)
        state = log.producers.get(7)
        kept = [entry for entry in self.sequences if entry[1] >= log.start_offset]
        if kept:
            assert state is not None and state.batches[-1].last_sequence == kept[-1][0]

    @invariant()
    def shows_a_reader_what_lies_below_the_watermark(self) -> None:
        if not hasattr(self, "log"):
            return
        segment, position = self.log.watermark_position()
        offset = self.log.start_offset
        seen: dict[int, bytes | None] = {}
        while True:
            found = self.view.slice(offset, 400, end_segment=segment, end_position=position)
            if found is None:
                break
            data = self.disk.pread(found.fd, found.size, found.position)
            found.release()
            records = [record for record in read_records(data, max_bytes=1 << 20) if record.offset >= offset]
            seen |= {record.offset: record.value for record in records}
            offset = records[-1].offset + 1
        visible = range(self.log.start_offset, self.watermark)
        assert seen == {offset: value for offset, (value, _epoch) in self.values.items() if offset in visible}


LogMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLogAgainstAModel = LogMachine.TestCase
