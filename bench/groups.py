"""What consumer groups cost and how long they take.

`python -m bench.groups` runs each part against a broker of its own (three minutes, 3 GB of memory); single ones by
name: `python -m bench.groups first rebalance`. Members are foreign clients where a time at a client's defaults is told,
and connections that speak the bare protocol where many are needed.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import psutil

from bench.processes import cpu_seconds
from logeion.client.addresses import parse_bootstrap
from logeion.client.cluster import Cluster
from logeion.client.connection import Connection
from logeion.client.errors import ClientError
from logeion.client.groups import Groups
from logeion.wire.apis import (
    HeartbeatRequest,
    HeartbeatResponse,
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    JoinGroupResponse,
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
    SyncGroupRequest,
    SyncGroupRequestAssignment,
    SyncGroupResponse,
)
from tests.cluster.broker import Broker, running_broker
from tests.cluster.test_group_actors import fill
from tests.interop.members.driver import MemberProcess, until_owned, until_told

JOIN, HEARTBEAT, SYNC, COMMIT = 11, 12, 14, 8
MEMBER_ID_REQUIRED, REBALANCING, UNKNOWN_MEMBER = 79, 27, 25
SUBSCRIPTION = b"\0\0\0\0\0\1\0\1t\xff\xff\xff\xff"
HEARTBEAT_S = 3.0


class RawMember:
    """One member of a classic group on a connection of its own, with the timing of clients' defaults."""

    def __init__(self, bootstrap: str, group: str) -> None:
        self.address = parse_bootstrap(bootstrap)[0]
        self.group = group
        self.member_id = ""
        self.generation = -1
        self.settled = False
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self.connection = await Connection.open(self.address, client_id="bench", timeout_s=30, learned_from="bench")

    async def ask(self, api: int, body: Any) -> Any:
        return await self.connection.request(api, body, timeout_s=60)

    async def join(self) -> None:
        """Until this member has its assignment in some generation."""
        self.settled = False
        while True:
            request = JoinGroupRequest(
                group_id=self.group,
                session_timeout_ms=45_000,
                rebalance_timeout_ms=60_000,
                member_id=self.member_id,
                protocol_type="consumer",
                protocols=[JoinGroupRequestProtocol(name="range", metadata=SUBSCRIPTION)],
            )
            joined = cast(JoinGroupResponse, await self.ask(JOIN, request))
            if joined.error_code == MEMBER_ID_REQUIRED:
                self.member_id = joined.member_id
                continue
            if joined.error_code == UNKNOWN_MEMBER:
                self.member_id = ""
            if joined.error_code:
                await asyncio.sleep(0.1)
                continue
            self.member_id, self.generation = joined.member_id, joined.generation_id
            assignments = [
                SyncGroupRequestAssignment(member_id=one.member_id, assignment=b"x" * 40) for one in joined.members
            ]
            sync = SyncGroupRequest(
                group_id=self.group,
                generation_id=self.generation,
                member_id=self.member_id,
                protocol_type="consumer",
                protocol_name="range",
                assignments=assignments,
            )
            synced = cast(SyncGroupResponse, await self.ask(SYNC, sync))
            if not synced.error_code:
                self.settled = True
                return

    async def beat(self) -> None:
        """Heartbeats, and what they ask for."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            request = HeartbeatRequest(group_id=self.group, generation_id=self.generation, member_id=self.member_id)
            answer = cast(HeartbeatResponse, await self.ask(HEARTBEAT, request))
            if answer.error_code in (REBALANCING, UNKNOWN_MEMBER):
                await self.join()

    async def commit(self, offset: int) -> int:
        request = OffsetCommitRequest(
            group_id=self.group,
            generation_id_or_member_epoch=self.generation,
            member_id=self.member_id,
            topics=[
                OffsetCommitRequestTopic(
                    name="t", partitions=[OffsetCommitRequestPartition(partition_index=0, committed_offset=offset)]
                )
            ],
        )
        return cast(OffsetCommitResponse, await self.ask(COMMIT, request)).topics[0].partitions[0].error_code

    async def live(self) -> None:
        await self.join()
        await self.beat()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.connection.close()


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def settle(members: list[RawMember], limit_s: float) -> float:
    """Until all have an assignment of their group's newest generation; seconds."""
    began = time.monotonic()

    def settled() -> bool:
        newest: dict[str, int] = {}
        for one in members:
            newest[one.group] = max(newest.get(one.group, -1), one.generation)
        return all(one.settled and one.generation == newest[one.group] for one in members)

    while not settled():
        if time.monotonic() - began > limit_s:
            raise RuntimeError(f"{sum(not one.settled for one in members)} of {len(members)} members do not settle")
        await asyncio.sleep(0.01)
    return time.monotonic() - began


