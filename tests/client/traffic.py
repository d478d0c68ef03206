"""Load for tests with faults: a writer that never stops, a reader in a group, and the judgement of both."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import logeion

PARTITIONS = 2
WITHIN_S = 40.0
GROUP = {"heartbeat_interval_ms": 100, "session_timeout_ms": 6000, "auto_commit_interval_ms": 50}
READERS: dict[str, dict[str, Any]] = {
    "classic": {**GROUP, "partition_assignment_strategy": ["cooperative-sticky"]},
    "eager": GROUP,  # what a program gets that chooses nothing
    "consumer": {"group_protocol": "consumer", "auto_commit_interval_ms": 50},
}


class Traffic:
    """One writer that never stops, and one reader in a group; ``check`` is the judgement."""

    def __init__(self, bootstrap: str, topic: str, reader: str = "classic", **settings: Any) -> None:
        self.topic, self.group = topic, f"{topic}-readers"
        self.client = logeion.connect(bootstrap, request_timeout_ms=10_000)
        self.producer = self.client.producer(**{"linger_ms": 0, "batch_size": 2000, **settings})
        self.consumer = self.client.consume(topic, group=self.group, auto_offset_reset="earliest", **READERS[reader])
        self.sent: list[Any] = []
        self.seen: list[logeion.Record[bytes, bytes]] = []
        self._stop = threading.Event()
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._write), threading.Thread(target=self._read)]
        for thread in self._threads:
            thread.start()

    def _write(self) -> None:
        for number in itertools.count():
            if self._stop.is_set():
                return
            self.sent.append(self.producer.send(self.topic, b"%d" % number, partition=number % PARTITIONS))
            time.sleep(0.0005)

    def _read(self) -> None:
        while not self._done.is_set():
            record = self.consumer.poll(0.05)
            if record is not None:
                self.seen.append(record)

    def more(self, seconds: float = 0.1) -> None:
        """Returns when records of now are acknowledged and read."""
        time.sleep(seconds)
        while not (here := len(self.sent)):
            time.sleep(0.01)
        self.sent[here - 1].result(WITHIN_S)
        wanted = b"%d" % (here - 1)
        deadline = time.monotonic() + WITHIN_S
        at = 0
        while True:
            end = len(self.seen)
            if any(record.value == wanted for record in self.seen[at:end]):
                return
            at = end
            assert time.monotonic() < deadline, f"{here} records were acknowledged, {len(self.seen)} read"
            time.sleep(0.01)

    def check(self, records: Callable[[str], list[Any]]) -> None:
        """Ends it: every record is in the log once and in order, was read in order, and is committed."""
        self._stop.set()
        self._threads[0].join()
        self.producer.flush(WITHIN_S)
        for at, future in enumerate(self.sent):
            told = future.result(0)
            assert told.offset in (at // PARTITIONS, -1)  # -1: acknowledged as a batch that is there already
        self.more()
        count = len(self.sent)
        found = records(self.topic)
        for partition in range(PARTITIONS):
            wanted = [b"%d" % number for number in range(partition, count, PARTITIONS)]
            assert [record.value for record in found if record.partition == partition] == wanted
            offsets = [record.offset for record in self.seen if record.partition == partition]
            # Once and in order, but where the reader had to begin again after what was committed.
            assert all(after <= before + 1 for before, after in itertools.pairwise(offsets)), "the reader has a gap"
            assert offsets[0] == 0 and max(offsets) == len(wanted) - 1
        deadline = time.monotonic() + WITHIN_S
        while sum(self.client.admin.group_offsets(self.group).values()) < count - 1:
            assert time.monotonic() < deadline, self.client.admin.group_offsets(self.group)
            time.sleep(0.02)

    def close(self) -> None:
        self._stop.set()
        self._done.set()
        for thread in self._threads:
            thread.join()
        self.consumer.close()
        self.producer.close(5)
        self.client.close()


@contextlib.contextmanager
def traffic(bootstrap: str, topic: str, reader: str = "classic", **settings: Any) -> Iterator[Traffic]:
    """Both at work, the first records written and read."""
    running = Traffic(bootstrap, topic, reader, **settings)
    try:
        running.more(0.0)
        yield running
    finally:
        running.close()
