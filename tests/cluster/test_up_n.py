"""``logeion up -n``: several nodes as one command, from the first line it prints to the last process that ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.broker import alive, gone, until

NODES = 3
READY_S = 50.0
STOP_S = 20.0
SAID = re.compile(r"^logeion \S+ +(\d+) nodes ready in ([\d.]+) s", re.MULTILINE)


class Several:
    """One ``logeion up -n``."""

    def __init__(self, folder: Path, *flags: str, nodes: int = NODES) -> None:
        self.data = folder / "data"
        self.ready = folder / "ready"
        self.log = folder / "log"
        self.arguments = ["up", "-n", str(nodes), "--data", str(self.data), "--ready-file", str(self.ready), *flags]
        if "--port" not in flags:
            self.arguments += ["--port", "0", "--admin-port", "0"]
        self.process: subprocess.Popen[bytes] | None = None
        self.seen: dict[int, str] = {}

    def start(self, **options: Any) -> None:
        self.launch(**options)
        process = self.process
        assert process is not None
        until(lambda: self.ready.exists() or process.poll() is not None, READY_S, "ready")
        assert process.poll() is None, self.said()
        self.processes()

    def launch(self, **options: Any) -> None:
        self.ready.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "logeion", *self.arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **options,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def details(self) -> list[dict[str, Any]]:
        told = json.loads(self.ready.with_name("ready.json").read_text())
        assert told["pid"] == self.pid and told["cluster_id"]
        nodes: list[dict[str, Any]] = told["nodes"]
        return nodes

    def processes(self) -> dict[int, str]:
        """All that run now: the command and everything below it."""
        command = psutil.Process(self.pid)
        found = {}
        for process in [command, *command.children(recursive=True)]:
            try:
                if process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = " ".join(process.cmdline()).strip()
            except psutil.NoSuchProcess:
                continue
        self.seen |= found
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        before = self.processes()
        self.process.send_signal(number)
        code = self.process.wait(STOP_S)
        gone(before)
        return code

    def destroy(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.processes()
            self.process.kill()
            self.process.wait()
        for pid, title in self.seen.items():
            if alive(pid, title):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def several(tmp_path: Path) -> Iterator[Several]:
    one = Several(tmp_path)
    try:
        yield one
    finally:
        one.destroy()


def serves(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), 1.0) as sock:
            sock.settimeout(1.0)
            sock.sendall(b"\x00\x00\x00\x0a\x00\x12\x00\x00\x00\x00\x00\x07\xff\xff")
            return len(sock.recv(8)) == 8
    except OSError:
        return False


def test_three_nodes_are_one_cluster_from_the_first_screen_on(several: Several) -> None:
    several.start()
    nodes = several.details()
    assert [node["node"] for node in nodes] == [1, 2, 3]
    ports = [int(node["listeners"][0].rpartition(":")[2]) for node in nodes]
    assert ports == list(range(ports[0], ports[0] + NODES)), "a row"
    assert several.ready.read_text().split() == [address for node in nodes for address in node["listeners"]]
    for node in nodes:
        assert all(map(serves, node["listeners"]))
        assert psutil.Process(node["pid"]).ppid() == several.pid
        assert {actor["kind"] for actor in node["actors"]} >= {"supervisor", "controller", "node", "gateway"}
    screen = until(lambda: several.said() if "Try, in" in several.said() else None, 5.0, "the screen")
    said = SAID.search(screen)
    assert said is not None and int(said[1]) == NODES
    header, *rows = re.findall(r"^ *(?:NODE +ROLE|\d +controller,broker|\d +broker).*$", screen, re.MULTILINE)
    assert header.split() == ["NODE", "ROLE", "LEADS", "ACTORS", "MEMORY", "ADVERTISES"]
    assert len(rows) == NODES
    for node, row in zip(nodes, rows, strict=True):
        number, role, leads, actors, size, unit, address = row.split()
        assert (int(number), role, address) == (node["node"], "controller,broker", node["listeners"][0])
        assert (int(leads), int(actors)) == (node["leads"], len(node["actors"]))
        assert unit == "MiB" and 10 < int(size) < 500
    for flag in ("-b", nodes[0]["listeners"][0], "http://" + nodes[0]["admin"][0], str(several.data)):
        assert flag in screen
    secret = several.data / "cluster.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert several.stop() == 0


def test_ctrl_c_at_a_terminal_reaches_all_processes_and_ends_in_order(several: Several) -> None:
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", "logeion", *several.arguments]
    several.process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=lambda: os.login_tty(theirs)
    )
    os.close(theirs)
    screen = read_until(terminal, b"topic describe")
    assert b"3 nodes ready" in screen
    before = several.processes()
    os.write(terminal, b"\x03")
    rest = read_until(terminal, b"")
    assert several.process.wait(STOP_S) == 0
    gone(before)
    assert b"Traceback" not in screen + rest and b"signal=" not in rest, rest.decode()
    os.close(terminal)


def read_until(terminal: int, mark: bytes) -> bytes:
    """What is on the screen once this is, or (nothing) at the end."""
    data = b""
    deadline = time.monotonic() + READY_S
    while not mark or mark not in data:
        assert time.monotonic() < deadline, data.decode()
        if not select.select([terminal], [], [], 0.5)[0]:
            continue
        try:
            more = os.read(terminal, 65536)
        except OSError:
            break
        if not more:
            break
        data += more
    return data


def test_a_reader_that_has_enough_ends_the_command_quietly(tmp_path: Path) -> None:
    several = Several(tmp_path)
    command = f"{sys.executable} -m logeion {' '.join(several.arguments)} 2>{several.log} | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=40)
    assert done.returncode == 0 and SAID.search(done.stdout), done
    assert "Traceback" not in several.said()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_all_nodes_in_order(several: Several, number: signal.Signals) -> None:
    several.start()
    began = time.monotonic()
    assert several.stop(number) == 0
    assert time.monotonic() - began < 6.0
    assert not list(several.data.glob("node-*/run")) and not (several.data / "run").exists()
    assert "Traceback" not in several.said() and " CRITICAL " not in several.said()


def test_kill_9_of_the_command_leaves_nothing_and_another_one_starts_at_once(several: Several) -> None:
    several.start()
    cluster = json.loads(several.ready.with_name("ready.json").read_text())["cluster_id"]
    before = several.processes()
    assert several.process is not None
    several.process.kill()
    several.process.wait()
    several.start()
    gone({pid: title for pid, title in before.items() if pid != several.pid}, 0.1)
    assert json.loads(several.ready.with_name("ready.json").read_text())["cluster_id"] == cluster
    assert several.stop() == 0


def test_kill_9_of_the_command_ends_all_in_time(several: Several) -> None:
    several.start()
    before = several.processes()
    assert several.process is not None
    several.process.kill()
    several.process.wait()
    gone(before, 10.0)


def test_the_end_of_the_tie_stops_all_nodes(several: Several) -> None:
    tied, tie = os.pipe()
    try:
        several.arguments += ["--tied-to-fd", str(tied)]
        several.start(pass_fds=(tied,))
    finally:
        os.close(tied)
        os.close(tie)
    before = several.processes()
    assert several.process is not None and several.process.wait(STOP_S) == 0
    gone(before)


@pytest.mark.parametrize("whole", [False, True], ids=["command", "tree"])
def test_a_node_that_is_killed_comes_back_by_itself_at_its_addresses(several: Several, whole: bool) -> None:
    several.start()
    first, second, third = several.details()
    victim = psutil.Process(second["pid"])
    tree = [victim, *victim.children(recursive=True)] if whole else [victim]
    for process in tree:
        process.kill()
    until(lambda: several.details()[1]["pid"] != victim.pid, 40.0, "node 2 again")
    again = several.details()[1]
    assert again["listeners"] == second["listeners"] and again["admin"] == second["admin"]
    until(lambda: serves(again["listeners"][0]), 10.0, "node 2 serves")
    assert [node["pid"] for node in several.details() if node["node"] != 2] == [first["pid"], third["pid"]]
    assert not [pid for pid in psutil.pids() if _is_zombie_of(pid, several.pid)]
    assert several.stop() == 0


def _is_zombie_of(pid: int, parent: int) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(process.status() == psutil.STATUS_ZOMBIE and process.ppid() == parent)
    except psutil.NoSuchProcess:
        return False


def test_all_ports_are_on_loopback_and_the_cluster_ports_let_no_stranger_in(several: Several) -> None:
    several.start()
    nodes = {node["node"]: node for node in several.details()}
    known = {address for node in nodes.values() for address in [*node["listeners"], *node["admin"]]}
    cluster_ports = []
    for pid in several.processes():
        for connection in psutil.Process(pid).net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in ("127.0.0.1", "::1"), connection
                if psutil.Process(pid).cmdline()[0].endswith("] node"):
                    cluster_ports.append(connection.laddr.port)
    cluster_ports = [port for port in cluster_ports if not any(address.endswith(f":{port}") for address in known)]
    ports = json.loads((several.data / "nodes.json").read_text())["cluster_ports"]
    assert set(ports) <= set(cluster_ports)
    witness = several.data / "witness"
    exploit = b"\x80\x05cposix\nsystem\n(V" + f"touch {witness}".encode() + b"\ntR."
    hello = b"\x00\x00\x00\x40\x00\x00\x00\x00" + bytes(8) + b"\x84\xa4type\xa5Hello\xa5actor\xa6node/9"
    for port in ports:
        for data in (
            exploit,
            f"{len(exploit)}>".encode() + exploit,
            hello * 50,
            bytes(100_000),
            b"GET / HTTP/1.0\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), 5.0) as sock:
                sock.settimeout(10.0)
                greeting = sock.recv(64)
                assert greeting.startswith(b"LgnH")
                # Closed at once: whichever call comes after that finds no connection (ENOTCONN is no ConnectionError).
                with contextlib.suppress(ConnectionError):
                    sock.sendall(data)
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_WR)
                    assert sock.recv(1024) == b""
    assert not witness.exists()
    assert [node["pid"] for node in several.details()] == [node["pid"] for node in nodes.values()]
    assert all(serves(node["listeners"][0]) for node in nodes.values()) and "Traceback" not in several.said()
    secret = (several.data / "cluster.secret").read_text().strip()
    assert secret not in several.said() + several.ready.with_name("ready.json").read_text()
    for pid, title in several.processes().items():
        assert secret not in title and secret not in str(psutil.Process(pid).environ())
    assert several.stop() == 0


def test_a_node_that_is_told_to_stop_drains_and_comes_back(several: Several) -> None:
    several.start()
    old = several.details()[0]["pid"]
    os.kill(old, signal.SIGTERM)
    until(lambda: several.details()[0]["pid"] != old, 40.0, "node 1 again")
    assert "drained in" in several.said()
    assert several.stop() == 0


def test_without_restart_a_dead_node_stays_dead(tmp_path: Path) -> None:
    several = Several(tmp_path, "--no-restart")
    try:
        several.start()
        victim = several.details()[2]["pid"]
        os.kill(victim, signal.SIGKILL)
        until(lambda: "node ended node=3" in several.said(), 5.0, "noticed")
        assert "started again" not in several.said()
        assert serves(several.details()[0]["listeners"][0])
        assert several.stop() == 0
    finally:
        several.destroy()


def test_what_does_not_fit_is_refused_with_its_cause(several: Several, tmp_path: Path) -> None:
    several.start()

    def refused(*arguments: str) -> str:
        command = [sys.executable, "-m", "logeion", "up", "--port", "0", "--admin-port", "0", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 1 and "\ntry: " in done.stderr, done
        return done.stderr

    data = ("--data", str(several.data))
    assert f"in use by another logeion (pid {several.pid})" in refused("-n", "3", *data)
    assert "holds the data of several nodes" in refused(*data)
    node = several.details()[0]
    taken = refused("-n", "2", "--data", str(tmp_path / "other"), "--port", node["listeners"][0].rpartition(":")[2])
    assert "cannot listen on" in taken and not (tmp_path / "other" / "nodes.json").exists()
    assert several.stop() == 0
    assert "holds 3 nodes" in refused("-n", "2", *data)
    assert "every address" in refused("-n", "3", *data, "--bind", "0.0.0.0")


def test_fresh_erases_what_several_nodes_left(several: Several) -> None:
    several.start()
    assert several.stop() == 0
    (several.data / "node-1" / "witness").touch()
    several.arguments += ["--fresh"]
    several.start()
    assert not (several.data / "node-1" / "witness").exists()
    assert several.stop() == 0
