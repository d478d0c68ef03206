"""What is done to a cluster on purpose. Each fault says when it struck and which partitions it can have held up."""

from __future__ import annotations

import contextlib
import math
import random
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from tests.cluster.actors import Actor
from tests.cluster.broker import until
from tests.cluster.cluster import Cluster

# How long something is stopped, in seconds: from shorter than anything notices to longer than any session.
STOP_MIN_S, STOP_MAX_S = 0.05, 10.0
FOUND_S = 20.0


class Struck(NamedTuple):
    """What was done: ``keys`` are the partitions whose pauses it explains (None: any), ``majority`` whether a majority
    lived on, ``control_s`` how long the control path was away where that was measured."""

    began: float
    keys: list[str] | None = None
    majority: bool = True
    note: str = ""
    control_s: float | None = None


class Faults:
    """The faults of one cluster and topic, chosen by a seeded generator."""

    def __init__(
        self, cluster: Cluster, keys: list[str], chance: random.Random, crash: Callable[[int], str] | None = None
    ) -> None:
        self.cluster = cluster
        self._crash = crash
        self.keys = keys
        self.chance = chance
        self._probes = 0

    # Of one process

    def leader_kill(self) -> Struck:
        return self._kill(self.cluster.leader(key := self.chance.choice(self.keys)), [key])

    def replica_kill(self) -> Struck:
        key = self.chance.choice(self.keys)
        return self._kill(self._any("replica", name=key), [key])

    def coordinator_kill(self) -> Struck:
        return self._kill(self._any("coordinator"), [])

    def gateway_kill(self) -> Struck:
        victim = self._any("gateway")
        return self._kill(victim, self._led_by(victim.node))

    def node_actor_kill(self) -> Struck:
        victim = self._any("node")
        return self._kill(victim, self._led_by(victim.node))

    def supervisor_kill(self) -> Struck:
        victim = self._any("supervisor")
        return self._kill(victim, self._led_by(victim.node))

    def admin_kill(self) -> Struck:
        return self._kill(self._any("admin"), [])

    def controller_kill(self) -> Struck:
        """The leading controller; then a topic is created, which needs the next one."""
        struck = self._kill(self.cluster.actor("controller", node=self._controller()), None)
        return struck._replace(control_s=self._control_back(struck.began))

    def leader_stop(self) -> Struck:
        return self._stop(self.cluster.leader(key := self.chance.choice(self.keys)), [key])

    def replica_stop(self) -> Struck:
        key = self.chance.choice(self.keys)
        return self._stop(self._any("replica", name=key), [key])

    def controller_stop(self) -> Struck:
        return self._stop(self.cluster.actor("controller", node=self._controller()), None)

    def gateway_stop(self) -> Struck:
        victim = self._any("gateway")
        return self._stop(victim, self._led_by(victim.node))

    def actor_term(self) -> Struck:
        """SIGTERM of one actor: it ends as it would when its node stops, and its supervisor starts it again."""
        kind = self.chance.choice(("partition", "replica", "coordinator", "gateway", "controller"))
        victim = self._any(kind)
        keys = {"gateway": self._led_by(victim.node), "coordinator": []}.get(kind, [victim.name])
        return self._end(victim, None if kind == "controller" else keys, signal.SIGTERM, FOUND_S)

    # Of clients

    def client_crash(self) -> Struck:
        """kill -9 of all clients of one load, idempotent producers and members among them."""
        began = time.monotonic()
        assert self._crash is not None, "nobody to kill"
        return Struck(began, [], note=self._crash(self.chance.randrange(2)))

    # Of a whole node

    def node_kill(self) -> Struck:
        node = self.chance.choice(self.cluster.nodes)
        keys, began = self._led_by(node), time.monotonic()
        self.cluster.kill_node(node)
        return Struck(began, keys, note=f"node {node}")

    def node_stop(self) -> Struck:
        node = self.chance.choice(self.cluster.nodes)
        keys, began = self._led_by(node), time.monotonic()
        self.cluster.pause_node(node)
        return self._resumed(Struck(began, keys, note=f"node {node}"))

    def node_restart(self) -> Struck:
        """A controlled shutdown, and the start after it."""
        node = self.chance.choice(self.cluster.nodes)
        keys, began, before = self._led_by(node), time.monotonic(), self.cluster.command(node)
        self.cluster.signal(before, signal.SIGTERM)
        until(lambda: self.cluster.command(node) != before, FOUND_S, f"node {node} again\n{self.cluster.tail()}")
        return Struck(began, keys, note=f"node {node}")

    def all_kill(self) -> Struck:
        began = time.monotonic()
        self.cluster.kill_node(*self.cluster.nodes)
        return Struck(began, None, majority=False)

    def nothing(self) -> Struck:
        """To see what pauses there are without a fault."""
        began = time.monotonic()
        time.sleep(0.2)
        return Struck(began, None)

    # How

    def _any(self, kind: str, name: str = "") -> Actor:
        def some() -> list[Actor]:
            return sorted(self.cluster.actors(kind, name=name))

        found: list[Actor] = until(some, FOUND_S, f"a {kind} {name}\n{self.cluster.tail()}")
        return self.chance.choice(found)

    def _led_by(self, node: int) -> list[str]:
        return sorted({one.name for one in self.cluster.actors("partition", node=node)} & set(self.keys))

    def _controller(self) -> int:
        def leading() -> int | None:
            for node in self.cluster.nodes:
                with contextlib.suppress(OSError):
                    if (controller := self.cluster.view(node).controller) >= 0:
                        return controller
            return None

        found: int = until(leading, FOUND_S, f"a leading controller\n{self.cluster.tail()}")
        return found

    def _kill(self, victim: Actor, keys: list[str] | None) -> Struck:
        return self._end(victim, keys, signal.SIGKILL, 5.0)

    def _end(self, victim: Actor, keys: list[str] | None, number: int, seconds: float) -> Struck:
        began = time.monotonic()
        self.cluster.signal(victim.pid, number)
        until(lambda: not victim.alive(), seconds, f"{victim} is dead")
        return Struck(began, keys, note=str(victim))

    def _stop(self, victim: Actor, keys: list[str] | None) -> Struck:
        began = time.monotonic()
        self.cluster.pause(victim)
        return self._resumed(Struck(began, keys, note=str(victim)))

    def _resumed(self, struck: Struck) -> Struck:
        seconds = math.exp(self.chance.uniform(math.log(STOP_MIN_S), math.log(STOP_MAX_S)))
        time.sleep(max(0.0, struck.began + seconds - time.monotonic()))
        self.cluster.resume_all()
        return struck._replace(note=f"{struck.note} {seconds:.2f} s".strip())

    def _control_back(self, began: float) -> float:
        """Seconds from ``began`` until a topic has been created, which is then deleted."""
        self._probes += 1
        name = f"probe-{self._probes}"
        admin = AdminClient({"bootstrap.servers": self.cluster.bootstrap, "log_level": 3})
        while True:
            try:
                admin.create_topics([NewTopic(name, 1, 1)], operation_timeout=5, request_timeout=2)[name].result(5)
                break
            except KafkaException as error:
                if error.args[0].name() == "TOPIC_ALREADY_EXISTS":
                    break
            assert time.monotonic() < began + 30, f"no topic can be created\n{self.cluster.tail()}"
        took = time.monotonic() - began
        with contextlib.suppress(KafkaException):
            admin.delete_topics([name], operation_timeout=5)[name].result(10)
        return took


FAULTS: dict[str, Callable[[Faults], Struck]] = {
    name: getattr(Faults, name)
    for name in (
        *("leader_kill", "replica_kill", "coordinator_kill", "gateway_kill", "node_actor_kill", "supervisor_kill"),
        *("admin_kill", "controller_kill", "leader_stop", "replica_stop", "controller_stop", "gateway_stop"),
        *("actor_term", "client_crash", "node_kill", "node_stop", "node_restart", "all_kill", "nothing"),
    )
}
# How often each is taken when all of them rotate.
WEIGHTS = {"leader_kill": 4, "actor_term": 3, "node_kill": 2, "leader_stop": 2, "node_stop": 2, "all_kill": 1}