def coordinators(broker: Broker) -> list[psutil.Process]:
    found = broker.processes()
    return [
        psutil.Process(pid)
        for pid, title in found.items()
        if re.match(r"logeion\[1\] coordinator ", title) and "__consumer_offsets" not in title
    ]


def first(broker: Broker, folder: Path) -> None:
    """From subscribe to the first record of a new group, clients at their defaults."""
    produced(broker, "first", 4)
    for module, extra in (
        ("kafka_python", {}),
        ("aiokafka_", {}),
        ("confluent", {}),
        ("confluent", {"protocol": "consumer"}),
    ):
        times = []
        for number in range(10):
            options = {"bootstrap": broker.bootstrap, "group": f"{module}{len(extra)}-{number}", "topics": ["first"]}
            member = MemberProcess.python(module, folder / "first.err", heartbeat_ms=0, **options, **extra)
            try:
                until_told(lambda: member.records, 30, [member])  # noqa: B023
                times.append(member.records[0]["t"] - member.of("subscribing")[0]["t"])
            finally:
                member.end()
        name = f"{module.rstrip('_')} {extra.get('protocol', 'classic')}"
        print(f"first record, {name}: median {statistics.median(times):.2f} s, most {max(times):.2f} s of {len(times)}")


def produced(broker: Broker, topic: str, partitions: int) -> None:
    import kafka
    from kafka.admin import KafkaAdminClient, NewTopic

    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.create_topics([NewTopic(topic, partitions, 1)])
    admin.close()
    producer = kafka.KafkaProducer(bootstrap_servers=broker.bootstrap)
    for partition in range(partitions):
        producer.send(topic, b"record", partition=partition)
    producer.close()


def rebalance(broker: Broker, folder: Path) -> None:
    """Three members over twelve partitions: one leaves, all are owned; it comes back, all are owned.

    Times run from the moment the leaver was told to close, and from the comer's subscribe. Members notice a rebalance
    with their next heartbeat, here every 300 ms.
    """
    produced(broker, "rebalance", 12)
    everything = {("rebalance", partition) for partition in range(12)}
    options = {"bootstrap": broker.bootstrap, "topics": ["rebalance"], "quiet": True}
    for module, extra in (("aiokafka_", {}), ("confluent", {}), ("confluent", {"protocol": "consumer"})):
        group = f"rebalance-{module}-{len(extra)}"
        members = [MemberProcess.python(module, folder / f"{n}.err", group=group, **options, **extra) for n in range(3)]
        leaving: list[float] = []
        coming: list[float] = []
        try:
            until_owned(members, everything, 60)
            for _ in range(25):
                went = members.pop()
                began = time.monotonic()
                went.tell("close")
                until_owned(members, everything, 30)
                leaving.append(time.monotonic() - began)
                went.end()
                came = MemberProcess.python(module, folder / "came.err", group=group, **options, **extra)
                members.append(came)
                until_owned(members, everything, 30)
                coming.append(time.monotonic() - came.of("subscribing")[0]["t"])
        finally:
            for member in members:
                member.end()
        both = leaving + coming
        print(
            f"rebalance of 3 over 12, {module} {extra.get('protocol', 'classic')}: leave p50 "
            f"{statistics.median(leaving):.2f} s, join p50 {statistics.median(coming):.2f} s, "
            f"p99 {percentile(both, 0.99):.2f} s of {len(both)}"
        )


async def crowd(broker: Broker) -> None:
    """Two hundred members join one group at once."""
    members = [RawMember(broker.bootstrap, "crowd") for _ in range(200)]
    await asyncio.gather(*(one.start() for one in members))
    began = time.monotonic()
    for one in members:
        one.tasks.append(asyncio.create_task(one.live()))
    await settle(members, 60)
    print(f"200 members join one group at once: settled in {time.monotonic() - began:.2f} s")
    await asyncio.gather(*(one.stop() for one in members))


