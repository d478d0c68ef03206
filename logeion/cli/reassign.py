"""``logeion cluster reassign``: move replicas to other nodes, at a bounded speed."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

import click

from .common import FAILED, TIMEOUT, CliError, connection_options, output_option, print_json, print_table, run_client

if TYPE_CHECKING:
    from logeion.client.cluster import Cluster
    from logeion.client.operations import Operations, PartitionState, Reassignment
    from logeion.client.positions import TopicPartition
    from logeion.client.throttling import Moves
    from logeion.errors import KafkaError

# Between two looks while waiting.
LOOK_S = 0.25
RATE = re.compile(r"(\d+(?:\.\d+)?) ?([kmg]?)b?(?:/s)?", re.ASCII | re.IGNORECASE)
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@click.command()
@click.argument("partitions", nargs=-1, metavar="[TOPIC[:PARTITION]]…")
@click.option("--to", "nodes", metavar="NODE,…", help="The replicas' nodes, the preferred leader first.")
@click.option("--cancel", is_flag=True, help="Stay where they were.")
@click.option("--wait", is_flag=True, help="Until the moves are done, for as long as --timeout allows.")
@click.option(
    "--throttle",
    "rate",
    metavar="RATE",
    help="Copy no faster than this, by each broker: 10MB/s. Lifted at the end with --wait.",
)
@click.option("--unthrottle", is_flag=True, help="Lift the throttles of all topics and brokers.")
@output_option
@connection_options
def reassign(
    partitions: tuple[str, ...],
    nodes: str | None,
    cancel: bool,
    wait: bool,
    rate: str | None,
    unthrottle: bool,
    output: str,
    bootstrap: str,
    timeout_s: float,
) -> None:
    """Move partitions to other nodes; without --to and --cancel, show what is being moved."""
    if rate is not None and nodes is None:
        raise click.UsageError(
            "--throttle goes with --to; for moves that are under way set it again with the same --to"
        )
    if unthrottle:
        if partitions or nodes is not None or cancel:
            raise click.UsageError("--unthrottle lifts all throttles and goes with nothing else")
        run_client(bootstrap, timeout_s, _unthrottle)
        _say_lifted(output)
        return
    limit = None if rate is None else _rate(rate)
    if nodes is None and not cancel:
        if partitions:
            raise click.UsageError("say where to: --to NODE,…, or --cancel")
        _show_moves(run_client(bootstrap, timeout_s, _moves), output)
        return
    if nodes is not None and cancel:
        raise click.UsageError("--to and --cancel exclude each other")
    if not partitions:
        raise click.UsageError("name the partitions: TOPIC or TOPIC:PARTITION")
    target = None if nodes is None else _node_list(nodes)

    async def work(cluster: Cluster) -> dict[TopicPartition, KafkaError | None]:
        from logeion.client.operations import Operations
        from logeion.client.throttling import Throttling, moves_of

        operations = Operations(cluster)
        wanted = await named(cluster, partitions)
        moves: Moves = {}
        if limit is not None and target is not None:
            # Before they begin, or the first seconds are at full speed.
            moves = moves_of([one for one in await operations.partitions() if _key(one) in wanted], target)
            await Throttling(cluster).limit(moves, limit)
        results = await operations.reassign(dict.fromkeys(wanted, target))
        until = time.monotonic() + timeout_s
        while wait and any(key in wanted for key in await _keys(operations)):
            if time.monotonic() > until:
                still = "they go on; see `logeion cluster reassign`" + (
                    ", and lift the throttle later" if moves else ""
                )
                raise CliError("the moves are not done in time", still, TIMEOUT)
            await asyncio.sleep(LOOK_S)
        if moves and wait:
            await Throttling(cluster).lift(moves, rates=not await operations.reassignments())
        return results

    tell(run_client(bootstrap, timeout_s, work), "cancelled" if cancel else "moved" if wait else "moving", output)


def _key(one: PartitionState) -> tuple[str, int]:
    return one.topic, one.partition


def _rate(text: str) -> int:
    """Bytes a second from ``10MB/s``; Kafka's own tool takes plain numbers."""
    found = RATE.fullmatch(text.strip())
    rate = int(float(found[1]) * UNITS[found[2].lower()]) if found else 0
    if not rate:
        raise click.UsageError(f"--throttle {text!r}: write bytes a second, as 10MB/s, 500kB/s or 10000000")
    return rate


async def _unthrottle(cluster: Cluster) -> None:
    from logeion.client.operations import Operations
    from logeion.client.throttling import Throttling

    operations = Operations(cluster)
    topics = {one.topic for one in await operations.partitions()}
    await Throttling(cluster).lift_all(topics, (node.node for node in (await operations.describe()).nodes))


def _say_lifted(output: str) -> None:
    if output == "json":
        print_json({"throttled": False})
    else:
        click.echo("no replica is throttled any more")


async def _keys(operations: Operations) -> list[tuple[str, int]]:
    return [(one.topic, one.partition) for one in await operations.reassignments()]


def _node_list(text: str) -> list[int]:
    items = [item.strip() for item in text.split(",")]
    if not all(item.isascii() and item.isdigit() for item in items):
        raise click.UsageError(f"--to {text!r}: write node numbers, separated by commas")
    return [int(item) for item in items]


async def _moves(cluster: Cluster) -> list[Reassignment]:
    from logeion.client.operations import Operations

    return await Operations(cluster).reassignments()


def _show_moves(moves: list[Reassignment], output: str) -> None:
    if output == "json":
        print_json(
            [
                {
                    "topic": one.topic,
                    "partition": one.partition,
                    "replicas": list(one.replicas),
                    "adding": list(one.adding),
                    "removing": list(one.removing),
                }
                for one in moves
            ]
        )
        return
    print_table(
        ["topic", "partition", "replicas", "adding", "removing"],
        [
            (
                one.topic,
                one.partition,
                *(",".join(map(str, nodes)) for nodes in (one.replicas, one.adding, one.removing)),
            )
            for one in moves
        ],
    )


async def named(cluster: Cluster, names: tuple[str, ...]) -> list[TopicPartition]:
    """Partitions from TOPIC or TOPIC:PARTITION; a topic alone is all of its partitions."""
    from logeion.client.positions import TopicPartition

    found: list[TopicPartition] = []
    for name in names:
        topic, colon, number = name.partition(":")
        if colon and not (number.isascii() and number.isdigit()):
            raise CliError(f"{name!r} is no TOPIC:PARTITION", "the partition is a number", 2)
        info = await cluster.topic(topic, fresh=True)
        indexes = [int(number)] if colon else [one.index for one in info.partitions]
        found += [TopicPartition(topic, index) for index in indexes]
    return found


def tell(results: dict[TopicPartition, KafkaError | None], done: str, output: str) -> None:
    """One line a partition; fails if one of them failed."""
    if output == "json":
        print_json(
            [
                {
                    "topic": where.topic,
                    "partition": where.partition,
                    "error": None if error is None else error.name,
                    "reason": None if error is None else str(error),
                }
                for where, error in sorted(results.items())
            ]
        )
    else:
        for where, error in sorted(results.items()):
            if error is None:
                click.echo(f"{done} {where.topic}-{where.partition}")
        if not results:
            click.echo("nothing to do")
    failed = [(where, error) for where, error in sorted(results.items()) if error is not None]
    if failed:
        told = "; ".join(f"{where.topic}-{where.partition}: {error}" for where, error in failed)
        raise CliError(told, failed[0][1].hint, FAILED)
