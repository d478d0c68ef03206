"""Real clusters for tests: ``logeion up -n N`` in processes of its own, every actor in view, and faults on purpose."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from logeion.wire.apis import MetadataRequest
from logeion.wire.codec import decode_response, encode_request
from logeion.wire.fields import Struct
from tests.cluster.actors import Actor, Processes, lives
from tests.cluster.broker import until

READY_S = 30.0
STOP_S = 30.0
# How long a node may take to answer a question of the tests; a stopped one never does.
ASK_S = 2.0
METADATA, METADATA_VERSION = 3, 12
# What every node runs, whatever it holds.
FIXED = ("admin", "logger", "supervisor", "controller", "node", "gateway")


class Partition(NamedTuple):
    """One partition as a node's gateway shows it."""

    topic: str
    number: int
    leader: int
    epoch: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    offline: tuple[int, ...]
    error: int

    @property
    def key(self) -> str:
        """``topic-number``, as its folder is called."""
        return f"{self.topic}-{self.number}"


class View(NamedTuple):
    """The cluster as one node's gateway shows it."""

    brokers: dict[int, str]
    controller: int
    partitions: dict[str, Partition]

    def whole(self, nodes: int) -> bool:
        """All nodes are there, and each partition has a leader and all its replicas in the ISR."""
        return len(self.brokers) == nodes and all(
            one.error == 0 and one.leader >= 0 and sorted(one.isr) == sorted(one.replicas)
            for one in self.partitions.values()
        )


