"""Nodes of ``logeion serve`` on this machine, each a command of its own: killed, one stays away until it is started."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from logeion.wire.apis import MetadataRequest
from tests.cluster.actors import Processes, lives
from tests.cluster.broker import until
from tests.cluster.cluster import METADATA, METADATA_VERSION, Partition, exchange

READY_S, STOP_S = 30.0, 20.0
# This release as one that knows no level of metadata.version but the first.
OLDER = (
    "from logeion.actors.controller.features import SUPPORTED; SUPPORTED['metadata.version'] = [1, 1]; "
    "from logeion.cli.main import main; main()"
)


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]


class Served:
    """Node 1 alone is a voter, so any of the others may be killed. ``racks`` are theirs in order; those in ``older``
    run the older release whenever they are started."""

    def __init__(self, folder: Path, racks: Sequence[str], settings: str = "", *, older: bool = False) -> None:
        self.folder = folder
        self.nodes = list(range(1, len(racks) + 1))
        self.older: set[int] = set(self.nodes) if older else set()
        ports = free_ports(2 * len(racks))
        self.ports = dict(zip(self.nodes, ports[: len(racks)], strict=True))
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        secret = folder / "secret"
        secret.touch(0o600)
        secret.write_text(secrets.token_hex(32))
        for node, rack, port in zip(self.nodes, racks, ports[len(racks) :], strict=True):
            (folder / f"node-{node}.toml").write_text(
                f'[node]\nid = {node}\nrack = "{rack}"\ndata_dir = "{folder}/data-{node}"\n'
                f'[listeners]\nbind = ["127.0.0.1"]\nport = {self.ports[node]}\n[http]\nport = 0\n'
                f'[cluster]\nvoters = ["1@127.0.0.1:{ports[len(racks)]}"]\nport = {port}\nsecret_file = "{secret}"\n'
                f"{settings}"
            )

    @property
    def bootstrap(self) -> str:
        """The Kafka listeners of the nodes that run."""
        return ",".join(f"127.0.0.1:{self.ports[node]}" for node in self._running)

    def start(self, *nodes: int) -> None:
        """Start these, and return when they are ready."""
        for node in nodes:
            self.launch(node)
        for node in nodes:
            until((self.folder / f"ready-{node}").exists, READY_S, f"node {node} ready\n{self.tail(node)}")

    def launch(self, node: int) -> None:
        """Start it, whatever becomes of it."""
        ready = self.folder / f"ready-{node}"
        ready.unlink(missing_ok=True)
        start = [sys.executable, *(("-c", OLDER) if node in self.older else ("-m", "logeion"))]
        command = [*start, "serve", "--config", str(self.folder / f"node-{node}.toml"), "--ready-file", str(ready)]
        with (self.folder / f"log-{node}").open("ab") as log:
            self._running[node] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def kill(self, node: int, *, lose: bool = False) -> None:
        """kill -9 of the whole tree; ``lose`` its disk, too."""
        processes = Processes()
        command = self._running.pop(node)
        tree = {pid: processes.started(pid) for pid in processes.below(command.pid)}
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        command.wait(STOP_S)
        until(lambda: not any(lives(*one) for one in tree.items()), STOP_S, f"the end of node {node}")
        if lose:
            shutil.rmtree(self.folder / f"data-{node}")

    def stop(self, *nodes: int) -> None:
        """In order, as an operator would."""
        for node in nodes:
            self._running[node].send_signal(signal.SIGTERM)
        for node in nodes:
            assert self._running.pop(node).wait(STOP_S) == 0, self.tail(node)

    def destroy(self) -> None:
        """kill -9 of all that is left."""
        for node in list(self._running):
            self.kill(node)

    def tail(self, node: int) -> str:
        """The end of what this node wrote."""
        path = self.folder / f"log-{node}"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    # What the cluster says

    def ask(self, *arguments: str, code: int = 0) -> str:
        """The output of ``logeion``, or its error where it must fail."""
        command = [sys.executable, "-m", "logeion", *arguments, "-b", self.bootstrap]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout if code == 0 else done.stderr

    def json(self, *arguments: str) -> Any:
        """The same, parsed."""
        return json.loads(self.ask(*arguments, "-o", "json"))

    def request(self, key: int, version: int, request: Any, node: int = 1) -> Any:
        """One request at a node's Kafka port."""
        return exchange(f"127.0.0.1:{self.ports[node]}", key, version, request, 10.0)

    def partition(self, topic: str, number: int = 0, node: int = 1) -> Partition:
        """One partition as this node sees it."""
        answer = self.request(METADATA, METADATA_VERSION, MetadataRequest(topics=None), node)
        [found] = [
            Partition(
                topic, each.partition_index, each.leader_id, each.leader_epoch,
                tuple(each.replica_nodes), tuple(each.isr_nodes), tuple(each.offline_replicas), each.error_code,
            )
            for one in answer.topics if one.name == topic
            for each in one.partitions if each.partition_index == number
        ]  # fmt: skip
        return found

    def healthy(self) -> None:
        """Return once ``cluster health`` says so."""
        self.ask("cluster", "health", "--wait", "30")


@contextlib.contextmanager
def served(folder: Path, racks: Sequence[str], settings: str = "", *, older: bool = False) -> Iterator[Served]:
    """All nodes started; nothing of them is left at the end."""
    cluster = Served(folder, racks, settings, older=older)
    try:
        cluster.start(*cluster.nodes)
        yield cluster
        cluster.stop(*[node for node in reversed(cluster.nodes) if node in cluster._running])
    finally:
        cluster.destroy()
