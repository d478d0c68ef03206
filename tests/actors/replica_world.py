"""A partition's leader and followers with real logs and real lanes in one loop, and a controller that grants all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from logeion.actors.config import ReplicaSection
from logeion.actors.lanes import Lane, OnClosed, OnMessage, dial, introduce
from logeion.actors.messages import AlterPartition, Append, Appended, Hello, PartitionAltered, Peer, Slice
from logeion.actors.partition.leading import Leadership, OnAltered
from logeion.actors.replica.following import Following
from logeion.wire.batch import iter_headers
from logeion.wire.errors import StorageError
from logeion.wire.records import Record, build_batch

TOPIC = "b" * 32


def batch(*values: bytes, producer: int = -1, sequence: int = -1) -> bytes:
    records = [Record(n, 1_000 + n, None, value, []) for n, value in enumerate(values)]
    if producer < 0:
        return bytes(build_batch(records))
    return bytes(build_batch(records, producer_id=producer, producer_epoch=0, base_sequence=sequence))


def running(test: Callable[[World], Awaitable[None]]) -> Callable[[Path], None]:
    """Run the test with a world of its own, and end all that it started."""

    def run(tmp_path: Path) -> None:
        async def bounded() -> None:
            world = World(tmp_path)
            try:
                await asyncio.wait_for(test(world), 30)
            finally:
                world.close()
            assert not world.ended, [str(error) for error in world.ended]

        asyncio.run(bounded())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


class World:
    """Nodes 1 to 3, each with a directory; at most one of them leads."""

    def __init__(self, tmp_path: Path, **configs: str) -> None:
        self.root = tmp_path
        self.loop = asyncio.get_running_loop()
        self.configs: dict[str, str] = {"retention.ms": "-1", **configs}
        self.settings = ReplicaSection(lag_time_max_ms=400, fetch_max_bytes=200_000)
        self.epoch = 0
        self.leading = -1
        self.isr = [1, 2, 3]
        self.replicas = [1, 2, 3]
        self.partition_epoch = 0
        self.applied = 0
        self.proposals: list[AlterPartition] = []
        self.leader: Leadership | None = None
        self.followers: dict[int, Following] = {}
        self.lane: Lane | None = None
        self.ended: list[StorageError] = []
        self._incarnation = 0

    # Processes ------------------------------------------------------------------------------------------------------

    def directory(self, node: int) -> Path:
        return self.root / f"node{node}" / "t-0"

    def hello(self, node: int, kind: str) -> Hello:
        self._incarnation += 1
        return Hello(
            actor=f"{kind}/t-0",
            kind=kind,
            node=node,
            pid=0,
            incarnation=self._incarnation,
            topic_id=TOPIC,
            partition=0,
            epoch=self.epoch if kind == "partition" else None,
        )

    def slice(self, node: int) -> Slice:
        peers = {
            other: Peer(host="h", port=other, broker_epoch=other * 100, eligible=True)
            for other in self.replicas
            if other != node
        }
        return Slice(
            topic_id=TOPIC,
            partition=0,
            leader=self.leading,
            leader_epoch=self.epoch,
            partition_epoch=self.partition_epoch,
            replicas=self.replicas,
            isr=self.isr,
            broker_epoch=node * 100,
            peers=peers,
            applied=self.applied,
        )

    async def lead(self, node: int, *, isr: list[int] | None = None) -> Leadership:
        """Begin an epoch; followers hear of it."""
        self.epoch += 1
        self.leading = node
        self.isr = isr or self.isr
        self.change()
        self.directory(node).parent.mkdir(exist_ok=True)
        introduce(self.hello(node, "partition"))
        self.leader = Leadership(
            self.loop,
            hello=self.hello(node, "partition"),
            path=self.path(node),
            directory=self.directory(node),
            configs=self.configs,
            fatal=self.ended.append,
            slice=self.slice(node),
            lag_time_max_s=self.settings.lag_time_max_ms / 1000,
            propose=self._propose,
        )
        introduce(Hello(actor="gateway/1", kind="gateway", node=node, pid=0))
        self.lane = await dial(self.loop, self.path(node), on_message=lambda *_: None)
        return self.leader

    def path(self, node: int) -> Path:
        return self.root / f"node{node}" / "p.sock"

    def follow(self, node: int) -> Following:
        """Start a follower."""
        hello = self.hello(node, "replica")
        self.directory(node).parent.mkdir(exist_ok=True)

        async def dialled(host: str, port: int, *, on_message: OnMessage, on_closed: OnClosed) -> Lane:
            introduce(hello)
            return await dial(self.loop, self.path(port), on_message=on_message, on_closed=on_closed)

        self.followers[node] = Following(
            self.loop,
            hello=hello,
            path=self.root / f"node{node}" / "r.sock",
            directory=self.directory(node),
            directory_id=f"dir{node}",
            configs=self.configs,
            slice=self.slice(node),
            settings=self.settings,
            dial=dialled,
            fatal=self.ended.append,
        )
        return self.followers[node]

    def change(self) -> None:
        """The metadata log has changed."""
        self.applied += 1
        self.partition_epoch += 1
        for node, follower in self.followers.items():
            follower.slice_changed(self.slice(node))

    def _propose(self, message: AlterPartition, on_altered: OnAltered) -> None:
        self.proposals.append(message)
        assert (message.leader_epoch, message.partition_epoch) == (self.epoch, self.partition_epoch)
        self.isr = message.isr
        self.change()
        answer = PartitionAltered(
            leader=self.leading, leader_epoch=self.epoch, partition_epoch=self.partition_epoch, isr=self.isr
        )
        self.loop.call_soon(on_altered, answer)

    def kill_follower(self, node: int) -> None:
        """End it as kill -9 would: nothing is synced or said, only the lock is free."""
        _kill(self.followers.pop(node))

    def kill_leader(self) -> None:
        assert self.leader is not None and self.lane is not None
        leader, self.leader = self.leader, None
        self.lane.close()
        _kill(leader)

    def close(self) -> None:
        for node in list(self.followers):
            self.kill_follower(node)
        if self.leader is not None:
            self.kill_leader()

    # Data -----------------------------------------------------------------------------------------------------------

    async def append(self, *payloads: bytes, acks: int = -1, timeout_s: float = 5) -> list[int]:
        """Append these batches at once; their base offsets."""
        assert self.lane is not None
        message = Append(epoch=self.epoch, acks=acks, timeout_ms=int(timeout_s * 1000))
        asked = [self.lane.request(message, [payload], timeout_s=timeout_s) for payload in payloads]
        found = []
        for reply in await asyncio.gather(*asked):
            assert isinstance(reply, Appended)
            found.append(reply.base_offset)
        return found

    def bytes_of(self, node: int) -> bytes:
        """All batches of this node, from its log start on, one after the other."""
        log = self.followers[node].log if node in self.followers else self._leaders_log(node)
        data = b"".join(segment.read(0, segment.size) for segment in log.segments.values())
        view = memoryview(data)
        for at, header in iter_headers(view):
            if header.last_offset >= log.start_offset:
                return bytes(view[at:])
        return b""

    def _leaders_log(self, node: int) -> Any:
        assert self.leader is not None and self.leading == node
        return self.leader.log

    async def agreed(self, *nodes: int) -> None:
        """Wait until these have all that the leader has, durably, and know its watermark."""
        assert self.leader is not None
        log = self.leader.log
        for node in nodes:
            follower = self.followers[node]
            while follower.machine.durable_end < log.end_offset or follower.log.high_watermark < log.high_watermark:
                await asyncio.sleep(0.005)
            assert self.bytes_of(node) == self.bytes_of(self.leading)
            # The epoch under way has no record yet, if anything.
            known = [entry for entry in log.epochs.entries if entry[1] < log.end_offset]
            assert [entry for entry in follower.log.epochs.entries if entry[1] < log.end_offset] == known


def _kill(one: Leadership | Following) -> None:
    with contextlib.suppress(StorageError):
        one.close(clean=False)
