"""Clients in other languages: a small program of theirs answers the same requests as lines of JSON.

Requests: `{"do": "produce", …}`; answers: `{"ok": …}` or `{"error": text, "code": number or null}`. Bytes travel in
base64. One process serves a whole test session, so a JVM starts once.
"""

from __future__ import annotations

import itertools
import os
import select
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from tests.interop.clients import At, Client, ProduceFailed, Reader, Record
from tests.interop.peers import KAFKA_LIBS, NODE_MODULES, java
from tests.tools import ROOT

ANSWER_WITHIN_S = 50.0


class Answer(msgspec.Struct):
    ok: Any = None
    error: str | None = None
    code: int | None = None


class BridgeReader:
    def __init__(self, client: BridgedClient, reader: int) -> None:
        self.client = client
        self.reader = reader

    def take(self, count: int, timeout_s: float = 20.0) -> list[Record]:
        got = self.client.ask("take", reader=self.reader, count=count, timeout_ms=int(timeout_s * 1000))
        return msgspec.convert(got, list[Record])

    def close(self) -> None:
        self.client.ask("close", reader=self.reader)


class BridgedClient(Client):
    """The base of both: starts the program, sends it one request at a time."""

    def __init__(self, bootstrap: str, command: list[str], environment: dict[str, str]) -> None:
        super().__init__(bootstrap)
        self.readers = itertools.count()
        self.process = subprocess.Popen(
            [*command, bootstrap],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | environment,
        )
        self.buffer = b""

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def ask(self, what: str, **details: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode({"do": what, **details}) + b"\n")
        self.process.stdin.flush()
        answer = msgspec.json.decode(self.line(), type=Answer)
        if answer.error is not None:
            if what.startswith("produce"):
                raise ProduceFailed(answer.error, answer.code)
            raise AssertionError(f"{self.name}: {what}: {answer.error}")
        return answer.ok

    def line(self) -> bytes:
        assert self.process.stdout is not None
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self.process.stdout.fileno(), 1 << 20) if ready else b""
            if not chunk:
                raise AssertionError(f"{self.name} did not answer in {ANSWER_WITHIN_S} s (exit {self.process.poll()})")
            self.buffer += chunk
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line

    def create_topic(self, topic: str, partitions: int, configs: dict[str, str]) -> None:
        self.ask("create", topic=topic, partitions=partitions, configs=configs)

    def delete_topic(self, topic: str) -> None:
        self.ask("delete", topic=topic)

    def partitions(self, topic: str) -> int:
        return int(self.ask("partitions", topic=topic))

    def produce(
        self,
        topic: str,
        partition: int,
        records: Sequence[Record],
        *,
        codec: str = "none",
        max_bytes: int | None = None,
    ) -> None:
        self.ask("produce", topic=topic, partition=partition, records=records, codec=codec, max_bytes=max_bytes)

    def produce_in_flight(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        self.ask("produce_in_flight", topic=topic, partition=partition, values=values)

    def read(self, topic: str, partition: int, at: At) -> Reader:
        reader = next(self.readers)
        self.ask("read", topic=topic, partition=partition, at=str(at), reader=reader)
        return BridgeReader(self, reader)


class Kafkajs(BridgedClient):
    """kafkajs 2, with codecs of other packages: it brings gzip alone."""

    name = "kafkajs"
    orders_concurrent_sends = False

    def __init__(self, bootstrap: str) -> None:
        program = ROOT / "tests/interop/kafkajs/bridge.js"
        super().__init__(bootstrap, ["node", str(program)], {"NODE_PATH": str(NODE_MODULES)})


class Java(BridgedClient):
    """Apache Kafka's own client, the program compiled from source by the launcher."""

    name = "java"

    def __init__(self, bootstrap: str) -> None:
        program = ROOT / "tests/interop/java/Bridge.java"
        super().__init__(bootstrap, java(str(program)), {"KAFKA_LIBS": str(KAFKA_LIBS)})
