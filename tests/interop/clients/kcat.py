"""kcat 1.7.1 of Debian: librdkafka 2.0.2, which tests a broker's features by exact API versions."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from itertools import groupby

from tests.interop.clients import At, Client, ProduceFailed, Reader, Record

KEY_DELIMITER = "\x1f"


class KcatReader:
    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.buffer = b""

    def wait_at_end(self) -> None:
        """kcat says on stderr when it has reached the end: from then on it follows."""
        assert self.process.stderr is not None
        said = b""
        deadline = time.monotonic() + 20
        while b"Reached end" not in said:
            ready, _, _ = select.select([self.process.stderr], [], [], deadline - time.monotonic())
            chunk = os.read(self.process.stderr.fileno(), 65536) if ready else b""
            assert chunk, f"kcat did not reach the end: {said.decode()}"
            said += chunk

    def take(self, count: int, timeout_s: float = 20.0) -> list[Record]:
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while self.buffer.count(b"\n") < count:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self.process.stdout.fileno(), 1 << 20) if ready else b""
            if not chunk:
                raise AssertionError(f"kcat: {self.buffer.count(10)} of {count} records in {timeout_s} s")
            self.buffer += chunk
        *lines, self.buffer = self.buffer.split(b"\n", count)
        return [self.record(json.loads(line)) for line in lines]

    @staticmethod
    def record(shown: dict[str, object]) -> Record:
        def data(value: object) -> bytes | None:
            return None if value is None else str(value).encode()

        names = shown.get("headers", [])
        assert isinstance(names, list)
        return Record(
            key=data(shown["key"]),
            value=data(shown["payload"]),
            headers=tuple((names[i], names[i + 1].encode()) for i in range(0, len(names), 2)),
            timestamp=int(str(shown["ts"])),
            offset=int(str(shown["offset"])),
        )

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


class Kcat(Client):
    name = "kcat"
    makes_topics = False
    sets_timestamps = False

    def command(self, mode: str, topic: str, partition: int, *options: str) -> list[str]:
        return ["kcat", mode, "-b", self.bootstrap, "-t", topic, "-p", str(partition), *options]

    def partitions(self, topic: str) -> int:
        shown = subprocess.run(["kcat", "-L", "-J", "-b", self.bootstrap], capture_output=True, check=True, timeout=20)
        topics = {each["topic"]: len(each["partitions"]) for each in json.loads(shown.stdout)["topics"]}
        return topics.get(topic, 0)

    def produce(
        self,
        topic: str,
        partition: int,
        records: Sequence[Record],
        *,
        codec: str = "none",
        max_bytes: int | None = None,
    ) -> None:
        options = ["-z", codec, "-X", f"message.max.bytes={max_bytes or 1000000}"]
        # Headers are options of the command, so a run of records with the same ones is one command.
        for headers, run in groupby(records, lambda each: each.headers):
            named = [option for name, value in headers for option in ("-H", f"{name}={value.decode()}")]
            lines = [f"{(each.key or b'').decode()}{KEY_DELIMITER}{(each.value or b'').decode()}" for each in run]
            self.run(self.command("-P", topic, partition, "-Z", "-K", KEY_DELIMITER, *options, *named), lines)

    def produce_in_flight(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        small = [option for pair in ("enable.idempotence=true", "batch.num.messages=4") for option in ("-X", pair)]
        self.run(self.command("-P", topic, partition, *small), [value.decode() for value in values])

    @staticmethod
    def run(command: list[str], lines: list[str]) -> None:
        text = "".join(f"{line}\n" for line in lines).encode()
        done = subprocess.run(command, input=text, capture_output=True, timeout=50)
        if done.returncode or b"ERROR" in done.stderr or b"Delivery failed" in done.stderr:
            raise ProduceFailed(done.stderr.decode())

    def read(self, topic: str, partition: int, at: At) -> Reader:
        names = {"start": "beginning", "end": "end"}
        where = names.get(at, f"s{at}") if isinstance(at, str) else str(at)
        options = ["-J", "-u", "-o", where]
        if at != "end":
            options.append("-q")
        reader = KcatReader(self.command("-C", topic, partition, *options))
        if at == "end":
            reader.wait_at_end()
        return reader
