"""``logeion group``: list, describe, watch, reset and delete consumer groups."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import click

from .common import (
    CliError,
    as_cli_error,
    connection_options,
    on_terminal,
    output_option,
    print_json,
    print_table,
    run_client,
)

if TYPE_CHECKING:
    from logeion.client.cluster import Cluster
    from logeion.client.groups import GroupInfo, GroupListing
    from logeion.client.positions import TopicPartition

WATCH_S = 2.0


@click.group()
def group() -> None:
    """List, describe, watch, reset and delete consumer groups."""


@group.command()
@output_option
@connection_options
def ls(output: str, bootstrap: str, timeout_s: float) -> None:
    """List the groups."""

    async def work(cluster: Cluster) -> list[GroupListing]:
        from logeion.client.groups import Groups

        return await Groups(cluster).ls()

    shown = run_client(bootstrap, timeout_s, work)
    if output == "json":
        print_json(
            [
                {"group": one.group, "kind": one.kind, "state": one.state, "protocol_type": one.protocol_type}
                for one in shown
            ]
        )
        return
    print_table(["group", "kind", "state"], [(one.group, one.kind, one.state) for one in shown])


class Row(NamedTuple):
    """One partition in which a group has a position or a member."""

    topic: str
    partition: int
    committed: int | None
    end: int | None
    member: str | None
    host: str | None
    client: str | None

    @property
    def lag(self) -> int | None:
        """Records between the committed position and the end; without a position all that there are count."""
        return None if self.end is None else max(0, self.end - (self.committed or 0))


async def _rows(cluster: Cluster, name: str) -> tuple[GroupInfo, list[Row]]:
    from logeion.client.groups import Groups

    groups = Groups(cluster)
    info = await groups.describe(name)
    committed = await groups.offsets(name)
    owners = {where: member for member in info.members for where in member.partitions}
    ends = await _ends(cluster, committed.keys() | owners.keys())
    rows = []
    for where in sorted(committed.keys() | owners.keys()):
        owner = owners.get(where)
        rows.append(
            Row(
                where.topic,
                where.partition,
                committed.get(where),
                ends.get(where),
                owner.member_id if owner else None,
                owner.host if owner else None,
                owner.client_id if owner else None,
            )
        )
    return info, rows


async def _ends(cluster: Cluster, partitions: set[TopicPartition], timestamp: int = -1) -> dict[TopicPartition, int]:
    """The ends (or starts, or first offsets not older) of these partitions; topics that are gone are left out."""
    from logeion.client.consumer import Consumer
    from logeion.client.positions import TopicPartition
    from logeion.errors import KafkaError

    found: dict[TopicPartition, int] = {}
    topics: dict[str, list[int]] = {}
    for where in partitions:
        topics.setdefault(where.topic, []).append(where.partition)
    for topic, numbers in topics.items():
        try:
            await cluster.topic(topic, fresh=True)
            offsets = await Consumer(cluster).offsets(topic, numbers, timestamp)
        except KafkaError as error:
            if error.name != "UNKNOWN_TOPIC_OR_PARTITION":
                raise
            continue
        found.update((TopicPartition(topic, number), offset) for number, offset in offsets.items())
    return found


def _as_object(info: GroupInfo, rows: list[Row]) -> dict[str, object]:
    return {
        "group": info.group,
        "kind": info.kind,
        "state": info.state,
        "assignor": info.assignor,
        "coordinator": info.coordinator,
        "members": len(info.members),
        "lag": sum(row.lag or 0 for row in rows),
        "partitions": [{**row._asdict(), "lag": row.lag} for row in rows],
    }


@group.command()
@click.argument("name")
@output_option
@connection_options
def describe(name: str, output: str, bootstrap: str, timeout_s: float) -> None:
    """Show group NAME: its state, positions, lag and who has which partition."""
    info, rows = run_client(bootstrap, timeout_s, lambda cluster: _rows(cluster, name))
    if output == "json":
        print_json(_as_object(info, rows))
        return
    members = len(info.members)
    click.echo(
        f"{info.group}: {info.kind}, {info.state}, {members} member{'s' if members != 1 else ''}"
        + (f", {info.assignor}" if info.assignor else "")
        + f", coordinated by node {info.coordinator}, lag {sum(row.lag or 0 for row in rows)}"
    )
    print_table(
        ["topic", "partition", "committed", "end", "lag", "member", "host", "client"],
        [(r.topic, r.partition, r.committed, r.end, r.lag, r.member, r.host, r.client) for r in rows],
    )


@group.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("-w", "--watch", is_flag=True, help="Again every two seconds, until Ctrl-C.")
@output_option
@connection_options
def lag(names: tuple[str, ...], watch: bool, output: str, bootstrap: str, timeout_s: float) -> None:
    """Show how far the groups (default: all) are behind, a line a topic."""

    async def work(cluster: Cluster) -> list[tuple[str, str, int, int, int]]:
        from logeion.client.groups import Groups

        groups = Groups(cluster)
        wanted = list(names) or [one.group for one in await groups.ls()]
        committed = {name: await groups.offsets(name) for name in wanted}
        for name, positions in committed.items():
            if not positions and name in names:
                await groups.describe(name)
        ends = await _ends(cluster, {where for positions in committed.values() for where in positions})
        lines = []
        for name, positions in committed.items():
            topics: dict[str, list[tuple[int, int]]] = {}
            for where, position in positions.items():
                if where in ends:
                    topics.setdefault(where.topic, []).append((position, max(0, ends[where] - position)))
            lines += [
                (name, topic, len(some), sum(position for position, _ in some), sum(behind for _, behind in some))
                for topic, some in topics.items()
            ]
        return lines

    while True:
        began = time.monotonic()
        lines = run_client(bootstrap, timeout_s, work)
        if watch and on_terminal():
            click.clear()
        if output == "json":
            keys = ("group", "topic", "partitions", "committed", "lag")
            print_json([dict(zip(keys, line, strict=True)) for line in lines])
        else:
            print_table(
                ["group", "topic", "partitions", "lag"], [(line[0], line[1], line[2], line[4]) for line in lines]
            )
        if not watch:
            return
        time.sleep(max(0.0, began + WATCH_S - time.monotonic()))


@group.command()
@click.argument("name")
@output_option
@connection_options
def members(name: str, output: str, bootstrap: str, timeout_s: float) -> None:
    """Show the members of group NAME and the partitions of each."""

    async def work(cluster: Cluster) -> GroupInfo:
        from logeion.client.groups import Groups

        return await Groups(cluster).describe(name)

    info = run_client(bootstrap, timeout_s, work)
    if output == "json":
        print_json(
            [
                {
                    "member": one.member_id,
                    "instance": one.instance_id,
                    "client": one.client_id,
                    "host": one.host,
                    "partitions": [list(where) for where in one.partitions],
                }
                for one in info.members
            ]
        )
        return
    print_table(
        ["member", "instance", "client", "host", "partitions"],
        [(m.member_id, m.instance_id, m.client_id, m.host, _partitions(m.partitions)) for m in info.members],
    )


def _partitions(partitions: list[TopicPartition]) -> str:
    topics: dict[str, list[str]] = {}
    for where in partitions:
        topics.setdefault(where.topic, []).append(str(where.partition))
    return " ".join(f"{topic}[{','.join(numbers)}]" for topic, numbers in topics.items()) or "-"


@group.command()
@click.argument("name")
@click.option("-t", "--topic", "topics", multiple=True, metavar="TOPIC[:PARTITION]", help="Only these.  [default: all]")
@click.option("--to-earliest", is_flag=True, help="The oldest record.")
@click.option("--to-latest", is_flag=True, help="Behind the newest record.")
@click.option("--to-offset", type=click.IntRange(min=0), metavar="N", help="This offset.")
@click.option("--to-time", metavar="TIME", help="The first record not older, in ISO form or ms.")
@click.option("--shift-by", type=int, metavar="N", help="So many records on, or back if negative.")
@click.option("--yes", is_flag=True, help="Do it; without, only show what would be done.")
@output_option
@connection_options
def reset(
    name: str,
    topics: tuple[str, ...],
    to_earliest: bool,
    to_latest: bool,
    to_offset: int | None,
    to_time: str | None,
    shift_by: int | None,
    yes: bool,
    output: str,
    bootstrap: str,
    timeout_s: float,
) -> None:
    """Move the committed positions of group NAME, which must have no members."""
    if [to_earliest, to_latest, to_offset is not None, to_time is not None, shift_by is not None].count(True) != 1:
        raise click.UsageError("name one of --to-earliest, --to-latest, --to-offset, --to-time and --shift-by")
    when = _time(to_time) if to_time is not None else None

    async def work(cluster: Cluster) -> list[tuple[str, int, int | None, int]]:
        from logeion.client.groups import Groups

        groups = Groups(cluster)
        committed = await groups.offsets(name)
        wanted = await _wanted(cluster, committed, topics)
        if not committed and not topics:
            await groups.describe(name)
        starts, ends = await _ends(cluster, wanted, -2), await _ends(cluster, wanted)
        times = await _ends(cluster, wanted, when) if when is not None else {}
        moved = []
        for where in sorted(wanted & ends.keys()):
            if to_earliest:
                target = starts[where]
            elif to_offset is not None:
                target = to_offset
            elif shift_by is not None:
                target = committed.get(where, starts[where]) + shift_by
            else:
                target = times.get(where, -1)
                target = ends[where] if target < 0 else target
            moved.append((where, committed.get(where), min(max(target, starts[where]), ends[where])))
        if yes:
            info = await _state(groups, name)
            if info is not None and info.members:
                raise CliError(
                    f"group {name!r} has {len(info.members)} members: they would commit over it",
                    "stop its consumers first; logeion group members shows them",
                )
            await groups.commit(name, {where: target for where, _, target in moved})
        return [(where.topic, where.partition, before, target) for where, before, target in moved]

    moved = run_client(bootstrap, timeout_s, work)
    if output == "json":
        keys = ("topic", "partition", "committed", "new")
        print_json({"group": name, "done": yes, "partitions": [dict(zip(keys, row, strict=True)) for row in moved]})
        return
    print_table(["topic", "partition", "committed", "new"], moved)
    if not moved:
        click.echo(f"group {name!r} has no positions; name topics with -t", err=True)
    elif not yes:
        click.echo("nothing was changed; add --yes to do it", err=True)


async def _state(groups: object, name: str) -> GroupInfo | None:
    """The group, or None if there is none yet: a reset may also create one."""
    from logeion.client.groups import Groups
    from logeion.errors import KafkaError

    assert isinstance(groups, Groups)
    try:
        return await groups.describe(name)
    except KafkaError as error:
        if error.name == "GROUP_ID_NOT_FOUND":
            return None
        raise


async def _wanted(
    cluster: Cluster, committed: dict[TopicPartition, int], topics: tuple[str, ...]
) -> set[TopicPartition]:
    """The partitions that were named; without any, those in which the group has a position."""
    from logeion.client.positions import TopicPartition

    if not topics:
        return set(committed)
    wanted = set()
    for text in topics:
        topic, colon, number = text.rpartition(":")
        if colon and number.isdecimal():
            wanted.add(TopicPartition(topic, int(number)))
            continue
        info = await cluster.topic(text, fresh=True)
        wanted |= {TopicPartition(text, partition.index) for partition in info.partitions}
    return wanted


def _time(text: str) -> int:
    """Milliseconds since 1970; a time without zone is the local one's. Raises click.UsageError."""
    if text.isdecimal():
        return int(text)
    try:
        return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)
    except ValueError:
        raise click.UsageError(f"--to-time {text!r}: write 2026-11-01T12:30 or milliseconds") from None


@group.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@connection_options
def delete(names: tuple[str, ...], yes: bool, bootstrap: str, timeout_s: float) -> None:
    """Delete groups that have no members, with their positions. Asks first on a terminal."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete {', '.join(names)} and all positions committed there?", abort=True)

    async def work(cluster: Cluster) -> list[CliError]:
        from logeion.client.groups import Groups
        from logeion.errors import KafkaError

        failed = []
        groups = Groups(cluster)
        for name in names:
            try:
                await groups.delete(name)
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
