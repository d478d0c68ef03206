"""``logeion demo``: real input, a real cluster, a real kill, and an account of every record.

The lines of this Python's own standard library are published to a topic of twelve partitions on three nodes, each with
three replicas, keyed by module, many modules at a time. Half way a leader is killed: the process of one partition, or
a whole node. Then everything is read back and compared.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .broker_process import running_up
from .common import CliError, as_cli_error

if TYPE_CHECKING:
    from types import FrameType

    from logeion.client.producer import Delivery, Producer

TOPIC = "standard-library"
NODES = 3
PARTITIONS = 12
MODULES_AT_ONCE = 64
LINES_AT_ONCE = 256
KILL_WITHIN_S = 10.0


@click.command()
@click.option("--lines", type=click.IntRange(min=1000), help="Stop after about so many lines.  [default: all]")
@click.option("--flush", type=click.Choice(["ack", "interval", "os"]), default="ack", show_default=True)
@click.option(
    "--kill", type=click.Choice(["leader", "node"]), default="leader", show_default=True, help="What to kill."
)
def demo(lines: int | None, flush: str, kill: str) -> None:
    """Publish the standard library to three nodes, kill a leader half way, read it back, lose nothing."""
    signal.signal(signal.SIGTERM, _interrupt)
    from logeion.errors import LogeionError

    library = read_library(lines)
    with tempfile.TemporaryDirectory(prefix="logeion-demo-") as folder:
        with running_up(Path(folder), "-n", str(NODES)) as cluster:
            nodes = {node["node"]: node["pid"] for node in cluster.details["nodes"]}
            bootstrap = ",".join(node["listeners"][0] for node in cluster.details["nodes"])
            click.echo(f"{NODES} nodes ready at {bootstrap}, data in {folder}")
            try:
                report = asyncio.run(Demo(library, bootstrap, flush, nodes if kill == "node" else {}).run())
            except LogeionError as error:
                raise as_cli_error(error) from error
    for line in report.lines():
        click.echo(line)
    if report.lost or report.doubled or report.misplaced:
        raise CliError("records were lost, doubled or out of order", "please report this with the output above")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def read_library(limit: int | None) -> dict[bytes, list[bytes]]:
    """Module path -> its lines, without their newlines; whole modules until ``limit`` lines are reached."""
    root = Path(sysconfig.get_path("stdlib"))
    library: dict[bytes, list[bytes]] = {}
    count = 0
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root)
        if "site-packages" in module.parts:
            continue
        lines = path.read_bytes().split(b"\n")
        library[str(module).encode()] = lines
        count += len(lines)
        if limit is not None and count >= limit:
            break
    return library


class Report:
    """What the run came to; times in seconds."""

    def __init__(self, records: int, size: int) -> None:
        self.records = records
        self.size = size
        self.published_s: float = 0.0
        self.read_s: float = 0.0
        self.pause_s: float = 0.0
        self.killed = ""
        self.lost = self.doubled = self.misplaced = 0

    def lines(self) -> Iterator[str]:
        """For people."""
        yield (
            f"published {self.records:,} records in {self.published_s:.1f} s: "
            f"{self.records / self.published_s:,.0f} records/s, {self.size / self.published_s / 1e6:.1f} MB/s"
        )
        yield (
            f"read back in {self.read_s:.1f} s: "
            f"{self.records / self.read_s:,.0f} records/s, {self.size / self.read_s / 1e6:.1f} MB/s"
        )
        yield f"killed {self.killed} half way: its acknowledgements paused for {self.pause_s * 1000:.0f} ms at most"
        yield f"lost {self.lost}, doubled {self.doubled}, out of order or changed {self.misplaced}"


class Demo:
    """One run against the cluster at ``bootstrap``. A node is killed if their commands are given, else a partition."""

    def __init__(self, library: dict[bytes, list[bytes]], bootstrap: str, flush: str, nodes: dict[int, int]) -> None:
        self.library = library
        self.bootstrap = bootstrap
        self.flush = flush
        self.nodes = nodes
        self.total: int = sum(map(len, library.values()))
        size = sum(len(key) * len(lines) + sum(map(len, lines)) for key, lines in library.items())
        self.report: Report = Report(self.total, size)
        self.errors: list[Exception] = []
        self.acks: dict[int, list[float]] = {partition: [] for partition in range(PARTITIONS)}
        self.victims: list[int] = []
        self.killed_at: float = 0.0

    async def run(self) -> Report:
        """Raises LogeionError, CliError."""
        from logeion.client import connect

        async with connect(self.bootstrap, client_id="logeion-demo") as client:
            await client.admin.create_topic(
                TOPIC, partitions=PARTITIONS, replication_factor=NODES, configs={"logeion.flush": self.flush}
            )
            async with client.producer(batch_size=128 * 1024, buffer_memory=16 * 1024 * 1024) as producer:
                await self._publish(producer)
            async with client.consumer() as consumer:
                from logeion.client import Start

                await consumer.assign(TOPIC, Start("start"), to_end=True)
                await self._read(consumer)
        return self.report

    async def _publish(self, producer: Producer) -> None:
        from logeion.client.errors import BufferFullError

        await producer.prepare(TOPIC)
        loop = asyncio.get_running_loop()
        started = loop.time()
        killing: asyncio.Task[None] | None = None
        sent = 0
        with _progress("publish", self.total) as advance:
            for handful in _interleaved(self.library):
                for key, line in handful:
                    try:
                        delivery = producer.send_nowait(TOPIC, line, key)
                    except BufferFullError:
                        await producer.room()
                        delivery = producer.send_nowait(TOPIC, line, key)
                    sent += 1
                    if sent & 63 == 0:
                        delivery.add_done_callback(self._acked)
                advance(len(handful))
                if killing is None and sent >= self.total // 2:
                    killing = asyncio.create_task(self._kill())
                await asyncio.sleep(0)
            if killing is not None:
                await killing
            await producer.flush()
        self.report.published_s = loop.time() - started
        if self.errors:
            raise self.errors[0]
        self.report.pause_s = self._pause()

    def _acked(self, delivery: Delivery) -> None:
        error = delivery.exception()
        if error is not None:
            self.errors.append(error)
        else:
            self.acks[delivery.result().partition].append(asyncio.get_running_loop().time())

    def _pause(self) -> float:
        """The longest time without an acknowledgement of a partition whose leader was killed, from the kill on."""
        pause = 0.0
        for partition in self.victims:
            times = [self.killed_at, *(when for when in self.acks[partition] if when > self.killed_at)]
            pause = max(pause, *(after - before for before, after in itertools.pairwise(times)), 0.0)
        return pause

    async def _kill(self) -> None:
        from .actors import fetch_actors

        deadline = time.monotonic() + KILL_WITHIN_S
        while time.monotonic() < deadline:
            actors = await asyncio.to_thread(fetch_actors, self.bootstrap, KILL_WITHIN_S)
            partitions = [actor for actor in actors if actor["kind"] == "partition" and actor["topic"] == TOPIC]
            # On a busy machine a leader may have moved since it was listed; then there is another one.
            if partitions and self._kill_first(partitions):
                return
            await asyncio.sleep(0.05)
        raise CliError("no partition process of the topic is running", "see `logeion actors`")

    def _kill_first(self, partitions: list[dict[str, Any]]) -> bool:
        actor = partitions[0]
        node = actor["node"]
        pid = self.nodes.get(node, actor["pid"])
        killed_at = asyncio.get_running_loop().time()
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        led = [one["partition"] for one in partitions if one["node"] == node]
        self.victims = led if self.nodes else [actor["partition"]]
        self.killed_at = killed_at
        what = f"node {node}, leader of {len(led)} partitions" if self.nodes else f"{actor['id']} on node {node}"
        self.report.killed = f"{what} (pid {pid}, kill -9)"
        return True

    async def _read(self, consumer: Any) -> None:
        report = self.report
        position = dict.fromkeys(self.library, 0)
        read = 0
        started = time.monotonic()
        with _progress("read back", self.total) as advance:
            while some := await consumer.getmany(timeout_s=30.0):
                for records in some.values():
                    read += len(records)
                    advance(len(records))
                    for record in records:
                        key = record.key
                        at = position[key]
                        lines = self.library[key]
                        if at < len(lines) and lines[at] == record.value:
                            position[key] = at + 1
                        else:
                            report.misplaced += 1
        report.read_s = time.monotonic() - started
        matched = sum(position.values())
        report.lost = self.total - matched
        report.doubled = max(0, read - self.total)


def _interleaved(library: dict[bytes, list[bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """Handfuls of (module, line), from many modules in turn, so that every partition is busy all the time."""
    waiting = iter(library.items())
    open_modules: list[tuple[bytes, list[bytes], int]] = []
    while True:
        while len(open_modules) < MODULES_AT_ONCE:
            entry = next(waiting, None)
            if entry is None:
                break
            open_modules.append((*entry, 0))
        if not open_modules:
            return
        again = []
        for key, lines, at in open_modules:
            yield [(key, line) for line in lines[at : at + LINES_AT_ONCE]]
            if at + LINES_AT_ONCE < len(lines):
                again.append((key, lines, at + LINES_AT_ONCE))
        open_modules = again


class _progress:
    """A progress bar on a terminal, nothing elsewhere; entered, it is the function that advances it."""

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._bar: Any = None

    def __enter__(self) -> Any:
        if not sys.stdout.isatty():
            return lambda count: None
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            refresh_per_second=5,
        )
        self._bar.start()
        task = self._bar.add_task(self._label, total=self._total)
        return lambda count: self._bar.advance(task, count)

    def __exit__(self, *raised: object) -> None:
        if self._bar is not None:
            self._bar.stop()