def exchange(address: str, key: int, version: int, request: Struct, timeout_s: float = ASK_S) -> Any:
    """One request on a connection of its own; the decoded response. Raises OSError."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout_s
    with socket.create_connection((host.strip("[]"), int(port)), timeout_s) as sock:
        for piece in encode_request(key, version, 7, "harness", request):
            sock.sendall(piece)
        data = bytearray()
        while len(data) < 4 or len(data) < 4 + struct.unpack_from(">i", data)[0]:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            if not (chunk := sock.recv(1 << 16)):
                raise ConnectionError(f"{address} closed the connection")
            data += chunk
    return decode_response(key, version, bytes(data[4:]))[1]


class Cluster:
    """``logeion up -n nodes``. ``flags`` are appended to the command, ``environment`` to what it gets of this one."""

    def __init__(self, folder: Path, nodes: int, *flags: str, environment: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.count = nodes
        self.flags = flags
        self.environment = environment or {}
        self.data = folder / "data"
        self.ready_file = folder / "ready"
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.details: dict[int, dict[str, Any]] = {}
        self._seen: dict[int, int] = {}
        self._stopped: dict[int, int] = {}

    # The command

    def start(self, seconds: float = READY_S) -> None:
        """Start, and return when the command says that it is ready."""
        self.ready_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "logeion", "up", "-n", str(self.count), "--port", "0", "--admin-port", "0"]
        command += ["--data", str(self.data), "--ready-file", str(self.ready_file), *self.flags]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
            )
        self.process = process
        until(lambda: self.ready_file.exists() or process.poll() is not None, seconds, f"ready\n{self.tail()}")
        assert process.poll() is None, f"up ended with {process.returncode}:\n{self.tail()}"
        self.details = self._told()
        assert len(self.details) == self.count, self.details
        self.actors()

    def _told(self) -> dict[int, dict[str, Any]]:
        """What FILE.json says of each node now; it is written again when a node has come back."""
        told = json.loads(self.ready_file.with_name(self.ready_file.name + ".json").read_text())
        return {each["node"]: each for each in told["nodes"]}

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal; the command's exit code. Fails if a process, a port or a socket is left."""
        assert self.process is not None
        self.resume_all()
        self.actors()
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(STOP_S)
        self.must_be_gone()
        return code

    def must_be_gone(self, seconds: float = 2.0) -> None:
        """Fails unless all that ever ran here has ended, and nobody listens where it did."""
        until(lambda: not self.remains(), seconds, f"nothing left, but there is {self.remains()}")
        for node, details in self.details.items():
            for address in (*details["listeners"], *details["admin"]):
                host, _, port = address.rpartition(":")
                with socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET) as sock:
                    assert sock.connect_ex((host.strip("[]"), int(port))), f"node {node} still listens at {address}"

    def remains(self) -> list[int]:
        """The processes of this cluster that still live."""
        return [pid for pid, started in self._seen.items() if lives(pid, started)]

    def destroy(self) -> None:
        """kill -9 of all that is left; for when ``stop`` has failed."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.actors()
        for pid in self.remains():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(STOP_S)

    def tail(self, lines: int = 60) -> str:
        """The end of what the command and its actors wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # What runs

    @property
    def nodes(self) -> list[int]:
        """The numbers of the nodes."""
        return sorted(self.details)

    def listener(self, node: int) -> str:
        """``host:port`` of the node's first Kafka listener."""
        return str(self.details[node]["listeners"][0])

    @property
    def bootstrap(self) -> str:
        """The first Kafka listener of every node."""
        return ",".join(self.listener(node) for node in self.nodes)

    def admin(self, node: int) -> str:
        """``host:port`` of the node's admin HTTP."""
        return str(self.details[node]["admin"][0])

    def rows(self, node: int) -> list[dict[str, Any]]:
        """The actors of a node as its admin HTTP lists them."""
        with urllib.request.urlopen(f"http://{self.admin(node)}/api/actors", timeout=ASK_S) as answer:
            found: list[dict[str, Any]] = json.load(answer)
            return found

    def folder_of(self, node: int, key: str = "") -> Path:
        """The node's data directory, or that of its replica of a partition."""
        root = self.data / f"node-{node}" if (self.data / f"node-{node}").is_dir() else self.data
        return root / key if key else root

    def actors(self, kind: str = "", *, node: int = 0, name: str = "") -> list[Actor]:
        """The actors that live now, of this kind, node and name where given."""
        assert self.process is not None
        processes = Processes()
        pids = processes.below(self.process.pid)
        self._seen |= {pid: processes.started(pid) for pid in pids}
        return [
            actor
            for actor in processes.actors(pids)
            if (not kind or actor.kind == kind)
            and (not node or actor.node == node)
            and (not name or actor.name == name)
        ]

    def actor(self, kind: str, *, node: int = 0, name: str = "", seconds: float = 5.0) -> Actor:
        """The one such actor, once there is exactly one."""

        def one() -> Actor | None:
            found = self.actors(kind, node=node, name=name)
            return found[0] if len(found) == 1 else None

        wanted = f"one {kind} {name} of node {node or 'any'}"
        found: Actor = until(one, seconds, wanted)
        return found

    def command(self, node: int) -> int:
        """The pid of the node's own command, of which all its processes are descendants."""
        return int(self._told()[node]["pid"])

    def tree(self, node: int) -> dict[int, int]:
        """The node's command and all below it: pid and when it started."""
        processes = Processes()
        pids = processes.below(self.command(node))
        found = {pid: processes.started(pid) for pid in pids}
        self._seen |= found
        return found

    def leader(self, key: str, seconds: float = 10.0) -> Actor:
        """The Partition process of the newest epoch of ``topic-number``."""

        def newest() -> Actor | None:
            return max(self.actors("partition", name=key), key=lambda actor: actor.epoch, default=None)

        found: Actor = until(newest, seconds, f"a leader of {key}\n{self.tail()}")
        return found

    # What the cluster says

    def view(self, node: int) -> View:
        """The cluster as this node's gateway shows it now. Raises OSError if it does not answer."""
        answer = exchange(self.listener(node), METADATA, METADATA_VERSION, MetadataRequest(topics=None))
        partitions = {}
        for topic in answer.topics:
            for each in topic.partitions:
                one = Partition(
                    topic.name,
                    each.partition_index,
                    each.leader_id,
                    each.leader_epoch,
                    tuple(each.replica_nodes),
                    tuple(each.isr_nodes),
                    tuple(each.offline_replicas),
                    each.error_code,
                )
                partitions[one.key] = one
        brokers = {each.node_id: f"{each.host}:{each.port}" for each in answer.brokers}
        return View(brokers, answer.controller_id, partitions)

    def partition(self, key: str, node: int = 0) -> Partition | None:
        """One partition as this node sees it, or the first that answers."""
        for each in [node] if node else self.nodes:
            with contextlib.suppress(OSError):
                return self.view(each).partitions.get(key)
        return None

    def isr(self, key: str) -> tuple[int, ...]:
        """The in-sync replicas; empty if nobody answers or knows it."""
        found = self.partition(key)
        return found.isr if found else ()

    def healthy(self) -> bool:
        """Whether every node sees all nodes and all replicas in sync, and every process is there, once."""
        try:
            views = [self.view(node) for node in self.nodes]
        except OSError:
            return False
        if not all(view.whole(self.count) and view.partitions.keys() == views[0].partitions.keys() for view in views):
            return False
        running = self.actors()
        there = {(actor.node, actor.kind) for actor in running}
        if not all((node, kind) in there for node in self.nodes for kind in FIXED):
            return False
        led = sorted(actor.name for actor in running if actor.kind == "partition")
        followed = sum(1 for actor in running if actor.kind == "replica")
        partitions = views[0].partitions.values()
        return led == sorted(one.key for one in partitions) and followed == sum(
            len(one.replicas) - 1 for one in partitions
        )

    def wait_healthy(self, seconds: float = 30.0) -> None:
        """Return once ``healthy``."""
        deadline = time.monotonic() + seconds
        while not self.healthy():
            assert time.monotonic() < deadline, f"not healthy within {seconds} s:\n{self.complaint()}\n{self.tail()}"
            time.sleep(0.02)

    def complaint(self) -> str:
        """What is not as it should be, by node."""
        found = []
        for node in self.nodes:
            try:
                view = self.view(node)
            except OSError as error:
                found.append(f"node {node}: {error!r}")
                continue
            if not view.whole(self.count):
                found.append(f"node {node} sees {sorted(view.brokers)}")
                found.extend(f"  {one}" for one in view.partitions.values() if sorted(one.isr) != sorted(one.replicas))
        found.append(", ".join(sorted(map(str, self.actors()))))
        return "\n".join(found)

    # Faults

    def kill(self, *actors: Actor) -> None:
        """kill -9 of these, at once."""
        for actor in actors:
            with contextlib.suppress(ProcessLookupError):
                os.kill(actor.pid, signal.SIGKILL)

    def signal(self, pid: int, number: int) -> None:
        """Any signal, to a process that may be gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def kill_node(self, *nodes: int) -> None:
        """kill -9 of the whole trees of these nodes; returns when nothing of them is left. The command above them
        starts them again by itself."""
        victims = {pid: started for node in nodes for pid, started in self.tree(node).items()}
        for pid in victims:
            self._stopped.pop(pid, None)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not any(lives(*one) for one in victims.items()), 5.0, "the killed nodes are gone")

    def pause(self, *actors: Actor) -> None:
        """SIGSTOP of these."""
        self._pause({actor.pid: actor.started for actor in actors})

    def pause_node(self, node: int) -> None:
        """SIGSTOP of the whole tree, until nothing of it runs."""
        while running := {pid: started for pid, started in self.tree(node).items() if pid not in self._stopped}:
            self._pause(running)

    def _pause(self, processes: dict[int, int]) -> None:
        for pid, started in processes.items():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                self._stopped[pid] = started

    def resume_all(self) -> None:
        """SIGCONT of whatever was stopped here."""
        for pid, started in self._stopped.items():
            if lives(pid, started):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        self._stopped.clear()


@contextlib.contextmanager
def running_cluster(
    folder: Path, n: int = 3, *flags: str, environment: dict[str, str] | None = None
) -> Iterator[Cluster]:
    """A cluster that serves; stopped at the end, with the proof that nothing of it is left."""
    cluster = Cluster(folder, n, *flags, environment=environment)
    try:
        cluster.start()
        yield cluster
        cluster.stop()
    finally:
        cluster.destroy()
