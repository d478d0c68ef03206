"""``logeion consume``: a topic's records on stdout, one a line."""

from __future__ import annotations

import json
import select
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from .common import connection_options, output_option, run_client

if TYPE_CHECKING:
    from logeion.client.cluster import Cluster
    from logeion.client.positions import Start, TopicPartition
    from logeion.wire.records import Record

LOOK_AGAIN_S = 0.5


@click.command()
@click.argument("topic")
@click.option(
    "--from", "begin", metavar="start|end|N|-N|@TIME", default=None,
    help="Where to begin: an offset, the last N of each partition, or a time in ISO form or ms.  "
    "[default: start; end with --follow]",
)  # fmt: skip
@click.option("-n", "--count", type=click.IntRange(min=1), help="Stop after so many records.")
@click.option("-f", "--follow", is_flag=True, help="Go on when the end is reached.")
@click.option("-p", "--partition", "partitions", type=click.IntRange(min=0), multiple=True, help="Only this one.")
@output_option
@connection_options
def consume(
    topic: str,
    begin: str | None,
    count: int | None,
    follow: bool,
    partitions: tuple[int, ...],
    output: str,
    bootstrap: str,
    timeout_s: float,
) -> None:
    """Print the records of TOPIC: the value and a newline; with -o json an object a line."""
    start = parse_start(begin if begin is not None else "end" if follow else "start")
    write = sys.stdout.buffer.write if hasattr(sys.stdout, "buffer") else None

    async def work(cluster: Cluster) -> None:
        from logeion.client.consumer import Consumer

        left = count
        async with Consumer(cluster, auto_offset_reset="earliest") as consumer:
            await consumer.assign(topic, start, partitions=partitions or None, to_end=not follow)
            while (some := await consumer.getmany(timeout_s=LOOK_AGAIN_S if follow else None)) or follow:
                if follow and reader_gone():
                    raise BrokenPipeError
                for tp, records in some.items():
                    shown = records if left is None else records[:left]
                    lines = b"".join(_line(tp, record, output) for record in shown)
                    if write is not None:
                        write(lines)
                    else:
                        click.echo(lines.decode(errors="replace"), nl=False)
                    if left is not None:
                        left -= len(shown)
                        if left == 0:
                            return
                sys.stdout.flush()

    run_client(bootstrap, timeout_s, work)


def reader_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more: one who only waits for records would not notice."""
    try:
        watched = select.poll()
        watched.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):
        return False  # no poll on this system, or stdout is no file
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in watched.poll(0))


def parse_start(text: str) -> Start:
    """``start``, ``end``, an offset, ``-N`` or ``@TIME``. Raises click.UsageError."""
    from logeion.client.positions import Start

    if text in ("start", "end"):
        return Start(text)
    if text.startswith("@"):
        if text[1:].isdecimal():
            return Start("time", int(text[1:]))
        try:
            when = datetime.fromisoformat(text[1:])
        except ValueError:
            raise click.UsageError(f"--from {text!r}: write @2026-11-01T12:30 or @ and milliseconds") from None
        return Start("time", int(when.timestamp() * 1000))
    if text.isdecimal():
        return Start("offset", int(text))
    if text.startswith("-") and text[1:].isdecimal():
        return Start("last", int(text[1:]))
    raise click.UsageError(f"--from {text!r}: write start, end, an offset, -N for the last N, or @TIME")


def _line(tp: TopicPartition, record: Record, output: str) -> bytes:
    if output == "table":
        return (record.value or b"") + b"\n"
    when = datetime.fromtimestamp(record.timestamp / 1000, UTC).isoformat(timespec="milliseconds")
    shown = {
        "topic": tp.topic,
        "partition": tp.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "time": when if record.timestamp >= 0 else None,
        "key": _text(record.key),
        "value": _text(record.value),
        "headers": [[name, _text(content)] for name, content in record.headers],
    }
    return json.dumps(shown, ensure_ascii=False).encode() + b"\n"


def _text(content: bytes | None) -> str | None:
    """As UTF-8; other bytes as \\xNN, so that a line is always JSON."""
    return None if content is None else content.decode(errors="backslashreplace")
