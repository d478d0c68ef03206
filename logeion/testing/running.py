"""A real broker for a test: a child process that ends with the test, and the fault proxy in front of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from logeion.wire.errors import LogeionError

from .faults import Control, Faults
from .kafka import CLIENT_ID, Kafka

READY_S, STOP_S = 30.0, 5.0
POLL_S = 0.003
LOG_SHOWN = 20_000
# Nothing outlives a test, so nothing waits for a disk; groups have no rebalance delay by default.
PROFILE = {"LOGEION_STORAGE__FLUSH": "os"}


class BrokerError(LogeionError):
    """The broker did not become ready; the message ends with its log."""


class Broker(Kafka):
    """One node with its data in ``folder``. ``settings`` are those of ``logeion config``: {"limits.idle_ms": "500"}.

    ``bootstrap`` is where clients connect, and all that the broker advertises: the fault proxy stands there.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__("")
        self.folder = folder
        self.log = folder / "broker.log"
        self._settings = dict(settings or {})
        self._ready = folder / "ready"
        self._up: subprocess.Popen[bytes] | None = None
        self._proxy: subprocess.Popen[bytes] | None = None
        self._tie = -1
        self._control: Control | None = None
        self.details: dict[str, Any] = {}

    @property
    def faults(self) -> Faults:
        """Faults to set; ``clear`` them yourself where no fixture does."""
        assert self._control is not None, "the broker is not running"
        return Faults(self._control)

    def start(self) -> None:
        """Returns when clients can be served. Raises BrokerError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.bootstrap = f"127.0.0.1:{listener.getsockname()[1]}"
        ours, theirs = socket.socketpair()
        tied, self._tie = os.pipe()
        self._control = Control(ours)
        try:
            command = ["logeion", "up", "--port", "0", "--admin-port", "0", "--bind", "127.0.0.1"]
            command += ["--advertise", self.bootstrap, "--data", str(self.folder / "data")]
            command += ["--ready-file", str(self._ready), "--tied-to-fd", str(tied)]
            self._up = self._spawn(command, tied)
            self._proxy = self._spawn(
                ["logeion.testing.proxy", str(listener.fileno()), str(theirs.fileno()), CLIENT_ID],
                listener.fileno(),
                theirs.fileno(),
            )
            address = self._await_ready(time.monotonic() + READY_S)
            host, _, port = address.rpartition(":")
            self._control.tell(do="target", host=host, port=int(port))
        except BaseException:
            self.stop()
            raise
        finally:
            listener.close()
            theirs.close()
            os.close(tied)

    def stop(self) -> None:
        """Ends it, in order if that takes less than 5 s. Returns when all its processes are gone."""
        self.close()
        if self._up is not None:
            self._up.terminate()
        if self._tie >= 0:
            os.close(self._tie)
            self._tie = -1
        if self._control is not None:
            self._control.close()
            self._control = None
        for process in (self._up, self._proxy):
            if process is None:
                continue
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._up = self._proxy = None

    def log_text(self, since: int = 0) -> str:
        """What the broker wrote from this byte of its log on; of much, the end."""
        try:
            with self.log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(since, end - LOG_SHOWN))
                return log.read().decode(errors="replace")
        except OSError as error:
            return f"(not to be had: {error})"

    def actors(self) -> list[dict[str, Any]]:
        """The actors as the admin HTTP tells: id, kind, pid, state, restarts, … Raises OSError."""
        import http.client

        host, _, port = str(self.details["nodes"][0]["admin"][0]).rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=5.0)
        try:
            connection.request("GET", "/api/actors")
            found = json.loads(connection.getresponse().read())
        except (http.client.HTTPException, ValueError) as cause:
            raise OSError(f"no answer from the admin HTTP: {cause}") from cause
        finally:
            connection.close()
        actors: list[dict[str, Any]] = found if isinstance(found, list) else found["actors"]
        return actors

    def _spawn(self, arguments: list[str], *inherited: int) -> subprocess.Popen[bytes]:
        environment = dict(os.environ) | PROFILE
        for name, value in self._settings.items():
            environment["LOGEION_" + name.upper().replace(".", "__")] = value
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C is meant for the tests, which then end it in order.
            return subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=inherited,
                start_new_session=True,
            )

    def _await_ready(self, deadline: float) -> str:
        assert self._up is not None
        while not self._ready.exists():
            if self._up.poll() is not None or time.monotonic() > deadline:
                raise BrokerError(f"the broker did not become ready; its log:\n{self.log_text()}")
            time.sleep(POLL_S)
        self.details = json.loads(self._ready.with_name("ready.json").read_text())
        return self._ready.read_text().split()[0]


@contextlib.contextmanager
def broker(settings: Mapping[str, str] | None = None) -> Iterator[Broker]:
    """A running broker for unittest and scripts; its data is gone afterwards. Raises BrokerError."""
    folder = Path(tempfile.mkdtemp(prefix="logeion-"))
    running = Broker(folder, settings)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)
