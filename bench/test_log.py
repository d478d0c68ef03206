"""One partition's log: append, a reader's slice, and a start, on an empty log and beside many segments.

`pytest bench/test_log.py --benchmark-columns=median,ops`. LOGEION_BENCH_DIR names the volume (a disk, not a tmpfs).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from logeion.log.config import LogConfig
from logeion.log.log import Log
from logeion.log.view import LogView
from logeion.wire.batch import BatchHeader, check_produced
from logeion.wire.records import Record, build_batch

NOW = 1_700_000_000_000

# Real segments, smaller than in production so that hundreds of them fit a benchmark: what matters is their number.
SEGMENT_BYTES = 4_000_000
SEGMENTS = 400


def _batch(size: int) -> tuple[memoryview, BatchHeader]:
    records = [Record(number, NOW, b"key", os.urandom(1_000)) for number in range(max(size // 1_000, 1))]
    data = build_batch(records)
    return memoryview(data), check_produced(data, 1 << 24)


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-log-", dir=os.environ.get("LOGEION_BENCH_DIR")) as path:
        yield Path(path) / "orders-0"


def _open(directory: Path, flush: str = "os", segment_bytes: int = 1 << 30) -> Log:
    log = Log.open(directory, LogConfig(flush=flush, segment_bytes=segment_bytes), now_ms=NOW)
    log.become_leader(log.epoch + 1)
    return log


def _fill(directory: Path, segments: int, batch_bytes: int = 1_000_000) -> Log:
    """A log of so many segments, all written for real."""
    log = _open(directory, segment_bytes=SEGMENT_BYTES)
    view, header = _batch(batch_bytes)
    while not log.size or len(log.segments) < segments:
        log.append_many([(view, header)] * 4, epoch=log.epoch, now_ms=NOW)
        if log.unsynced:
            log.sync()
    log.advance_high_watermark(log.end_offset)
    return log


@pytest.mark.parametrize("flush", ["os", "ack"])
@pytest.mark.parametrize("size", [1_000, 64_000, 1_000_000])
def test_append(benchmark, directory: Path, size: int, flush: str) -> None:  # type: ignore[no-untyped-def]
    """One batch, one write, watermark advanced; with `ack` synced too."""
    log = _open(directory, flush)
    view, header = _batch(size)

    def run() -> None:
        log.append_many([(view, header)], epoch=log.epoch, now_ms=NOW)
        if flush == "ack":
            log.sync()
        log.advance_high_watermark(log.end_offset)
        log.watermark_position()

    benchmark.pedantic(run, rounds=300, warmup_rounds=20)
    benchmark.extra_info["MB/s"] = round(header.size / benchmark.stats.stats.median / 1e6)
    log.close(clean=False)


@pytest.mark.parametrize("mailbox", [1, 20])
def test_append_of_small_batches(benchmark, directory: Path, mailbox: int) -> None:  # type: ignore[no-untyped-def]
    """1 KB batches, as many as a mailbox held, in one write."""
    log = _open(directory)
    batches = [_batch(1_000)] * mailbox
    benchmark.pedantic(
        lambda: log.append_many(batches, epoch=log.epoch, now_ms=NOW), rounds=500, iterations=10, warmup_rounds=20
    )
    log.close(clean=False)


@pytest.mark.parametrize("segments", [1, SEGMENTS])
def test_append_beside_many_segments(benchmark, directory: Path, segments: int) -> None:  # type: ignore[no-untyped-def]
    """What 400 segments cost an append: nothing."""
    log = _fill(directory, segments)
    view, header = _batch(10_000)
    benchmark.pedantic(
        lambda: log.append_many([(view, header)], epoch=log.epoch, now_ms=NOW),
        rounds=300,
        iterations=5,
        warmup_rounds=20,
    )
    log.close(clean=False)


@pytest.mark.parametrize("where", ["tail", "anywhere"])
@pytest.mark.parametrize("segments", [1, SEGMENTS])
def test_view_slice(benchmark, directory: Path, segments: int, where: str) -> None:  # type: ignore[no-untyped-def]
    """A reader finds a megabyte: index, header, boundary; the bytes themselves are not read."""
    log = _fill(directory, segments, batch_bytes=16_000)
    view = LogView(directory)
    segment, position = log.watermark_position()
    step = 7_919 if where == "anywhere" else 0
    state = [0]

    def run() -> None:
        state[0] = (state[0] + step) % log.end_offset
        offset = state[0] if step else max(log.end_offset - 200, 0)
        found = view.slice(offset, 1 << 20, end_segment=segment, end_position=position)
        assert found is not None
        found.release()

    benchmark(run)
    view.close()
    log.close(clean=False)


@pytest.mark.parametrize("segments", [1, SEGMENTS])
def test_start_after_a_process_crash(benchmark, directory: Path, segments: int) -> None:  # type: ignore[no-untyped-def]
    """Lock, recover, ready to append."""
    log = _fill(directory, segments)
    log.close(clean=False)

    def run() -> None:
        Log.open(directory, log.config, now_ms=NOW).close(clean=False)

    benchmark.pedantic(run, rounds=30, warmup_rounds=3)
