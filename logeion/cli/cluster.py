"""``logeion cluster``: health, nodes, leaders, replicas and the metadata quorum."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from .common import (
    NO_CONNECTION,
    TIMEOUT,
    UNHEALTHY,
    CliError,
    connection_options,
    output_option,
    print_json,
    print_table,
    run_client,
)
from .reassign import named, reassign, tell

if TYPE_CHECKING:
    from logeion.client.cluster import Cluster
    from logeion.client.health import Health
    from logeion.client.operations import Feature, Operations, PartitionState, QuorumState
    from logeion.client.positions import TopicPartition
    from logeion.errors import KafkaError

# Between two looks while waiting.
LOOK_S = 0.25
# Problems that a table lists; JSON has all.
SHOWN = 20


@click.group()
def cluster() -> None:
    """Show health and nodes; move replicas, leaders and voters."""


# Health -----------------------------------------------------------------------------------------------------------


async def examine(cluster: Cluster) -> Health:
    """The cluster's health, by what its brokers tell any client."""
    from logeion.client.health import judge
    from logeion.client.operations import Operations
    from logeion.errors import KafkaError

    operations = Operations(cluster)
    state = await operations.describe()
    partitions = await operations.partitions()
    controller: int | None = state.controller_id if state.controller_id >= 0 else None
    adding: dict[tuple[str, int], int] = {}
    try:
        leader = (await operations.quorum()).leader
        controller = leader if leader >= 0 else None
        adding = {(one.topic, one.partition): len(one.adding) for one in await operations.reassignments()}
    except KafkaError as error:
        # A broker without these APIs has a controller all the same; one that refuses has none.
        if error.name != "UNSUPPORTED_VERSION":
            controller = None
    least = await operations.min_in_sync(one.topic for one in partitions)
    silent = await operations.silent(node for node in state.nodes if not node.fenced)
    return judge(state, controller, partitions, least, adding, silent)


@cluster.command()
@click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0), metavar="SECONDS", help="Until it is healthy, so long at most."
)
@output_option
@connection_options
def health(wait_s: float | None, output: str, bootstrap: str, timeout_s: float) -> int:
    """Say whether the cluster is healthy: exit code 0, or 10 and what is wrong.

    It is if the metadata quorum has a leader, every node is there and answers, and every partition has a leader and
    all of its replicas in sync.
    """
    found = _healthy_within(wait_s, bootstrap, timeout_s)
    if output == "json":
        print_json(_health_object(found))
    elif found.healthy:
        click.echo(f"healthy: {_counts(found)}, controller {found.controller}")
    else:
        click.echo(f"unhealthy: {_counts(found)}")
        for problem in found.problems[:SHOWN]:
            click.echo(f"  {problem}")
        if len(found.problems) > SHOWN:
            click.echo(f"  and {len(found.problems) - SHOWN} more; see -o json")
    return 0 if found.healthy else UNHEALTHY


def _healthy_within(wait_s: float | None, bootstrap: str, timeout_s: float) -> Health:
    """The health, asked for again while it is bad and there is time."""
    until = time.monotonic() + (wait_s or 0.0)
    while True:
        left = until - time.monotonic()
        try:
            found = run_client(bootstrap, timeout_s if wait_s is None else min(timeout_s, max(left, 1.0)), examine)
            if found.healthy or left <= 0:
                return found
        except CliError as error:
            if left <= 0 or error.exit_code not in (NO_CONNECTION, TIMEOUT):
                raise
        time.sleep(LOOK_S)


