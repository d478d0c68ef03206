"""Controllers of several hosts in one process, with real lanes, cluster ports and disks between them."""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from logeion.actors import handover, lanes
from logeion.actors import messages as m
from logeion.actors.config import ClusterSection, Config, ControllerSection, StorageSection
from logeion.actors.controller.actor import ControllerShell
from logeion.actors.controller.features import SUPPORTED
from logeion.actors.hosts import HostPort
from logeion.actors.lanes import Lane, LaneError, RefusedError, dial, socket_path
from logeion.actors.metadata import MetadataImage
from logeion.actors.runtime import ActorSpec
from logeion.actors.stream import Frame
from logeion.wire.errors import DuplicateVoterError, VoterNotFoundError

SECRET = b"correct horse battery staple"
# Several hosts share this process's one loop, and this machine its cores with others.
ELECTION_MS = 300

_hello: contextvars.ContextVar[m.Hello] = contextvars.ContextVar("hello")


async def until(condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """Poll until the condition holds; its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        await asyncio.sleep(0.002)


async def as_actor(actor: str, node: int, what: Callable[[], Awaitable[Any]]) -> Any:
    """Run this under the name of an actor: its lanes, now and later, say so."""
    context = contextvars.copy_context()
    kind = actor.partition("/")[0]
    context.run(_hello.set, m.Hello(actor=actor, kind=kind, node=node, pid=os.getpid()))

    async def run() -> Any:
        return await what()

    return await asyncio.get_running_loop().create_task(run(), context=context)


class Follower:
    """A Node's or Gateway's lane to its Controller: the image it follows, and requests."""

    def __init__(self, host: Host, kind: str) -> None:
        self.host = host
        self.kind = kind
        self.image = MetadataImage()
        self.applied = 0
        self.snapshots = 0
        self.leader = -1
        self.lane: Lane | None = None

    async def connect(self) -> Follower:
        async def open_it() -> Lane:
            return await dial(
                asyncio.get_running_loop(),
                socket_path(self.host.spec.run_dir, "controller"),
                on_message=self._on_message,
            )

        self.lane = await as_actor(f"{self.kind}/{self.host.node}", self.host.node, open_it)
        return self

    def subscribe(self) -> None:
        assert self.lane is not None
        self.lane.call(m.Subscribe(from_offset=self.applied), on_reply=self._on_reply, timeout_s=20.0)

    async def ask(self, message: m.Message, seconds: float = 15.0) -> Any:
        assert self.lane is not None
        return await self.lane.request(message, timeout_s=seconds)

    def _on_reply(self, reply: m.AnyMessage | LaneError) -> None:
        if isinstance(reply, m.Committed):
            self._apply(reply)

    def _on_message(self, lane: Lane, request: int, message: m.AnyMessage, frame: Frame) -> None:
        if isinstance(message, m.Committed):
            self._apply(message)

    def _apply(self, message: m.Committed) -> None:
        if message.snapshot:
            self.snapshots += 1
            assert message.next_offset >= self.applied, "the past"
            self.image = self.image.restored(message.records)
        else:
            assert message.offset == self.applied, f"{message.offset} after {self.applied}"
            self.image.apply_all(message.records)
        self.applied = message.next_offset
        self.leader = message.leader


class Host:
    """One host: a cluster port, and a Controller that can be killed and started again."""

    def __init__(self, quorum: Quorum, node: int) -> None:
        self.quorum = quorum
        self.node = node
        self.directory = quorum.directory / str(node)
        (self.directory / "run").mkdir(parents=True)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.socket.getsockname()[:2]
        self.shell: ControllerShell | None = None
        self.port: HostPort | None = None
        self.failed: list[BaseException] = []

    @property
    def spec(self) -> ActorSpec:
        config = Config(
            cluster=ClusterSection(
                id="a-cluster",
                secret_file=str(self.quorum.secret_file),
                voters=[
                    f"{n}@{self.quorum.hosts[n].address[0]}:{self.quorum.hosts[n].address[1]}"
                    for n in self.quorum.voters
                ],
            ),
            controller=ControllerSection(election_ms=ELECTION_MS, session_ms=60_000),
            storage=StorageSection(metadata_snapshot_bytes=self.quorum.snapshot_bytes),
        )
        return ActorSpec(
            actor=f"controller/{self.node}",
            kind="controller",
            node=self.node,
            incarnation=1,
            data_dir=str(self.directory),
            config=config.encode(),
        )

    async def start(self) -> None:
        async def start_it() -> ControllerShell:
            loop = asyncio.get_running_loop()
            if self.port is None:
                self.port = HostPort(loop, [self.socket.dup()], self.spec.run_dir, SECRET)
            shell = ControllerShell(self.spec, loop, lambda _: None)
            await shell.start()
            return shell

        self.shell = await as_actor(f"controller/{self.node}", self.node, start_it)

    def kill(self) -> None:
        """As by SIGKILL: nothing is said, nothing is finished."""
        shell = self.shell
        assert shell is not None
        self.shell = None
        shell._turn = lambda: None  # type: ignore[method-assign]
        assert shell.listener is not None
        # The sockets' names stay, as nobody removes them.
        with mock.patch.object(lanes, "unbind_path"), mock.patch.object(handover, "unbind_path"):
            shell.listener.close()
        shell.peers.close()
        shell.stopping = True
        shell.observing.want(False)
        shell.probing.close()
        if shell._timer is not None:
            shell._timer.cancel()
        if shell.storage is not None:
            shell.storage.close(clean=False)

    def isolate(self) -> None:
        """Cut off from all others: its cluster port accepts nobody, and its lanes are broken."""
        assert self.port is not None and self.shell is not None
        self.port.close()
        self.port = None
        shell = self.shell
        shell.peers.close()
        assert shell.listener is not None
        for lane in list(shell.listener.lanes):
            if lane.peer is not None and lane.peer.kind == "controller":
                lane.close("cut")

    async def follow(self, kind: str = "node") -> Follower:
        follower = await Follower(self, kind).connect()
        follower.subscribe()
        return follower

    async def register(self, follower: Follower, boot_id: str = "") -> m.NodeRegistered:
        answer = await follower.ask(
            m.RegisterNode(
                node=self.node,
                incarnation="i",
                directory_id=f"{self.node:032x}",
                host="127.0.0.1",
                port=9092,
                cluster_host=self.address[0],
                cluster_port=self.address[1],
                features=SUPPORTED,
                boot_id=boot_id,
            )
        )
        assert isinstance(answer, m.NodeRegistered)
        return answer


class Quorum:
    """``voters`` of ``hosts``; the others observe."""

    def __init__(self, directory: Path, voters: int, hosts: int, snapshot_bytes: int) -> None:
        self.directory = directory
        self.snapshot_bytes = snapshot_bytes
        self.secret_file = directory / "secret"
        self.secret_file.write_bytes(SECRET)
        self.secret_file.chmod(0o600)
        self.voters = tuple(range(1, voters + 1))
        self.hosts: dict[int, Host] = {}
        for node in range(1, hosts + 1):
            self.hosts[node] = Host(self, node)

    @property
    def running(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.shell is not None]

    def leading(self) -> Host | None:
        """The host that decides, if the others agree."""
        leaders = [host for host in self.running if host.shell is not None and host.shell.member.decides]
        return leaders[0] if len(leaders) == 1 else None

    async def leader(self) -> Host:
        found: Host = await until(self.leading, what="a leader")
        return found

    def others(self, host: Host) -> list[Host]:
        return [other for other in self.hosts.values() if other is not host]


@asynccontextmanager
async def quorum(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    voters: int = 3,
    hosts: int = 0,
    snapshot_bytes: int = 4_194_304,
) -> AsyncIterator[Quorum]:
    """All hosts started; whatever fails in a callback fails the test."""
    monkeypatch.setattr(lanes, "introduction", _hello.get)
    failures: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    world = Quorum(directory, voters, hosts or voters, snapshot_bytes)
    try:
        await asyncio.gather(*(host.start() for host in world.hosts.values()))
        yield world
        for failure in failures:
            raise failure.get("exception") or AssertionError(failure["message"])
    finally:
        for host in world.hosts.values():
            if host.shell is not None:
                host.kill()
            if host.port is not None:
                host.port.close()
            host.socket.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))  # type: ignore[arg-type]


async def ids(follower: Follower) -> int:
    """The cheapest request that commits something; the first of the ids it got."""
    answer = await follower.ask(m.AllocateProducerIds(node=follower.host.node))
    assert isinstance(answer, m.ProducerIdsAllocated)
    return answer.first


async def ids_in_the_end(follower: Follower) -> int:
    """As whoever may ask twice: one that may have been with the leader that died is asked again."""
    while True:
        try:
            return await ids(follower)
        except RefusedError as refused:
            if refused.code != 7:
                raise


async def change(follower: Follower, wish: m.ChangeVoters) -> None:
    """As an admin who is not told whether it was done, and asks again until it was."""
    while True:
        try:
            await follower.ask(wish)
            return
        except RefusedError as refused:
            if refused.code in (DuplicateVoterError.code, VoterNotFoundError.code):
                return
