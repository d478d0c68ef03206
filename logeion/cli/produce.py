"""``logeion produce``: lines or JSON records from files or stdin into a topic."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, NamedTuple

import click

from .common import FAILED, CliError, connection_options, on_terminal, output_option, print_json, run_client

if TYPE_CHECKING:
    from logeion.client.cluster import Cluster
    from logeion.client.producer import Delivery

LINES_AT_ONCE = 500
UNSETTLED_MAX = 10_000


class Item(NamedTuple):
    """What is to be published; ``partition`` and ``timestamp_ms`` None where the producer decides."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int | None = None
    timestamp_ms: int | None = None


@click.command()
@click.argument("topic")
@click.argument("files", nargs=-1, type=click.File("rb"), metavar="[FILE…]")
@click.option(
    "--input", "form", type=click.Choice(["lines", "json"]), default="lines", show_default=True,
    help='A record a line; json: {"value", "key", "headers", "partition", "timestamp"}.',
)  # fmt: skip
@click.option("-k", "--key", help="The key of every line.")
@click.option("-K", "--key-separator", metavar="TEXT", help="Lines are KEY TEXT VALUE.")
@click.option("-p", "--partition", type=click.IntRange(min=0), help="Where to.  [default: by key]")
@click.option("-z", "--compression", type=click.Choice(["none", "gzip", "snappy", "lz4", "zstd"]), default="none")
@click.option("--acks", type=click.Choice(["all", "1", "0"]), default="all", show_default=True)
@output_option
@connection_options
def produce(
    topic: str,
    files: tuple[IO[bytes], ...],
    form: str,
    key: str | None,
    key_separator: str | None,
    partition: int | None,
    compression: str,
    acks: str,
    output: str,
    bootstrap: str,
    timeout_s: float,
) -> None:
    """Publish a record for each line of the FILEs (default: stdin) to TOPIC."""
    stdin_of_person = not files and sys.stdin.isatty()
    if stdin_of_person:
        click.echo("a line is a record; end with Ctrl-D", err=True)
    sources = files or (sys.stdin.buffer,)
    fixed = key.encode() if key is not None else None

    def items() -> Iterator[Item]:
        number = 0
        for source in sources:
            for line in source:
                number += 1
                text = line[:-1] if line.endswith(b"\n") else line
                if form == "json":
                    if text.strip():
                        yield _from_json(text, number)
                elif key_separator is not None:
                    before, found, after = text.partition(key_separator.encode())
                    if not found:
                        raise CliError(f"line {number} has no {key_separator!r}", "drop -K, or correct the line")
                    yield Item(after, before, partition=partition)
                else:
                    yield Item(text, fixed, partition=partition)

    report = _Report(output == "json", on_terminal())

    async def work(cluster: Cluster) -> None:
        from logeion.client.producer import Producer

        settings = {"acks": acks if acks == "all" else int(acks), "compression_type": compression}
        async with Producer(cluster, delivery_timeout_ms=int(timeout_s * 1000), **settings) as producer:  # type: ignore[arg-type]
            await producer.prepare(topic)
            source = items()
            # Of a person at the keyboard each line is sent and shown at once; a file is read in handfuls.
            handful = 1 if stdin_of_person else LINES_AT_ONCE
            while True:
                some = await asyncio.to_thread(_take, source, handful)
                if not some:
                    break
                for item in some:
                    while not producer.has_room:
                        await producer.room()
                    report.add(await _send(producer, topic, item))
                if stdin_of_person or report.unsettled > UNSETTLED_MAX:
                    await producer.flush()
                    report.settle()
                else:
                    await asyncio.sleep(0)
            await producer.flush()
            report.settle()

    run_client(bootstrap, timeout_s, work)
    report.finish(topic)


async def _send(producer: object, topic: str, item: Item) -> Delivery:
    from logeion.client.errors import BufferFullError
    from logeion.client.producer import Producer

    assert isinstance(producer, Producer)
    while True:
        try:
            return producer.send_nowait(
                topic,
                item.value,
                item.key,
                headers=item.headers,
                partition=item.partition,
                timestamp_ms=item.timestamp_ms,
            )
        except BufferFullError:
            await producer.room()


def _take(source: Iterator[Item], count: int) -> list[Item]:
    some = []
    for item in source:
        some.append(item)
        if len(some) >= count:
            break
    return some


class _Report:
    """What became of the records: a line each on a terminal, one summary otherwise."""

    def __init__(self, as_json: bool, each: bool) -> None:
        self._json = as_json
        self._each = each and not as_json
        self._pending: list[Delivery] = []
        self.sent = 0
        self.failed = 0
        self.first_error: Exception | None = None

    @property
    def unsettled(self) -> int:
        return len(self._pending)

    def add(self, delivery: Delivery) -> None:
        self._pending.append(delivery)

    def settle(self) -> None:
        """After a flush: counts, and shows where each record went if a person looks."""
        for delivery in self._pending:
            error = delivery.exception()
            if error is not None:
                self.failed += 1
                self.first_error = self.first_error or error
                continue
            self.sent += 1
            if self._each:
                where = delivery.result()
                click.echo(f"-> {where.topic}[{where.partition}] @ {where.offset if where.offset >= 0 else '?'}")
        self._pending.clear()

    def finish(self, topic: str) -> None:
        if self._json:
            print_json({"topic": topic, "records": self.sent, "failed": self.failed})
        elif not self._each:
            click.echo(f"{self.sent} {'record' if self.sent == 1 else 'records'} -> {topic}", err=True)
        if self.first_error is not None:
            from .common import as_cli_error

            shown = as_cli_error(self.first_error)
            raise CliError(
                f"not published: {self.failed} of {self.failed + self.sent} records; the first: {shown.message}",
                shown.hint,
                FAILED,
            )


def _from_json(text: bytes, number: int) -> Item:
    import msgspec

    class Line(msgspec.Struct, forbid_unknown_fields=True):
        value: str | None = None
        key: str | None = None
        headers: list[tuple[str, str | None]] = []
        partition: int | None = None
        timestamp: int | None = None

    try:
        line = msgspec.json.decode(text, type=Line)
    except (msgspec.DecodeError, UnicodeDecodeError) as cause:
        raise CliError(
            f"line {number}: {cause}",
            'write {"value": "…", "key": "…", "headers": [["name", "value"]], "partition": 0, "timestamp": ms}',
        ) from cause
    headers = tuple((name, content.encode() if content is not None else None) for name, content in line.headers)
    return Item(
        line.value.encode() if line.value is not None else None,
        line.key.encode() if line.key is not None else None,
        headers,
        line.partition,
        line.timestamp,
    )
