"""A mailbox whose write fails, with a batch in it twice: neither copy may be told that it is in the log."""

from __future__ import annotations

import errno

from logeion.wire.errors import StorageError
from tests.log.disk import MemoryDisk
from tests.log.world import append, append_all, batch, open_log, records_of


def test_a_batch_sent_twice_in_a_mailbox_whose_write_fails_is_refused_twice() -> None:
    disk = MemoryDisk()
    log = open_log(disk, segment_bytes=10_000)
    log.become_leader(1)
    append(log, b"first", producer=(5, 0, 0))
    disk.fail("write", ".log", errno.EIO)
    results = append_all(log, batch(b"a", producer=(5, 0, 1)), batch(b"a", producer=(5, 0, 1)))
    assert [type(result) for result in results] == [StorageError, StorageError]
    assert records_of(log) == {0: b"first"}


def test_a_batch_that_was_written_before_the_mailbox_is_a_duplicate_whatever_becomes_of_the_mailbox() -> None:
    disk = MemoryDisk()
    log = open_log(disk, segment_bytes=10_000)
    log.become_leader(1)
    append(log, b"first", producer=(5, 0, 0))
    disk.fail("write", ".log", errno.EIO)
    repeated, refused = append_all(log, batch(b"first", producer=(5, 0, 0)), batch(b"a", producer=(5, 0, 1)))
    assert not isinstance(repeated, Exception) and repeated.duplicate and repeated.first_offset == 0
    assert isinstance(refused, StorageError)