def _counts(found: Health) -> str:
    return (
        f"{_count(len(found.nodes), 'node')}, {_count(found.topics, 'topic')}, {_count(found.partitions, 'partition')}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _health_object(found: Health) -> dict[str, Any]:
    return {
        "healthy": found.healthy,
        "cluster_id": found.cluster_id,
        "controller": found.controller,
        "nodes": [node.node for node in found.nodes],
        "fenced": list(found.fenced),
        "silent": list(found.silent),
        "topics": found.topics,
        "partitions": found.partitions,
        "offline": [_partition_object(one) for one in found.offline],
        "under_min_isr": [_partition_object(one) for one in found.under_min_isr],
        "under_replicated": [_partition_object(one) for one in found.under_replicated],
        "problems": found.problems,
    }


def _partition_object(one: PartitionState) -> dict[str, Any]:
    return {
        "topic": one.topic,
        "partition": one.partition,
        "leader": one.leader if one.leader >= 0 else None,
        "replicas": list(one.replicas),
        "in_sync": list(one.in_sync),
        "eligible": None if one.eligible is None else list(one.eligible),
        "offline": list(one.offline),
    }


# Nodes ------------------------------------------------------------------------------------------------------------


@cluster.command()
@output_option
@connection_options
def nodes(output: str, bootstrap: str, timeout_s: float) -> None:
    """Show the nodes: where they are, their part in the metadata quorum, and what they lead and hold."""
    rows = run_client(bootstrap, timeout_s, _node_rows)
    if output == "json":
        print_json(rows)
        return
    columns = ["node", "address", "rack", "state", "role", "leads", "replicas"]
    print_table(columns, [[row[column] for column in columns] for row in rows])


async def _node_rows(cluster: Cluster) -> list[dict[str, Any]]:
    from logeion.client.operations import Operations

    operations = Operations(cluster)
    state = await operations.describe()
    partitions = await operations.partitions()
    quorum = await _quorum(operations)
    voters = set() if quorum is None else {one.node for one in quorum.voters}
    leader = state.controller_id if quorum is None else quorum.leader
    return [
        {
            "node": one.node,
            "address": f"{one.host}:{one.port}",
            "rack": one.rack,
            "state": "fenced" if one.fenced else "running",
            "role": "controller" if one.node == leader else "voter" if one.node in voters else "broker",
            "leads": sum(partition.leader == one.node for partition in partitions),
            "replicas": sum(one.node in partition.replicas for partition in partitions),
        }
        for one in state.nodes
    ]


async def _quorum(operations: Operations) -> QuorumState | None:
    """None where there is none, or nobody leads it."""
    from logeion.errors import KafkaError

    try:
        return await operations.quorum()
    except KafkaError:
        return None


@cluster.command()
@output_option
@connection_options
def describe(output: str, bootstrap: str, timeout_s: float) -> None:
    """Show the cluster's id, controller, size, features and metadata quorum."""

    async def work(cluster: Cluster) -> tuple[Health, QuorumState | None, list[Feature]]:
        from logeion.client.operations import Operations

        operations = Operations(cluster)
        return await examine(cluster), await _quorum(operations), await operations.features()

    found, quorum, features = run_client(bootstrap, timeout_s, work)
    levels = {one.name: one.level for one in features}
    if output == "json":
        voters = None if quorum is None else [one.node for one in quorum.voters]
        epoch = None if quorum is None else quorum.epoch
        print_json({**_health_object(found), "voters": voters, "controller_epoch": epoch, "features": levels})
        return
    rows = [
        ("cluster", found.cluster_id),
        ("controller", found.controller),
        ("voters", None if quorum is None else ",".join(str(one.node) for one in quorum.voters)),
        ("nodes", ",".join(str(one.node) for one in found.nodes)),
        ("topics", found.topics),
        ("partitions", found.partitions),
        ("under-replicated", len(found.under_replicated)),
        ("offline", len(found.offline)),
        *((name, level or None) for name, level in levels.items()),
    ]
    print_table(["what", "value"], rows)


# Leaders and replicas ---------------------------------------------------------------------------------------------


@cluster.command()
@click.argument("partitions", nargs=-1, metavar="[TOPIC[:PARTITION]]…")
@click.option("--unclean", is_flag=True, help="Any live replica may lead: acknowledged records may be lost.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_option
@connection_options
def elect(partitions: tuple[str, ...], unclean: bool, yes: bool, output: str, bootstrap: str, timeout_s: float) -> None:
    """Have preferred replicas lead: of all partitions, or of those named."""
    if unclean and not partitions:
        raise click.UsageError("--unclean names its partitions: TOPIC:PARTITION")
    if unclean and not yes:
        click.confirm(f"Elect uncleanly for {', '.join(partitions)}? Acknowledged records may be lost.", abort=True)

    async def work(cluster: Cluster) -> dict[TopicPartition, KafkaError | None]:
        from logeion.client.operations import Operations

        wanted = await named(cluster, partitions) if partitions else None
        return await Operations(cluster).elect(wanted, unclean=unclean)

    results = run_client(bootstrap, timeout_s, work)
    tell({where: error for where, error in results.items() if not _needless(error)}, "elected", output)


def _needless(error: KafkaError | None) -> bool:
    return error is not None and error.name == "ELECTION_NOT_NEEDED"


cluster.add_command(reassign)


@cluster.command()
@click.argument("node", type=click.IntRange(min=0))
@output_option
@connection_options
def unregister(node: int, output: str, bootstrap: str, timeout_s: float) -> None:
    """Forget NODE, which is gone for good; stop it first, for one that runs registers again.

    Its replicas are still counted as missing, until they are reassigned to other nodes.
    """

    async def work(cluster: Cluster) -> list[PartitionState]:
        from logeion.client.operations import Operations

        operations = Operations(cluster)
        await operations.unregister(node)
        return [one for one in await operations.partitions() if node in one.replicas]

    left = run_client(bootstrap, timeout_s, work)
    if output == "json":
        print_json({"unregistered": node, "partitions": [_partition_object(one) for one in left]})
        return
    click.echo(f"node {node} is not registered any more")
    if left:
        replicas = _count(len(left), "partition")
        click.echo(f"{replicas} still named it as a replica, under-replicated until: logeion cluster reassign")


# The metadata quorum ----------------------------------------------------------------------------------------------


@cluster.command()
@click.option("--add", "added", type=click.IntRange(min=0), metavar="NODE", help="Have this node vote.")
@click.option("--remove", "removed", type=click.IntRange(min=0), metavar="NODE", help="Take its vote away.")
@output_option
@connection_options
def voters(added: int | None, removed: int | None, output: str, bootstrap: str, timeout_s: float) -> None:
    """Show or change who votes in the metadata quorum, one node at a time."""
    if added is not None and removed is not None:
        raise click.UsageError("--add and --remove exclude each other: one change at a time")

    async def work(cluster: Cluster) -> QuorumState:
        from logeion.client.operations import Operations

        operations = Operations(cluster)
        if added is not None:
            await operations.add_voter(added)
        if removed is not None:
            await operations.remove_voter(removed)
        return await cluster.retrying(operations.quorum, what="the metadata quorum")

    quorum = run_client(bootstrap, timeout_s, work)
    rows = [
        {
            "node": one.node,
            "role": role if one.node != quorum.leader else "controller",
            "end": one.end,
            "behind": max(0, quorum.high_watermark - one.end),
        }
        for role, members in (("voter", quorum.voters), ("observer", quorum.observers))
        for one in members
    ]
    if output == "json":
        print_json(
            {"leader": quorum.leader, "epoch": quorum.epoch, "committed": quorum.high_watermark, "members": rows}
        )
    else:
        print_table(["node", "role", "end", "behind"], [list(row.values()) for row in rows])


@cluster.command()
@click.option("--set", "levels", multiple=True, metavar="NAME=LEVEL", help="Finalise a level; may be repeated.")
@click.option("--downgrade", is_flag=True, help="A lower level than now is meant.")
@output_option
@connection_options
def features(levels: tuple[str, ...], downgrade: bool, output: str, bootstrap: str, timeout_s: float) -> None:
    """Show what this release can do and what the cluster has finalised of it; finalise after an upgrade."""
    from .common import key_values

    wanted = {}
    for name, level in key_values(levels, "--set").items():
        if not (level.isascii() and level.isdigit()):
            raise click.UsageError(f"--set {name}={level}: a level is a number")
        wanted[name] = int(level)

    async def work(cluster: Cluster) -> list[Feature]:
        from logeion.client.operations import Operations

        operations = Operations(cluster)
        if wanted:
            await operations.set_features(wanted, downgrade=downgrade)
        return await operations.features()

    found = run_client(bootstrap, timeout_s, work)
    if output == "json":
        print_json([{"name": o.name, "lowest": o.lowest, "highest": o.highest, "level": o.level} for o in found])
    else:
        print_table(
            ["feature", "level", "supported"], [(o.name, o.level or None, f"{o.lowest}-{o.highest}") for o in found]
        )
