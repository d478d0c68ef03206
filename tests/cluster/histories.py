"""Histories of unmodified clients: loads in processes of their own, the last read, the raw logs, and the judgement."""

from __future__ import annotations

import contextlib
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
from tests.cluster.epochs import Batch, Tail, leaders
from tests.cluster.loads.common import History, begun, read_value
from tests.tools import ROOT

# Base offset, length, leader epoch, magic, CRC, attributes, last offset delta: the head of a batch.
BATCH = struct.Struct(">qiibIhi")
# Records that must be refused, for each of the loads.
REFUSED_PER_SECOND = 2.0
# How long one member of each group stays: partitions change hands all the time.
CHURN_S = 4.0
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
        self.module, self.options = module, options
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
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self._ear.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def whole_lines(self) -> set[int]:
        """Leave only whole lines in the history, after a kill; the values whose sends it has."""
        kept, values = [], set()
        for line in self.history.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                kept.append(line + b"\n")
                if entry["f"] == "send":
                    values.add(entry["value"][0][2][1])
        self.history.write_bytes(b"".join(kept))
        return values


class Run:
    """A cluster's topic under load, and the history of it: ``start``, faults, ``finish``, then the verdict."""

    def __init__(self, cluster: Cluster, folder: Path, topic: str, partitions: int, *, config: Mapping[str, Any] = {}):
        self.cluster = cluster
        self.folder = folder
        self.topic = topic
        self.partitions = partitions
        self.loads: list[Load] = []
        self.paths: list[Path] = []
        # Clients that were killed on purpose.
        self.crashed: list[Load] = []
        # Replicas whose bytes were compared, and their batches; records that a replica's log had for a time only.
        self.replicas = self.batches = self.gone = 0
        nodes = cluster.nodes
        self.tail = Tail((node, key, cluster.folder_of(node, key)) for node in nodes for key in self.keys)
        self._first = 1_000
        self._closed = False
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
        members: int = 2,
        followers: int = 1,
        ends: float = 4.0,
        acks: str = "all",
    ) -> None:
        """Both kinds of clients, each half of the load with a group of its own; returns when all of them work."""
        options = {"bootstrap": self.cluster.bootstrap, "topic": self.topic, "partitions": self.partitions}
        options |= {"per_second": per_second / 2, "members": members, "followers": followers, "acks": acks}
        options |= {"refused_per_second": REFUSED_PER_SECOND, "churn_s": CHURN_S}
        more = {"producers": 2, "request_ms": REQUEST_MS, "group": f"{self.topic}-confluent", "ends_per_second": ends}
        self.tail.start()
        self.loads.append(self._load("confluent", options | more))
        self.loads.append(self._load("aiokafka_", options | {"group": f"{self.topic}-aiokafka"}))
        for load in self.loads:
            load.until("running", 60.0)

    def _load(self, module: str, options: Mapping[str, Any]) -> Load:
        # A client that leaves a record's fate open is another process from then on: numbers enough for each.
        self._first += 10_000
        return Load(module, self.folder, first=self._first, **options)

    def crash(self, number: int) -> str:
        """kill -9 of all clients of a load, which others replace; returns when those work. Which it was."""
        load = self.loads[number]
        load.end()
        self._left_open(load)
        self.crashed.append(load)
        self.loads[number] = self._load(load.module, load.options)
        self.loads[number].until("running", 60.0)
        return load.name

    def _left_open(self, load: Load) -> None:
        """Note the sends of a killed load that it did not live to note."""
        noted = load.whole_lines()
        self.paths.append(load.history)
        for sending in begun(load.history):
            if sending.value not in noted:
                value = [["send", f"{self.topic}-{sending.partition}", [None, sending.value]]]
                # A value says which process made it.
                proc = sending.value >> 40
                self.history.write("send", "info", proc, sending.t, value, why="its client was killed")

    def acked(self) -> int:
        """How many sends were acknowledged, as the loads said last (within a second)."""
        return self.counted("send ok")

    def counted(self, what: str) -> int:
        """How many of such operations all loads have told of."""
        return sum(load.counts.get(what, 0) for load in (*self.loads, *self.crashed))

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
        for node in self.cluster.nodes:
            ends = self.read_all(node)
        for load in self.loads:
            load.tell("drain " + json.dumps(ends))
        for load in self.loads:
            load.until("ended")
            load.end()
            self.paths.append(load.history)
        self.read_committed()
        self.read_replicas(ends)
        self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self.history.close()
            self.paths.append(self.folder / "run.jsonl")

    def end(self) -> None:
        """Whatever happened, no process and no thread of it is left."""
        for load in self.loads:
            load.end()
        self.tail.end()

    def salvage(self) -> None:
        """After ``end`` in the middle of a run: what there is of the history can be judged, though not to its end."""
        for load in self.loads:
            if load.history not in self.paths:
                self._left_open(load)
        self._close()

    def read_all(self, node: int) -> dict[int, int]:
        """A fresh consumer that was told of one node only reads every partition from its beginning to its end, told
        the same twice; the ends."""
        consumer = Consumer({"bootstrap.servers": self.cluster.listener(node), "group.id": "nobody"})
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
        """Every replica's raw log up to the end, which is the watermark now that nobody writes; and what stood there
        before, and who led when."""
        self.tail.end()
        assert not self.tail.failure, self.tail.failure
        view = self.cluster.view(self.cluster.nodes[0])
        led = leaders(self.cluster.folder_of(node) for node in self.cluster.nodes)
        for number, end in ends.items():
            key = f"{self.topic}-{number}"
            final: set[Batch] = set()
            for node in view.partitions[key].replicas:
                began = time.monotonic()
                found = []
                for batch, digest in batches(self.cluster.folder_of(node, key)):
                    found.append([batch.base, batch.last, digest, batch.epoch])
                    final.add(batch)
                self.replicas += 1
                self.batches += len(found)
                raw = {"key": key, "replica": node, "start": found[0][0] if found else 0, "hw": end, "batches": found}
                self.history.write("replica", "ok", self.proc, began, raw)
            of = sorted(led.get(key, ()))
            gone = self.tail.strays(key, final, dict(of))
            self.gone += len(gone)
            told = {"key": key, "leaders": of, "gone": gone}
            self.history.write("epochs", "ok", self.proc, time.monotonic(), told)

    def judge(self) -> Judgement:
        """The verdict."""
        return judge_files(self.paths)


def batches(folder: Path) -> Iterator[tuple[Batch, str]]:
    """Every whole batch of a log on disk, in order, with the digest of all its bytes."""
    for path in sorted(folder.glob("*.log")):
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            at = 0
            while at + BATCH.size <= size:
                file.seek(at)
                base, length, epoch, _, crc, _, delta = BATCH.unpack(file.read(BATCH.size))
                if at + 12 + length > size:
                    break
                file.seek(at)
                digest = hashlib.sha1(file.read(12 + length)).hexdigest()
                yield Batch(base, base + delta, epoch, crc), digest
                at += 12 + length
