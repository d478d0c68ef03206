"""``logeion log``: look at a partition's files without a broker. Reads only; a running broker does not mind."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from logeion.actors.controller.storage import doubt_vote
from logeion.log.config import LogConfig
from logeion.log.dump import dump as dump_batches
from logeion.log.log import Log
from logeion.log.names import FAILED
from logeion.log.verify import Report
from logeion.log.verify import verify as verify_directory
from logeion.wire.errors import StorageError

_OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Form of the output.",
)
_DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))

_COLUMNS = (
    "segment",
    "position",
    "size",
    "base_offset",
    "last_offset",
    "count",
    "leader_epoch",
    "codec",
    "max_timestamp",
)


@click.group()
def log() -> None:
    """Look at a partition's log on disk (DIR is one partition's directory, such as ./logeion-data/orders-0)."""


@log.command()
@_DIRECTORY
@_OUTPUT
@click.option("--records", is_flag=True, help="Show the records too, not only their batches.")
def dump(directory: Path, output: str, records: bool) -> None:
    """Print every batch of the log in DIR."""
    rows = _read(directory, records)
    damaged = False
    try:
        if output == "json":
            damaged = _print_json(rows)
        else:
            damaged = _print_table(rows, records)
    except StorageError as error:
        _give_up(str(error), "logeion log verify DIR tells what else is wrong", 1)
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads on: that is the end of it, and no error
        sys.exit(0)
    if damaged:
        _give_up(f"{directory} is damaged", "logeion log verify DIR names every damaged place", 1)


@log.command()
@_DIRECTORY
@_OUTPUT
def verify(directory: Path, output: str) -> None:
    """Check the log in DIR: every CRC, offsets, both indexes, leader epochs, and the small files.

    Exits with 0 if all is well, 1 if something is damaged, 3 if there is no log.
    """
    _must_exist(directory)
    try:
        report = verify_directory(directory)
    except StorageError as error:
        code = 3 if "no segment" in str(error) else 1
        _give_up(str(error), "give the directory of one partition, such as ./logeion-data/orders-0", code)
    if output == "json":
        click.echo(msgspec.json.encode(report).decode())
    else:
        _print_report(report)
    if report.problems:
        first = report.problems[0]
        _give_up(
            f"{len(report.problems)} damaged: {first.path}: {first.what}",
            "restore the file from a replica; indexes and snapshots may be deleted, a start writes them anew",
            1,
        )


@log.command("accept-cut")
@_DIRECTORY
@click.confirmation_option(prompt="Records after the last synced offset are given up. Go on?")
def accept_cut(directory: Path) -> None:
    """Go on in DIR after a failed sync, from the last offset that is surely on the device.

    Stop the broker first. What was appended later, and never acknowledged with flush=ack, is cut off. If the sync that
    failed was the first after a crash, much more may be: a voter's vote counts again once it has got its log anew.
    """
    _must_exist(directory)
    marker = directory / FAILED
    if not marker.exists():
        _give_up(f"no sync has failed in {directory} (there is no {marker})", "logeion log verify DIR", 1)
    try:
        doubt_vote(directory)
        opened = Log.open(directory, LogConfig(), now_ms=time.time_ns() // 1_000_000, create=False, accept_cut=True)
        end = opened.end_offset
        opened.close()
    except StorageError as error:
        _give_up(str(error), "stop the broker, or restore the directory from a replica", 1)
    click.echo(f"{directory} ends at offset {end} now")


def _must_exist(directory: Path) -> None:
    if not directory.is_dir():
        _give_up(f"there is no directory {directory}", "logeion topic describe TOPIC names the partitions", 3)


def _read(directory: Path, records: bool) -> Iterator[dict[str, Any]]:
    _must_exist(directory)
    rows = dump_batches(directory, records=records)
    try:
        first = next(rows, None)
    except StorageError as error:
        _give_up(str(error), "give the directory of one partition, such as ./logeion-data/orders-0", 3)
    return itertools.chain([first] if first is not None else [], rows)


def _print_json(rows: Iterator[dict[str, Any]]) -> bool:
    """A JSON list, written as it is read: a log need not fit into memory. Returns whether anything is damaged."""
    damaged = False
    separator = "["
    for row in rows:
        damaged |= _is_damage(row)
        click.echo(separator + msgspec.json.encode(row).decode(), nl=False)
        separator = ",\n "
    click.echo("[]" if separator == "[" else "]")
    return damaged


def _print_table(rows: Iterator[dict[str, Any]], records: bool) -> bool:
    damaged = False
    click.echo(" ".join(f"{name:>14}" for name in _COLUMNS))
    for row in rows:
        if "base_offset" in row:
            click.echo(" ".join(f"{row[name]:>14}" for name in _COLUMNS))
        for record in row.get("records", ()) if records else ():
            click.echo(f"    {record['offset']} @{record['timestamp']} {record['key']!r}: {record['value']!r}")
        if "error" in row:
            damaged |= _is_damage(row)
            click.echo(f"    byte {row['position']} of segment {row['segment']}: {row['error']}")
    return damaged


def _is_damage(row: dict[str, Any]) -> bool:
    # A torn end is a write in progress, or what the next start cuts off.
    return "error" in row and not row["error"].endswith(": torn")


def _print_report(report: Report) -> None:
    click.echo(
        f"{report.directory}: offsets {report.start_offset} to {report.end_offset}, {report.records} records in "
        f"{report.batches} batches, {report.segments} segments, {report.bytes} bytes"
    )
    for note in report.notes:
        click.echo(f"note: {note}")
    for problem in report.problems:
        where = "" if problem.position < 0 else f" byte {problem.position}"
        click.echo(f"damaged: {problem.path}{where}: {problem.what}")


def _give_up(cause: str, hint: str, code: int) -> NoReturn:
    click.echo(f"error: {cause}", err=True)
    click.echo(f"try: {hint}", err=True)
    sys.exit(code)