async def many(broker: Broker, seconds: float = 20.0) -> None:
    """Two hundred groups of five members that beat and commit."""
    members = [RawMember(broker.bootstrap, f"many-{number}") for number in range(200) for _ in range(5)]
    await asyncio.gather(*(one.start() for one in members))
    began = time.monotonic()
    for one in members:
        one.tasks.append(asyncio.create_task(one.live()))
    await settle(members, 120)
    print(f"200 groups of 5 members: settled in {time.monotonic() - began:.1f} s")
    processes = coordinators(broker)
    private = [process.memory_full_info().uss / 1e6 for process in processes]
    print(
        f"memory of a Coordinator with 5 members: {statistics.median(private):.1f} MB private at the median, "
        f"{max(private):.1f} at most, {sum(private):.0f} MB for {len(private)}"
    )
    idle = cpu_seconds(broker.pid)
    await asyncio.sleep(5)
    print(f"their heartbeats alone (every 3 s): {(cpu_seconds(broker.pid) - idle) / 5 * 100:.0f} % of a core")
    for rate in (1000, 2000, 3000):
        latencies: list[float] = []
        failures: list[int] = []

        async def committing(one: RawMember, phase: float, pause: float) -> None:
            await asyncio.sleep(phase)
            due = time.monotonic()
            offset = 0
            while True:
                offset += 1
                asked = time.monotonic()
                try:
                    code = await one.commit(offset)
                except ClientError:
                    code = -1
                latencies.append(time.monotonic() - asked)  # noqa: B023
                if code:
                    failures.append(code)  # noqa: B023
                due += pause
                await asyncio.sleep(max(0.0, due - time.monotonic()))

        pause = len(members) / rate
        cpu, began = cpu_seconds(broker.pid), time.monotonic()
        tasks = [
            asyncio.create_task(committing(one, pause * number / len(members), pause))
            for number, one in enumerate(members)
        ]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        took = time.monotonic() - began
        print(
            f"{rate} commits/s asked, 1000 members: {len(latencies) / took:.0f}/s, p50 "
            f"{percentile(latencies, 0.5) * 1000:.1f} ms, p99 {percentile(latencies, 0.99) * 1000:.0f} ms, "
            f"{len(failures)} failed, broker {(cpu_seconds(broker.pid) - cpu) / took:.2f} cores"
        )
    await asyncio.gather(*(one.stop() for one in members))


async def killed(broker: Broker) -> None:
    """How long a group is without its Coordinator when that is killed: from SIGKILL to the next accepted commit."""
    member = RawMember(broker.bootstrap, "killed")
    await member.start()
    await member.join()
    gaps = []
    for number in range(50):
        (process,) = [p for p in coordinators(broker) if " killed " in " ".join(p.cmdline())]
        process.kill()
        began = time.monotonic()
        while await member.commit(number):
            await asyncio.sleep(0.001)
        gaps.append(time.monotonic() - began)
        await asyncio.sleep(0.3)
    print(
        f"kill -9 of a Coordinator to the next accepted commit: p50 {statistics.median(gaps) * 1000:.0f} ms, "
        f"most {max(gaps) * 1000:.0f} ms of {len(gaps)}"
    )
    member.connection.close()


def listed(broker: Broker, folder: Path) -> None:
    """How long ten thousand groups take to index at a start, to list, and to tell the positions of one."""
    asyncio.run(ask_about_groups(broker))
    broker.stop()
    fill(broker.data / "__consumer_offsets-0", 10_000)
    broker.start()
    asyncio.run(ask_about_groups(broker))
    _, seconds = re.findall(r"(\d+) groups indexed in ([0-9.]+) s", broker.tail(200))[-1]
    (pid,) = broker.pids("coordinator __consumer_offsets-0")
    memory = psutil.Process(pid).memory_full_info().uss / 1e6
    print(
        f"index of 30,000 positions: read in {seconds} s, {memory:.0f} MB private; "
        f"{len(coordinators(broker))} Coordinators run"
    )


async def ask_about_groups(broker: Broker) -> None:
    cluster = Cluster(broker.bootstrap)
    await cluster.start()
    groups = Groups(cluster)
    await groups.offsets("g4321")
    began = time.monotonic()
    found = await groups.ls()
    took = time.monotonic() - began
    began = time.monotonic()
    for number in range(100):
        await groups.offsets(f"g{number}")
    print(
        f"{len(found)} groups listed in {took * 1000:.0f} ms, positions of one told in "
        f"{(time.monotonic() - began) * 10:.1f} ms"
    )
    await cluster.close()


PARTS: dict[str, Callable[[Broker, Path], Any]] = {
    "first": first,
    "rebalance": rebalance,
    "crowd": lambda broker, folder: crowd(broker),
    "killed": lambda broker, folder: killed(broker),
    "many": lambda broker, folder: many(broker),
    "listed": listed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="default: all")
    wanted = parser.parse_args().parts or list(PARTS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = folder / "settings.toml"
        settings.write_text("[groups]\nconsumer_heartbeat_interval_ms = 300\n")
        for part in wanted:
            with running_broker(folder / part, "--config", str(settings)) as broker:
                produced(broker, "t", 1)
                work = PARTS[part](broker, folder)
                if isinstance(work, Awaitable):
                    asyncio.run(cast(Any, work))


if __name__ == "__main__":
    main()
