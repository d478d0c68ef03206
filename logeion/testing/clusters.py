"""A real cluster for a test: ``logeion up -n 3`` as a child process, whose nodes and actors are killed and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from logeion.actors.processes import descendants
from logeion.client.addresses import parse_bootstrap
from logeion.client.background import background
from logeion.client.connection import Connection
from logeion.client.errors import ClientError
from logeion.client.metadata import Metadata, PartitionInfo
from logeion.wire.apis import MetadataRequest, MetadataResponse
from logeion.wire.errors import KafkaError

from .kafka import CLIENT_ID
from .running import READY_S, Running, actors_at, temporary_folder

NODES = 3
METADATA = 3
WITHIN_S = 10.0
HEALTHY_S = 30.0
# How long a node may take to say what it sees; a node that was stopped never does.
ASK_S = 1.0
POLL_S = 0.01

T = TypeVar("T")


class Actor(NamedTuple):
    """One process of a node: "partition/orders-0", "gateway/0", "controller", …"""

    node: int
    id: str
    pid: int


class Cluster(Running):
    """``nodes`` nodes on this machine, numbered from 1, that know each other only by TCP.

    ``bootstrap`` names all of them. A topic has three replicas unless it says otherwise.
    """

    title = "cluster"

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, *, nodes: int = NODES) -> None:
        super().__init__(folder, settings)
        self.count = nodes
        self._killed: set[int] = set()
        self._paused: dict[int, int] = {}  # pid: its node
        self._touched = False

    def start(self) -> None:
        """Returns when clients can be served by every node. Raises BrokerError."""
        try:
            self._launch("-n", str(self.count), "--no-restart")
            self._await_ready(time.monotonic() + READY_S)
        except BaseException:
            self.stop()
            raise
        self.bootstrap: str = ",".join(self.address(node) for node in self.nodes)

    def stop(self) -> None:
        """Ends it, in order if that takes less than 5 s. Returns when all its processes are gone."""
        self._continue(None)
        super().stop()

    # What there is

    @property
    def nodes(self) -> list[int]:
        """The numbers of all nodes, whether they run or not."""
        return sorted(int(node["node"]) for node in self.details["nodes"])

    def address(self, node: int) -> str:
        """``host:port`` where clients reach this node."""
        return str(self._node(node)["listeners"][0])

    def actors(self) -> list[dict[str, Any]]:
        """The actors of all nodes that run, as the admin HTTP tells: node, id, kind, pid, state, restarts, …

        A node that does not tell them has one row, which says so in place of an id.
        """
        found: list[dict[str, Any]] = []
        for node in self._running():
            try:
                found += [{"node": node, **actor} for actor in actors_at(str(self._node(node)["admin"][0]), ASK_S)]
            except OSError as error:
                found.append({"node": node, "id": f"(not to be had: {error})"})
        return found

    def actor(self, name: str, node: int | None = None, *, timeout_s: float = WITHIN_S) -> Actor:
        """The actor of this id, such as "partition/orders-0" (that partition's leader), "replica/orders-0" or
        "gateway/0"; of this node, or the first that has one. Raises AssertionError after ``timeout_s``."""

        def found() -> Actor | None:
            for actor in self.actors():
                if actor["id"] == name and node in (None, actor["node"]) and actor.get("pid"):
                    return Actor(int(actor["node"]), name, int(actor["pid"]))
            return None

        return _until(found, timeout_s, lambda: f"an actor {name!r}")

    def leader(self, topic: str, partition: int = 0, *, timeout_s: float = WITHIN_S) -> int:
        """The node that leads the partition: one that was neither killed nor paused.

        Waits until there is one; raises AssertionError after ``timeout_s``.
        """

        def led() -> int | None:
            found = self._partition(topic, partition)
            return found.leader if found is not None and found.leader in self._running() else None

        return _until(led, timeout_s, lambda: f"a leader of {topic}[{partition}]; {self._partition(topic, partition)}")

    def isr(self, topic: str, partition: int = 0) -> set[int]:
        """The nodes that are in sync now; empty if no node answers or knows the partition."""
        found = self._partition(topic, partition)
        return set() if found is None else set(found.in_sync)

    # Faults

    def kill(self, target: int | Actor) -> None:
        """kill -9 of all processes of a node, which stays away until ``restart``; or of one actor, which comes back
        by itself. Returns when they are gone."""
        self._touched = True
        if isinstance(target, Actor):
            _kill(target.pid)
            _until(lambda: not _lives(target.pid), WITHIN_S, lambda: f"the end of {target}")
            return
        command = int(self._node(target)["pid"])
        tree = descendants([command])
        for pid in tree:
            self._paused.pop(pid, None)
            _kill(pid)
        self._killed.add(target)
        _until(lambda: not any(map(_lives, tree)), WITHIN_S, lambda: f"the end of node {target}")

    def pause(self, target: int | Actor) -> None:
        """Stops a node, or one actor, as it stands (SIGSTOP), until ``resume``. Its connections stay open. An actor
        that hangs alone is killed and replaced by its host, most kinds after a second."""
        self._touched = True
        if isinstance(target, Actor):
            self._stop(target.pid, target.node)
            return
        command = int(self._node(target)["pid"])
        while fresh := [pid for pid in descendants([command]) if pid not in self._paused]:
            for pid in fresh:
                self._stop(pid, target)

    def resume(self, target: int | Actor | None = None) -> None:
        """Lets a node or an actor go on; without one all that were paused."""
        self._continue(target)

    def restart(self, node: int, *, timeout_s: float = HEALTHY_S) -> None:
        """Starts a node that was killed; one that runs is first ended in order. Returns when it serves again.

        Raises AssertionError after ``timeout_s``.
        """
        self._touched = True
        self._continue(node)
        before = int(self._node(node)["pid"])
        if node not in self._killed:
            os.kill(before, signal.SIGTERM)
        # Its parent starts it again only when it knows that it has ended.
        _until(lambda: not _exists(before), timeout_s, lambda: f"the end of node {node}")
        os.write(self._tie, bytes([node]))

        def back() -> bool:
            self.details = self._told()
            return int(self._node(node)["pid"]) != before

        _until(back, timeout_s, lambda: f"node {node}; the log:\n{self.log_text()}")
        self._killed.discard(node)

    def wait_healthy(self, timeout: float = HEALTHY_S) -> None:
        """Returns once every node sees all nodes, and all replicas of all partitions in sync.

        Raises AssertionError, which says what is missing, after ``timeout`` seconds.
        """
        _until(lambda: not self._missing(), timeout, lambda: "a healthy cluster: " + "; ".join(self._missing()))

    def heal(self) -> None:
        """Undoes what a test did to it: what was paused goes on, what was killed is started; then waits until it is
        healthy. Does nothing if nothing was done."""
        if not self._touched:
            return
        self._continue(None)
        for node in sorted(self._killed):
            self.restart(node)
        self.wait_healthy()
        self._touched = False

    def topic(
        self,
        partitions: int = 1,
        *,
        configs: Mapping[str, str] | None = None,
        name: str = "",
        replication_factor: int = -1,
    ) -> str:
        """A new topic that is ready to use at every node that runs, and its name: unique, or ``name``."""
        made = super().topic(partitions, configs=configs, name=name, replication_factor=replication_factor)
        missing: list[int] = []

        def usable(seen: Metadata | None) -> bool:
            return (
                seen is not None
                and made in seen.topics
                and all(one.leader >= 0 for one in seen.topics[made].partitions)
            )

        def known() -> bool:
            missing[:] = [node for node, seen in self._views().items() if not usable(seen)]
            return not missing

        _until(known, WITHIN_S, lambda: f"topic {made!r} known to nodes {missing}")
        return made

    # Inside

    def _node(self, node: int) -> dict[str, Any]:
        for each in self.details.get("nodes", ()):
            if each["node"] == node:
                return cast(dict[str, Any], each)
        raise ValueError(f"no node {node}: they are numbered from 1 to {self.count}")

    def _running(self) -> list[int]:
        """The nodes that were neither killed nor paused (an actor of them may be)."""
        paused = {node for pid, node in self._paused.items() if pid == int(self._node(node)["pid"])}
        return [node for node in self.nodes if node not in self._killed and node not in paused]

    def _stop(self, pid: int, node: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._paused[pid] = node

    def _continue(self, target: int | Actor | None) -> None:
        for pid, node in list(self._paused.items()):
            if target is None or (target.pid == pid if isinstance(target, Actor) else target == node):
                del self._paused[pid]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _views(self) -> dict[int, Metadata | None]:
        """What each node that runs sees of the cluster; None if it does not answer in time."""
        nodes = self._running()

        async def all_of_them() -> list[Metadata | None]:
            return await asyncio.gather(*(_view(self.address(node)) for node in nodes))

        return dict(zip(nodes, background().run(all_of_them(), 2 * ASK_S + 5.0), strict=True))

    def _partition(self, topic: str, partition: int) -> PartitionInfo | None:
        """As the node that knows most of it sees it."""
        found = [
            one
            for seen in self._views().values()
            if seen is not None and topic in seen.topics
            for one in seen.topics[topic].partitions
            if one.index == partition
        ]
        return max(found, key=lambda one: one.epoch, default=None)

    def _missing(self) -> list[str]:
        found = [f"node {node} was killed" for node in sorted(self._killed)]
        found += [f"node {node} is paused, or an actor of it" for node in sorted(set(self._paused.values()))]
        views = self._views()
        for node, seen in views.items():
            if seen is None:
                found.append(f"node {node} does not answer")
                continue
            away = sorted(set(self.nodes) - set(seen.brokers))
            if away:
                found.append(f"node {node} does not see {away}")
            for topic in seen.topics.values():
                found += [
                    f"node {node} sees {topic.name}[{one.index}] led by {one.leader}, in sync {sorted(one.in_sync)} "
                    f"of {sorted(one.replicas)}"
                    for one in topic.partitions
                    if one.leader < 0 or set(one.in_sync) != set(one.replicas)
                ]
        return found


async def _view(address: str) -> Metadata | None:
    seen = Metadata()
    (where,) = parse_bootstrap(address)
    try:
        async with asyncio.timeout(ASK_S):
            connection = await Connection.open(
                where, client_id=CLIENT_ID, timeout_s=ASK_S, learned_from="the cluster's command"
            )
            try:
                answer = await connection.request(METADATA, MetadataRequest(topics=None), timeout_s=ASK_S)
            finally:
                connection.close()
    except (ClientError, KafkaError, TimeoutError):
        return None
    seen.apply(cast(MetadataResponse, answer), everything=True)
    return seen


def _until(attempt: Callable[[], T | None], timeout_s: float, wanted: Callable[[], str]) -> T:
    deadline = time.monotonic() + timeout_s
    while not (found := attempt()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {wanted()}")
        time.sleep(POLL_S)
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _lives(pid: int) -> bool:
    """Whether it runs; one that has ended and was not collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.contextmanager
def cluster(n: int = NODES, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A running cluster of ``n`` nodes for unittest and scripts; its data is gone afterwards. Raises BrokerError."""
    with temporary_folder() as folder:
        running = Cluster(folder, settings, nodes=n)
        try:
            running.start()
            yield running
        finally:
            running.stop()
