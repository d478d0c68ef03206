"""A real node for tests: ``logeion up`` in a process of its own, with everything that is below it in view."""

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

READY_S = 20.0
STOP_S = 20.0


def until(condition: Callable[[], Any], seconds: float, what: str = "") -> Any:
    """Poll until the condition holds; its value. Fails the test when it does not in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.002)


class Broker:
    """One ``logeion up``. ``flags`` are appended to the command."""

    def __init__(self, folder: Path, *flags: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        self.ready_file = folder / "ready"
        self.log = folder / "log"
        self.flags = flags
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return when the command says that it is ready."""
        self.ready_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "logeion", "up", "--port", "0", "--admin-port", "0"]
        command += ["--data", str(self.data), "--ready-file", str(self.ready_file), *self.flags]
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.process = process
        until(lambda: self.ready_file.exists() or process.poll() is not None, READY_S, "ready")
        assert process.poll() is None, f"up ended with {process.returncode}:\n{self.tail()}"

    def tail(self, lines: int = 40) -> str:
        """The end of what the command and its actors wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    @property
    def details(self) -> Any:
        """What FILE.json says."""
        return json.loads(self.ready_file.with_name(self.ready_file.name + ".json").read_text())

    @property
    def bootstrap(self) -> str:
        """``host:port`` of the first Kafka listener."""
        return self.ready_file.read_text().split()[0]

    @property
    def admin(self) -> str:
        """``host:port`` of the admin HTTP."""
        return str(self.details["nodes"][0]["admin"][0])

    @property
    def pid(self) -> int:
        """The command's."""
        assert self.process is not None
        return self.process.pid

    def processes(self) -> dict[int, str]:
        """All processes below the command, and itself: pid and title."""
        found = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            command = psutil.Process(self.pid)
            for process in [command, *command.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.status() != psutil.STATUS_ZOMBIE:
                        found[process.pid] = " ".join(process.cmdline()).strip()
        return found

    def pids(self, name: str) -> list[int]:
        """The processes below the command whose title contains ``name``."""
        return [pid for pid, title in self.processes().items() if name in title and pid != self.pid]

    def pid_of(self, name: str) -> int:
        """The one process of this name, once there is exactly one."""
        return int(until(lambda: self.pids(name) if len(self.pids(name)) == 1 else None, 5.0, name)[0])

    def serves(self) -> bool:
        """Whether the Kafka port answers a request now."""
        host, _, port = self.bootstrap.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), 0.5) as sock:
                sock.settimeout(0.5)
                sock.sendall(struct.pack(">ihhih", 10, 18, 0, 7, -1))
                answer = sock.recv(8)
        except OSError:
            return False
        return len(answer) == 8 and struct.unpack(">i", answer[4:])[0] == 7

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal; the command's exit code. Fails if a process is left."""
        assert self.process is not None
        before = self.processes()
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(STOP_S)
        gone(before)
        return code


def alive(pid: int, title: str) -> bool:
    """Whether this very process still runs (the number alone may belong to another one by now)."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and " ".join(process.cmdline()).strip() == title
    except psutil.NoSuchProcess:
        return False


def gone(before: dict[int, str], seconds: float = 2.0) -> None:
    """Fails unless all these processes have ended in time."""
    until(
        lambda: not [pid for pid, title in before.items() if alive(pid, title)], seconds, f"no process left: {before}"
    )


@contextlib.contextmanager
def running_broker(folder: Path, *flags: str) -> Iterator[Broker]:
    """A broker that serves; stopped at the end, with the proof that no process is left."""
    broker = Broker(folder, *flags)
    try:
        broker.start()
        yield broker
    finally:
        if broker.process is not None:
            before = broker.processes()
            try:
                broker.stop()
            finally:
                for pid, title in before.items():
                    if alive(pid, title):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
