"""A real broker for a test: a child process that ends with the test, and the fault proxy in front of it."""

from __future__ import annotations

import abc
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


class Running(Kafka, abc.ABC):
    """``logeion up`` as a child process with its data in ``folder``; the root of what tests run.

    ``settings`` are those of ``logeion config``: {"limits.idle_ms": "500"}.
    """

    title = "broker"

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__("")
        self.folder = folder
        self.log: Path = folder / "broker.log"
        self._settings = dict(settings or {})
        self._ready = folder / "ready"
        self._up: subprocess.Popen[bytes] | None = None
        self._tie = -1
        self.details: dict[str, Any] = {}

    @abc.abstractmethod
    def start(self) -> None:
        """Returns when clients can be served. Raises BrokerError."""

    def stop(self) -> None:
        """Ends it, in order if that takes less than 5 s. Returns when all its processes are gone."""
        self.close()
        if self._up is not None:
            self._up.terminate()
        if self._tie >= 0:
            os.close(self._tie)
            self._tie = -1
        self._await_end(self._up)
        self._up = None

    def log_text(self, since: int = 0) -> str:
        """What the broker wrote from this byte of its log on; of much, the end."""
        try:
            with self.log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(since, end - LOG_SHOWN))
                return log.read().decode(errors="replace")
        except OSError as error:
            return f"(not to be had: {error})"

    @abc.abstractmethod
    def actors(self) -> list[dict[str, Any]]:
        """The actors as the admin HTTP tells: id, kind, pid, state, restarts, … Raises OSError."""

    def heal(self) -> None:
        """Undoes what a test did to the processes."""

    def _launch(self, *arguments: str) -> None:
        """``logeion up`` with these arguments and what every one gets."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tied, self._tie = os.pipe()
        try:
            command = ["logeion", "up", "--port", "0", "--admin-port", "0", "--bind", "127.0.0.1", *arguments]
            command += ["--data", str(self.folder / "data"), "--ready-file", str(self._ready)]
            self._up = self._spawn([*command, "--tied-to-fd", str(tied)], tied)
        finally:
            os.close(tied)

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

    def _await_ready(self, deadline: float) -> None:
        assert self._up is not None
        while not self._ready.exists():
            if self._up.poll() is not None or time.monotonic() > deadline:
                raise BrokerError(f"the broker did not become ready; its log:\n{self.log_text()}")
            time.sleep(POLL_S)
        self.details = self._told()

    def _told(self) -> dict[str, Any]:
        """What the command says about its nodes now."""
        details: dict[str, Any] = json.loads(self._ready.with_name("ready.json").read_text())
        return details

    def _await_end(self, process: subprocess.Popen[bytes] | None) -> None:
        if process is None:
            return
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Broker(Running):
    """One node. ``bootstrap`` is where clients connect, and all that the broker advertises: the fault proxy stands
    there."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, settings)
        self._proxy: subprocess.Popen[bytes] | None = None
        self._control: Control | None = None

    @property
    def faults(self) -> Faults:
        """Faults to set; ``clear`` them yourself where no fixture does."""
        assert self._control is not None, "the broker is not running"
        return Faults(self._control)

    def start(self) -> None:
        """Returns when clients can be served. Raises BrokerError."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.bootstrap: str = f"127.0.0.1:{listener.getsockname()[1]}"
        ours, theirs = socket.socketpair()
        self._control = Control(ours)
        try:
            self._launch("--advertise", self.bootstrap)
            self._proxy = self._spawn(
                ["logeion.testing.proxy", str(listener.fileno()), str(theirs.fileno()), CLIENT_ID],
                listener.fileno(),
                theirs.fileno(),
            )
            self._await_ready(time.monotonic() + READY_S)
            host, _, port = self._ready.read_text().split()[0].rpartition(":")
            self._control.tell(do="target", host=host, port=int(port))
        except BaseException:
            self.stop()
            raise
        finally:
            listener.close()
            theirs.close()

    def stop(self) -> None:
        """Ends it, in order if that takes less than 5 s. Returns when all its processes are gone."""
        super().stop()
        if self._control is not None:
            self._control.close()
            self._control = None
        self._await_end(self._proxy)
        self._proxy = None

    def actors(self) -> list[dict[str, Any]]:
        """The actors as the admin HTTP tells: id, kind, pid, state, restarts, … Raises OSError."""
        return actors_at(str(self.details["nodes"][0]["admin"][0]))


def actors_at(admin: str, timeout_s: float = 5.0) -> list[dict[str, Any]]:
    """The actors of the node with this admin HTTP. Raises OSError."""
    import http.client

    host, _, port = admin.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
    try:
        connection.request("GET", "/api/actors")
        found = json.loads(connection.getresponse().read())
    except (http.client.HTTPException, ValueError) as cause:
        raise OSError(f"no answer from the admin HTTP: {cause}") from cause
    finally:
        connection.close()
    actors: list[dict[str, Any]] = found if isinstance(found, list) else found["actors"]
    return actors


@contextlib.contextmanager
def broker(settings: Mapping[str, str] | None = None) -> Iterator[Broker]:
    """A running broker for unittest and scripts; its data is gone afterwards. Raises BrokerError."""
    with temporary_folder() as folder:
        running = Broker(folder, settings)
        try:
            running.start()
            yield running
        finally:
            running.stop()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Gone afterwards, whatever is in it."""
    folder = Path(tempfile.mkdtemp(prefix="logeion-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
