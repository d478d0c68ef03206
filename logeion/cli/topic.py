"""``logeion topic``: create, list, describe, configure, grow and delete topics."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from .common import CliError, connection_options, key_values, output_option, print_json, print_table, run_client

if TYPE_CHECKING:
    from logeion.client.admin import ConfigValue
    from logeion.client.cluster import Cluster
    from logeion.client.metadata import TopicInfo
    from logeion.client.operations import PartitionState

# How long `describe` waits for one leader's offsets; the table is worth having without them.
OFFSETS_S = 5.0


@click.group()
def topic() -> None:
    """Create, list, describe, configure, grow and delete topics."""


@topic.command()
@click.argument("name")
@click.option("-p", "--partitions", type=click.IntRange(min=1), help="How many.  [default: the broker's]")
@click.option("-r", "--replication-factor", type=click.IntRange(min=1), help="Copies.  [default: the broker's]")
@click.option("-c", "--config", "configs", multiple=True, metavar="KEY=VALUE", help="A setting; may be repeated.")
@output_option
@connection_options
def create(
    name: str,
    partitions: int | None,
    replication_factor: int | None,
    configs: tuple[str, ...],
    output: str,
    bootstrap: str,
    timeout_s: float,
) -> None:
    """Create topic NAME."""
    settings = key_values(configs, "--config")

    async def work(cluster: Cluster) -> TopicInfo:
        from logeion.client.admin import Admin

        admin = Admin(cluster)
        await admin.create_topic(
            name, partitions=partitions or -1, replication_factor=replication_factor or -1, configs=settings
        )
        return await admin.topic(name)

    info = run_client(bootstrap, timeout_s, work)
    if output == "json":
        print_json(_as_object(info))
    else:
        click.echo(f"created {name} with {_count(len(info.partitions), 'partition')}")


@topic.command()
@click.option("--internal", is_flag=True, help="Internal topics too.")
@output_option
@connection_options
def ls(internal: bool, output: str, bootstrap: str, timeout_s: float) -> None:
    """List the topics."""

    async def work(cluster: Cluster) -> list[TopicInfo]:
        from logeion.client.admin import Admin

        return await Admin(cluster).topics()

    shown = [info for info in run_client(bootstrap, timeout_s, work) if internal or not info.internal]
    if output == "json":
        print_json([_as_object(info) for info in shown])
        return
    print_table(
        ["topic", "partitions", "replicas", "leaderless"],
        [
            (
                info.name,
                len(info.partitions),
                max((len(partition.replicas) for partition in info.partitions), default=0),
                sum(partition.leader < 0 for partition in info.partitions),
            )
            for info in shown
        ],
    )


@topic.command()
@click.argument("name")
@output_option
@connection_options
def describe(name: str, output: str, bootstrap: str, timeout_s: float) -> None:
    """Show the partitions of topic NAME: leader, replicas, who is in sync or may lead all the same, and offsets."""

    async def work(cluster: Cluster) -> tuple[TopicInfo, list[PartitionState], int, dict[int, int], dict[int, int]]:
        import asyncio

        from logeion.client.admin import Admin
        from logeion.client.consumer import EARLIEST, LATEST, Consumer
        from logeion.client.operations import Operations
        from logeion.errors import LogeionError

        info = await Admin(cluster).topic(name)
        operations = Operations(cluster)
        partitions = await operations.partitions([name])
        least = (await operations.min_in_sync([name])).get(name, 1)
        consumer = Consumer(cluster)
        starts: dict[int, int] = {}
        ends: dict[int, int] = {}

        async def ask(leader: int) -> None:
            # A leader that does not answer now must not hide what is known of the others.
            led = [one.partition for one in partitions if one.leader == leader]
            with suppress(LogeionError, TimeoutError):
                async with asyncio.timeout(min(OFFSETS_S, timeout_s / 2)):
                    starts.update(await consumer.offsets(name, led, EARLIEST))
                    ends.update(await consumer.offsets(name, led, LATEST))

        await asyncio.gather(*map(ask, {one.leader for one in partitions if one.leader >= 0}))
        return info, partitions, least, starts, ends

    info, partitions, least, starts, ends = run_client(bootstrap, timeout_s, work)
    if output == "json":
        described = _as_object(info)
        described["min_in_sync"] = least
        described["partitions"] = [
            {
                "partition": one.partition,
                "leader": one.leader if one.leader >= 0 else None,
                "epoch": one.epoch,
                "replicas": list(one.replicas),
                "in_sync": list(one.in_sync),
                "eligible": None if one.eligible is None else list(one.eligible),
                "offline": list(one.offline),
                "state": _state(one, least),
                "start": starts.get(one.partition),
                "end": ends.get(one.partition),
            }
            for one in partitions
        ]
        print_json(described)
        return
    print_table(
        ["partition", "leader", "epoch", "replicas", "in sync", "eligible", "state", "start", "end"],
        [
            (
                one.partition,
                one.leader if one.leader >= 0 else None,
                one.epoch,
                ",".join(map(str, one.replicas)),
                ",".join(map(str, one.in_sync)) or None,
                ",".join(map(str, one.eligible or ())) or None,
                _state(one, least),
                starts.get(one.partition),
                ends.get(one.partition),
            )
            for one in partitions
        ],
    )


def _state(partition: PartitionState, least: int) -> str:
    """The worst that can be said of it."""
    if partition.leader < 0:
        return "offline"
    if len(partition.in_sync) < min(least, len(partition.replicas)):
        return "under min ISR"
    return "under-replicated" if len(partition.in_sync) < len(partition.replicas) else "ok"


@topic.command()
@click.argument("name")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
@click.option("--unset", multiple=True, metavar="KEY", help="Back to the default; may be repeated.")
@output_option
@connection_options
def config(
    name: str, changes: tuple[str, ...], unset: tuple[str, ...], output: str, bootstrap: str, timeout_s: float
) -> None:
    """Show or change the settings of topic NAME."""
    wanted = key_values(changes, "--set")

    async def work(cluster: Cluster) -> list[ConfigValue]:
        from logeion.client.admin import Admin

        admin = Admin(cluster)
        if wanted or unset:
            await admin.alter_topic(name, set_values=wanted, unset=unset)
        return await admin.topic_configs(name)

    values = run_client(bootstrap, timeout_s, work)
    if output == "json":
        print_json([{"name": one.name, "value": one.value, "source": one.source} for one in values])
    else:
        print_table(["name", "value", "source"], [(one.name, one.value, one.source) for one in values])


@topic.command()
@click.argument("name")
@click.argument("partitions", type=click.IntRange(min=1))
@connection_options
def grow(name: str, partitions: int, bootstrap: str, timeout_s: float) -> None:
    """Grow topic NAME to PARTITIONS in all. Keys will be placed anew: records stay where they are."""

    async def work(cluster: Cluster) -> None:
        from logeion.client.admin import Admin

        await Admin(cluster).grow_topic(name, partitions)

    run_client(bootstrap, timeout_s, work)
    click.echo(f"{name} has {_count(partitions, 'partition')}")


@topic.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@connection_options
def delete(names: tuple[str, ...], yes: bool, bootstrap: str, timeout_s: float) -> None:
    """Delete topics with all their records. Asks first on a terminal."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete {', '.join(names)} and all records?", abort=True)

    async def work(cluster: Cluster) -> list[CliError]:
        from logeion.client.admin import Admin
        from logeion.errors import KafkaError

        from .common import as_cli_error

        failed = []
        for name in names:
            try:
                await Admin(cluster).delete_topic(name)
            except KafkaError as error:
                failed.append(as_cli_error(error))
            else:
                click.echo(f"deleted {name}")
        return failed

    failed = run_client(bootstrap, timeout_s, work)
    for error in failed[:-1]:
        error.show()
    if failed:
        raise failed[-1]


def _as_object(info: TopicInfo) -> dict[str, object]:
    return {
        "topic": info.name,
        "topic_id": info.topic_id,
        "internal": info.internal,
        "partitions": [
            {
                "partition": partition.index,
                "leader": partition.leader if partition.leader >= 0 else None,
                "epoch": partition.epoch,
                "replicas": list(partition.replicas),
                "in_sync": list(partition.in_sync),
            }
            for partition in info.partitions
        ],
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
