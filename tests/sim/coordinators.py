"""A Coordinator's or group index's process: the real shell on simulated hands; and the leader that it stands on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn

from logeion.actors import messages as m
from logeion.actors.config import ClusterSection, Config, ControllerSection, GatewaySection, GroupsSection
from logeion.actors.coordinator.actor import CoordinatorShell
from logeion.actors.lanes import LaneError
from logeion.actors.node.companions import KIND
from logeion.actors.node.events import Start
from logeion.actors.runtime import EXIT_CRASH, ActorSpec
from logeion.wire.errors import KafkaError, StorageError
from tests.sim.hosts import DATA
from tests.sim.leaders import PartitionProcess
from tests.sim.members import Pace
from tests.sim.node_lane import hello_of
from tests.sim.virtual_loop import AsyncProcess, Exited

if TYPE_CHECKING:
    from tests.sim.group_judge import GroupJudge
    from tests.sim.hosts import Host
    from tests.sim.network import Port
    from tests.sim.world import Settings, World

PACE = Pace(beat_s=0.25, session_ms=1_500, rebalance_ms=1_200, answer_s=1.2, joined_s=3.0)
GROUPS = GroupsSection(
    min_session_timeout_ms=100,
    consumer_session_timeout_ms=PACE.session_ms,
    consumer_heartbeat_interval_ms=int(PACE.beat_s * 1000),
    # Whoever has no members for so long goes, and is started again by the next request.
    idle_exit_ms=800,
)


def config_of(settings: Settings) -> Config:
    """Of every node, as far as its gateways and coordinators go."""
    return Config(
        groups=GROUPS,
        cluster=ClusterSection(voters=[f"{number}@host-{number}:9093" for number in range(1, settings.voters + 1)]),
        controller=ControllerSection(
            session_ms=int(settings.session_s * 1000), election_ms=int(settings.election_s * 1000)
        ),
        gateway=GatewaySection(failover_wait_ms=settings.failover_wait_ms),
    )


class _Shell(CoordinatorShell):
    """An exception ends the simulated process, not this one."""

    def __init__(self, spec: ActorSpec, process: CoordinatorProcess) -> None:
        super().__init__(spec, process.loop, lambda message: None)
        self._process = process

    def fail(self, error: BaseException) -> NoReturn:
        self._process.uncaught(error)
        raise Exited(EXIT_CRASH)

    def lost(self, reason: str) -> None:
        self._process.world.note(f"{self._process.name} ends: {reason}")
        super().lost(reason)


class CoordinatorProcess(AsyncProcess):
    """What the runtime does around ``CoordinatorShell``."""

    def __init__(self, world: World, on: Host, start: Start, pid: int) -> None:
        hello = hello_of(start, KIND, on.number, pid)
        super().__init__(world, f"{on.number}:{start.actor}", on=on, hello=hello)
        self.start = start
        spec = ActorSpec(
            actor=start.actor,
            kind=KIND,
            node=on.number,
            incarnation=start.incarnation,
            data_dir=DATA,
            config=config_of(world.settings).encode(),
            topic=start.topic,
            topic_id=start.topic_id,
            partition=start.partition,
            epoch=start.epoch,
            configs=start.configs,
            group=start.group,
        )
        self.shell = _Shell(spec, self)
        self._tasks: list[asyncio.Task[None]] = []
        self.soon(self._begin)

    def _begin(self) -> None:
        self._tasks = [self.loop.create_task(self.shell.keep_node_lane()), self.loop.create_task(self._serve())]

    async def _serve(self) -> None:
        try:
            await self.shell.start()
        except Exception as error:
            self.shell.fail(error)
        self.world.note(f"{self.name} serves in epoch {self.start.epoch}")
        self.shell.report("running")

    def failed(self, error: Exception) -> None:
        """What a failing disk or a lost peer causes is life, all else a bug."""
        self.world.note(f"{self.name} ends: {error}")
        if isinstance(error, KafkaError | LaneError | OSError | StorageError):
            self.die(EXIT_CRASH)
        else:
            super().failed(error)

    def accepted(self, port: Port) -> None:
        if self.listener is None:
            port.close()
        else:
            self.listener.welcome(port)

    def terminate(self) -> None:
        """SIGTERM: nothing of it has to be put in order."""
        self.kill()

    def partition_port(self) -> Port | None:
        """Its end of the lane to its partition."""
        for port in self.ports:
            hello = port.other.hello
            if hello is not None and hello.kind == "partition":
                return port
        return None


class OffsetsLeader(PartitionProcess):
    """The leader of an offsets partition; the groups' judge sees who writes there, and who may."""

    def on_message(self, port: Port, request: int, message: m.AnyMessage, payload: bytes) -> None:
        judge = self._judge
        if isinstance(message, m.Append):
            judge.appending(message.epoch, message.writer, message.incarnation, payload)
        elif isinstance(message, m.OpenWriter):
            judge.opening((self.name, port, request), message)
        super().on_message(port, request, message, payload)

    def _reply(self, ticket: Any, message: m.Message) -> None:
        if isinstance(message, m.WriterOpened):
            self._judge.opened((self.name, *ticket), self.key, message.end)
        super()._reply(ticket, message)

    @property
    def _judge(self) -> GroupJudge:
        groups = self.world.groups
        assert groups is not None
        return groups.judge
