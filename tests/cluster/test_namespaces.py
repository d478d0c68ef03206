"""Three hosts, each with its own network: deploy, produce, cut one off, heal, kill one, rejoin; nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.broker import until
from tests.cluster.hosts import Hosts
from tests.tools import missing, require_root

pytest.importorskip("confluent_kafka")

NODES = (1, 2, 3)
PARTITIONS = 6
TOPIC = "orders"
READY_S = 40.0
HEALTHY_S = 30.0
# How long after a fault every partition must have given a new acknowledgement, with the client's own time-outs in it.
RIDDEN_OUT_S = 15.0


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    require_root()
    made = Hosts(len(NODES))
    try:
        try:
            made.make()
        except PermissionError as error:
            missing(f"the kernel lets us make no network namespaces: {error}")
        yield made
    finally:
        for number in NODES:
            with contextlib.suppress(PermissionError):
                for pid in made.pids(number):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        made.remove()


class Deployment:
    """``logeion serve`` on every host, and a client beside them."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts = hosts
        self.folder = folder
        self.nodes: dict[int, subprocess.Popen[bytes]] = {}
        self.bootstrap = ",".join(f"{hosts.address(number)}:9092" for number in NODES)
        secret = folder / "secret"
        secret.touch(0o600)
        secret.write_text(secrets.token_hex(32))
        voters = ", ".join(f'"{number}@{hosts.address(number)}:9645"' for number in NODES)
        for number in NODES:
            (folder / f"node-{number}.toml").write_text(
                f'[node]\nid = {number}\nrack = "r{number}"\ndata_dir = "{folder}/data-{number}"\n'
                f'[listeners]\nbind = ["{hosts.address(number)}"]\n'
                f'[cluster]\nvoters = [{voters}]\nbind = "{hosts.address(number)}"\nsecret_file = "{secret}"\n'
                '[topics]\nconfigs = { "min.insync.replicas" = "2" }\n'
            )

    def serve(self, number: int) -> None:
        ready = self.ready(number)
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "logeion", "serve", "--config", str(self.folder / f"node-{number}.toml")]
        with (self.folder / f"log-{number}").open("ab") as log:
            self.nodes[number] = subprocess.Popen(
                self.hosts.inside(number, *command, "--ready-file", str(ready)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def ready(self, number: int) -> Path:
        return self.folder / f"ready-{number}"

    def await_ready(self, *numbers: int) -> None:
        for number in numbers:
            until(self.ready(number).exists, READY_S, f"node {number} ready: {self.said(number)}")

    def said(self, number: int) -> str:
        return (self.folder / f"log-{number}").read_text(errors="replace")[-4000:]

    def ask(self, *arguments: str, seconds: float = HEALTHY_S) -> subprocess.CompletedProcess[str]:
        """``logeion`` as a client of these hosts."""
        command = [sys.executable, "-m", "logeion", *arguments, "-b", self.bootstrap]
        return subprocess.run(self.hosts.inside(0, *command), capture_output=True, text=True, timeout=seconds + 15)

    def healthy(self) -> None:
        done = self.ask("cluster", "health", "--wait", str(HEALTHY_S))
        assert done.returncode == 0, done.stdout + done.stderr

    def kill(self, number: int) -> None:
        """Power off: no process of this host runs on."""
        for pid in self.hosts.pids(number):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.nodes[number].wait(10)
        self.must_be_empty(number)

    def must_be_empty(self, number: int) -> None:
        until(lambda: not self.hosts.pids(number), 5.0, f"no process left on host {number}")


class Client:
    """``host_client`` beside the hosts: what it has told so far."""

    def __init__(self, deployment: Deployment) -> None:
        command = [sys.executable, "-m", "tests.cluster.host_client", deployment.bootstrap, TOPIC, str(PARTITIONS)]
        self.log = deployment.folder / "client"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                deployment.hosts.inside(0, *command), stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
            )

    def told(self) -> dict[str, object]:
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        found: dict[str, object] = json.loads(lines[-1]) if lines else {"acked": [0] * PARTITIONS}
        return found

    def acked(self) -> list[int]:
        found = self.told()["acked"]
        assert isinstance(found, list), self.log.read_text()[-2000:]
        return found

    def goes_on(self, seconds: float = RIDDEN_OUT_S, more: int = 20) -> float:
        """Until every partition has given so many acknowledgements more; how long that took."""
        before, began = self.acked(), time.monotonic()

        def progress() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            return all(now >= then + more for now, then in zip(self.acked(), before, strict=True))

        until(progress, seconds, f"acknowledgements of all partitions; {before} -> {self.acked()}")
        return time.monotonic() - began

    def finish(self) -> dict[str, object]:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(100) == 0, self.log.read_text()[-2000:]
        return self.told()


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_three_hosts_lose_nothing_while_one_is_cut_off_and_one_dies(hosts: Hosts, tmp_path: Path) -> None:
    deployment = Deployment(hosts, tmp_path)
    for number in NODES:
        deployment.serve(number)
    client = None
    try:
        deployment.await_ready(*NODES)
        deployment.healthy()
        made = deployment.ask("topic", "create", TOPIC, "--partitions", str(PARTITIONS), "--replication-factor", "3")
        assert made.returncode == 0, made.stderr
        client = Client(deployment)
        client.goes_on()

        hosts.cut(2)
        print(f"one host cut off: all partitions acknowledge again within {client.goes_on():.2f} s")
        health = deployment.ask("cluster", "health", seconds=10.0)
        assert health.returncode == 10 and "2" in health.stdout, health
        hosts.heal(2)
        deployment.healthy()
        client.goes_on()

        deployment.kill(3)
        print(f"one host killed: all partitions acknowledge again within {client.goes_on():.2f} s")
        deployment.serve(3)
        deployment.await_ready(3)
        deployment.healthy()
        client.goes_on()

        report = client.finish()
        print(report)
        for fault in ("lost", "doubled", "disordered", "misplaced", "unanswered"):
            assert report[fault] == 0, report
        assert report["failed"] == {}, report
        assert isinstance(report["acked"], int) and report["acked"] > 500
        for number in NODES:
            before = hosts.pids(number)
            deployment.nodes[number].send_signal(signal.SIGTERM)
            assert before and deployment.nodes[number].wait(30) == 0, deployment.said(number)
            deployment.must_be_empty(number)
    finally:
        if client is not None and client.process.poll() is None:
            client.process.kill()
            client.process.wait()
        for number in NODES:
            with contextlib.suppress(PermissionError):
                deployment.kill(number)


def test_a_host_without_the_secret_is_kept_out(hosts: Hosts, tmp_path: Path) -> None:
    """It finds the cluster's port, and never becomes a part of the cluster."""
    deployment = Deployment(hosts, tmp_path)
    other = tmp_path / "other-secret"
    other.touch(0o600)
    other.write_text(secrets.token_hex(32))
    config = tmp_path / "node-3.toml"
    config.write_text(config.read_text().replace(str(tmp_path / "secret"), str(other)))
    for number in NODES:
        deployment.serve(number)
    try:
        deployment.await_ready(1, 2)
        until(lambda: "does not know our cluster secret" in deployment.said(1) + deployment.said(2), 10.0, "refused")
        nodes = deployment.ask("cluster", "nodes", seconds=10.0)
        assert hosts.address(1) in nodes.stdout and hosts.address(3) not in nodes.stdout, nodes
        assert not deployment.ready(3).exists()
    finally:
        for number in NODES:
            deployment.kill(number)
