"""A whole cluster in one thread: hosts, network, clients and judge, for one seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from logeion.actors import messages as m
from logeion.actors.groups import OFFSETS_TOPIC
from logeion.actors.node.companions import KIND as COMPANION
from logeion.actors.node.events import Start
from logeion.actors.partition.writing import passes
from logeion.log.checkpoints import decode_topic_id
from logeion.wire.errors import MalformedError, StorageError
from tests.sim.clients import CarelessProducer, Client, Consumer, Producer, make_batch
from tests.sim.cluster_judge import Judge, Key, Truth
from tests.sim.controllers import ControllerProcess
from tests.sim.coordinators import CoordinatorProcess, OffsetsLeader
from tests.sim.engine import Engine, Stuck
from tests.sim.followers import ReplicaProcess
from tests.sim.gateway_clients import GatewayCareless, GatewayConsumer, GatewayProducer, Inspector
from tests.sim.gateway_judge import GatewayJudge
from tests.sim.gateways import GatewayProcess
from tests.sim.group_gateways import GroupGateway
from tests.sim.groups import Groups
from tests.sim.hosts import Host
from tests.sim.leaders import PartitionProcess
from tests.sim.network import Network, Port
from tests.sim.nodes import NodeProcess
from tests.sim.permitted_loss import UncleanJudge
from tests.sim.process import Process
from tests.sim.quorum_judge import QuorumJudge
from tests.sim.quorums import MovingController
from tests.sim.virtual_loop import AsyncProcess
from tests.sim.wary import WaryConsumer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TOPIC = "t"


class Settings(msgspec.Struct, kw_only=True):
    """What a seed draws; a scenario says it."""

    nodes: int = 3
    voters: int = 3
    partitions: int = 1
    replicas: int = 3
    min_isr: int = 2
    flush: str = "ack"
    segment_bytes: int = 1_048_576
    heartbeat_s: float = 0.3
    session_s: float = 1.2
    election_s: float = 1.2
    # The longest election timeout, of the shortest.
    patience: float = 2.0
    lag_time_max_s: float = 1.0
    rebalance_s: float = 0.0
    wait_ms: int = 30_000
    fetch_bytes: int = 16_384
    slow_disk: float = 0.003
    raft_bytes: int = 1_048_576
    snapshot_bytes: int = 1_048_576
    assigned: list[int] = []
    # For how long a follower's shell still reads the lanes that its machine has given up.
    late_s: float = 0.0
    # min.insync.replicas is changed now and then. That clears the ELR (KIP-966), so no storage may be lost there: the
    # only one left in the ISR could be the one that has lost it, and nobody leads until people decide (``unclean``).
    moves_min_isr: bool = False
    # Leaders come and go so fast that their logs part, and clients never hear what became of their batches.
    seesaw: bool = False
    # Few things happen, and each at the worst moment: whoever is left to follow a new leader has lost all it had.
    hunted: bool = False
    # The quorum's voters come and go, and their disks fail.
    moves_voters: bool = False
    # All who may lead are lost, and others lead all the same: "on" from the beginning, "switched" on meanwhile, or
    # "asked" for by an admin.
    unclean: str = ""
    # So many a host, and all clients speak Kafka's protocol to them (members of groups: in messages); 0: clients dial
    # leaders.
    gateways: int = 0
    failover_wait_ms: int = 3000
    # Leaders' hosts are cut off from the others, again and again, and their clients still reach them.
    stranded: bool = False
    # Consumer groups (with a gateway on each host), and the partitions that hold what they commit.
    groups: int = 0
    offsets_partitions: int = 1

    @property
    def topic_defaults(self) -> Mapping[str, str]:
        """Of every topic."""
        allowed = {"unclean.leader.election.enable": "true"} if self.unclean == "on" else {}
        return {
            **allowed,
            "min.insync.replicas": str(self.min_isr),
            "logeion.flush": self.flush,
            "segment.bytes": str(self.segment_bytes),
            "index.interval.bytes": "256",
        }


class World:
    """Call ``boot`` once, then ``run`` as far as wanted."""

    def __init__(self, seed: int, settings: Settings) -> None:
        self.seed = seed
        self.engine = Engine(seed)
        self.settings = settings
        # All processes that ever were.
        self.made: list[Process] = []
        self.network = Network(self.engine)
        self.judge = UncleanJudge(self) if settings.unclean else Judge(self)
        self.gateway_judge = GatewayJudge(self)
        self._inspectors: list[Inspector] = []
        self.voters = tuple(range(1, settings.voters + 1))
        self.hosts = {number: Host(self, number) for number in range(1, settings.nodes + 1)}
        # Where voters come and go: each host's ``cluster.voters``, and who judges that.
        self.configured = dict.fromkeys(self.hosts, self.voters)
        self.quorum = QuorumJudge(self)
        self.admin = Process(self, "admin", host=99)
        self.clients: list[Client] = []
        self.crashes: list[str] = []
        self.topic_ids = 0
        # From now on no storage may be lost.
        self.keeps_storage = False
        self.values = 0
        self.raft_seeds = 0
        self.groups = Groups(self) if settings.groups else None

    def boot(self) -> None:
        """Start all hosts, wait until they are in, make the topic, wait until it is led."""
        for host in self.hosts.values():
            self.engine.after(self.engine.random.uniform(0.0, 0.1), host.start)
        image = self.judge.image
        self.run_until(lambda: sum(map(image.eligible, self.hosts)) == len(self.hosts), 20.0, "not all nodes are in")
        self.create_topic(TOPIC)
        self.run_until(self.all_led, 20.0, "a new topic is not led")
        if self.groups is not None:
            known = len(self.judge.truths)
            self._create(self.groups.topic(), internal=True)
            self.run_until(lambda: len(self.judge.truths) > known and self.all_led(), 20.0, "no offsets topic is led")

    def create_topic(self, name: str) -> None:
        """Ask for it."""
        topic = m.TopicToCreate(
            name=name,
            partitions=-1 if self.settings.assigned else self.settings.partitions,
            replication_factor=-1 if self.settings.assigned else self.settings.replicas,
            assignments={0: self.settings.assigned} if self.settings.assigned else {},
        )

        self._create(topic)

    def _create(self, topic: m.TopicToCreate, *, internal: bool = False) -> None:
        host = self.hosts[1]

        def opened(lane: Port) -> None:
            lane.call(m.CreateTopics(topics=[topic], internal=internal), lambda reply: None, 10.0)

        self.network.dial(self.admin, lambda: host.processes.get("controller"), opened, lambda: None, host.number)

    def all_led(self) -> bool:
        """Whether each partition's leader serves."""
        return bool(self.judge.truths) and all(map(self.leader_of, self.judge.truths.values()))

    def leader_of(self, truth: Truth) -> PartitionProcess | None:
        """The process that leads it by the newest word of the controller, if it serves."""
        newest = truth.newest
        if newest is None or newest.leader < 0:
            return None
        process = self.hosts[newest.leader].processes.get(f"partition/{truth.directory}")
        if not isinstance(process, PartitionProcess) or process.log is None or process.state != "running":
            return None
        return process if process.start.epoch == newest.leader_epoch and not process.machine.resigned else None

    # Lost storage: what may be lost by the rules, and what the judge must know of it

    def may_lose(self, host: Host, truth: Truth) -> bool:
        """Whether as few replicas have lost storage, and not yet got it back, as the promise allows (I2); any may
        where unclean elections are judged."""
        if self.settings.unclean:
            return True
        if self.settings.moves_min_isr or self.keeps_storage:
            return False
        lost = {number for number, key in self.judge.budget if key == truth.key} | {host.number}
        return len(lost) <= min(self.settings.min_isr, self.settings.replicas) - 1

    def may_cut_power(self, host: Host) -> bool:
        """With flush=ack nothing that counts is lost."""
        if self.settings.flush == "ack":
            return True
        return self.may_lose_all(host)

    def may_lose_all(self, host: Host) -> bool:
        """The same for all it holds; and not while there is no topic: a new one may be laid on hosts that the
        controller does not yet know to have lost anything."""
        truths = self.judge.truths
        return bool(truths) and all(self.may_lose(host, truth) for truth in truths.values())

    def power_lost(self, host: Host) -> None:
        """The host's power went."""
        for truth in self.judge.truths.values():
            if self.settings.flush == "ack":
                self.judge.forget(host.number, truth)
            else:
                self.judge.storage_lost(host.number, truth.key)

    def directory_lost(self, host: Host) -> None:
        for truth in self.judge.truths.values():
            self.judge.storage_lost(host.number, truth.key)

    def storage_broken(self, host: Host, truth: Truth) -> None:
        """What was synced before is there, as long as the replica counts; then it is set aside."""
        self.judge.budget[host.number, truth.key] = self.engine.time + 4.0

    # What happens

    def note(self, line: str) -> None:
        self.engine.note(line)

    def crashed(self, process: Process, cause: str) -> None:
        """A process ended of an exception: the product is wrong, whatever the judges say."""
        self.note(f"{process.name} crashed: {cause.splitlines()[-1]}")
        self.crashes.append(f"{process.name}: {cause}")

    def run(self, until: float) -> None:
        """Let time pass."""
        self.engine.run(until)

    def run_until(self, condition: Callable[[], object], limit: float, what: str = "", every: int = 8) -> None:
        """Let time pass until something holds; raises ``Stuck`` after ``limit`` seconds."""
        engine = self.engine
        end = engine.time + limit
        number = 0
        while True:
            number += 1
            if number % every == 0 and condition():
                return
            if engine.time > end:
                raise Stuck(f"after {limit:.1f} s: {what}")
            engine.next()

    def close(self) -> None:
        """Take the world apart, so that its memory is free at once.

        A cycle through a struct that the collector does not track (``gc=False``: a machine's mail names lanes) would
        stay for ever: a real process has one machine, a run of seeds has thousands.
        """
        for process in self.made:
            if isinstance(process, AsyncProcess):
                process.kill()
        self.engine.clear()
        self.network.remote.clear()
        for process in self.made:
            for port in process.ports:
                port.__dict__.clear()
            process.__dict__.clear()
        self.made.clear()

    # Making processes

    def make_fixed(self, host: Host, fixed: str) -> Process:
        """The Supervisor starts Controller or Node."""
        if fixed == "controller" and self.settings.moves_voters:
            return MovingController(self, host)
        if fixed.startswith("gateway/"):
            make = GroupGateway if self.settings.groups else GatewayProcess
            return make(self, host, fixed, host.incarnations[fixed])
        return ControllerProcess(self, host) if fixed == "controller" else NodeProcess(self, host)

    def make_actor(self, host: Host, start: Start, pid: int) -> Process:
        """The Supervisor starts what Node asked for."""
        if start.kind == "replica":
            return ReplicaProcess(self, host, start, pid)
        if start.kind == COMPANION:
            return CoordinatorProcess(self, host, start, pid)
        if start.topic == OFFSETS_TOPIC:
            return OffsetsLeader(self, host, start, pid)
        assert start.kind == "partition", start.kind
        return PartitionProcess(self, host, start, pid)

    def controllers(self) -> list[MovingController]:
        """Those that run, where voters come and go."""
        found = [host.processes.get("controller") for host in self.hosts.values()]
        return [process for process in found if isinstance(process, MovingController)]

    # What the processes ask

    def host_at(self, address: str) -> Host:
        """The host of this address."""
        return self.hosts[int(address.removeprefix("host-"))]

    def leading(self, host: Host, key: Key) -> Process | None:
        """The process there whose lane socket is named for a leader of this topic id and partition."""
        for process in host.processes.values():
            if isinstance(process, PartitionProcess) and process.key == key:
                return process
        return None

    def gateways(self) -> list[GatewayProcess]:
        """All that run now."""
        running = [process for host in self.hosts.values() for process in host.processes.values()]
        return [process for process in running if isinstance(process, GatewayProcess)]

    def a_gateway(self, number: int) -> GatewayProcess | None:
        """Whoever gets a connection to the Kafka port of this host."""
        listening = [one for one in self.hosts[number].processes.values() if isinstance(one, GatewayProcess)]
        listening = [one for one in listening if one.listens]
        return self.engine.random.choice(listening) if listening else None

    def who_leads(self, key: Key, client: int) -> tuple[Host, int] | None:
        """What some host that this client reaches believes: where the leader is, and its epoch."""
        host = self.hosts[self.engine.random.randint(1, len(self.hosts))]
        blocked = self.network.blocked
        if not host.up or (client, host.number) in blocked or (host.number, client) in blocked:
            return None
        node = host.processes.get("node")
        if not isinstance(node, NodeProcess) or node.frozen:
            return None
        state = node.machine.image.partition(*key)
        if state is None or state.leader < 0:
            return None
        return self.hosts[state.leader], state.leader_epoch

    def batch(self, producer_id: int, sequence: int, count: int) -> bytes:
        """A batch of values that nobody else sends."""
        values = []
        for _ in range(count):
            self.values += 1
            values.append(b"%d" % self.values * self.engine.random.randint(1, 6))
        return make_batch(producer_id, sequence, values, 1_700_000_000_000 + int(self.engine.time * 1000))

    def fresh_id(self) -> str:
        """One that nobody has."""
        self.values += 1
        return f"id-{self.values}"

    def new_topic_id(self) -> str:
        self.topic_ids += 1
        return f"{self.topic_ids:032x}"

    def disk_time(self) -> float:
        """How long a sync takes."""
        return self.engine.random.uniform(0.0002, self.settings.slow_disk)

    @staticmethod
    def passes(error: StorageError) -> bool:
        """Whether it is only a full disk."""
        return passes(error)

    def topic_id_in(self, host: Host, path: str) -> str | None:
        """Whose log lies there."""
        inode = host.disk.names.get(path, {}).get("partition.metadata")
        try:
            return decode_topic_id(bytes(inode.data)) if inode is not None else None
        except MalformedError:
            return None

    def judge_reset(self, host: int, key: Key) -> None:
        """A follower begins anew: its watermark may be a lower one."""

    def diverged(self, leader: PartitionProcess, lane: Port) -> None:
        """A leader is about to tell a follower where their logs part."""

    def elected(self, truth: Truth) -> None:
        """Another leader epoch of this partition has begun."""

    def committed(self, truth: Truth, host: int) -> None:
        """A leader's watermark is the highest that ever was."""

    def quorum_led(self, host: int) -> None:
        """A controller leads the quorum in a new term."""

    def drained(self, host: Host) -> None:
        """A host that was to be stopped leads nothing any more."""
        self.note(f"host {host.number} is drained")

    # Clients

    def add_producer(self, key: Key, *, pace: float, until: float) -> Producer:
        make = GatewayProducer if self.settings.gateways else Producer
        producer = make(self, len(self.clients) + 1, key, pace, until)
        self.clients.append(producer)
        return producer

    def add_careless(self, key: Key, *, pace: float, until: float) -> CarelessProducer:
        make = GatewayCareless if self.settings.gateways else CarelessProducer
        careless = make(self, len(self.clients) + 1, key, pace, until)
        self.clients.append(careless)
        return careless

    def inspect_gateways(self) -> bool:
        """Ask each of them, of each partition, who leads; True once all have answered."""
        if not self._inspectors:
            asked = [(key, gateway) for key in self.judge.truths for gateway in self.gateways()]
            first = len(self.clients) + 1
            self._inspectors = [Inspector(self, number, *one) for number, one in enumerate(asked, first)]
        return all(inspector.done for inspector in self._inspectors)

    def add_consumer(self, key: Key) -> Consumer:
        make = GatewayConsumer if self.settings.gateways else WaryConsumer if self.settings.unclean else Consumer
        consumer = make(self, len(self.clients) + 1, key)
        self.clients.append(consumer)
        return consumer
