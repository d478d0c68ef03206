"""Histories of unmodified clients: loads in processes of their own, the last read, the raw logs, and the judgement."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.checker.judge import Judgement, judge_files
from tests.cluster.cluster import Cluster
from tests.cluster.loads.common import History, read_value
from tests.tools import ROOT

# Base offset, length, leader epoch, magic, CRC, attributes, last offset delta: the head of a batch.
BATCH = struct.Struct(">qiibIhi")
# What the numbers of processes of the test itself begin at; those of the loads are higher.
OWN_PROCESSES = 1
ANSWER_S = 120.0
# A request to a stopped gateway is answered when it goes on: who waits longer measures its own patience.
REQUEST_MS = 1_000


def create_topic(
    bootstrap: str, topic: str, partitions: int, factor: int, configs: Mapping[str, str] | None = None
) -> None:
    """Create a topic and wait until the broker that was asked has it."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 3})
    wanted = NewTopic(topic, partitions, factor, config=dict(configs or {}))
    admin.create_topics([wanted], operation_timeout=30)[topic].result(60)


class Load:
    """One process with clients in it; ``module`` is a module of tests.cluster.loads."""

    def __init__(self, module: str, folder: Path, *, first: int, **options: Any) -> None:
        self.name = f"{module}-{first}"
        self.history = folder / f"{self.name}.jsonl"
        self.errors = folder / f"{self.name}.err"
        self.counts: dict[str, int] = {}
        arguments = json.dumps({"history": str(self.history), "first": first, **options})
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"tests.cluster.loads.{module}", arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                text=True,
            )
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        self._ear = threading.Thread(target=self._listen, daemon=True)
        self._ear.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if said["event"] in ("counts", "stopped", "ended"):
                self.counts = {name: count for name, count in said.items() if name not in ("event", "t")}
            self._said.put(said)
        self._said.put({"event": "gone"})

    def until(self, event: str, seconds: float = ANSWER_S) -> dict[str, Any]:
        """Wait for it to say this."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                said = self._said.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{self.name} did not say {event!r} in {seconds} s: {self.counts}") from None
            if said["event"] == event:
                return said
            assert said["event"] != "gone", f"{self.name} ended: {self.errors.read_text()[-3000:]}"

    def tell(self, word: str) -> None:
        """One line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Whatever it does, it is over."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._ear.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Run:
    """A cluster's topic under load, and the history of it: ``start``, faults, ``finish``, then the verdict."""

    def __init__(self, cluster: Cluster, folder: Path, topic: str, partitions: int, *, config: Mapping[str, Any] = {}):
        self.cluster = cluster
        self.folder = folder
        self.topic = topic
        self.partitions = partitions
        self.loads: list[Load] = []
        self.paths: list[Path] = []
        # Replicas whose bytes were compared, and their batches.
        self.replicas = self.batches = 0
        self.history = History(folder / "run.jsonl", OWN_PROCESSES)
        self.proc = self.history.process()
        self.history.write("config", "ok", self.proc, time.monotonic(), dict(config))

    @property
    def keys(self) -> list[str]:
        """All partitions of the topic."""
        return [f"{self.topic}-{number}" for number in range(self.partitions)]

    def start(
        self,
        *,
        per_second: float = 600.0,
        members: int = 1,
        followers: int = 1,
        ends: float = 4.0,
        acks: str = "all",
    ) -> None:
        """Both kinds of clients, each half of the load with a group of its own; returns when all of them work."""
        options = {"bootstrap": self.cluster.bootstrap, "topic": self.topic, "partitions": self.partitions}
        options |= {"per_second": per_second / 2, "members": members, "followers": followers, "acks": acks}
        more = {"producers": 2, "request_ms": REQUEST_MS, "group": f"{self.topic}-confluent", "ends_per_second": ends}
        self.loads.append(Load("confluent", self.folder, first=1_000, **options, **more))
        self.loads.append(Load("aiokafka_", self.folder, first=2_000, **options, group=f"{self.topic}-aiokafka"))
        for load in self.loads:
            load.until("running", 60.0)

    def acked(self) -> int:
        """How many sends were acknowledged, as the loads said last (within a second)."""
        return sum(load.counts.get("send ok", 0) for load in self.loads)

    def fault(self, began: float, what: str, **more: Any) -> None:
        """A fault that began then and is over now."""
        self.history.write("fault", "ok", self.proc, began, {"what": what, **more})

    def finish(self) -> None:
        """No more sends, all is answered; then everybody reads to the end, and the raw logs are noted."""
        for load in self.loads:
            load.tell("stop")
        for load in self.loads:
            load.until("stopped")
        self.cluster.wait_healthy(60.0)
        ends = self.read_all()
        for load in self.loads:
            load.tell("drain " + json.dumps(ends))
        for load in self.loads:
            load.until("ended")
            load.end()
            self.paths.append(load.history)
        self.read_committed()
        self.read_replicas(ends)
        self.history.close()
        self.paths.append(self.folder / "run.jsonl")

    def end(self) -> None:
        """Whatever happened, no process of it is left."""
        for load in self.loads:
            load.end()

    def read_all(self) -> dict[int, int]:
        """A fresh consumer reads every partition from its beginning to its end, told the same twice; the ends."""
        consumer = Consumer({"bootstrap.servers": self.cluster.bootstrap, "group.id": "nobody"})
        proc = self.history.process()
        ends: dict[int, int] = {}
        for number in range(self.partitions):
            where = TopicPartition(self.topic, number, 0)
            key = f"{self.topic}-{number}"
            began = time.monotonic()
            end = -1
            while (told := self._end(consumer, proc, where, key)) != end:
                end = told
            consumer.assign([where])
            self.history.write("assign", "ok", proc, time.monotonic(), [key])
            at = 0
            deadline = time.monotonic() + ANSWER_S
            while at < end:
                assert time.monotonic() < deadline, f"{key}: read to {at} of {end}"
                asked = time.monotonic()
                got = [one for one in consumer.consume(1000, 1.0) if one.error() is None]
                if got:
                    records = [[one.offset(), read_value(one.value())] for one in got]
                    self.history.write("poll", "ok", proc, asked, [["poll", {key: records}]])
                    at = got[-1].offset() + 1
            self.history.write("final", "ok", proc, began, {key: [0, end]})
            ends[number] = end
        consumer.close()
        return ends

    def _end(self, consumer: Consumer, proc: int, where: TopicPartition, key: str) -> int:
        deadline = time.monotonic() + 30.0
        while True:
            began = time.monotonic()
            try:
                _, end = consumer.get_watermark_offsets(where, 10.0)
            except KafkaException:
                assert time.monotonic() < deadline, f"nobody tells the end of {key}"
                continue
            self.history.write("list_end", "ok", proc, began, {key: end})
            return int(end)

    def read_committed(self) -> None:
        """The positions that both groups are left with."""
        for group in (f"{self.topic}-confluent", f"{self.topic}-aiokafka"):
            consumer = Consumer({"bootstrap.servers": self.cluster.bootstrap, "group.id": group})
            began = time.monotonic()
            wanted = [TopicPartition(self.topic, number) for number in range(self.partitions)]
            told = {f"{self.topic}-{one.partition}": one.offset for one in consumer.committed(wanted, 30.0)}
            known = {key: at for key, at in told.items() if at >= 0}
            self.history.write("committed", "ok", self.proc, began, known, group=group)
            consumer.close()

    def read_replicas(self, ends: Mapping[int, int]) -> None:
        """Every replica's raw log up to the end, which is the watermark now that nobody writes."""
        view = self.cluster.view(self.cluster.nodes[0])
        for number, end in ends.items():
            key = f"{self.topic}-{number}"
            for node in view.partitions[key].replicas:
                began = time.monotonic()
                found = list(batches(self.cluster.folder_of(node, key)))
                self.replicas += 1
                self.batches += len(found)
                raw = {"key": key, "replica": node, "start": found[0][0] if found else 0, "hw": end, "batches": found}
                self.history.write("replica", "ok", self.proc, began, raw)

    def judge(self) -> Judgement:
        """The verdict."""
        return judge_files(self.paths)


def batches(folder: Path) -> Iterator[list[Any]]:
    """``[base, last, digest of all its bytes]`` of every whole batch of a log on disk, in order."""
    for path in sorted(folder.glob("*.log")):
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            at = 0
            while at + BATCH.size <= size:
                file.seek(at)
                base, length, _, _, _, _, delta = BATCH.unpack(file.read(BATCH.size))
                if at + 12 + length > size:
                    break
                file.seek(at)
                yield [base, base + delta, hashlib.sha1(file.read(12 + length)).hexdigest()]
                at += 12 + length
