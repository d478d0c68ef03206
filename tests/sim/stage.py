"""A cluster for one scenario: nothing goes wrong by itself, the test says what does, the judge looks at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from logeion.actors import messages as m
from logeion.actors.controller.machine import ControllerMachine
from tests.sim.clients import Producer
from tests.sim.cluster_judge import Key, Truth
from tests.sim.cluster_world import ClusterWorld
from tests.sim.controllers import ControllerProcess
from tests.sim.faults import Faults
from tests.sim.followers import ReplicaProcess
from tests.sim.hosts import Host
from tests.sim.leaders import PartitionProcess
from tests.sim.network import Port
from tests.sim.process import Process
from tests.sim.world import Settings

FAR = 3600.0


class Stage(ClusterWorld):
    """One partition, led and in sync when ``Stage`` returns."""

    def __init__(self, seed: int = 1, **settings: Any) -> None:
        super().__init__(seed, Settings(**{"slow_disk": 0.001, "rebalance_s": 0.0, **settings}))
        self.faults = Faults(self, FAR, 1.0)
        self.boot()
        self.settle()

    @property
    def truth(self) -> Truth:
        return next(iter(self.judge.truths.values()))

    @property
    def key(self) -> Key:
        return self.truth.key

    @property
    def isr(self) -> list[int]:
        """The committed one."""
        assert self.truth.newest is not None
        return sorted(self.truth.newest.isr)

    # Who is who

    def leader(self) -> PartitionProcess:
        """The newest leader, once it serves."""
        self.wait(lambda: self.leader_of(self.truth) is not None, "nobody leads")
        found = self.leader_of(self.truth)
        assert found is not None
        return found

    def leads(self, node: int) -> bool:
        """Whether this node's process is the newest leader and serves."""
        found = self.leader_of(self.truth)
        return found is not None and found.host == node

    def follower(self, node: int) -> ReplicaProcess:
        """The follower on this node, once it has opened its log."""
        name = f"replica/{self.truth.directory}"

        def there() -> bool:
            process = self.hosts[node].processes.get(name)
            return isinstance(process, ReplicaProcess) and process.log is not None

        self.wait(there, f"no follower on {node}")
        found = self.hosts[node].processes[name]
        assert isinstance(found, ReplicaProcess)
        return found

    def followers(self) -> list[int]:
        """The nodes of the other replicas."""
        newest = self.truth.newest
        assert newest is not None
        return [node for node in newest.replicas if node != newest.leader]

    def controller(self) -> ControllerMachine:
        """What decides, at the quorum's leader."""

        def deciding() -> list[ControllerMachine]:
            found = []
            for host in self.hosts.values():
                process = host.processes.get("controller")
                if isinstance(process, ControllerProcess) and process.member._machine is not None:
                    found.append(process.member._machine)
            return found

        self.wait(lambda: bool(deciding()), "no controller decides")
        return deciding()[-1]

    # Time

    def wait(self, condition: Callable[[], object], what: str = "it did not come about", limit: float = 15.0) -> None:
        """Until it holds, at most ``limit`` seconds."""
        if not condition():
            self.run_until(condition, limit, what, every=1)

    def settle(self) -> None:
        """Until all replicas are equal and in sync, and nobody waits."""
        self.wait(self.settled, "the cluster does not come to rest", 60.0)

    def calm(self) -> None:
        """Heal all; then all must be one, and no process may have crashed."""
        assert self.faults is not None
        self.faults.heal()
        self.settle()
        self.check_equal()
        assert self.crashes == []

    # Clients

    def producer(self) -> Producer:
        """One that sends what it is given."""
        return self.add_producer(self.key, pace=FAR, until=0.0)

    def give(self, producer: Producer, batches: int = 1) -> None:
        """Hand it so many batches of one record."""
        for _ in range(batches):
            batch = self.batch(producer.producer_id, producer.sequence, 1)
            producer.waiting.append((producer.sequence, batch))
            producer.sequence += 1
        producer.run(producer._send)

    def send(self, producer: Producer, batches: int = 1) -> None:
        """The same, and wait until all of them are acknowledged."""
        self.give(producer, batches)
        self.wait(lambda: not producer.waiting, "no ack")

    def lane(self, process: Process, name: str = "visitor") -> Port:
        """A lane of a stranger's to this process."""
        found: list[Port] = []
        stranger = Process(self, name, host=98)
        self.network.dial(stranger, lambda: process, found.append, lambda: None, process.host)
        self.wait(lambda: bool(found), f"{process.name} does not listen")
        return found[0]

    def ask(self, process: Process, message: m.Message, payload: bytes = b"", limit: float = 5.0) -> m.Message | None:
        """Its answer, None if there is none in time."""
        answers: list[m.Message | None] = []
        self.lane(process).call(message, answers.append, limit, payload)
        self.wait(lambda: bool(answers), "no answer", limit + 1.0)
        return answers[0]

    def append(self, leader: PartitionProcess, acks: int = 1, batch: bytes = b"") -> m.Message | None:
        """A batch straight to this process, in its epoch."""
        message = m.Append(epoch=leader.machine.epoch, acks=acks, timeout_ms=700)
        return self.ask(leader, message, batch or self.batch(-1, -1, 1), 2.0)

    # Misfortune

    def isolate(self, node: int, *, clients: bool = False) -> None:
        """No other host reaches it, and (``clients``) no client."""
        others = [other for other in self.hosts if other != node]
        others += [client.host for client in self.clients] if clients else []
        self.network.block([pair for other in others for pair in ((node, other), (other, node))])

    def down(self, node: int, *, power: bool = False) -> Host:
        """Its tree is killed, or its power goes; it stays down until it is started."""
        host = self.hosts[node]
        host.stop_tree(power=power)
        if power:
            self.power_lost(host)
        return host

    def said(self, words: str) -> int:
        """How often the story has these words."""
        return sum(words in line for line in self.engine.trace)
