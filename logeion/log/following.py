"""A follower's append: batches as the leader sent them (kafka.md 6.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.wire.batch import iter_headers, verify_crc
from logeion.wire.errors import CorruptMessageError, StorageError

from . import cutting, retention
from .files import Data
from .running import MAX_RELATIVE, Run, must_roll

if TYPE_CHECKING:
    from .log import Log


def append_fetched(log: Log, view: Data, now_ms: int) -> int:
    """See ``Log.append_fetched``."""
    log.check_usable()
    log.now_ms = now_ms
    whole = memoryview(view)
    run = Run(log.active.size, log.end_offset)
    epochs_changed = False
    latest = log.epochs.latest
    headers = list(iter_headers(whole))
    start = log.start_offset
    if headers and not log.size and headers[0][1].base_offset < start <= headers[0][1].last_offset:
        # An empty log that begins in the middle of a batch: the batch comes whole, its head stays deleted.
        cutting.reset(log, headers[0][1].base_offset)
        run = Run(0, log.end_offset)
    expected = log.end_offset
    for at, header in headers:
        verify_crc(whole, header, at)
        if header.base_offset < expected or header.leader_epoch < latest:
            raise CorruptMessageError(
                f"fetched offset {header.base_offset} epoch {header.leader_epoch} "
                f"after offset {expected - 1} epoch {latest}"
            )
        expected, latest = header.next_offset, header.leader_epoch
    try:
        for at, header in headers:
            if must_roll(log, run, header, now_ms):
                log.write_run(run, now_ms)
                # A new segment begins where the log ends, holes or not: after a host crash that tells it from a loss.
                log.roll(header.base_offset if header.last_offset - log.end_offset > MAX_RELATIVE else None)
                run = Run(0, log.end_offset)
            if header.producer_id >= 0 and not header.is_control:
                run.undo.append((header.producer_id, log.producers.note(header, header.base_offset, now_ms)))
            epochs_changed |= log.epochs.assign(header.leader_epoch, header.base_offset)
            log.add_to_run(run, [whole[at : at + header.size]], header.base_offset, header)
        if epochs_changed:
            log.write_epochs()
        log.write_run(run, now_ms)
    except StorageError:
        log.undo_run(run)
        log.epochs.truncate_end(log.end_offset)
        raise
    log.epoch = max(log.epoch, latest)
    if start > log.start_offset:
        log.high_watermark = max(log.high_watermark, start)
        retention.delete_before(log, start)
    return log.end_offset
