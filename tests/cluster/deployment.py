"""A cluster of ``logeion serve`` on hosts of their own (``hosts``), and a client beside them (``host_client``)."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster.broker import until
from tests.cluster.hosts import Hosts

NODES = (1, 2, 3)
PARTITIONS = 6
TOPIC = "orders"
READY_S = 40.0
HEALTHY_S = 30.0
# How long after a fault every partition must have given a new acknowledgement, with the client's own time-outs in it.
RIDDEN_OUT_S = 15.0


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
